/** An agent that is asked before its own loop has turned: right after the clock was set, or the machine woke up. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Agent, controlSocket } from "../../src/agent/agent.ts";
import type { Config } from "../../src/config/load.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import { fingerprint } from "../../src/core/token.ts";
import { askAgent, type RenewAnswer } from "../../src/os/control-client.ts";
import { openLog } from "../../src/os/log.ts";
import { LIFE, tokenConfig } from "../support/agent-parts.ts";
import { StandingClock, temporaryDirectory } from "../support/unit.ts";

const MINUTE = 60_000;

/** An agent of one token whose loop never turns by itself. */
async function openAgent(t: TestContext) {
  const run = join(temporaryDirectory(t), "freshkey");
  const clock = new StandingClock();
  const token = tokenConfig(run);
  const config: Config = { file: join(run, "config.toml"), tokens: new Map([[token.name, token]]), clients: new Map() };
  const source = { mints: 0, broken: false };
  const agent = await Agent.open(config, {
    run,
    clock,
    log: openLog("silent"),
    mint: async () => {
      source.mints++;
      if (source.broken) throw new FreshkeyError("ERR_SOURCE_UNREACHABLE", "it is down", { retryAfter: 5 * MINUTE });
      return { value: `token-number-${source.mints}`, expires: clock.now() + LIFE };
    },
  });
  if (!agent) assert.fail("somebody else has the lock");
  t.after(() => agent.close());
  const ask = (seen: string) => {
    const request = { op: "renew", name: token.name, seen, reason: "expired" } as const;
    return askAgent<RenewAnswer>(controlSocket(run), request, { timeout: 10_000 });
  };
  return { clock, source, ask };
}

test("the clock is set back during a pause: whoever asks next is not put off until the old time", async (t) => {
  const { clock, source, ask } = await openAgent(t);
  source.broken = true;
  await assert.rejects(ask(""), { code: "ERR_SOURCE_UNREACHABLE" });
  await assert.rejects(ask(""), { code: "ERR_BACKOFF" });
  source.broken = false;
  clock.wall -= 60 * MINUTE;
  assert.equal((await ask("")).result, "renewed");
  assert.equal(source.mints, 2);
});

test("after a night's sleep the first reader gets a new token, before any turn of the loop", async (t) => {
  const { clock, source, ask } = await openAgent(t);
  const { fingerprint: evening } = await ask("");
  clock.pass(9 * 60 * MINUTE);
  const morning = await ask(evening);
  assert.deepEqual([morning.result, morning.fingerprint], ["renewed", fingerprint("token-number-2")]);
  assert.equal(morning.expires, Math.floor((clock.now() + LIFE) / 1000));
  assert.equal(source.mints, 2);
});
