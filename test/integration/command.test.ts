/** The `command` source with real programs: what they are told, how they end, and what is made of what they print. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import * as v from "valibot";
import { mint } from "../../src/agent/mint.ts";
import type { TokenConfig } from "../../src/config/load.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import { unpublishable } from "../../src/core/token.ts";
import { commandOptions } from "../../src/sources/command.ts";
import { until } from "../support/freshkey.ts";

let directory: string;
before(() => {
  directory = mkdtempSync(join(tmpdir(), "freshkey-command-"));
});
after(() => rmSync(directory, { recursive: true, force: true, maxRetries: 3 }));

function config(options: v.InferInput<typeof commandOptions>, timeout = 10_000): TokenConfig {
  const common = {
    name: "test",
    path: join(directory, "token"),
    ownDirectory: false,
    timeout,
    jitter: 0,
    baseUrls: [],
  };
  return { ...common, source: "command", options: v.parse(commandOptions, options) };
}

const run = (options: v.InferInput<typeof commandOptions>, timeout?: number) =>
  mint(config(options, timeout), { now: Date.now() });
const tokenFrom = async (options: v.InferInput<typeof commandOptions>) => (await run(options)).value;

async function failure(options: v.InferInput<typeof commandOptions>, timeout?: number): Promise<FreshkeyError> {
  const error = await run(options, timeout).then(
    (token) => assert.fail(`a token of ${token.value.length} bytes`),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof FreshkeyError, String(error));
  return error;
}

function script(name: string, text: string): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
}

const without = (program: string) => spawnSync(program, ["--version"]).error !== undefined && `${program} is missing`;

describe("a command is told", () => {
  it("its arguments as they are, without a shell", async () => {
    assert.equal(await tokenFrom({ command: ["printf", "%s", "$HOME;`id`"] }), "$HOME;`id`");
    assert.equal(await tokenFrom({ command: "printf a; printf b", shell: true }), "ab");
  });

  it("its own variables, from where their values are, beside the agent's", async () => {
    writeFileSync(join(directory, "secret"), "from-a-file\n");
    const env = { ONE: "one", TWO: { file: join(directory, "secret") }, THREE: { env: "HOME" } };
    assert.equal(
      await tokenFrom({ command: 'printf "%s-%s-%s-%s" "$ONE" "$TWO" "$THREE" "$HOME"', shell: true, env }),
      `one-from-a-file-${process.env.HOME}-${process.env.HOME}`,
    );
  });

  it("its own PATH, in which it is looked for itself", async () => {
    script("only-here", "#!/bin/sh\nprintf found");
    assert.equal(await tokenFrom({ command: ["only-here"], env: { PATH: directory } }), "found");
    const error = await failure({ command: ["only-here"], env: { PATH: "/nonexistent:/usr/bin" } });
    assert.equal(error.code, "ERR_SOURCE_MISSING");
    assert.match(error.message, /only-here is not in PATH=\/nonexistent:\/usr\/bin/);
  });

  it("its working directory, which must be there", async () => {
    assert.equal(await tokenFrom({ command: ["/bin/pwd", "-P"], cwd: "/usr" }), "/usr");
    const error = await failure({ command: ["pwd"], cwd: join(directory, "none") });
    assert.equal(error.code, "ERR_SOURCE_CONFIG");
    assert.match(error.message, /there is no directory/);
  });

  it("as an exec plug-in, that nobody is there to answer questions", async () => {
    const plugin = script(
      "plugin",
      `#!/bin/sh
case $KUBERNETES_EXEC_INFO in *'"apiVersion":"client.authentication.k8s.io/v1"'*'"interactive":false'*) ;; *) exit 3 ;; esac
echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"k8s"}}'`,
    );
    assert.equal(await tokenFrom({ command: [plugin], format: "kubernetes-exec" }), "k8s");
  });

  it("as a credential helper, whose credential is wanted; and stdin ends", async () => {
    const git = script("git-helper", `#!/bin/sh\ncat > "$0.in"; echo username=u; echo password=p-"$1"`);
    const url = "https://git.example.com:8443/team/repository";
    assert.equal(await tokenFrom({ command: [git, "get"], format: "git-credential", url }), "p-get");
    const question = readFileSync(`${git}.in`, "utf8");
    assert.equal(question, "protocol=https\nhost=git.example.com:8443\npath=team/repository\n\n");

    const docker = script(
      "docker-helper",
      `#!/bin/sh\nserver=$(cat); echo '{"Username":"u","Secret":"s-'$server-$1'"}'`,
    );
    const address = "images.example.com";
    const command = [docker, "get"];
    assert.equal(await tokenFrom({ command, format: "docker-credential", url: address }), `s-${address}-get`);
  });
});

describe("real helpers", () => {
  it("git credential fill, with a helper of git's own behind it", { skip: without("git") }, async () => {
    const store = join(directory, "credentials");
    writeFileSync(store, "https://me:gits-own-store@git.example.com\n", { mode: 0o600 });
    writeFileSync(join(directory, "gitconfig"), `[credential]\n\thelper = store --file ${store}\n`);
    const env = { GIT_CONFIG_GLOBAL: join(directory, "gitconfig"), GIT_CONFIG_NOSYSTEM: "1" };
    const command = ["git", "credential", "fill"];
    const token = await run({ command, format: "git-credential", url: "https://git.example.com", env });
    assert.deepEqual(token, { value: "gits-own-store", expires: 0 });
    const expiry = Math.floor(Date.now() / 1000) + 600;
    const direct = script(
      "answers",
      `#!/bin/sh\ncat >/dev/null; printf 'password=expires\\npassword_expiry_utc=${expiry}\\n'`,
    );
    const other = await run({ command: [direct], format: "git-credential", url: "https://git.example.com" });
    assert.deepEqual(other, { value: "expires", expires: expiry * 1000 });
  });

  it("git credential fill asks nobody where there is none", { skip: without("git") }, async () => {
    const env = { GIT_CONFIG_GLOBAL: "/dev/null", GIT_CONFIG_NOSYSTEM: "1" };
    const options = { command: ["git", "credential", "fill"], format: "git-credential" as const, env };
    const error = await failure({ ...options, url: "https://git.example.com" });
    assert.equal(error.code, "ERR_SOURCE_FAILED");
    assert.match(error.message, /git ended with exit code 128: .*terminal prompts disabled/);
  });

  it("a docker-credential helper says on stdout what is wrong", async () => {
    const command = [script("no-helper", `#!/bin/sh\necho "credentials not found in native keychain"; exit 1`), "get"];
    const error = await failure({ command, format: "docker-credential", url: "images.example.com" });
    assert.equal(error.exitCode, 69);
    assert.match(error.message, /exit code 1: credentials not found in native keychain/);
  });
});

describe("a command that fails", () => {
  const jwt = `${Buffer.from('{"alg":"none"}').toString("base64url")}.${Buffer.from('{"a":1}').toString("base64url")}.c2ln`;

  it("is quoted by its stderr, without what looks like a token, and shortened", async () => {
    const command = `echo "no luck with Bearer s3cr3t-and-more and ${jwt}" >&2; yes long | head -c 9999 >&2; exit 7`;
    const error = await failure({ command, shell: true });
    assert.equal(error.exitCode, 69);
    assert.match(error.message, /exit code 7: no luck with Bearer \*\*\* and \*\*\*/);
    assert.ok(error.message.length < 400);
  });

  it("never prints without an end", async () => {
    const error = await failure({ command: ["yes"] });
    assert.equal(error.exitCode, 69);
    assert.match(error.message, /more than 256 KiB/);
  });

  it("is ended at its deadline with all that it started", {
    skip: !existsSync("/proc/self/stat") && "no /proc",
  }, async () => {
    const pids = join(directory, "pids");
    const command = `sleep 300 & echo $! > ${pids}; (sleep 300; echo) & echo $! >> ${pids}; echo stuck >&2; wait`;
    const began = Date.now();
    const error = await failure({ command, shell: true }, 500);
    assert.ok(Date.now() - began < 5_000);
    assert.equal(error.code, "ERR_SOURCE_TIMEOUT");
    assert.match(error.message, /within 500ms: stuck/);
    const started = readFileSync(pids, "utf8").trim().split("\n");
    assert.equal(started.length, 2);
    // SIGKILL has been sent; the kernel takes a moment.
    for (const pid of started) await until(`${pid} is gone`, () => !isAlive(pid), 2_000);
  });

  it("has no token to give that has expired", async () => {
    const command = ["printf", '{"token":"t","expires_at":"2020-01-01T00:00:00Z"}'];
    const error = await failure({ command });
    assert.equal(error.exitCode, 69);
    assert.match(error.message, /a token that expired .* ago/);
  });
});

