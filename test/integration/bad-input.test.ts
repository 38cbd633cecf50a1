/**
 * What freshkey says to what is wrong: the exit code, the stable error code, what failed and what to do next. Whatever
 * it is, the token that was in place stays there, byte for byte.
 */
import assert from "node:assert/strict";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, it } from "node:test";
import { publish } from "../../src/agent/publish.ts";
import type { TokenConfig } from "../../src/config/load.ts";
import type { ErrorCode } from "../../src/core/errors.ts";
import { FRESHKEY, jwt, openSandbox, type Result, type RunOptions, type Sandbox } from "../support/freshkey.ts";

interface Row {
  readonly what: string;
  readonly args: readonly string[];
  readonly exit: number;
  readonly code: ErrorCode;
  /** What failed and why. */
  readonly says: RegExp;
  /** What to do next. */
  readonly hint: RegExp;
  /** Makes it go wrong. A good configuration and a good token are there already. */
  readonly prepare?: (box: Sandbox) => void;
  readonly run?: (box: Sandbox) => RunOptions & { before?: readonly string[] };
  /** The row itself takes the token away. */
  readonly tokenGone?: true;
}

const OLD = "tok-that-was-there-before";
const GATEWAY = "https://gateway.example";
const NOBODY = 65_534;

const toml = (lines: string) => (box: Sandbox) => box.writeConfig(lines);
const token = (lines: string) => toml(`[tokens.copilot]\n${lines}\n`);
/** A `command` that runs these lines of shell. */
const printing =
  (script: string, more = "") =>
  (box: Sandbox) => {
    const path = box.writeScript("source", `#!/bin/sh\n${script}\n`);
    box.writeConfig(`[tokens.copilot]\nsource = "command"\ncommand = ["${path}"]\n${more}\n`);
  };
const directory = (box: Sandbox) => dirname(box.tokenPath("copilot"));

const RENEW = ["renew", "copilot", "--force"];
const CONFIG = { args: RENEW, exit: 78 } as const;
const ANSWER = { args: RENEW, exit: 69, code: "ERR_SOURCE_ANSWER", hint: /must print one token in the form/ } as const;
const USAGE = { exit: 64, code: "ERR_USAGE" } as const;

