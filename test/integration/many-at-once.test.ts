/** Many clients that ask at the same instant, with no agent: whoever comes first mints, and all get that one token. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { FRESHKEY_TOKEN, openSandbox, pause, type Sandbox } from "../support/freshkey.ts";
import { openSource, type Source } from "../support/source.ts";

const CLIENTS = 50;
/** Seconds: a mint takes so long that others come meanwhile. */
const DELAY = 0.3;

interface Setting {
  readonly box: Sandbox;
  readonly source: Source;
}

function open(t: TestContext): Setting {
  const box = openSandbox(t);
  const source = openSource(box, { delay: DELAY });
  box.writeConfig(source.toml("copilot"));
  return { box, source };
}

/** What an agent leaves behind that has published a token and was killed. */
async function killAgent({ box }: Setting): Promise<void> {
  const agent = await box.startAgent();
  const { code, stderr } = await box.run(["token", "--wait", "10s", "--min-validity", "1ms", "copilot"]);
  assert.equal(code, 0, stderr);
  await agent.stop("SIGKILL");
  assert.ok(existsSync(join(box.runPath, "agent/control.sock")), "a killed agent leaves its socket behind");
}

/** Asks with many clients at once, and holds that there was one mint and that all print the token that is published. */
async function askAtOnce({ box, source }: Setting, client: readonly string[], program?: string): Promise<void> {
  const before = source.runs();
  const args = [...client, "--wait", "60s", "copilot"];
  const ask = () => box.run(args, { timeout: 70_000, ...(program && { program }) });
  const results = await Promise.all(Array.from({ length: CLIENTS }, ask));
  const failed = results.filter(({ code }) => code !== 0).map(({ code, stderr }) => ({ code, stderr }));
  assert.deepEqual(failed, []);
  const printed = new Set(results.map(({ stdout }) => stdout));
  assert.equal(printed.size, 1, `${printed.size} different tokens were printed`);
  assert.ok(printed.has(readFileSync(box.tokenPath("copilot"), "utf8")), "what was printed is not what is published");
  assert.equal(source.runs() - before, 1);
}

describe(`${CLIENTS} clients at once, no agent`, { skip: process.platform !== "linux" && "needs /proc" }, () => {
  it("make one mint on an empty directory", async (t) => {
    await askAtOnce(open(t), ["token"]);
  });

  it("make one mint over the remains of a killed agent whose token was removed, as freshkey-token", async (t) => {
    const setting = open(t);
    await killAgent(setting);
    rmSync(setting.box.tokenPath("copilot"));
    await askAtOnce(setting, [], FRESHKEY_TOKEN);
  });

  it("make one mint over the remains of a killed agent whose token has expired", async (t) => {
    const setting = open(t);
    const lifetime = 3;
    setting.source.behave({ delay: DELAY, lifetime });
    await killAgent(setting);
    setting.source.behave({ delay: DELAY });
    const old = readFileSync(setting.box.tokenPath("copilot"), "utf8");
    await pause(lifetime * 1_000);
    await askAtOnce(setting, ["token"]);
    assert.ok(readFileSync(setting.box.tokenPath("copilot"), "utf8") !== old, "the expired token is still in place");
  });
});
