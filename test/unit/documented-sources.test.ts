/** The configurations in docs/sources.md: each is one that freshkey takes as it stands. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { loadConfig } from "../../src/config/load.ts";

const lines = readFileSync(new URL("../../docs/sources.md", import.meta.url), "utf8").split("\n");

/** Every block of TOML, with the number of its first line. */
function blocks(): { line: number; toml: string }[] {
  const found: { line: number; toml: string }[] = [];
  lines.forEach((text, index) => {
    if (text !== "```toml") return;
    const end = lines.indexOf("```", index);
    found.push({ line: index + 2, toml: lines.slice(index + 1, end).join("\n") });
  });
  return found;
}

describe("docs/sources.md", () => {
  let directory: string;
  before(() => {
    directory = mkdtempSync(join(tmpdir(), "freshkey-docs-"));
  });
  after(() => rmSync(directory, { recursive: true }));

  test("has configurations", () => assert.ok(blocks().length >= 4));

  for (const { line, toml } of blocks()) {
    test(`line ${line} is a configuration that loads`, async () => {
      const file = join(directory, `${line}.toml`);
      writeFileSync(file, toml, { mode: 0o600 });
      const { tokens } = await loadConfig(file, directory);
      assert.ok(tokens.size > 0);
    });
  }
});
