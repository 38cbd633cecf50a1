/** The configurations in docs/recipes.md: each loads as it stands, and its command's output is understood. */
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { mint } from "../../src/agent/mint.ts";
import { loadConfig, type TokenConfig } from "../../src/config/load.ts";

const page = readFileSync(new URL("../../docs/recipes.md", import.meta.url), "utf8");
/** Every block of TOML, one in a list too, without its indentation. */
const blocks = [...page.matchAll(/^( *)```toml\n([\s\S]*?)^\1```$/gm)].map(([, indent = "", toml = ""]) =>
  toml.replaceAll(new RegExp(`^${indent}`, "gm"), ""),
);

const inAnHour = Math.floor(Date.now() / 1000) + 3600;
const part = (content: unknown) => Buffer.from(JSON.stringify(content)).toString("base64url");
const JWT = `${part({ alg: "none" })}.${part({ exp: inAnHour })}.c2ln`;
const expiry = new Date(inAnHour * 1000).toISOString();

/** What each program prints, after its own documentation. */
const PRINTED: Readonly<Record<string, readonly [program: string, output: unknown, value: string, expires: number]>> = {
  vault: ["vault", { data: { client_id: "c", token: JWT, ttl: 3600 }, lease_duration: 0 }, JWT, inAnHour],
  "vault-child": ["vault", { auth: { client_token: "hvs.x", lease_duration: 3600 } }, "hvs.x", inAnHour],
  google: ["gcloud", { credential: { access_token: "ya29.x", token_expiry: expiry } }, "ya29.x", inAnHour],
  "google-identity": ["gcloud", `${JWT}\n`, JWT, inAnHour],
  onepassword: ["op", "sk-example", "sk-example", 0],
};

describe("docs/recipes.md", () => {
  let directory: string;
  const tokens = new Map<string, TokenConfig>();
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), "freshkey-recipes-"));
    for (const [i, toml] of blocks.entries()) {
      const file = join(directory, `${i}.toml`);
      writeFileSync(file, toml, { mode: 0o600 });
      for (const [name, token] of (await loadConfig(file, directory)).tokens) tokens.set(name, token);
    }
  });
  after(() => rmSync(directory, { recursive: true }));

  it("has a recipe that loads for each of the programs", () => {
    assert.equal(blocks.length, (page.match(/```toml/g) ?? []).length);
    for (const name of [...Object.keys(PRINTED), "actions", "git"]) assert.ok(tokens.has(name), name);
  });

  it("has recipes of three lines", () => {
    for (const toml of blocks.filter((text) => text.includes('source = "command"'))) {
      assert.equal(toml.trim().split("\n").length, 4, toml);
    }
  });

  for (const [name, [program, output, value, expires]] of Object.entries(PRINTED)) {
    it(`${name}: what ${program} prints is a token`, async () => {
      const config = tokens.get(name);
      assert.ok(config?.source === "command");
      assert.equal(config.options.command[0], program);
      writeFileSync(join(directory, "output"), typeof output === "string" ? output : JSON.stringify(output));
      writeFileSync(join(directory, program), `#!/bin/sh\nexec cat ${join(directory, "output")}\n`);
      chmodSync(join(directory, program), 0o755);
      const env = { PATH: `${directory}:/usr/bin:/bin` };
      const token = await mint({ ...config, options: { ...config.options, env } }, { now: Date.now() });
      assert.equal(token.value, value);
      // A lifetime counts from now.
      assert.ok(Math.abs(token.expires / 1000 - expires) < 60, `${token.expires}`);
    });
  }

  it("actions: curl gets the token with the job's own, which is in nobody's arguments", async () => {
    const asked: unknown[] = [];
    const server = createServer(({ url, headers }, response) => {
      asked.push([url, headers.authorization]);
      response.end(JSON.stringify({ count: 1, value: JWT }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const config = tokens.get("actions");
      assert.ok(config?.source === "command");
      const env = {
        ACTIONS_ID_TOKEN_REQUEST_TOKEN: "the-jobs-own",
        ACTIONS_ID_TOKEN_REQUEST_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}/?api-version=2.0`,
      };
      const token = await mint({ ...config, options: { ...config.options, env } }, { now: Date.now() });
      assert.deepEqual(token, { value: JWT, expires: inAnHour * 1000 });
      assert.deepEqual(asked, [["/?api-version=2.0&audience=api://gateway", "Bearer the-jobs-own"]]);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});
