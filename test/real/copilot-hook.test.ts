/**
 * What freshkey is for, with the real Copilot CLI: a session that outlives its token ends in a refusal where the key is
 * static, and does not notice where it is asked for before every request.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import {
  type Home,
  installCopilot,
  type Provider,
  rotate,
  type Session,
  SKIP,
  session,
  sharedHome,
  startProvider,
} from "../support/copilot.ts";

/** Milliseconds. */
const LIFETIME = 8_000;
/** 26 requests in 35 seconds and more. */
const SCRIPT = { toolCalls: 25, tool: { name: "bash", arguments: { command: "sleep 1.4", description: "wait" } } };

interface Variant {
  readonly name: string;
  /** Whatever has to be there before; what it returns is the rest of Copilot CLI's environment. */
  environment(provider: Provider, tokenFile: string): Promise<Record<string, string>>;
  readonly args?: readonly string[];
  readonly wrapper?: readonly string[];
}

const WORKING: readonly Variant[] = [
  {
    name: "COPILOT_PROVIDER_API_KEY_COMMAND that reads a rotated file",
    environment: async (_, file) => ({ COPILOT_PROVIDER_API_KEY_COMMAND: `cat '${file}'` }),
  },
];

describe("a long session of the real Copilot CLI with tokens of 8 seconds", { skip: SKIP }, () => {
  let copilot: string;
  let shared: Home;
  let provider: Provider;
  before(async () => {
    copilot = (await installCopilot())!.copilot;
    shared = await sharedHome(copilot);
    provider = await startProvider({ lifetime: LIFETIME, ...SCRIPT });
  });
  after(async () => {
    await provider?.close();
    await shared?.remove();
  });

  it("is cut off where the key is static", async () => {
    const env = { COPILOT_PROVIDER_API_KEY: await provider.mint() };
    const seen = await session({ copilot, home: shared.home, provider, env });
    assert.notEqual(seen.code, 0, tail(seen));
    assert.notEqual(seen.code, null, "it ended by itself");
    assert.equal(seen.tokens, 1, `it worked at first: ${tail(seen)}`);
    assert.ok(seen.refused > 0, tail(seen));
    assert.ok(seen.requests < 20, `${seen.requests} requests`);
    assert.match(seen.stderr, /Authentication failed .* \(HTTP 401\)/);
    assert.doesNotMatch(seen.stdout, /All done/);
  });

  for (const { name, environment, ...how } of WORKING) {
    it(`goes on over many tokens without a refusal with ${name}`, async () => {
      const file = join(shared.home, "token");
      const writer = await rotate(provider, file, LIFETIME / 2);
      try {
        const env = await environment(provider, file);
        const seen = await session({ copilot, home: shared.home, provider, env, ...how });
        assert.equal(seen.refused, 0, tail(seen));
        assert.equal(seen.code, 0, tail(seen));
        assert.ok(seen.requests >= 20, `${seen.requests} requests`);
        assert.ok(seen.span >= 4 * LIFETIME, `${seen.span} ms`);
        assert.ok(seen.tokens >= 8, `${seen.tokens} tokens`);
        assert.match(seen.stdout, /All done/);
      } finally {
        await writer.stop();
      }
    });
  }
});

function tail({ code, requests, refused, stderr, stdout }: Session): string {
  return `exit ${code}, ${requests} requests, ${refused} refused: ${stdout.slice(-300)} ${stderr.slice(-600)}`;
}
