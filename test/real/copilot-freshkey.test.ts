/**
 * The promise, with the real Copilot CLI and the built program: a session that outlives many tokens is never refused,
 * through each of the ways by which freshkey gets a token into it.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it, type TestContext } from "node:test";
import { fingerprint } from "../../src/core/token.ts";
import {
  type Home,
  installCopilot,
  type Provider,
  type Session,
  SKIP,
  session,
  sharedHome,
  startProvider,
} from "../support/copilot.ts";
import { FRESHKEY, openSandbox, type Sandbox, until } from "../support/freshkey.ts";
import { makeOlder } from "../support/source.ts";

/** Milliseconds. */
const LIFETIME = 8_000;
/** 26 requests in 35 seconds and more. */
const LONG = { toolCalls: 25, tool: { name: "bash", arguments: { command: "sleep 1.4", description: "wait" } } };
/** Asks the identity endpoint as `az` and `curl` do; the header's secret stays out of the argument list. */
const ASK = `printf 'X-IDENTITY-HEADER: %s' "$IDENTITY_HEADER" | curl -sS -H @- "$IDENTITY_ENDPOINT?resource=api://copilot"`;

let copilot: string;
let shared: Home;
before(async () => {
  if (SKIP) return;
  copilot = (await installCopilot())!.copilot;
  shared = await sharedHome(copilot);
});
after(() => shared?.remove());

interface Scene {
  readonly box: Sandbox;
  readonly provider: Provider;
  /** Of every process of this scene: its own runtime directory, configuration and `COPILOT_HOME`. */
  readonly env: Record<string, string>;
  /** Runs Copilot CLI in it. */
  play(env: Record<string, string>, wrapper?: readonly string[]): Promise<Session>;
}

async function openScene(t: TestContext, script: Partial<Parameters<typeof startProvider>[0]> = {}): Promise<Scene> {
  const provider = await startProvider({ lifetime: LIFETIME, ...script });
  t.after(() => provider.close());
  const box = openSandbox(t);
  const env = {
    XDG_RUNTIME_DIR: box.env.XDG_RUNTIME_DIR!,
    XDG_CONFIG_HOME: join(box.home, ".config"),
    COPILOT_HOME: join(box.home, "copilot"),
  };
  const play: Scene["play"] = (more, wrapper = []) =>
    session({ copilot, home: shared.home, provider, env: { ...env, ...more }, wrapper });
  return { box, provider, env, play };
}

function writeConfig({ box, provider }: Scene): void {
  box.writeConfig(`
[clients.copilot]
token = "copilot"
base_url = "${provider.gateway.baseUrl}"
model = "gpt-5.1"

[tokens.copilot]
source = "azure"
credential = "managed-identity"
scope = "api://copilot/.default"
`);
}

/** Puts the extension in place as a user does. */
async function connect({ box, env }: Scene, more: Record<string, string> = {}): Promise<void> {
  const args = ["connect", "copilot", "--write", "--yes", "--enable-experimental"];
  const { code, stderr } = await box.run(args, { env: { ...env, ...more } });
  assert.equal(code, 0, stderr);
  assert.match(stderr, /through its extension/);
}

function assertNeverRefused(seen: Session): void {
  assert.equal(seen.refused, 0, tail(seen));
  assert.equal(seen.code, 0, tail(seen));
  assert.ok(seen.requests >= 20, `${seen.requests} requests`);
  assert.ok(seen.span >= 4 * LIFETIME, `${seen.span} ms`);
  assert.ok(seen.tokens >= 5, `${seen.tokens} tokens`);
  assert.match(seen.stdout, /All done/);
}

