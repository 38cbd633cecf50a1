/** One run: sets everything up, lets the faults happen, mends what is left of them, lets it settle, and counts. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startGateway } from "../../src/demo/gateway.ts";
import { DIST, FRESHKEY, FRESHKEY_TOKEN, until } from "../support/freshkey.ts";
import { Accounts, type Fault, type Gap, type Records, type Request, type Sight } from "./account.ts";
import { inject, Skipped, TOKENS } from "./faults.ts";
import { Machine } from "./machine.ts";
import { type Lane, type PlannedFault, planFaults } from "./plan.ts";
import { AUDIENCE, type Provider, startProvider } from "./provider.ts";
import { type Summary, summarize } from "./summary.ts";

export interface ChaosOptions {
  readonly seed: number;
  readonly seconds: number;
  /** Of the tokens, milliseconds. */
  readonly lifetime: number;
  /** Told what happens, a line each. */
  tell(line: string): void;
}

/** The longest back-off is a minute: so long after the last fault, at the latest, everything is fresh again. */
const SETTLES_WITHIN = 70_000;
/** So many good requests of each token in a row are a machine that has settled. */
const GOOD_IN_A_ROW = 15;
/** What a starting agent needs until it has seen that another one runs. */
const ONE_AGENT_WITHIN = 15_000;

/** What the client processes tell, as it comes. */
interface Recorder extends Records {
  readonly faults: Fault[];
  readonly requests: Request[];
  readonly sights: Sight[];
  readonly gaps: Gap[];
  counts: Record<string, number>;
}

/** Runs the suite and returns its summary, with all that the agents have logged. */
export async function runChaos(options: ChaosOptions): Promise<{ summary: Summary; log: string }> {
  const provider = await startProvider(options.lifetime);
  const gateway = await startGateway({ issuer: provider.identity.issuer, audience: AUDIENCE });
  const machine = new Machine(provider);
  const records: Recorder = { faults: [], issues: provider.issues, requests: [], sights: [], gaps: [], counts: {} };
  const skipped = new Map<string, string>();
  try {
    machine.configure();
    machine.supervise();
    await until("both tokens are there", () => TOKENS.every((name) => existsSync(machine.box.tokenPath(name))), 30_000);
    const begun = Date.now();
    const clients = startClients(machine, gateway.baseUrl, records);
    await until("the client's requests are answered", () => settled(records, begun), 30_000);

    await letFaultsHappen(options, { machine, provider, records, skipped });
    options.tell("everything is mended; it settles");
    const mended = Date.now();
    const settles = await until("it settles", () => settled(records, mended), SETTLES_WITHIN).then(
      () => true,
      () => false,
    );
    await until("one agent is left", () => machine.agents.length === 1, ONE_AGENT_WITHIN).catch(() => undefined);
    const over = Date.now();
    const agents = machine.agents.length;
    for (const client of clients) await end(client);
    const stopping = await machine.stop();
    await until("what the clients had started ends", () => machine.box.processes().length === 0, 5_000).catch(
      () => undefined,
    );
    const left = { processes: machine.box.processes().length, ...leftovers(machine) };
    const { lifetime, seed, seconds } = options;
    const about = { seed, seconds, lifetime, begun, over, settled: settles, settling: over - mended, stopping };
    const summary = summarize(records, {
      ...about,
      agents,
      left,
      counts: records.counts,
      skipped,
      starts: machine.starts,
      provider: provider.counts,
    });
    return { summary, log: `${machine.said()}${diary(records)}` };
  } finally {
    await machine.remove();
    await gateway.close();
    await provider.close();
  }
}

/** What was recorded and is not as usual, a JSON line each in order of time: to find out why. */
function diary(records: Records): string {
  const { faults, requests, sights, gaps, issues } = records;
  const accounts = new Accounts(records);
  const judge = (request: Request) =>
    request.status === 401 ? accounts.judgeRefusal(request) : accounts.judgeFailure(request);
  const entries = [
    ...faults.map((fault) => ({ time: fault.from, fault })),
    ...requests
      .filter(({ status }) => status !== 200)
      .map((request) => ({ time: request.end, request, excuse: judge(request) ?? null })),
    ...sights.map((sight) => ({ time: sight.at, sight })),
    ...gaps.map((gap) => ({ time: gap.from, gap })),
    ...issues.map((issue) => ({ time: issue.at, issue })),
  ];
  return entries
    .sort((a, b) => a.time - b.time)
    .map((entry) => `${JSON.stringify(entry)}\n`)
    .join("");
}

