/** What docs/operations.md names is there: verbs and their options, exit codes, metrics, states. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { prometheusText } from "../../src/agent/prometheus.ts";
import { CODES } from "../../src/core/errors.ts";
import { openSandbox } from "../support/freshkey.ts";

const page = readFileSync(new URL("../../docs/operations.md", import.meta.url), "utf8");
const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");

/** `freshkey VERB --option …`, in a line of its own or in a sentence. */
const commands = [...page.matchAll(/\bfreshkey (agent|connect|renew|status|token)((?: [\w-]+)*)/g)].map(
  ([, verb = "", rest = ""]) => ({ verb, options: rest.split(" ").filter((word) => word.startsWith("--")) }),
);

describe("docs/operations.md", () => {
  it("names verbs and options that there are", async (t) => {
    const box = openSandbox(t);
    assert.ok(commands.length >= 8, `only ${commands.length} commands found`);
    for (const verb of new Set(commands.map((command) => command.verb))) {
      const { code, stdout } = await box.run([verb, "--help"]);
      assert.equal(code, 0, `freshkey ${verb}`);
      const known = new Set(stdout.match(/--[a-z-]+/g));
      for (const option of commands.flatMap((command) => (command.verb === verb ? command.options : []))) {
        assert.ok(known.has(option), `freshkey ${verb} ${option}`);
      }
    }
  });

  it("has every exit code, with the README's words for it", () => {
    const rows = (text: string) =>
      [...text.matchAll(/^\| (\d+) \| ([^|]+) \|/gm)].map(([, code, words]) => [code, words]);
    assert.deepEqual(rows(page), rows(readme));
    const listed = new Set(rows(page).map(([code]) => Number(code)));
    for (const { exit } of Object.values(CODES)) assert.ok(listed.has(exit), `${exit}`);
  });

  it("names metrics and states that there are", () => {
    const token = {
      name: "copilot",
      source: "azure",
      state: "fresh",
      path: "/x",
      fingerprint: "",
      expires: 2,
      minted: 1,
    };
    const text = prometheusText(true, [{ ...token, state: "fresh", next_renewal: 1 }], 1_000);
    const metrics = page.match(/freshkey_[a-z_]+/g) ?? [];
    assert.ok(metrics.length >= 3);
    for (const metric of metrics) assert.ok(text.includes(`${metric}{`) || text.includes(`${metric} `), metric);
    const [, sentence = ""] = /A state is one of ([\s\S]*?)\n\n/.exec(page) ?? [];
    const states = [...text.matchAll(/state="([^"]+)"/g)].map(([, state]) => state);
    assert.deepEqual(new Set([...sentence.matchAll(/`([^`]+)`/g)].map(([, state]) => state)), new Set(states));
  });
});
