/**
 * The whole of freshkey on this machine, without an account: identity endpoints, a gateway a lane, the real agent as a
 * process of its own, and two clients side by side, one with the key it read at its start, one with the reader.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FreshkeyError } from "../core/errors.ts";
import { deadline, sleep } from "../os/clock.ts";
import { type KeyFile, openKeyFile } from "../reader/key-file.ts";
import { startCopilotLane, unpackCopilot } from "./copilot-lane.ts";
import { type Gateway, startGateway } from "./gateway.ts";
import { type Identity, startIdentity } from "./identity.ts";
import { askOnceASecond, type Outcome } from "./lane.ts";

export type LaneName = "static" | "freshkey";

export type DemoEvent =
  | { readonly kind: "ready"; readonly curl: string; readonly lifetime: number; readonly copilot: boolean }
  | { readonly kind: "request"; readonly lane: LaneName; readonly outcome: Outcome }
  | { readonly kind: "renewed"; readonly token: string; readonly fingerprint: string }
  | { readonly kind: "killed" | "restarted" };

export interface DemoOptions {
  readonly seconds: number;
  /** freshkey's own program. */
  readonly program: string;
  readonly reader: string;
  /** Put the real Copilot CLI, by this path, into the second lane. */
  readonly copilot?: string | undefined;
  readonly signal: AbortSignal;
  onEvent(event: DemoEvent): void;
}

export interface DemoSummary {
  readonly lanes: Record<LaneName, { readonly requests: number; readonly refused: number }>;
  /** Of the token that the lanes use. */
  readonly renewals: number;
  readonly bedrockKeys: number;
  readonly kills: number;
}

/** Short enough that half a minute sees three of them end. */
const LIFETIME = 8_000;
const AUDIENCE = "api://freshkey-demo";
/** How long the killed agent stays away: what a service manager takes to start it again. */
const AWAY = 1_000;

/** Runs the demo for `seconds` and returns what was counted. @throws FreshkeyError if it could not be set up. */
export async function runDemo(options: DemoOptions): Promise<DemoSummary> {
  const { onEvent, signal } = options;
  const home = mkdtempSync(join(tmpdir(), "freshkey-demo-"));
  const opened: { close(): unknown }[] = [
    { close: () => rmSync(home, { recursive: true, force: true, maxRetries: 5 }) },
  ];
  const open = <T extends { close(): unknown }>(thing: T): T => {
    opened.unshift(thing);
    return thing;
  };
  try {
    if (options.copilot) await unpackCopilot(options.copilot, home, signal);
    const identity = open(await startIdentity({ lifetime: LIFETIME }));
    const gatewayFor = async (lane: LaneName): Promise<Gateway> => {
      const script = { issuer: identity.issuer, audience: AUDIENCE, toolCalls: options.seconds };
      const tell = (outcome: Outcome) => onEvent({ kind: "request", lane, outcome });
      return open(
        await startGateway({ ...script, onRequest: ({ status }) => tell(status === 200 ? "ok" : "refused") }),
      );
    };
    const gateways = { static: await gatewayFor("static"), freshkey: await gatewayFor("freshkey") };
    const agent = open(new DemoAgent(options.program, home, configText(gateways.freshkey), identity));
    agent.start();

    const key = open(openKeyFile(agent.tokenPath("copilot"), { wait: 10_000 }));
    const bedrock = open(openKeyFile(agent.tokenPath("bedrock"), { wait: 10_000 }));
    const readOnce = await key.get();
    await bedrock.get();
    const renewals = countRotations("copilot", key, onEvent);
    const bedrockKeys = countRotations("bedrock", bedrock, onEvent);
    const curl = curlLine(key.path, gateways.freshkey);
    onEvent({ kind: "ready", curl, lifetime: LIFETIME, copilot: options.copilot !== undefined });

    const { signal: over, end } = deadline(options.seconds * 1_000, signal);
    open({ close: end });
    const second = options.copilot
      ? startCopilotLane({ ...options, copilot: options.copilot, home, gateway: gateways.freshkey, key, signal: over })
      : askOnceASecond(gateways.freshkey.baseUrl, () => key.get(), over);
    const lanes = Promise.all([askOnceASecond(gateways.static.baseUrl, async () => readOnce, over), second]);
    const kills = await killHalfWay(agent, (options.seconds * 1_000) / 2, over, onEvent);
    await lanes;
    signal.throwIfAborted();
    const count = ({ counts }: Gateway) => ({ requests: counts.requests, refused: counts.refused });
    return {
      lanes: { static: count(gateways.static), freshkey: count(gateways.freshkey) },
      renewals: renewals(),
      bedrockKeys: bedrockKeys(),
      kills,
    };
  } finally {
    for (const thing of opened) await thing.close();
  }
}

async function killHalfWay(agent: DemoAgent, after: number, signal: AbortSignal, onEvent: DemoOptions["onEvent"]) {
  try {
    await sleep(after, signal);
    agent.kill();
    onEvent({ kind: "killed" });
    await sleep(AWAY, signal);
    agent.start();
    onEvent({ kind: "restarted" });
    return 1;
  } catch {
    return 0;
  }
}

function countRotations(token: string, key: KeyFile, onEvent: DemoOptions["onEvent"]): () => number {
  let count = 0;
  key.on("rotated", ({ fingerprint }) => {
    count++;
    onEvent({ kind: "renewed", token, fingerprint });
  });
  return () => count;
}

function configText(gateway: Gateway): string {
  return `[clients.copilot]
token = "copilot"
base_url = "${gateway.baseUrl}"
model = "gpt-5.1"

[tokens.copilot]
source = "azure"
credential = "managed-identity"
scope = "${AUDIENCE}/.default"

[tokens.bedrock]
source = "aws"
kind = "bedrock-api-key"
region = "us-west-2"
expires_in = "10s"
`;
}

/** The token stays out of curl's argument list: printf is the shell's own. */
function curlLine(tokenPath: string, gateway: Gateway): string {
  return `printf 'Authorization: Bearer %s' "$(cat ${tokenPath})" | curl -sS -H @- ${gateway.baseUrl}/models`;
}

/** The real agent, as a process of its own with a home of its own. */
class DemoAgent {
  readonly #program: string;
  readonly #home: string;
  readonly #environment: NodeJS.ProcessEnv;
  #child: ChildProcess | undefined;
  #said = "";

  constructor(program: string, home: string, config: string, identity: Identity) {
    this.#program = program;
    this.#home = home;
    const file = join(home, "config.toml");
    writeFileSync(file, config, { mode: 0o600 });
    // Nothing of the user's own cloud configuration: neither profiles nor credentials of theirs are asked.
    const { PATH } = process.env;
    this.#environment = { PATH, HOME: home, XDG_RUNTIME_DIR: home, FRESHKEY_CONFIG: file, ...identity.environment };
  }

  tokenPath(name: string): string {
    return join(this.#home, "freshkey", name, "token");
  }

  start(): void {
    const child = spawn(process.execPath, [this.#program, "agent"], {
      env: this.#environment,
      stdio: ["ignore", "ignore", "pipe"],
    });
    child.stderr.on("data", (chunk) => {
      this.#said = (this.#said + chunk).slice(-2_000);
    });
    this.#child = child;
  }

  kill(): void {
    if (this.#child?.exitCode !== null) {
      throw new FreshkeyError("ERR_INTERNAL", `the demo's agent ended by itself: ${this.#said}`);
    }
    this.#child.kill("SIGKILL");
  }

  close(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
    child.kill("SIGTERM");
    return new Promise((resolve) => child.once("exit", () => resolve()));
  }
}