/** Of a process that has ended and only waits to be noticed, the state is Z. */
function isAlive(pid: string): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

describe("whatever a command prints", () => {
  // `RUNS=2000` looks longer; each case is a process.
  const numRuns = Number(process.env.RUNS ?? 60);

  it("is a token, or an error with exit code 69", async (t) => {
    t.diagnostic(`seed 20261123, ${numRuns} cases`);
    const output = join(directory, "output");
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array)),
      fc.string().map((text) => Buffer.from(text)),
      fc.json().map((text) => Buffer.from(text)),
      fc.nat({ max: 70_000 }).map((length) => randomBytes(Math.ceil(length / 2)).toString("hex")),
    );
    await fc.assert(
      fc.asyncProperty(bytes, commandFormat, async (content, format) => {
        writeFileSync(output, content);
        const url = format === "git-credential" || format === "docker-credential" ? "https://example.com" : undefined;
        const answer = await run({ command: ["cat", output], format, ...(url && { url }) }).catch((error) => error);
        if (answer instanceof Error) {
          assert.ok(answer instanceof FreshkeyError, answer.stack);
          assert.deepEqual([answer.exitCode, answer.code], [69, "ERR_SOURCE_ANSWER"]);
        } else assert.equal(unpublishable(answer.value), undefined);
      }),
      { seed: 20_261_123, numRuns },
    );
  });
});

const commandFormat = fc.constantFrom("auto", "raw", "json", "git-credential", "docker-credential", "gcloud" as const);
