/**
 * An identity provider that is down for ten minutes, refusing connections or answering 5xx, while fifty clients whose
 * token has expired ask for another one again and again: on a simulated clock, for many seeds.
 */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { pino } from "pino";
import type { TokenEvent } from "../../src/agent/events.ts";
import { FailureFile } from "../../src/agent/failure-file.ts";
import { publish } from "../../src/agent/publish.ts";
import { Refresher } from "../../src/agent/refresher.ts";
import { Slots } from "../../src/agent/slots.ts";
import type { TokenConfig } from "../../src/config/load.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import type { Failure } from "../../src/core/state.ts";
import type { Token } from "../../src/core/token.ts";
import { randomFrom } from "../support/random.ts";
import { StandingClock, temporaryDirectory } from "../support/unit.ts";

const SEEDS = 200;
const FIRST_SEED = Number(process.env.SEED ?? 1);
const CLIENTS = 50;
const OUTAGE = 600_000;
/** How long is looked on after the provider's return, milliseconds. */
const AFTERMATH = 150_000;
/** The simulation goes by steps of so many milliseconds: as exact as its figures are. */
const STEP = 250;

interface Attempt {
  readonly start: number;
  /** When the failure clock said that there may be another one; undefined for a success. */
  nextTry?: number;
}

interface Outage {
  /** Milliseconds since the beginning of the outage, as all instants here. */
  readonly attempts: readonly Attempt[];
  readonly mostAtOnce: number;
  /** When there was a new token. */
  readonly published: readonly number[];
  /** Of clients, that were told to come again later. */
  readonly refusals: number;
  /** Of clients, that had a token afterwards. */
  readonly served: number;
}

test(`${SEEDS} outages of ten minutes, ${CLIENTS} clients that ask all the while`, async (t) => {
  const base = temporaryDirectory(t);
  const outages: Outage[] = [];
  for (let seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
    const outage = await simulate(seed, join(base, String(seed)));
    outages.push(outage);
    check(outage, `seed ${seed}`);
  }
  const attempts = outages.map((outage) => outage.attempts.filter(({ start }) => start < OUTAGE).length);
  const recovery = outages.map(({ published }) => (published[0]! - OUTAGE) / 1000);
  const refusals = outages.reduce((sum, outage) => sum + outage.refusals, 0);
  t.diagnostic(`attempts during the outage: ${spread(attempts)}`);
  t.diagnostic(`seconds from its end to a new token: ${spread(recovery)}`);
  t.diagnostic(`${refusals} clients were answered at once that they are to come later; seeds from ${FIRST_SEED}`);
});

function check({ attempts, mostAtOnce, published, refusals, served }: Outage, where: string): void {
  const failed = attempts.filter(({ nextTry }) => nextTry !== undefined);
  const during = attempts.filter(({ start }) => start < OUTAGE);
  assert.ok(during.length <= 30, `${where}: ${during.length} attempts`);
  // Fewer, and nobody would have tried.
  assert.ok(during.length >= 10, `${where}: only ${during.length} attempts`);
  assert.equal(mostAtOnce, 1, where);
  assert.equal(published.length, 1, `${where}: one new token serves all`);
  assert.equal(attempts.length, failed.length + 1, `${where}: nobody asks any more once there is a token`);
  assert.ok(published[0]! <= OUTAGE + 60_000, `${where}: a new token ${published[0]! - OUTAGE} ms after the return`);
  for (const [index, { nextTry }] of failed.entries()) {
    const { start } = attempts[index + 1]!;
    assert.ok(start >= nextTry!, `${where}: attempt ${index + 2} came ${nextTry! - start} ms too early`);
    assert.ok(start < nextTry! + 2 * STEP, `${where}: attempt ${index + 2} came ${start - nextTry!} ms too late`);
  }
  assert.ok(refusals > CLIENTS, `${where}: the clients hardly asked`);
  assert.equal(served, CLIENTS, `${where}: clients with a token in the end`);
}