interface World {
  readonly machine: Machine;
  readonly provider: Provider;
  readonly records: Recorder;
  readonly skipped: Map<string, string>;
}

/** Both lanes side by side; of each, one fault after the other. */
async function letFaultsHappen(options: ChaosOptions, world: World): Promise<void> {
  const plan = planFaults(options.seed, options.seconds, options.lifetime);
  const begun = Date.now();
  const seconds = (instant: number) => `${((instant - begun) / 1_000).toFixed(1)} s`.padStart(8);
  const runLane = async (lane: Lane) => {
    for (const planned of plan.filter((fault) => fault.lane === lane)) {
      await sleep(Math.max(0, begun + planned.at - Date.now()));
      try {
        const fault = await happen(planned, world);
        options.tell(`${seconds(fault.from)} – ${seconds(fault.to)}  ${planned.kind}`);
      } catch (error) {
        if (!(error instanceof Skipped)) throw error;
        if (!world.skipped.has(planned.kind)) options.tell(`${planned.kind} is left out: ${error.message}`);
        world.skipped.set(planned.kind, error.message);
      }
    }
  };
  await Promise.all([runLane("provider"), runLane("machine")]);
}

async function happen(planned: PlannedFault, { machine, provider, records }: World): Promise<Fault> {
  const from = Date.now();
  const effect = await inject(planned, machine, provider);
  const { token, blocks = false, laid } = effect;
  const fault = { planned, from, to: Number.POSITIVE_INFINITY, token, blocks, laid };
  records.faults.push(fault);
  await sleep(planned.lasts);
  await effect.heal?.();
  fault.to = Date.now();
  return fault;
}

function startClients(machine: Machine, gateway: string, records: Recorder): ChildProcess[] {
  const tokens = TOKENS.map((name) => `${name}=${machine.box.tokenPath(name)}`);
  const script = fileURLToPath(new URL("client.mjs", import.meta.url));
  const start = (...args: string[]) => {
    const env = { ...machine.box.env, ...machine.env };
    const client = spawn(process.execPath, [script, ...args], { env, stdio: ["ignore", "pipe", "inherit"] });
    createInterface({ input: client.stdout }).on("line", (line) => take(JSON.parse(line), records));
    return client;
  };
  return [start("send", DIST, gateway, FRESHKEY, ...tokens), start("crowd", DIST, FRESHKEY_TOKEN, ...tokens)];
}

async function end(client: ChildProcess): Promise<void> {
  if (client.exitCode !== null) throw new Error(`a client ended by itself with exit code ${client.exitCode}`);
  const closed = new Promise((resolve) => client.once("close", resolve));
  client.kill("SIGKILL");
  await closed;
}

function take(event: Record<string, unknown>, records: Recorder): void {
  if ("request" in event) records.requests.push(event as unknown as Request);
  else if ("gap" in event) records.gaps.push({ ...(event as unknown as Gap), name: event.gap as string });
  else if ("counts" in event) records.counts = event.counts as Record<string, number>;
  else {
    const kind = (["seen", "expired", "late"] as const).find((key) => key in event)!;
    records.sights.push({ ...(event as unknown as Sight), kind, fingerprint: event[kind] as string });
  }
}

/** The last requests of every token, all begun since `since`, were answered well, the last with one minted since then. */
function settled({ requests, issues }: Recorder, since: number): boolean {
  const minted = new Set(issues.filter(({ at }) => at >= since).map(({ fingerprint }) => fingerprint));
  return TOKENS.every((name) => {
    const last = requests.filter(({ request, start }) => request === name && start >= since).slice(-GOOD_IN_A_ROW);
    const good = last.length === GOOD_IN_A_ROW && last.every(({ status }) => status === 200);
    return good && minted.has(last.at(-1)?.fingerprint ?? "");
  });
}

/** What nobody needs once all have ended. */
function leftovers({ box }: Machine): { temporary: string[]; sockets: string[]; other: string[] } {
  const found = existsSync(box.runPath) ? readdirSync(box.runPath, { recursive: true }).map(String) : [];
  const isSocket = (path: string) => lstatSync(join(box.runPath, path)).isSocket();
  const sockets = found.filter(isSocket);
  const temporary = found.filter((path) => path.endsWith(".new"));
  const expected = ["agent", ...TOKENS.flatMap((name) => [name, `${name}/token`, `${name}/token.json`])];
  const other = found.filter((path) => ![...expected, ...sockets, ...temporary].includes(path));
  return { temporary, sockets, other };
}
