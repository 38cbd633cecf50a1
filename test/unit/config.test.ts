import assert from "node:assert/strict";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { loadConfig, type TokenConfig, tokenDirectory, tokenOf } from "../../src/config/load.ts";
import { nearest } from "../../src/config/nearest.ts";
import { secretFiles } from "../../src/config/secrets.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import { surroundings } from "../../src/os/paths.ts";
import { temporaryDirectory } from "../support/unit.ts";

const RUN = "/run/user/1000/freshkey";

function write(t: TestContext, text: string, mode = 0o600): string {
  const file = join(temporaryDirectory(t), "config.toml");
  writeFileSync(file, text);
  chmodSync(file, mode);
  return file;
}

const load = async (t: TestContext, text: string, mode?: number) => loadConfig(write(t, text, mode), RUN);

/** What is wrong with a configuration, with the file's path cut off. */
async function mistakes(t: TestContext, text: string, mode?: number): Promise<string[]> {
  const file = write(t, text, mode);
  try {
    await loadConfig(file, RUN);
  } catch (error) {
    assert.ok(error instanceof FreshkeyError, String(error));
    assert.equal(error.exitCode, 78);
    assert.equal(error.code, "ERR_CONFIG_INVALID");
    return error.message.split("\n").map((line) => {
      assert.ok(line.startsWith(`${file}:`), line);
      return line.slice(file.length + 1);
    });
  }
  return [];
}

const COMMAND = '[tokens.corp]\nsource = "command"\ncommand = ["corp-auth"]\n';

describe("a good configuration", () => {
  test("defaults are filled in", async (t) => {
    const config = await load(t, COMMAND);
    assert.deepEqual(
      [config.clients.size, config.tokens.size, config.notify, config.audit],
      [0, 1, undefined, undefined],
    );
    assert.deepEqual(config.tokens.get("corp"), {
      name: "corp",
      source: "command",
      options: { command: ["corp-auth"], shell: false, format: "auto" },
      path: `${RUN}/corp/token`,
      ownDirectory: true,
      mode: undefined,
      group: undefined,
      refreshBefore: undefined,
      minValidity: undefined,
      timeout: 30_000,
      cron: undefined,
      timezone: undefined,
      jitter: 60_000,
      verify: undefined,
      clientType: undefined,
      baseUrls: [],
    });
  });

  test("every key that all tokens have", async (t) => {
    const { tokens } = await load(
      t,
      `${COMMAND}file = "/elsewhere/key"\nmode = "0640"\ngroup = "staff"\nrefresh_before = "5m"\nmin_validity = "10s"
timeout = "1m30s"\ncron = "*/30 * * * *"\ntimezone = "Europe/Berlin"\njitter = "0s"\nverify = "https://gw.example/v1/models"`,
    );
    const token = tokens.get("corp");
    assert.deepEqual(
      [token?.path, token?.ownDirectory, token && tokenDirectory(token)],
      ["/elsewhere/key", false, "/elsewhere"],
    );
    assert.deepEqual([token?.mode, token?.group], [0o640, "staff"]);
    assert.deepEqual(
      [token?.refreshBefore, token?.minValidity, token?.timeout, token?.jitter],
      [300_000, 10_000, 90_000, 0],
    );
    assert.deepEqual([token?.cron, token?.timezone], ["*/30 * * * *", "Europe/Berlin"]);
    assert.equal(token?.verify, "https://gw.example/v1/models");
  });

  test("clients: their base URLs are where their token may go", async (t) => {
    const { clients, tokens } = await load(
      t,
      `${COMMAND}[clients.copilot]\ntoken = "corp"\nbase_url = "https://gw.example/v1/"\nwire_api = "responses"\nmodel = "gpt-5.1"
[clients.claude]\ntoken = "corp"\nbase_url = "http://localhost:8080"\ntype = "anthropic"
[clients.other]\ntoken = "corp"\nbase_url = "https://gw.example/v1"`,
    );
    assert.deepEqual(clients.get("copilot"), {
      name: "copilot",
      token: "corp",
      base_url: "https://gw.example/v1",
      type: "openai",
      wire_api: "responses",
      model: "gpt-5.1",
    });
    assert.deepEqual(tokens.get("corp")?.baseUrls, ["https://gw.example/v1", "http://localhost:8080"]);
    assert.equal(tokens.get("corp")?.verify, "https://gw.example/v1/models");
  });

  test("verify = false", async (t) => {
    const client = '[clients.copilot]\ntoken = "corp"\nbase_url = "https://gw.example/v1"';
    assert.equal((await load(t, `${COMMAND}verify = false\n${client}`)).tokens.get("corp")?.verify, undefined);
  });

  test("the other sources, and the names of secrets' files", async (t) => {
    const { tokens } = await load(
      t,
      `[tokens.bedrock]\nsource = "aws"\nkind = "bedrock-api-key"\nregion = "us-west-2"
[tokens.entra]\nsource = "azure"\ncredential = "client-secret"\nscope = "api://5c211941/.default"\ntenant_id = "t"\nclient_id = "c"
client_secret = { file = "/run/credentials/secret" }`,
    );
    const [bedrock, entra] = [tokens.get("bedrock"), tokens.get("entra")];
    assert.deepEqual(bedrock?.options, { kind: "bedrock-api-key", region: "us-west-2", expires_in: 43_200_000 });
    assert.deepEqual([bedrock && secretFiles(bedrock), entra && secretFiles(entra)], [[], ["/run/credentials/secret"]]);
    const options = { ...entra?.options, client_secret: { file: "~/.secrets/entra" } };
    assert.deepEqual(secretFiles({ ...entra, options } as TokenConfig), [join(surroundings().home, ".secrets/entra")]);
  });

  test("a group's number, a mode as TOML has octal numbers, dotted keys and inline tables", async (t) => {
    const { tokens } = await load(t, `${COMMAND}mode = 0o640\ngroup = 1234`);
    assert.deepEqual([tokens.get("corp")?.mode, tokens.get("corp")?.group], [0o640, 1234]);
    const inline = 'tokens.corp = { source = "command", command = ["x"] }';
    assert.equal((await load(t, inline)).tokens.size, 1);
    assert.match((await mistakes(t, inline.replace(" }", ", cron = '?' }")))[0] ?? "", /^1: tokens\.corp\.cron: /);
  });
});

