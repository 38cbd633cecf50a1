/** AWS credentials that a program prints: a profile's `credential_process`, with the real SDK; and the real AWS CLI. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { runChild } from "../../src/os/child.ts";
import type { MintAnswer } from "../../src/sources/source.ts";
import { type Credentials, makeCredentials } from "../support/aws-endpoints.ts";
import { type AwsMinter, makeAwsMinter, STATIC, staticProfile } from "../support/aws-mint.ts";
import { verifyBedrockKey } from "../support/sigv4.ts";

const HOUR = 3_600_000;
/** Debian's: another one on the PATH may be a version manager's stand-in without a program behind it. */
const AWS_CLI = "/usr/bin/aws";

let minter: AwsMinter;

before(async () => {
  minter = await makeAwsMinter();
});

after(() => minter.close());

/** The environment with a profile `tool` whose program is the shell script `body`. */
function tool(body: string) {
  const script = join(minter.home, `tool-${Math.random().toString(36).slice(2)}.sh`);
  writeFileSync(script, body);
  return minter.files(`[profile tool]\ncredential_process = sh ${script}\n`);
}

function output({ accessKeyId, secretAccessKey, sessionToken, expires }: Credentials, more: object = {}): string {
  return JSON.stringify({
    Version: 1,
    AccessKeyId: accessKeyId,
    SecretAccessKey: secretAccessKey,
    SessionToken: sessionToken,
    Expiration: new Date(expires).toISOString(),
    ...more,
  });
}

const print = (text: string) => `cat <<'END'\n${text}\nEND\n`;
const mint = (env: Record<string, string>, input: object = {}) => minter.mint({ profile: "tool", ...input }, env);

describe("a credential_process", () => {
  test("makes a key that ends with the credentials; it runs anew for every mint", async () => {
    const given = makeCredentials(3 * HOUR);
    const count = join(minter.home, "count");
    const env = tool(`echo run >> ${count}\n${print(output(given))}`);
    for (const runs of [1, 2]) {
      const { token, error } = await mint(env);
      assert.equal(error, undefined, error?.message);
      assert.equal(verifyBedrockKey(token!.value, given.secretAccessKey).valid, true);
      assert.equal(token!.expires, given.expires);
      assert.equal(readFileSync(count, "utf8").split("\n").length - 1, runs);
    }
  });

  test("that says no expiration: the key ends with itself, of the session token the end is unknown", async () => {
    const env = tool(print(output(makeCredentials(0), { Expiration: undefined })));
    const key = await mint(env, { expires_in: "2h" });
    assert.ok(key.token!.expires > Date.now() + 2 * HOUR - 10_000 && key.token!.expires <= Date.now() + 2 * HOUR);
    assert.equal((await mint(env, { kind: "session-token" })).token?.expires, 0);
  });

  test("that prints something else, or credentials that have expired or nearly so, makes none", async () => {
    const what = async (body: string) => {
      const { error } = await mint(tool(body));
      assert.doesNotMatch(JSON.stringify(error), /SecretAccessKey|Session/);
      return `${error?.code}: ${error?.message}`;
    };
    const subject = "the credential_process of the AWS profile tool";
    assert.equal(await what(print("hello")), `ERR_SOURCE_ANSWER: ${subject} returned invalid JSON`);
    assert.equal(await what(print('{"Version":2}')), `ERR_SOURCE_ANSWER: ${subject} did not return Version 1`);
    assert.equal(await what(print('{"Version":1}')), `ERR_SOURCE_ANSWER: ${subject} returned invalid credentials`);
    assert.equal(
      await what(print(output(makeCredentials(-1_000)))),
      `ERR_SOURCE_ANSWER: ${subject} returned expired credentials`,
    );
    assert.match(await what(print(output(makeCredentials(30_000)))), /^ERR_SOURCE_FAILED: the AWS credentials end in /);
    assert.equal(await what(`${print(output(makeCredentials(HOUR)))} exit 3`), `ERR_SOURCE_FAILED: ${subject} failed`);
    assert.equal(await what(""), `ERR_SOURCE_ANSWER: ${subject} returned invalid JSON`);
  });

  test("that fails is named also where the profile is only the one in force", async () => {
    const { error } = await minter.mint({}, { ...tool("exit 1"), AWS_PROFILE: "tool" });
    assert.match(error?.message ?? "", /^the credential_process of the AWS profile tool failed$/);
  });

  test("that hangs is given up at the deadline, and ends with the mint process", async () => {
    const pidFile = join(minter.home, "pid");
    const env = { PATH: process.env.PATH, HOME: minter.home, ...tool(`echo $$ > ${pidFile}\nsleep 77\n`) };
    const root = fileURLToPath(new URL("../..", import.meta.url));
    const options = { kind: "session-token", profile: "tool", expires_in: 0 };
    const result = await runChild(process.execPath, ["--import", "tsx", "src/sources/mint-process.ts"], {
      cwd: root,
      env,
      input: `${JSON.stringify({ source: "aws", options, request: { name: "test", timeout: 2_000 } })}\n`,
      answerOn: 3,
      timeout: 20_000,
      limit: 65_536,
    });
    const { error } = JSON.parse(result.answer) as Extract<MintAnswer, { ok: false }>;
    assert.equal(error.code, "ERR_SOURCE_TIMEOUT");
    assert.match(error.message, /^the credential_process of the AWS profile tool did not end within 2s$/);
    const pid = Number(readFileSync(pidFile, "utf8"));
    // The kernel has ended it; when its entry goes is up to the process that inherited it.
    const gone = () => {
      try {
        return !process.kill(pid, 0);
      } catch {
        return true;
      }
    };
    for (const until = Date.now() + 5_000; !gone() && Date.now() < until; ) await sleep(20);
    assert.ok(gone(), "it is still running");
  });
});

describe("the AWS CLI", { skip: !existsSync(AWS_CLI) && `${AWS_CLI} is not installed` }, () => {
  test("as a credential_process: aws configure export-credentials", async () => {
    const { sessionToken } = makeCredentials(0);
    const env = minter.files(
      `[profile tool]\ncredential_process = ${AWS_CLI} --profile base configure export-credentials --format process\n`,
      `${staticProfile("base")}aws_session_token = ${sessionToken}\n`,
    );
    const { token, error } = await mint(env);
    assert.equal(error, undefined, error?.message);
    const key = verifyBedrockKey(token!.value, STATIC.AWS_SECRET_ACCESS_KEY);
    assert.deepEqual([key.valid, key.accessKeyId], [true, STATIC.AWS_ACCESS_KEY_ID]);
    assert.ok(key.sessionToken === sessionToken, "another session's");
  });
});