const ROWS: readonly Row[] = [
  // The configuration.
  {
    ...CONFIG,
    what: "no configuration",
    prepare: (box) => rmSync(box.configFile),
    code: "ERR_CONFIG_MISSING",
    says: /there is no configuration: .*\/h\/\.config\/freshkey\/config\.toml/,
    hint: /write one .*--config or FRESHKEY_CONFIG/,
  },
  {
    ...CONFIG,
    what: "a configuration that is a directory",
    run: (box) => ({ env: { FRESHKEY_CONFIG: box.home } }),
    code: "ERR_CONFIG_MISSING",
    says: /cannot read .*\/h: EISDIR/,
    hint: /make it readable/,
  },
  {
    ...CONFIG,
    what: "broken TOML",
    prepare: token('source = "command'),
    code: "ERR_CONFIG_SYNTAX",
    says: /config\.toml:2:\d+: \S/,
    hint: /mend that line/,
  },
  {
    ...CONFIG,
    what: "an unknown key",
    prepare: token('source = "command"\ncomand = ["true"]'),
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:3: tokens\.copilot\.comand: unknown key; did you mean "command"\?/,
    hint: /docs\/configuration\.md/,
  },
  {
    ...CONFIG,
    what: "an unknown table",
    prepare: toml('[token.copilot]\nsource = "command"'),
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:1: token: unknown key; did you mean "tokens"\?/,
    hint: /mend that line/,
  },
  {
    ...CONFIG,
    what: "an unknown source",
    prepare: token('source = "azur"'),
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:2: tokens\.copilot\.source: "azur" is unknown.*did you mean "azure"\?/,
    hint: /mend that line/,
  },
  {
    ...CONFIG,
    what: "no source",
    prepare: token('command = ["true"]'),
    code: "ERR_CONFIG_INVALID",
    says: /tokens\.copilot\.source: is missing; it must be .*"command"/,
    hint: /mend that line/,
  },
  {
    ...CONFIG,
    what: "a bad duration",
    prepare: token('source = "command"\ncommand = ["true"]\ntimeout = "30"'),
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:4: tokens\.copilot\.timeout: must be a number with a unit .*"30s"/,
    hint: /mend that line/,
  },
  {
    ...CONFIG,
    what: "a bad schedule",
    prepare: token('source = "command"\ncommand = ["true"]\ncron = "61 * * * *"'),
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:4: tokens\.copilot\.cron: "61 \* \* \* \*" is not a schedule .*an example: /,
    hint: /mend that line/,
  },
  {
    ...CONFIG,
    what: "several mistakes at once",
    prepare: token('source = "command"\ncommand = 7\nmode = "0644"'),
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:3: tokens\.copilot\.command: .*\n.*config\.toml:4: tokens\.copilot\.mode: .*never for everybody/,
    hint: /mend those 2 lines/,
  },
  {
    ...CONFIG,
    what: "a secret in a file that others can read",
    prepare: (box) => {
      token(
        'source = "azure"\ncredential = "client-secret"\nscope = "api://x/.default"\ntenant_id = "t"\nclient_id = "c"\nclient_secret = "p4ss"',
      )(box);
      chmodSync(box.configFile, 0o644);
    },
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:7: tokens\.copilot\.client_secret: .*chmod 600 /,
    hint: /mend that line/,
  },
  {
    ...CONFIG,
    what: "a client of a token that is not there",
    prepare: toml(
      `[tokens.copilot]\nsource = "command"\ncommand = ["true"]\n[clients.copilot]\ntoken = "copilt"\nbase_url = "${GATEWAY}"`,
    ),
    code: "ERR_CONFIG_INVALID",
    says: /config\.toml:5: clients\.copilot\.token: there is no \[tokens\.copilt\]; did you mean "copilot"\?/,
    hint: /mend that line/,
  },
  {
    what: "an unknown token",
    args: ["token", "copilt"],
    exit: 78,
    code: "ERR_CONFIG_TOKEN",
    says: /config\.toml has no token "copilt"/,
    hint: /did you mean "copilot"\?/,
  },

  // Files and directories.
  {
    what: "a directory in the place of the token file",
    args: ["token", "copilot"],
    prepare: (box) => {
      rmSync(box.tokenPath("copilot"));
      mkdirSync(box.tokenPath("copilot"));
    },
    exit: 78,
    code: "ERR_TOKEN_UNREADABLE",
    says: /cannot read .*\/copilot\/token: EISDIR/,
    hint: /move it out of the token's place/,
    tokenGone: true,
  },
  {
    what: "a token file that cannot be replaced",
    args: RENEW,
    prepare: (box) => {
      rmSync(box.tokenPath("copilot"));
      mkdirSync(join(box.tokenPath("copilot"), "x"), { recursive: true });
    },
    exit: 1,
    code: "ERR_TOKEN_WRITE",
    says: /cannot write in .*\/copilot: EISDIR/,
    hint: /a directory is in the place of a file: move it away/,
    tokenGone: true,
  },
  {
    what: "another user's token file",
    args: ["token"],
    prepare: (box) => chmodSync(box.directory, 0o711),
    run: (box) => ({
      program: "setpriv",
      before: [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", process.execPath, FRESHKEY],
      env: { COPILOT_PROVIDER_API_KEY_FILE: box.tokenPath("copilot") },
      cwd: "/",
    }),
    exit: 78,
    code: "ERR_TOKEN_UNREADABLE",
    says: /cannot read .*\/copilot\/token.*: EACCES/,
    hint: /readable for the user who runs the client.*`mode` and `group`/,
  },
  {
    what: "a directory that is a symbolic link, when reading",
    args: ["token", "copilot"],
    prepare: replaceByLink,
    exit: 78,
    code: "ERR_TOKEN_DIRECTORY",
    says: /\/copilot is a symbolic link/,
    hint: /rm .*\/copilot/,
  },
  {
    what: "a directory that is a symbolic link, when writing",
    args: RENEW,
    prepare: replaceByLink,
    exit: 78,
    code: "ERR_RUN_DIRECTORY",
    says: /\/copilot is a symbolic link/,
    hint: /rm .*\/copilot/,
  },
  {
    what: "a directory that others can write to, when reading",
    args: ["token", "copilot"],
    prepare: (box) => chmodSync(directory(box), 0o777),
    exit: 78,
    code: "ERR_TOKEN_DIRECTORY",
    says: /\/copilot can be written to by others \(mode 0777\)/,
    hint: /chmod go-w .*\/copilot/,
  },
  {
    what: "a directory that others can write to, when writing",
    args: RENEW,
    prepare: (box) => chmodSync(directory(box), 0o777),
    exit: 78,
    code: "ERR_RUN_DIRECTORY",
    says: /\/copilot can be written to by others \(mode 0777\)/,
    hint: /chmod go-w .*\/copilot/,
  },
  {
    what: "a runtime directory that others can write to",
    args: RENEW,
    prepare: (box) => chmodSync(box.runPath, 0o770),
    exit: 78,
    code: "ERR_RUN_DIRECTORY",
    says: /\/freshkey can be written to by others \(mode 0770\)/,
    hint: /chmod go-w .*\/freshkey/,
  },
  {
    what: "another user's surroundings, as sudo -E leaves them",
    args: RENEW,
    prepare: (box) => {
      for (const path of [box.home, dirname(box.runPath)]) chownSync(path, NOBODY, NOBODY);
    },
    exit: 78,
    code: "ERR_RUN_DIRECTORY",
    says: /\/h belongs to uid 65534, not to 0/,
    hint: /with sudo, leave out -E and set HOME/,
  },
  {
    what: "a file in the way that freshkey did not write",
    args: ["renew", "copilot"],
    prepare: (box) => {
      mkdirSync(join(box.home, "own"), { mode: 0o700 });
      writeFileSync(join(box.home, "own/token"), "somebody's");
      printing("echo tok-new", `file = "${box.home}/own/token"`)(box);
    },
    exit: 78,
    code: "ERR_TOKEN_FOREIGN",
    says: /\/own\/token was not written by freshkey/,
    hint: /freshkey renew copilot --force/,
  },
  {
    what: "no token file at the path",
    args: ["token", "--wait", "2s", "./nothing/token"],
    exit: 69,
    code: "ERR_TOKEN_MISSING",
    says: /there is no token in .*\/nothing\/token, and 2s brought none/,
    hint: /what writes that file/,
  },
  {
    what: "a bare token file with a web page in it",
    args: ["token", "./bare"],
    prepare: (box) => writeFileSync(join(box.directory, "bare"), "<!DOCTYPE html><p>Please sign in</p>\n"),
    exit: 69,
    code: "ERR_TOKEN_INVALID",
    says: /\/bare does not hold a token: it is HTML or XML/,
    hint: /mend what writes that file/,
  },
  {
    what: "a client that goes somewhere else",
    args: ["token", "copilot"],
    run: () => ({ env: { COPILOT_PROVIDER_BASE_URL: "https://user:p4ss@evil.example/v1" } }),
    exit: 77,
    code: "ERR_ORIGIN",
    says: /COPILOT_PROVIDER_BASE_URL is at https:\/\/evil\.example, but this token is for https:\/\/gateway\.example/,
    hint: /unset COPILOT_PROVIDER_BASE_URL/,
  },

  // The source.
  {
    what: "a command that is not there",
    args: RENEW,
    prepare: token('source = "command"\ncommand = ["/no/such/program"]'),
    exit: 78,
    code: "ERR_SOURCE_MISSING",
    says: /copilot: the command cannot be run \(\/no\/such\/program: ENOENT\)/,
    hint: /install it, or name it with its whole path/,
  },
  {
    what: "a command that a shell does not find",
    args: RENEW,
    prepare: token('source = "command"\ncommand = "no-such-program --now"\nshell = true'),
    exit: 78,
    code: "ERR_SOURCE_MISSING",
    says: /the command cannot be run \(.*no-such-program.*not found\)/,
    hint: /install it/,
  },
  {
    what: "a command that must not be run",
    args: RENEW,
    prepare: (box) => {
      printing("echo tok")(box);
      chmodSync(join(box.directory, "source"), 0o644);
    },
    exit: 78,
    code: "ERR_SOURCE_MISSING",
    says: /the command cannot be run \(.*\/source: EACCES\)/,
    hint: /install it/,
  },
  {
    what: "a command that fails",
    args: RENEW,
    prepare: printing("echo 'the vault is sealed' >&2; exit 3"),
    exit: 69,
    code: "ERR_SOURCE_FAILED",
    says: /\/source ended with exit code 3: the vault is sealed/,
    hint: /run the command of this token in a terminal/,
  },
  {
    what: "a command that is killed",
    args: RENEW,
    prepare: printing("kill -SEGV $$"),
    exit: 69,
    code: "ERR_SOURCE_FAILED",
    says: /\/source was ended by SIGSEGV/,
    hint: /in a terminal/,
  },
  {
    what: "a command that hangs, with children",
    args: RENEW,
    prepare: printing("sleep 60 & sleep 60", 'timeout = "700ms"'),
    exit: 75,
    code: "ERR_SOURCE_TIMEOUT",
    says: /\/source did not end within 700ms/,
    hint: /larger `timeout`/,
  },
  { ...ANSWER, what: "a command that prints nothing", prepare: printing("true"), says: /\/source printed nothing/ },
  {
    ...ANSWER,
    what: "a command that prints two lines",
    prepare: printing("echo tok-one; echo tok-two"),
    says: /printed what is not a token: it has more than one line/,
  },
  {
    ...ANSWER,
    what: "a command that prints a sentence",
    prepare: printing("echo Please run az login"),
    says: /printed what is not a token: it has spaces in it/,
  },
  {
    ...ANSWER,
    what: "a command that prints a web page",
    prepare: printing("echo '<html><body>Wi-Fi</body></html>'"),
    says: /printed what is not a token: it is HTML or XML/,
  },
  {
    ...ANSWER,
    what: "a command that prints broken JSON",
    prepare: printing("echo '{\"access_token\":'"),
    says: /printed what is not JSON/,
  },
  {
    ...ANSWER,
    what: "a command that prints JSON without a token",
    prepare: printing('echo \'{"tokenType":"Bearer"}\''),
    says: /printed JSON without any of the fields accessToken, /,
  },
  {
    ...ANSWER,
    what: "a command that prints what no header can hold",
    prepare: printing("printf 'tok\\303\\244n'"),
    says: /printed what is not a token: it has characters that are not printable ASCII/,
  },
  {
    ...ANSWER,
    what: "a command that prints far too much",
    prepare: printing("yes"),
    says: /printed more than 256 KiB/,
  },
  {
    ...ANSWER,
    what: "a command that prints an expired JWT",
    prepare: (box) => printing(`echo ${jwt(Date.now() - 90_000)}`)(box),
    says: /handed out a token that expired 1m 3\ds ago/,
    hint: /compare this machine's clock with the source's/,
  },
  {
    ...ANSWER,
    what: "a command that prints a token with an expiry that has passed",
    prepare: printing('echo \'{"access_token":"tok","expires_on":1700000000}\''),
    says: /handed out a token that expired \d+d/,
    hint: /must not print an old token from a cache/,
  },

  // The command line.
  {
    ...USAGE,
    what: "an unknown verb",
    args: ["tokne"],
    says: /no verb "tokne"; did you mean "token"\?/,
    hint: /freshkey --help/,
  },
  {
    ...USAGE,
    what: "an unknown option",
    args: ["token", "--wiat", "4s"],
    says: /--wiat is no option of freshkey token; did you mean --wait\?/,
    hint: /freshkey token --help/,
  },
  {
    ...USAGE,
    what: "an option without its value",
    args: ["token", "--wait"],
    says: /--wait needs a value: --wait DURATION/,
    hint: /--help/,
  },
  {
    ...USAGE,
    what: "a switch with a value",
    args: ["renew", "--force=yes"],
    says: /--force takes no value/,
    hint: /--help/,
  },
  {
    ...USAGE,
    what: "a duration without a unit",
    args: ["token", "--wait", "4", "copilot"],
    says: /--wait 4: must be a number with a unit/,
    hint: /--help/,
  },
  {
    ...USAGE,
    what: "one operand too many",
    args: ["token", "copilot", "other"],
    says: /"other" is one word too many/,
    hint: /--help/,
  },
  {
    ...USAGE,
    what: "an operand where none goes",
    args: ["status", "copilot"],
    says: /"copilot" is one word too many/,
    hint: /--help/,
  },
  {
    ...USAGE,
    what: "an unknown level",
    args: ["agent", "--log-level", "loud"],
    says: /--log-level loud: must be one of trace, /,
    hint: /freshkey agent --help/,
  },
  {
    ...USAGE,
    what: "exec without a command",
    args: ["exec"],
    says: /there is no command to run/,
    hint: /freshkey exec -- copilot/,
  },
  {
    ...USAGE,
    what: "exec without its hyphens",
    args: ["exec", "copilot"],
    says: /"copilot" stands before the --/,
    hint: /freshkey exec -- copilot/,
  },
];

function replaceByLink(box: Sandbox): void {
  renameSync(directory(box), join(box.directory, "elsewhere"));
  symlinkSync(join(box.directory, "elsewhere"), directory(box));
}

/** A token as an earlier renewal would have left it. */
async function putInPlace(box: Sandbox): Promise<void> {
  const config = { name: "copilot", source: "command", path: box.tokenPath("copilot"), ownDirectory: true };
  const minted = Date.now();
  await publish({ ...config, baseUrls: [GATEWAY] } as unknown as TokenConfig, {
    token: { value: OLD, expires: minted + 3_600_000 },
    minted,
    control: join(box.runPath, "agent/control.sock"),
  });
}

function filesOf(box: Sandbox): string[] {
  const path = box.tokenPath("copilot");
  return [path, `${path}.json`].map((file) => readFileSync(file, "utf8"));
}

function checkText(row: Row, { code, stdout, stderr }: Result): void {
  assert.equal(stdout, "", "a failure has no result");
  assert.match(stderr, row.says);
  const lines = stderr.trimEnd().split("\n");
  const hint = lines.pop() ?? "";
  assert.match(hint, /^ {2}→ \S/, "the last line says what to do");
  assert.match(hint, row.hint);
  for (const line of lines) assert.match(line, /^freshkey: \S/);
  assert.equal(code, row.exit);
}

function checkJson(row: Row, { code, stdout, stderr }: Result): void {
  assert.equal(stderr, "", "with --json everything is in the document");
  type Document = { error: { code: string; message: string; hint: string } };
  const document = JSON.parse(stdout) as Document | Document[];
  const { error } = Array.isArray(document) ? (document[0] as Document) : document;
  assert.equal(error.code, row.code);
  assert.match(error.hint, row.hint);
  assert.ok(error.message.length > 0);
  assert.equal(code, row.exit);
}

const isRoot = process.geteuid?.() === 0;

describe("what is wrong is said", { concurrency: 3, skip: process.platform !== "linux" && "needs Linux" }, () => {
  for (const row of ROWS) {
    const asOther = /another user/.test(row.what);
    it(row.what, { skip: asOther && !isRoot && "only root can be another user" }, async (t) => {
      const box = openSandbox(t);
      await putInPlace(box);
      printing("echo tok-new")(box);
      const before = filesOf(box);
      row.prepare?.(box);
      const { before: first = [], ...options } = row.run?.(box) ?? {};
      const plain = await box.run([...first, ...row.args], options);
      const json = await box.run([...first, ...row.args, "--json"], options);

      checkText(row, plain);
      checkJson(row, json);
      for (const text of [plain.stderr, json.stdout]) {
        assert.doesNotMatch(text, /\n\s+at .+:\d+:\d+|node:internal|dist\//, "a stack trace");
        assert.ok(!text.includes(OLD) && !text.includes("tok-new"), "a token is in the message");
        assert.ok(!text.includes("p4ss"), "a secret is in the message");
      }
      if (!row.tokenGone) assert.ok(filesOf(box).join() === before.join(), "the old token did not stay as it was");
      assert.deepEqual(box.processes(), []);
      assert.ok(!existsSync(join(box.runPath, "agent/control.sock")), "a socket stayed behind");
    });
  }

  it("no verb at all", async (t) => {
    const { code, stdout, stderr } = await openSandbox(t).run([]);
    assert.deepEqual([code, stdout], [64, ""]);
    assert.match(stderr, /freshkey token .*\n[\s\S]*Start with: freshkey demo/);
  });
});