describe("mistakes: file, line, key, and what is allowed", () => {
  const cases: [what: string, text: string, expected: string[]][] = [
    [
      "an unknown key, with the nearest",
      `${COMMAND}tiemout = "5s"`,
      ['4: tokens.corp.tiemout: unknown key; did you mean "timeout"?'],
    ],
    ["an unknown key of a source", `${COMMAND}scop = "x"`, ["4: tokens.corp.scop: unknown key; *"]],
    [
      "an unknown key like none",
      `${COMMAND}qqqqqqqqqq = 1`,
      ["4: tokens.corp.qqqqqqqqqq: unknown key; allowed are *timeout*command*source"],
    ],
    ["an unknown table", `${COMMAND}[token.x]\na = 1`, ['4: token: unknown key; did you mean "tokens"?']],
    [
      "an unknown key of a client",
      `${COMMAND}[clients.c]\ntoken = "corp"\nbase_url = "https://x"\nurl = 1`,
      ["7: clients.c.url: unknown key; *"],
    ],
    ["a wrong type", `${COMMAND}timeout = 30`, ["4: tokens.corp.timeout: must be a number with a unit*"]],
    [
      "a wrong type deeper down",
      '[tokens.c]\nsource = "command"\ncommand = ["a", 5]',
      ["3: tokens.c.command: must be a program and its arguments*"],
    ],
    [
      "an empty command",
      '[tokens.c]\nsource = "command"\ncommand = []',
      ["3: tokens.c.command: must be a program and its arguments*"],
    ],
    [
      "an empty program",
      '[tokens.c]\nsource = "command"\ncommand = [""]',
      ["3: tokens.c.command*: must be a program and its arguments*"],
    ],
    [
      "a bad duration",
      `${COMMAND}refresh_before = "5 minutes"`,
      ["4: tokens.corp.refresh_before: must be a number with a unit*"],
    ],
    ["no duration at all", `${COMMAND}timeout = "0s"`, ["4: tokens.corp.timeout: must be longer than 0"]],
    [
      "a duration beyond all measure",
      `${COMMAND}timeout = "9999999d"`,
      ["4: tokens.corp.timeout: must be a number with a unit*"],
    ],
    [
      "a bad schedule",
      `${COMMAND}cron = "every hour"`,
      ['4: tokens.corp.cron: "every hour" is not a schedule (*); an example: "*/30 * * * *"'],
    ],
    [
      "a schedule that never comes",
      `${COMMAND}cron = "0 0 30 2 *"`,
      ['4: tokens.corp.cron: "0 0 30 2 *" is not a schedule *'],
    ],
    ["an empty schedule", `${COMMAND}cron = ""`, ["4: tokens.corp.cron: must not be empty"]],
    ["a bad time zone", `${COMMAND}timezone = "Berlin"`, ["4: tokens.corp.timezone: must be an IANA time zone*"]],
    [
      "an unknown source, with the nearest",
      '[tokens.c]\nsource = "asure"',
      ['2: tokens.c.source: "asure" is unknown; it must be "azure", "aws", "command", "file": did you mean "azure"?'],
    ],
    [
      "no source",
      '[tokens.c]\ncommand = ["x"]',
      ['1: tokens.c.source: is missing; it must be "azure", "aws", "command", "file"'],
    ],
    ["a source of another type", "[tokens.c]\nsource = 5", ["2: tokens.c.source: 5 is unknown; it must be *"]],
    ["what a source needs", '[tokens.c]\nsource = "aws"', ["1: tokens.c.kind: is missing"]],
    [
      "what one of its options needs",
      '[tokens.c]\nsource = "azure"\ncredential = "client-secret"\nscope = "api://x/.default"\ntenant_id = "t"\nclient_id = "c"',
      ['1: tokens.c.client_secret: is needed for credential = "client-secret"'],
    ],
    [
      "an unknown token of a client, with the nearest",
      `${COMMAND}[clients.x]\ntoken = "cop"\nbase_url = "https://gw.example"`,
      ['5: clients.x.token: there is no [tokens.cop]; did you mean "corp"?'],
    ],
    [
      "an unknown token of a client that has another mistake",
      `${COMMAND}[clients.x]\ntoken = "cop"\nbase_url = "ftp://gw.example"`,
      ['5: clients.x.token: there is no [tokens.cop]; did you mean "corp"?', "6: clients.x.base_url: *"],
    ],
    [
      "a client without a token",
      `${COMMAND}[clients.x]\nbase_url = "https://gw.example"`,
      ["4: clients.x.token: is missing"],
    ],
    [
      "a reserved name",
      '[tokens.agent]\nsource = "command"\ncommand = ["x"]',
      ['1: tokens.agent: a token\'s name has *is not "agent"'],
    ],
    [
      "names that are no directory's",
      '[tokens."../x"]\nsource = "command"\n[tokens.Corp]\n[tokens.-x]\n[tokens.""]',
      ["1: tokens.../x: *", "3: tokens.Corp: *", "4: tokens.-x: *", "5: tokens.: *"],
    ],
    ["a relative file", `${COMMAND}file = "token"`, ["4: tokens.corp.file: must be an absolute path"]],
    ["a directory as a file", `${COMMAND}file = "/elsewhere/"`, ["4: tokens.corp.file: must be a file's path, not *"]],
    [
      "the audit log in a token's place",
      `audit = "/elsewhere/key"\n${COMMAND}file = "/elsewhere/key"`,
      ['1: audit: is where the token "corp" is put'],
    ],
    [
      "two tokens in one file",
      `${COMMAND}file = "/elsewhere/key"\n${COMMAND.replace("corp", "two")}file = "/elsewhere/key"`,
      ['8: tokens.two.file: is where the token "corp" is put: each needs a file of its own'],
    ],
    [
      "one token where another's token.json is",
      `${COMMAND}file = "/elsewhere/key.json"\n${COMMAND.replace("corp", "two")}file = "/elsewhere/key"`,
      ['8: tokens.two.file: is where the token "corp" is put*'],
    ],
    [
      "a file in the runtime directory, which another token may want",
      `${COMMAND}file = "${RUN}/other/token"`,
      [`4: tokens.corp.file: is in ${RUN}, which is freshkey's own: leave *`],
    ],
    [
      "a token for everybody",
      `${COMMAND}mode = "0644"`,
      ['4: tokens.corp.mode: must be "0600" or "0640": a token is never for everybody'],
    ],
    ["a mode with something behind it", `${COMMAND}mode = "0600x"`, ["4: tokens.corp.mode: must be *"]],
    ["a mode in decimal digits", `${COMMAND}mode = 600`, ["4: tokens.corp.mode: must be *"]],
    [
      "a gateway in the clear",
      `${COMMAND}[clients.x]\ntoken = "corp"\nbase_url = "http://gw.example"`,
      ["6: clients.x.base_url: must be an https URL*"],
    ],
    [
      "a gateway with a password",
      `${COMMAND}[clients.x]\ntoken = "corp"\nbase_url = "https://me:pw@gw.example"`,
      ["6: clients.x.base_url: must be an https URL*"],
    ],
    [
      "an unknown type of client",
      `${COMMAND}[clients.x]\ntoken = "corp"\nbase_url = "https://gw.example"\ntype = "gemini"`,
      ['7: clients.x.type: must be "openai", "azure" or "anthropic"'],
    ],
    ["a value in a table's place", 'tokens = "x"', ["1: tokens: must be tables: [tokens.NAME]"]],
    ["a value in one token's place", "[tokens]\ncorp = 5", ["2: tokens.corp: must be a table: [tokens.NAME]"]],
    ["tables in an array", '[[tokens]]\nsource = "command"', ["1: tokens: must be tables: [tokens.NAME]"]],
    ["no token", "", ["1: there is no token: add a table [tokens.NAME] with a source"]],
    [
      "notify of another type",
      `notify = "notify-send"\n${COMMAND}`,
      ["1: notify: must be a program and its arguments*"],
    ],
    ["an audit log somewhere", `audit = "audit.log"\n${COMMAND}`, ["1: audit: must be an absolute path"]],
  ];
  for (const [what, text, expected] of cases) {
    test(what, async (t) => {
      const found = await mistakes(t, text);
      const pattern = (line: string) => new RegExp(`^${line.split("*").map(literally).join("[^]*")}$`);
      assert.equal(found.length, expected.length, found.join("\n"));
      for (const [i, line] of expected.entries()) {
        // A schedule has stars of its own.
        if (found[i] !== line) assert.match(found[i] ?? "", pattern(line));
      }
    });
  }

  test("all of them at once, in the order of their lines", async (t) => {
    const found = await mistakes(
      t,
      `typo = 1\n${COMMAND}timeout = 5\ncron = "x"\n[clients.a]\ntoken = "nobody"\nbase_url = "ftp://x"\n[tokens.b]`,
    );
    assert.deepEqual(
      found.map((line) => line.split(":")[0]),
      ["1", "5", "8", "9", "10"],
    );
  });

  test("a literal secret in a file that others can read", async (t) => {
    const text =
      '[tokens.c]\nsource = "azure"\ncredential = "client-secret"\nscope = "api://x/.default"\ntenant_id = "t"\nclient_id = "c"\nclient_secret = "hunter2-hunter2"';
    for (const mode of [0o644, 0o640, 0o604, 0o660]) {
      const [found, ...more] = await mistakes(t, text, mode);
      assert.match(
        found ?? "",
        /^7: tokens\.c\.client_secret: a secret may stand here only if nobody else can read the file: chmod 600 /,
      );
      assert.doesNotMatch(found ?? "", /hunter2/);
      assert.deepEqual(more, []);
    }
    assert.equal((await load(t, text, 0o600)).tokens.size, 1);
    assert.equal((await load(t, text, 0o400)).tokens.size, 1);
    const [pem] = await mistakes(
      t,
      text.replace("client-secret", "client-certificate").replace("t_secret", "t_certificate"),
      0o644,
    );
    assert.match(pem ?? "", /^7: tokens\.c\.client_certificate: a secret may stand here only if/);
    const elsewhere = text.replace('"hunter2-hunter2"', '{ env = "SECRET" }');
    assert.equal((await load(t, elsewhere, 0o644)).tokens.size, 1);
  });

  test("no message repeats what stands where a secret belongs", async (t) => {
    const text =
      '[tokens.c]\nsource = "azure"\ncredential = "client-secret"\nscope = "api://x/.default"\ntenant_id = "t"\nclient_id = "c"\n';
    for (const value of ['["hunter2"]', '{ literal = "hunter2" }', '{ file = "hunter2" }', "{ env = ['hunter2'] }"]) {
      const found = await mistakes(t, `${text}client_secret = ${value}`);
      assert.equal(found.length, 1);
      assert.doesNotMatch(found[0] ?? "", /hunter2/);
    }
  });
});