describe("the real Copilot CLI over many tokens of 8 seconds", { skip: SKIP, concurrency: 2 }, () => {
  it("goes on with the extension and the agent, COPILOT_PROVIDER_API_KEY_FILE alone", async (t) => {
    const scene = await openScene(t, LONG);
    writeConfig(scene);
    await scene.box.startAgent({ env: { ...scene.env, ...scene.provider.identity.environment } });
    await connect(scene);
    assertNeverRefused(await scene.play({ COPILOT_PROVIDER_API_KEY_FILE: scene.box.tokenPath("copilot") }));
  });

  it("goes on with the extension and a bare file that a shell loop rotates, no agent, no configuration", async (t) => {
    const scene = await openScene(t, LONG);
    const file = join(scene.box.directory, "token");
    const script = `while :; do ${ASK} | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/' > "$0.new" && mv "$0.new" "$0"; sleep 4; done`;
    const loop = spawn("sh", ["-c", script, file], {
      env: { ...scene.box.env, ...scene.provider.identity.environment },
      detached: true,
      stdio: "ignore",
    });
    try {
      await until("the loop has written a token", () => readIfThere(file));
      const files = { COPILOT_PROVIDER_API_KEY_FILE: file };
      await connect(scene, { ...files, COPILOT_PROVIDER_BASE_URL: scene.provider.gateway.baseUrl });
      assertNeverRefused(await scene.play(files));
    } finally {
      process.kill(-loop.pid!, "SIGKILL");
    }
  });

  it("goes on with the command hook under `freshkey exec`, with a configuration and no agent", async (t) => {
    const scene = await openScene(t, LONG);
    writeConfig(scene);
    const seen = await scene.play(scene.provider.identity.environment, [FRESHKEY, "exec", "--"]);
    assertNeverRefused(seen);
  });

  it("goes on with the command hook under `freshkey exec --mint`, with nothing else", async (t) => {
    const scene = await openScene(t, LONG);
    const seen = await scene.play(scene.provider.identity.environment, [FRESHKEY, "exec", "--mint", ASK, "--"]);
    assertNeverRefused(seen);
  });
});

describe("a token that is revoked in mid-session, three times", { skip: SKIP, concurrency: 2 }, () => {
  /** Revokes the token in place as often as three have done their work, and gives how often that was. */
  function revokeThrice({ box, provider }: Scene): { readonly times: number; stop(): void } {
    const revoked = new Set<string>();
    const timer = setInterval(() => {
      const last = provider.requests.filter(({ status }) => status === 200).at(-1)?.fingerprint;
      const inPlace = fingerprint(readIfThere(box.tokenPath("copilot")));
      const used = provider.requests.filter((one) => one.fingerprint === inPlace && one.status === 200).length;
      if (last !== inPlace || used < 3 || revoked.size === 3) return;
      // As an administrator does, of a token that was good for a while.
      makeOlder(box.tokenPath("copilot"));
      provider.gateway.revoke(inPlace);
      revoked.add(inPlace);
    }, 50);
    return {
      get times() {
        return revoked.size;
      },
      stop: () => clearInterval(timer),
    };
  }

  for (const [how, withAgent] of Object.entries({ "with the agent": true, "without one": false })) {
    it(`costs one 401 each time through the extension, ${how}`, async (t) => {
      const scene = await openScene(t, { ...LONG, toolCalls: 18, lifetime: 600_000 });
      writeConfig(scene);
      const { environment } = scene.provider.identity;
      if (withAgent) await scene.box.startAgent({ env: { ...scene.env, ...environment } });
      await connect(scene);
      const revocations = revokeThrice(scene);
      t.after(revocations.stop);
      const files = { COPILOT_PROVIDER_API_KEY_FILE: scene.box.tokenPath("copilot") };
      const seen = await scene.play(withAgent ? files : { ...environment, ...files });
      assert.equal(revocations.times, 3, tail(seen));
      assert.deepEqual([seen.code, seen.refused, seen.tokens], [0, 3, 4], tail(seen));
      assert.match(seen.stdout, /All done/);
      assert.equal(seen.stderr.includes("freshkey:"), false, "nobody has to do anything");
    });
  }
});

