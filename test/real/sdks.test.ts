/** What docs/library.md shows, run as it stands: the real SDKs in front of a gateway whose tokens expire and are revoked. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, describe, it, type TestContext } from "node:test";
import { fingerprint } from "../../src/core/token.ts";
import type { CredentialHeader } from "../../src/demo/gateway.ts";
import { type Provider, SKIP, startProvider } from "../support/copilot.ts";
import { openSandbox, pause, type Sandbox } from "../support/freshkey.ts";
import { installSdks, type Program, snippets, startSnippet } from "../support/sdks.ts";
import { makeOlder } from "../support/source.ts";

interface Example {
  /** What tells its snippet from the others. */
  readonly has: RegExp;
  /** The only header in which its gateway takes a token. */
  readonly header?: CredentialHeader;
  /** Its base URL is the gateway's origin. */
  readonly atOrigin?: true;
  readonly prints?: RegExp;
  /** It reads the token and sends nothing. */
  readonly readsOnly?: true;
  /** It answers a 401 with a new token. */
  readonly recovers: boolean;
}

const EXAMPLES: Readonly<Record<string, Example>> = {
  "get() and Node's fetch": { has: /await fetch\(/, prints: /^200$/, recovers: false },
  createFetch: { has: /const response = await send/, prints: /^200$/, recovers: true },
  "read() and its errors": {
    has: /instanceof FreshkeyError/,
    prints: /^[0-9a-f]{12} 20/,
    readsOnly: true,
    recovers: false,
  },
  "OpenAI SDK, apiKey as a function": { has: /new OpenAI\(.*apiKey: \(\) =>/, recovers: false },
  "OpenAI SDK with createFetch": { has: /new OpenAI\(.*createFetch/, recovers: true },
  "Azure OpenAI SDK": { has: /new AzureOpenAI/, header: "api-key", atOrigin: true, recovers: true },
  "Anthropic SDK": { has: /new Anthropic/, header: "x-api-key", atOrigin: true, recovers: true },
  "Copilot SDK": { has: /new CopilotClient/, recovers: true },
};

/** Milliseconds. Of a token in a session over many of them. */
const LIFETIME = 8_000;
const REQUESTS = 40;

interface Scene {
  readonly box: Sandbox;
  readonly provider: Provider;
  readonly program: Program;
}

let modules: string;
let pages: string[];
before(async () => {
  pages = await snippets();
  if (!SKIP) modules = await installSdks();
});

function snippetOf({ has }: Example): string {
  const found = pages.filter((code) => has.test(code));
  assert.equal(found.length, 1, `${found.length} snippets have ${has}`);
  return found[0]!;
}

async function play(t: TestContext, example: Example, lifetime: number): Promise<Scene> {
  const provider = await startProvider({ lifetime, accepts: [example.header ?? "authorization"] });
  t.after(() => provider.close());
  const box = openSandbox(t);
  const { origin, baseUrl } = provider.gateway;
  const url = example.atOrigin ? origin : baseUrl;
  box.writeConfig(`
[clients.copilot]
token = "copilot"
base_url = "${url}"
[tokens.copilot]
source = "azure"
credential = "managed-identity"
scope = "api://copilot/.default"
# What the gateway gets here is counted.
verify = false
`);
  await box.startAgent({ env: provider.identity.environment });
  const env = { GATEWAY_URL: url, COPILOT_PROVIDER_API_KEY_FILE: box.tokenPath("copilot") };
  const program = await startSnippet(snippetOf(example), modules, env);
  t.after(() => program.close());
  return { box, provider, program };
}

describe("docs/library.md", () => {
  it("has a test for each of its snippets", () => {
    assert.equal(pages.length, Object.keys(EXAMPLES).length);
    for (const example of Object.values(EXAMPLES)) snippetOf(example);
  });
});

describe("a session over many tokens", { skip: SKIP, concurrency: 4 }, () => {
  for (const [name, example] of Object.entries(EXAMPLES)) {
    it(`${name}: no 401`, async (t) => {
      const { provider, program } = await play(t, example, LIFETIME);
      const began = Date.now();
      for (let i = 0; i < REQUESTS; i++) {
        const printed = await program.again();
        assert.match(printed.join("\n"), example.prints ?? /^All done\.$/);
        await pause(Math.max(0, began + ((i + 1) * 6 * LIFETIME) / (REQUESTS - 1) - Date.now()));
      }
      assert.equal(provider.requests.length, example.readsOnly ? 0 : REQUESTS);
      if (example.readsOnly) return;
      assert.equal(provider.gateway.counts.refused, 0);
      const tokens = new Set(provider.requests.map((request) => request.fingerprint)).size;
      assert.ok(tokens >= 7, `${tokens} tokens`);
      t.diagnostic(`${REQUESTS} requests in ${Date.now() - began} ms with ${tokens} tokens, none refused`);
    });
  }
});

describe("a token revoked in mid-session, three times", { skip: SKIP, concurrency: 4 }, () => {
  for (const [name, example] of Object.entries(EXAMPLES).filter(([, { recovers }]) => recovers)) {
    it(`${name}: the session goes on, one 401 each time`, async (t) => {
      const { box, provider, program } = await play(t, example, 3_600_000);
      for (let revoked = 0; revoked <= 3; revoked++) {
        for (let i = 0; i < 3; i++) assert.match((await program.again()).join("\n"), example.prints ?? /^All done\.$/);
        assert.equal(provider.gateway.counts.refused, revoked);
        // As an administrator does, of a token that was good for a while.
        makeOlder(box.tokenPath("copilot"));
        provider.gateway.revoke(fingerprint(readFileSync(box.tokenPath("copilot"), "utf8")));
      }
      assert.equal(provider.identity.mints.azure, 4);
    });
  }
});