async function simulate(seed: number, directory: string): Promise<Outage> {
  const random = randomFrom(seed);
  const clock = new StandingClock();
  const begin = clock.now();
  const now = () => clock.now() - begin;
  const config = configFor(join(directory, "copilot/token"));
  mkdirSync(directory, { mode: 0o700 });
  const expired = { value: "expired-token", expires: begin };
  await publish(config, { token: expired, minted: begin - 3_600_000, control: join(directory, "control.sock") });

  const attempts: Attempt[] = [];
  const published: number[] = [];
  let mostAtOnce = 0;
  let answers: { at: number; answer: () => void }[] = [];
  /** Mints that were answered, and whose outcome has not been seen yet. */
  let unsettled = 0;

  const refresher = new Refresher(config, {
    clock,
    random,
    log: pino({ enabled: false }),
    slots: new Slots(),
    failures: new FailuresInMemory(directory, "copilot"),
    schedule: undefined,
    control: join(directory, "control.sock"),
    wake: () => undefined,
    mint: () => {
      const start = now();
      attempts.push({ start });
      return new Promise<Token>((resolve, reject) => {
        const answer = () => {
          unsettled++;
          if (start >= OUTAGE) resolve({ value: `token-${seed}-${start}`, expires: clock.now() + 3_600_000 });
          else reject(random() < 0.5 ? refused() : unavailable());
        };
        answers.push({ at: start + random() * 1_000, answer });
        mostAtOnce = Math.max(mostAtOnce, answers.length);
      });
    },
    observe: (event: TokenEvent) => {
      if (event.kind === "failed") attempts.at(-1)!.nextTry = event.failure.nextTry - begin;
      else if (event.kind === "published") published.push(now());
      else return;
      unsettled--;
    },
  });
  refresher.start();

  let refusals = 0;
  const served = new Set<number>();
  // Milliseconds between two questions of one client, on average. In some outages they are very impatient.
  const patience = seed % 50 === 0 ? 2_500 : 60_000;
  const nextAsk = Array.from({ length: CLIENTS }, () => random() * patience);
  const ask = (client: number) => {
    refresher.renew({ seen: "", reason: "expired" }).then(
      () => served.add(client),
      (error: FreshkeyError) => {
        // Whoever shared a mint that failed gets its error, all others when to come again.
        if (error.code !== "ERR_BACKOFF") return;
        assert.ok(error.retryAfter! > 0 && error.retryAfter! <= 60_000, `retry after ${error.retryAfter} ms`);
        refusals++;
      },
    );
  };

  for (; now() < OUTAGE + AFTERMATH; clock.pass(STEP)) {
    const due = answers.filter(({ at }) => at <= now());
    answers = answers.filter(({ at }) => at > now());
    for (const { answer } of due) answer();
    // Publishing takes real time, but none of the simulation's.
    if (due.length > 0)
      do await setImmediate();
      while (unsettled > 0);
    refresher.tick();
    for (const [client, at] of nextAsk.entries()) {
      if (at > now()) continue;
      ask(client);
      nextAsk[client] = now() + patience * (0.5 + random());
    }
    await Promise.resolve();
  }
  await setImmediate();
  await refresher.stop();
  return { attempts, mostAtOnce, published, refusals, served: served.size };
}

/** Keeps the failure where it was told of it: a thousand fsyncs are not what is tested here. */
class FailuresInMemory extends FailureFile {
  override read(): Failure | undefined {
    return undefined;
  }
  override async write(): Promise<void> {}
  override clear(): void {}
}

function refused(): FreshkeyError {
  return new FreshkeyError("ERR_SOURCE_UNREACHABLE", "connection refused");
}

function unavailable(): FreshkeyError {
  return new FreshkeyError("ERR_SOURCE_FAILED", "the provider answered 503");
}

function configFor(path: string): TokenConfig {
  const config = { name: "copilot", source: "command", path, ownDirectory: true, options: {}, baseUrls: [] };
  return config as unknown as TokenConfig;
}

function spread(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))]!.toFixed(0);
  return `${at(0)} to ${at(1)}, median ${at(0.5)}`;
}