describe("the extension in the real Copilot CLI", { skip: SKIP }, () => {
  it("says why there is no token, and what to do", async (t) => {
    const scene = await openScene(t);
    scene.box.writeConfig(`
[clients.copilot]
token = "copilot"
base_url = "${scene.provider.gateway.baseUrl}"
[tokens.copilot]
source = "command"
command = ["no-such-program-here"]
`);
    await scene.box.startAgent({ env: scene.env });
    await connect(scene);
    const seen = await scene.play({ COPILOT_PROVIDER_API_KEY_FILE: scene.box.tokenPath("copilot") });
    assert.notEqual(seen.code, 0, tail(seen));
    assert.equal(seen.requests, 0, "nothing is sent without a token");
    // At once in the timeline, and again when the CLI has given up.
    const said = seen.stderr.replaceAll(/\s+/g, " ");
    assert.equal(said.match(/no-such-program-here is not in PATH=.*?→ install it/g)?.length, 2, said);
  });

  it("says why there is no other token after a 401, and what to do", async (t) => {
    const scene = await openScene(t, { ...LONG, toolCalls: 3, lifetime: 600_000 });
    const mint = scene.box.writeScript("mint-it", `#!/bin/sh\nprintf %s '${await scene.provider.mint()}'\n`);
    scene.box.writeConfig(`
[clients.copilot]
token = "copilot"
base_url = "${scene.provider.gateway.baseUrl}"
[tokens.copilot]
source = "command"
command = ["${mint}"]
`);
    await scene.box.startAgent({ env: scene.env });
    await connect(scene);
    const path = scene.box.tokenPath("copilot");
    await until("there is a token", () => readIfThere(path));
    makeOlder(path);
    rmSync(mint);
    scene.provider.gateway.revoke(fingerprint(readIfThere(path)));
    const seen = await scene.play({ COPILOT_PROVIDER_API_KEY_FILE: path });
    assert.notEqual(seen.code, 0, tail(seen));
    assert.equal(seen.requests, seen.refused, tail(seen));
    const said = seen.stderr.replaceAll(/\s+/g, " ");
    assert.equal(said.match(/freshkey: [^→]*mint-it[^→]*→/g)?.length, 1, said);
  });

  it("renews by itself where no agent runs", async (t) => {
    const scene = await openScene(t);
    writeConfig(scene);
    await connect(scene);
    const env = { ...scene.provider.identity.environment };
    const seen = await scene.play({ ...env, COPILOT_PROVIDER_API_KEY_FILE: scene.box.tokenPath("copilot") });
    assert.deepEqual([seen.code, seen.refused], [0, 0], tail(seen));
    assert.equal(seen.requests, 1);
  });

  it("leaves a session for another gateway to the command hook, and sends its token nowhere else", async (t) => {
    const scene = await openScene(t);
    writeConfig(scene);
    await connect(scene);
    const other = await openScene(t);
    const wrapper = [FRESHKEY, "exec", "--mint", ASK, "--"];
    const seen = await other.play({ ...other.provider.identity.environment, ...scene.env }, wrapper);
    assert.deepEqual([seen.code, seen.refused, seen.requests], [0, 0, 1], tail(seen));
    assert.deepEqual(scene.provider.requests, []);
    assert.equal(seen.stderr.includes("freshkey:"), false, "nobody has to do anything");
  });

  it("stays out of sessions that have nothing to do with freshkey", async (t) => {
    const scene = await openScene(t);
    writeConfig(scene);
    await connect(scene);
    const other = await openScene(t);
    const seen = await other.play({ ...scene.env, COPILOT_PROVIDER_API_KEY: await other.provider.mint() });
    assert.deepEqual([seen.code, seen.refused, seen.requests], [0, 0, 1], tail(seen));
    assert.deepEqual(scene.provider.requests, []);
  });
});

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function tail({ code, requests, refused, stderr, stdout }: Session): string {
  return `exit ${code}, ${requests} requests, ${refused} refused: ${stdout.slice(-300)} ${stderr.slice(-900)}`;
}
