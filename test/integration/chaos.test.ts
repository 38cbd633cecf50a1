/** The chaos suite, short and with a fixed seed (`npm run test:chaos` runs it longer), and that its accounts count. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { Accounts, type Fault, type Records, type Request } from "../chaos/account.ts";
import { KINDS, type Kind, planFaults } from "../chaos/plan.ts";
import type { Summary } from "../chaos/summary.ts";

const CHAOS = fileURLToPath(new URL("../chaos/chaos.ts", import.meta.url));
const SECONDS = 120;
/** Of the faults: `SEED=1234 npm test` runs others. */
const SEED = Number(process.env.SEED ?? 12);

function run(args: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    execFile(process.execPath, ["--import", "tsx", CHAOS, ...args], (error, stdout, stderr) => {
      // Exit code 1 with a summary: it says itself what is wrong.
      if (error && !stdout.startsWith("{")) reject(new Error(`${error.message}\n${stderr}`));
      else resolve({ stdout, stderr });
    });
  });
}

describe("chaos", { skip: process.platform !== "linux" && "needs /proc" }, () => {
  it(`for ${SECONDS} s: no 401, no torn read, nothing left behind`, { timeout: 360_000 }, async (t) => {
    const { stdout } = await run(["--seconds", `${SECONDS}`, "--seed", `${SEED}`, "--json"]);
    const summary = JSON.parse(stdout) as Summary;
    const { faults, survivable, requests, refused, without, reads, gaps, mints, leastMints, left } = summary;
    for (const { kind, skipped } of summary.kinds) if (skipped !== undefined) t.diagnostic(`${kind}: ${skipped}`);
    t.diagnostic(`seed ${SEED}: ${faults} faults, ${survivable} of them with one mint possible in the overlap`);
    t.diagnostic(`${requests} requests, 401s ${JSON.stringify(refused)}, without a token ${JSON.stringify(without)}`);
    t.diagnostic(`reads ${JSON.stringify(reads)}; longest without a token ${JSON.stringify(gaps)} ms`);
    t.diagnostic(`${mints} mints, ${leastMints} the least`);
    assert.deepEqual(summary.violations, [], `with seed ${SEED}`);
    assert.equal(refused.counts ?? 0, 0);
    assert.equal(without.counts ?? 0, 0);
    assert.deepEqual([summary.torn, summary.late, summary.expired, summary.signIns], [0, 0, 0, 0]);
    assert.deepEqual(left, { processes: 0, temporary: [], sockets: [], other: [] });
    assert.ok(faults >= 8, `only ${faults} faults`);
    assert.ok(requests >= SECONDS, `only ${requests} requests`);
  });
});

describe("the plan of the faults", () => {
  it("is the same for the same seed, and another for another", () => {
    assert.deepEqual(planFaults(7, 120, 8_000), planFaults(7, 120, 8_000));
    assert.notDeepEqual(planFaults(7, 120, 8_000), planFaults(8, 120, 8_000));
  });

  it("has every kind in a few minutes, one at a time in a lane", () => {
    const plan = planFaults(3, 240, 8_000);
    const kinds = new Set(plan.map(({ kind }) => kind));
    assert.deepEqual(
      [...KINDS.provider, ...KINDS.machine].filter((kind) => !kinds.has(kind)),
      [],
    );
    for (const lane of ["provider", "machine"]) {
      const own = plan.filter((fault) => fault.lane === lane);
      for (const [index, fault] of own.slice(1).entries()) {
        assert.ok(
          fault.at >= own[index]!.at + own[index]!.lasts,
          `${fault.kind} begins before ${own[index]!.kind} ends`,
        );
      }
    }
  });
});

/** Seconds on a scale of one's own. A token is minted every five, each lives for eight. */
const S = 1_000;
const fault = (kind: Kind, from: number, to: number, blocks: boolean, laid?: string[]): Fault => ({
  planned: { lane: "machine", kind, at: from * S, lasts: (to - from) * S, amount: 0 },
  from: from * S,
  to: to * S,
  token: "entra",
  blocks,
  laid,
});
const accounts = (faults: Fault[], minted: number[], more: Partial<Records> = {}) =>
  new Accounts({
    faults,
    issues: minted.map((at) => ({ name: "entra", fingerprint: `t${at}`, at: at * S, expires: (at + 8) * S })),
    requests: [],
    sights: minted.map((at) => ({ kind: "seen", fingerprint: `t${at}`, name: "entra", at: at * S })),
    gaps: [],
    ...more,
  });
const request = (start: number, end: number, fingerprint?: string): Request => ({
  request: "entra",
  start: start * S,
  end: end * S,
  ...(fingerprint !== undefined && { got: start * S, fingerprint, status: 401 }),
});

describe("the accounts", () => {
  it("count a 401 whatever the provider did, unless a hand had laid what was sent, or the machine slept", () => {
    const down = fault("down", 6, 20, true);
    assert.equal(accounts([down], [1, 21]).judgeRefusal(request(12, 12, "t1")), undefined);
    const edited = fault("token-edited", 6, 6, false, ["by-hand"]);
    assert.equal(accounts([edited], [1]).judgeRefusal(request(7, 7, "by-hand")), "by hand");
    assert.equal(accounts([edited], [1]).judgeRefusal(request(7, 7, "t1")), undefined);
    const asleep = fault("asleep", 6, 16, true);
    assert.equal(accounts([asleep], [1, 17]).judgeRefusal(request(5, 17, "t1")), "asleep");
    assert.equal(accounts([asleep], [1, 17]).judgeRefusal(request(17, 18, "t1")), undefined);
  });

  it("excuse a request without a token for an outage of the whole overlap, until the next token was there", () => {
    // t1 is due at 6.3 and ends at 9.
    const whole = accounts([fault("down", 6, 12, true)], [1, 14]);
    assert.equal(whole.judgeFailure(request(9, 11)), "outage");
    assert.equal(whole.judgeFailure(request(12, 13.5)), "outage");
    assert.equal(whole.judgeFailure(request(15, 19)), undefined);
    assert.equal(whole.slowestRecovery(), 2 * S);
    const part = accounts([fault("down", 6, 7, true)], [1, 14]);
    assert.equal(part.judgeFailure(request(9, 11)), "back-off");
    assert.equal(part.judgeFailure(request(5, 5.5)), undefined);
    assert.equal(accounts([], [1]).judgeFailure(request(9, 11)), undefined);
    assert.equal(accounts([fault("two-agents-more", 6, 6, false)], [1]).judgeFailure(request(9, 11)), undefined);
  });

  it("know which faults left time for one mint, and what nobody has issued", () => {
    const [whole, part] = [fault("down", 6, 12, true), fault("down", 6, 7, true)];
    assert.equal(accounts([whole], [1, 14]).survivable(whole), false);
    assert.equal(accounts([part], [1, 8]).survivable(part), true);
    const torn = { kind: "seen", fingerprint: "half", name: "entra", at: 3 * S } as const;
    assert.deepEqual(accounts([], [1], { sights: [torn] }).torn(), [torn]);
    const gaps = [{ name: "entra", from: 9 * S, to: 14 * S }];
    assert.equal(accounts([], [1, 14], { gaps }).longestGaps().unexcused, 5 * S);
    assert.equal(accounts([whole], [1, 14], { gaps }).longestGaps().unexcused, 0);
  });
});