describe("a file that is none", () => {
  test("broken TOML: line and column", async (t) => {
    const cases: [string, string][] = [
      ['[tokens.c]\nsource = "command\n', "2:"],
      ["[tokens.c]\nsource command", "2:8:"],
      ["[tokens.c", "1:10:"],
      [`${COMMAND}${COMMAND}`, "4:"],
      ["a = 1\na = 2", "2:1:"],
    ];
    for (const [text, where] of cases) {
      const file = write(t, text);
      await assert.rejects(loadConfig(file, RUN), (error: FreshkeyError) => {
        assert.deepEqual([error.code, error.exitCode], ["ERR_CONFIG_SYNTAX", 78], String(error));
        assert.ok(error.message.startsWith(`${file}:${where}`), error.message);
        assert.match(error.message.slice(file.length), /^:\d+:\d+: \S/);
        return true;
      });
    }
  });
  test("missing", async (t) => {
    const file = join(temporaryDirectory(t), "config.toml");
    await assert.rejects(loadConfig(file, RUN), {
      code: "ERR_CONFIG_MISSING",
      message: `there is no configuration: ${file}`,
    });
  });
  test("a directory", async (t) => {
    const file = temporaryDirectory(t);
    await assert.rejects(loadConfig(file, RUN), { code: "ERR_CONFIG_MISSING", message: `cannot read ${file}: EISDIR` });
  });
});

describe("tokenOf", () => {
  test("by name, the only one without a name, and else it says which there are", async (t) => {
    const one = await load(t, COMMAND);
    assert.equal(tokenOf(one, undefined).name, "corp");
    assert.equal(tokenOf(one, "corp").name, "corp");
    assert.throws(() => tokenOf(one, "crop"), { code: "ERR_CONFIG_TOKEN", hint: 'did you mean "corp"?' });
    assert.throws(() => tokenOf(one, "something"), { code: "ERR_CONFIG_TOKEN", hint: "it has corp" });
    const two = await load(t, `${COMMAND}${COMMAND.replace("corp]", "dev]")}`);
    assert.throws(() => tokenOf(two, undefined), {
      code: "ERR_USAGE",
      message: "which token? config.toml has corp, dev",
    });
  });
});

test("nearest", () => {
  assert.equal(nearest("timeuot", ["timeout", "timezone"]), "timeout");
  assert.equal(nearest("azur", ["aws", "azure"]), "azure");
  assert.equal(nearest("refreshbefore", ["refresh_before"]), "refresh_before");
  assert.equal(nearest("qqqq", ["timeout", "cron"]), undefined);
  assert.equal(nearest("x", []), undefined);
});

function literally(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
