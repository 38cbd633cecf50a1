/** After a 401, with the built program: another token through the agent, and without one. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { fingerprint } from "../../src/core/token.ts";
import { openKeyFile } from "../../src/reader/index.ts";
import { openSandbox } from "../support/freshkey.ts";
import { makeOlder, openSource } from "../support/source.ts";

describe("freshkey token --rejected", () => {
  it("mints where no agent runs, once for each rejected token", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    const { stdout: first } = await box.run(["token", "copilot"]);
    makeOlder(box.tokenPath("copilot"));
    const rejected = ["token", "copilot", "--rejected", fingerprint(first)];
    const answers = await Promise.all([box.run(rejected), box.run(rejected), box.run(rejected)]);
    const [other, ...more] = [...new Set(answers.map(({ stdout }) => stdout))];
    assert.ok(other && other !== first && more.length === 0, "not the same other token for all");
    assert.equal(source.runs(), 2);
    assert.equal((await box.run(rejected)).stdout, other);
    assert.equal(source.runs(), 2);
  });

  it("of a token that was minted a moment ago says that the gateway is at fault", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    const { stdout: first } = await box.run(["token", "copilot"]);
    const { code, stderr, stdout } = await box.run(["token", "copilot", "--rejected", fingerprint(first)]);
    assert.deepEqual([code, stdout], [75, ""]);
    assert.match(stderr, /the gateway rejected a token of copilot minted \d+\w* ago/);
    assert.match(stderr, /audience/);
    assert.equal(source.runs(), 1);
  });
});

describe("get({ rejected }) with an agent", () => {
  it("gives the new token; the agent's log says why it was minted", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    const agent = await box.startAgent();
    const key = openKeyFile(box.tokenPath("copilot"), { wait: 20_000 });
    t.after(() => key.close());
    const first = await key.get();
    makeOlder(key.path);
    const others = await Promise.all(Array.from({ length: 10 }, () => key.get({ rejected: first })));
    assert.deepEqual([...new Set(others)], [readFileSync(key.path, "utf8")]);
    assert.notEqual(others[0], first);
    assert.equal(source.runs(), 2);
    assert.equal(agent.log().filter(({ reason }) => reason === "rejected").length, 1);
  });
});
