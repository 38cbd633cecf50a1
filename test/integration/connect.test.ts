/** `freshkey connect copilot`: what it prints, what it puts in place, and that it takes all of that away again. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { after, before, describe, it, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { type CredentialHeader, startGateway } from "../../src/demo/gateway.ts";
import { type Identity, startIdentity } from "../../src/demo/identity.ts";
import { openSandbox, type Result, type Sandbox } from "../support/freshkey.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const WRITE = ["connect", "copilot", "--write", "--yes"];
const WITH_EXTENSION = [...WRITE, "--enable-experimental"];

interface Place {
  readonly box: Sandbox;
  /** `COPILOT_HOME`, with what a user of Copilot CLI has in it. */
  readonly copilot: string;
  readonly settings: string;
  readonly extension: string;
  readonly environmentFile: string;
  connect(...args: string[]): Promise<Result>;
}

function open(t: TestContext): Place {
  const box = openSandbox(t);
  const copilot = join(box.home, "my copilot");
  mkdirSync(join(copilot, "logs"), { recursive: true });
  writeFileSync(join(copilot, "config.json"), '{"trustedFolders":["/x"]}');
  const connect = (...args: string[]) => box.run(args, { env: { COPILOT_HOME: copilot } });
  return {
    box,
    copilot,
    connect,
    settings: join(copilot, "settings.json"),
    extension: join(copilot, "extensions/freshkey/extension.mjs"),
    environmentFile: join(box.home, ".config/freshkey/copilot.sh"),
  };
}

function config(baseUrl = "https://gateway.example/v1", more = "", token = ""): string {
  return `[clients.copilot]
token = "copilot"
base_url = "${baseUrl}"
${more}
[tokens.copilot]
source = "command"
command = ["print-token"]
${token}`;
}

/** Every path below `directory` with its mode and content. */
function snapshot(directory: string): Record<string, string> {
  const entries = existsSync(directory) ? (readdirSync(directory, { recursive: true }) as string[]) : [];
  return Object.fromEntries(
    entries.sort().map((entry) => {
      const path = join(directory, entry);
      const stats = lstatSync(path);
      return [
        entry,
        `${(stats.mode & 0o7777).toString(8)} ${stats.isFile() ? readFileSync(path, "utf8") : "directory"}`,
      ];
    }),
  );
}

function succeeded(result: Result): Result {
  assert.equal(result.code, 0, result.stderr);
  return result;
}

describe("connect copilot: putting it in place and taking it away", () => {
  const SETTINGS: Record<string, string | undefined> = {
    "no settings.json": undefined,
    "other settings, as the CLI writes them": '{\n  "theme": "dark",\n  "banner": "never"\n}\n',
    "other settings on one line, without a newline": '{"theme":"dark","nested":{"experimental":true}}',
    "other settings with tabs": '{\n\t"theme": "dark"\n}',
    "an empty object": "{}\n",
    "the mode switched off": '{\n "a": {"experimental": 0},\n "experimental":  false, "b": 1 }\n',
    "the mode switched on": '{ "experimental": true }',
  };
  for (const [name, settings] of Object.entries(SETTINGS)) {
    it(`leaves every byte as it was, with ${name}`, async (t) => {
      const place = open(t);
      place.box.writeConfig(config());
      if (settings !== undefined) writeFileSync(place.settings, settings, { mode: 0o640 });
      if (settings !== undefined) chmodSync(place.settings, 0o640);
      const [before, own] = [snapshot(place.copilot), snapshot(dirname(place.environmentFile))];

      succeeded(await place.connect(...WITH_EXTENSION));
      const written = JSON.parse(readFileSync(place.settings, "utf8"));
      assert.deepEqual(written, { ...JSON.parse(settings ?? "{}"), experimental: true });
      if (settings !== undefined) assert.equal(statSync(place.settings).mode & 0o777, 0o640);
      assert.ok(existsSync(place.extension));
      const once = snapshot(place.copilot);
      succeeded(await place.connect(...WITH_EXTENSION));
      assert.deepEqual(snapshot(place.copilot), once, "a second time changes nothing");

      succeeded(await place.connect("connect", "copilot", "--remove"));
      assert.deepEqual(snapshot(place.copilot), before);
      assert.deepEqual(snapshot(dirname(place.environmentFile)), own);
      succeeded(await place.connect("connect", "copilot", "--remove"));
      assert.deepEqual(snapshot(place.copilot), before);
    });
  }

  it("makes and removes a COPILOT_HOME that was not there", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    rmSync(place.copilot, { recursive: true });
    succeeded(await place.connect(...WITH_EXTENSION));
    assert.ok(existsSync(place.extension));
    succeeded(await place.connect("connect", "copilot", "--remove"));
    assert.equal(existsSync(place.copilot), false);
  });

  it("keeps what was changed meanwhile, and takes out its own key alone", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    writeFileSync(place.settings, '{"theme":"dark"}');
    succeeded(await place.connect(...WITH_EXTENSION));
    // As the CLI itself writes it when the user changes a setting.
    const edited = { banner: "never", ...JSON.parse(readFileSync(place.settings, "utf8")), theme: "light" };
    writeFileSync(place.settings, `${JSON.stringify(edited, null, 2)}\n`);
    writeFileSync(join(dirname(place.extension), "notes.txt"), "mine");
    succeeded(await place.connect("connect", "copilot", "--remove"));
    assert.deepEqual(JSON.parse(readFileSync(place.settings, "utf8")), { banner: "never", theme: "light" });
    assert.deepEqual(readdirSync(dirname(place.extension)), ["notes.txt"]);
  });

  it("leaves the mode alone where the user has switched it off since", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    succeeded(await place.connect(...WITH_EXTENSION));
    writeFileSync(place.settings, '{"experimental":false}');
    succeeded(await place.connect("connect", "copilot", "--remove"));
    assert.equal(readFileSync(place.settings, "utf8"), '{"experimental":false}');
  });

  it("writes through a symbolic link to settings.json", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    const dotfiles = join(place.box.home, "dotfiles.json");
    writeFileSync(dotfiles, '{"theme":"dark"}');
    symlinkSync(dotfiles, place.settings);
    succeeded(await place.connect(...WITH_EXTENSION));
    assert.equal(JSON.parse(readFileSync(dotfiles, "utf8")).experimental, true);
    assert.ok(lstatSync(place.settings).isSymbolicLink());
    succeeded(await place.connect("connect", "copilot", "--remove"));
    assert.equal(readFileSync(dotfiles, "utf8"), '{"theme":"dark"}');
  });

  it("sets up the hook alone without --enable-experimental, and says so", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    const before = snapshot(place.copilot);
    const { stdout, stderr } = succeeded(await place.connect(...WRITE));
    assert.match(stderr, /Only the command hook is set up\..*--enable-experimental/);
    assert.equal(stdout, `. ${place.environmentFile}\n`);
    assert.equal(statSync(place.environmentFile).mode & 0o777, 0o600);
    assert.deepEqual(snapshot(place.copilot), before);
  });

  it("installs the extension without --enable-experimental where the mode is on, in a file with comments too", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    const settings =
      '{\n  // "experimental": false\n  "experimental": true, /* since May */\n  "url": "http://x/*",\n}\n';
    writeFileSync(place.settings, settings);
    const { stderr } = succeeded(await place.connect(...WRITE));
    assert.match(stderr, /through its extension/);
    assert.ok(existsSync(place.extension));
    assert.equal(readFileSync(place.settings, "utf8"), settings);
  });

  for (const [name, settings] of [
    ["comments", '{\n  // mine\n  "theme": "dark"\n}\n'],
    ["half a file", '{ "theme": '],
    ["a list", "[]"],
  ] as const) {
    it(`leaves a settings.json with ${name} as it is, and says what to do`, async (t) => {
      const place = open(t);
      place.box.writeConfig(config());
      writeFileSync(place.settings, settings);
      const before = snapshot(place.box.home);
      const { code, stdout, stderr } = await place.connect(...WITH_EXTENSION);
      assert.equal(code, 1);
      assert.equal(stdout, "");
      assert.match(
        stderr,
        /settings\.json is not a plain JSON object: it is left as it is\n {2}→ add "experimental": true/,
      );
      assert.deepEqual(snapshot(place.box.home), before);
    });
  }

  it("does not overwrite, or remove, an extension that is somebody else's", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    mkdirSync(dirname(place.extension), { recursive: true });
    writeFileSync(place.extension, "// my own\n");
    const before = snapshot(place.box.home);
    for (const args of [WITH_EXTENSION, WRITE, ["connect", "copilot", "--remove"]]) {
      const { code, stderr } = await place.connect(...args);
      assert.equal(code, 1);
      assert.match(stderr, /extension\.mjs is not freshkey's\n {2}→ move that extension/);
    }
    assert.deepEqual(snapshot(place.box.home), before);
  });

  it("asks first: without a terminal and without --yes nothing is done", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    const before = snapshot(place.box.home);
    const { code, stdout, stderr } = await place.connect("connect", "copilot", "--write", "--enable-experimental");
    assert.equal(code, 64);
    assert.equal(stdout, "");
    for (const path of [place.environmentFile, place.settings, place.extension])
      assert.ok(stderr.includes(path), stderr);
    assert.match(stderr, /there is no terminal to ask on\n {2}→ add --yes/);
    assert.deepEqual(snapshot(place.box.home), before);
  });

  it("asks on a terminal, and takes no for an answer", { skip: !python() && "there is no python3" }, async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    const before = snapshot(place.box.home);
    const answer = (text: string) =>
      onTerminal(place, text, ["connect", "copilot", "--write", "--enable-experimental"]);
    const no = await answer("n\n");
    assert.equal(no.code, 64, no.stdout);
    assert.match(no.stdout, /Go on\? \[y\/N\].*nothing was changed/s);
    assert.deepEqual(snapshot(place.box.home), before);
    const yes = await answer("y\n");
    assert.equal(yes.code, 0, yes.stdout);
    assert.ok(existsSync(place.extension));
  });

  it("says so where there is something else in the way", async (t) => {
    const place = open(t);
    place.box.writeConfig(config());
    writeFileSync(join(place.copilot, "extensions"), "a file");
    const before = snapshot(place.copilot);
    const { code, stderr } = await place.connect(...WITH_EXTENSION);
    assert.equal(code, 1);
    assert.match(stderr, /cannot make .*extensions\/freshkey: (ENOTDIR|EEXIST)/);
    assert.deepEqual(snapshot(place.copilot), before);
  });
});

describe("connect copilot: the header that the gateway takes", () => {
  let identity: Identity;
  before(async () => {
    identity = await startIdentity({ lifetime: 600_000 });
  });
  after(() => identity.close());

  async function at(t: TestContext, type: string, accepts: CredentialHeader[], path = ""): Promise<Place> {
    const gateway = await startGateway({ issuer: identity.issuer, audience: "api://x", accepts });
    t.after(() => gateway.close());
    const place = open(t);
    const token = join(place.box.directory, "jwt");
    writeFileSync(token, await identity.sign({ audience: "api://x" }));
    const toml = config(gateway.origin + path, `type = "${type}"`).replace("print-token", `cat", "${token}`);
    place.box.writeConfig(toml);
    await place.box.startAgent();
    succeeded(await place.box.run(["token", "copilot"]));
    return place;
  }

  for (const [type, header, path] of [
    ["azure", "api-key", ""],
    ["azure", "api-key", "/openai/v1"],
    ["anthropic", "x-api-key", ""],
  ] as const) {
    it(`has no extension where a gateway of type ${type} at "${path}" takes ${header} alone`, async (t) => {
      const place = await at(t, type, [header], path);
      const before = snapshot(place.copilot);
      const { stderr } = succeeded(await place.connect(...WITH_EXTENSION));
      assert.match(stderr, /the gateway refuses `Authorization: Bearer` \(401; with (x-)?api-key: 200\)/);
      assert.deepEqual(snapshot(place.copilot), before, "the experimental mode is not switched on for nothing");
      assert.match(readFileSync(place.environmentFile, "utf8"), new RegExp(`COPILOT_PROVIDER_TYPE=${type}\n`));
    });

    it(`has the extension where a gateway of type ${type} at "${path}" takes Bearer as well`, async (t) => {
      const place = await at(t, type, ["authorization", header], path);
      const { stderr } = succeeded(await place.connect(...WITH_EXTENSION));
      assert.match(stderr, /through its extension/);
      assert.match(readFileSync(place.extension, "utf8"), new RegExp(`"type":"${type}"`));
    });
  }

  it("takes a 404 for a yes where the gateway asks for a credential first", async (t) => {
    const place = await at(t, "azure", ["authorization", "api-key"], "/nothing/here");
    succeeded(await place.connect(...WITH_EXTENSION));
    assert.ok(existsSync(place.extension));
  });

  it("takes the extension away again, and the mode with it, once the gateway refuses Bearer", async (t) => {
    const place = await at(t, "azure", ["api-key"]);
    const [toml, before] = [readFileSync(place.box.configFile, "utf8"), snapshot(place.copilot)];
    place.box.writeConfig(toml.replace('type = "azure"', ""));
    succeeded(await place.connect(...WITH_EXTENSION));
    assert.ok(existsSync(place.extension));
    place.box.writeConfig(toml);
    succeeded(await place.connect(...WITH_EXTENSION));
    assert.deepEqual(snapshot(place.copilot), before);
  });

  it("has no extension where nothing can be tried", async (t) => {
    const place = open(t);
    place.box.writeConfig(config("http://127.0.0.1:9", 'type = "azure"'));
    const withoutToken = succeeded(await place.connect(...WITH_EXTENSION));
    assert.match(withoutToken.stderr, /Only the command hook.*cannot be tried without a token/);
    const file = join(place.box.directory, "t");
    place.box.writeConfig(config("http://127.0.0.1:9", 'type = "azure"', `file = "${file}"`));
    writeFileSync(file, "opaque");
    const noAnswer = succeeded(await place.connect(...WITH_EXTENSION));
    assert.match(noAnswer.stderr, /Only the command hook.*cannot be told \(http:.*no answer/);
    assert.equal(existsSync(place.extension), false);
  });
});

describe("connect copilot: the environment", () => {
  it("evaluates in sh to what it says, and the hook prints the token, with odd paths everywhere", async (t) => {
    const box = openSandbox(t);
    const odd = join(box.directory, `it's an "odd" $HOME \`path\` & more`);
    mkdirSync(odd, { mode: 0o700 });
    // The program itself lies at an odd place too; its packages are found beside it.
    const program = join(odd, "freshkey");
    for (const part of ["bin", "dist", "package.json"])
      cpSync(join(root, part), join(program, part), { recursive: true });
    symlinkSync(join(root, "node_modules"), join(program, "node_modules"));
    const token = join(odd, "token file");
    writeFileSync(token, "the-token\n");
    box.writeConfig(
      config("https://gateway.example/v1", 'wire_api = "responses"\nmodel = "o\'model"', `file = '''${token}'''`),
    );

    const run = (...args: string[]) => box.run(args, { program: join(program, "bin/freshkey") });
    const printed = succeeded(await run("connect", "copilot")).stdout;
    const variables = evaluate(box, printed);
    assert.deepEqual(variables, {
      COPILOT_PROVIDER_BASE_URL: "https://gateway.example/v1",
      COPILOT_PROVIDER_WIRE_API: "responses",
      COPILOT_MODEL: "o'model",
      COPILOT_PROVIDER_API_KEY_FILE: token,
      COPILOT_PROVIDER_API_KEY_COMMAND: variables.COPILOT_PROVIDER_API_KEY_COMMAND,
    });
    const json = JSON.parse(succeeded(await run("connect", "copilot", "--json")).stdout);
    assert.deepEqual(json, { environment: variables });
    // As Copilot CLI runs it.
    const hook = execFileSync("sh", ["-c", variables.COPILOT_PROVIDER_API_KEY_COMMAND!], { env: box.env });
    assert.equal(hook.toString(), "the-token");

    // The line for the profile, with an odd home as well.
    const env = { HOME: odd, FRESHKEY_CONFIG: box.configFile };
    const written = succeeded(await box.run(WRITE, { env, program: join(program, "bin/freshkey") }));
    const sourced = evaluate(box, written.stdout);
    assert.deepEqual(sourced, { ...variables, FRESHKEY_CONFIG: box.configFile });
  });

  it("names the configuration where it is not the usual one, for a hook that has to renew", async (t) => {
    const box = openSandbox(t);
    const elsewhere = join(box.directory, "my.toml");
    writeFileSync(elsewhere, config(), { mode: 0o600 });
    const { stdout } = succeeded(await box.run(["connect", "copilot", "--config", "my.toml"]));
    assert.equal(evaluate(box, stdout).FRESHKEY_CONFIG, elsewhere);
  });

  it("comes from the environment where there is no configuration", async (t) => {
    const place = open(t);
    const env = {
      COPILOT_HOME: place.copilot,
      COPILOT_PROVIDER_BASE_URL: "https://gateway.example/v1",
      COPILOT_PROVIDER_API_KEY_FILE: "some/token",
      COPILOT_MODEL: "m",
    };
    succeeded(await place.box.run(WITH_EXTENSION, { env }));
    const variables = evaluate(place.box, readFileSync(place.environmentFile, "utf8"));
    assert.equal(variables.COPILOT_PROVIDER_API_KEY_FILE, join(place.box.directory, "some/token"));
    assert.equal(variables.COPILOT_MODEL, "m");
    const settings = /^const settings = (.*);$/m.exec(readFileSync(place.extension, "utf8"))?.[1];
    assert.equal(JSON.parse(settings ?? "").provider.baseUrl, "https://gateway.example/v1");
  });

  it("says what is missing", async (t) => {
    const place = open(t);
    const none = await place.connect("connect", "copilot");
    assert.equal(none.code, 78);
    assert.match(none.stderr, /there is no configuration/);
    place.box.writeConfig(config().replace(/^\[clients[^[]*/, ""));
    const noClient = await place.connect("connect", "copilot");
    assert.equal(noClient.code, 78);
    assert.match(noClient.stderr, /has no table \[clients\.copilot\]\n {2}→ add it/);
    const unknown = await place.connect("connect", "telnet");
    assert.equal(unknown.code, 64);
    assert.match(unknown.stderr, /there is no client "telnet" here/);
  });
});

/** The variables that a shell has after `script`, which it had not before. */
function evaluate(box: Sandbox, script: string): Record<string, string> {
  const variables = (text: string) => {
    const program = `${text}\n"$0" -e 'process.stdout.write(JSON.stringify(process.env))'`;
    return JSON.parse(execFileSync("sh", ["-eu", "-c", program, process.execPath], { env: box.env, encoding: "utf8" }));
  };
  const before = variables("");
  return Object.fromEntries(Object.entries<string>(variables(script)).filter(([name]) => !(name in before)));
}

function python(): boolean {
  return ["/usr/bin/python3", "/usr/local/bin/python3", "/opt/homebrew/bin/python3"].some((path) => existsSync(path));
}

/** Runs freshkey on a pseudo-terminal and types `input` when it asks; stdout is all that was on the screen. */
function onTerminal(place: Place, input: string, args: readonly string[]): Promise<Result> {
  const script = `
import os, pty, sys
def read(fd):
    data = os.read(fd, 1024)
    if b"[y/N]" in data: os.write(fd, ${JSON.stringify(input)}.encode())
    return data
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:], read)))
`;
  const program = join(root, "bin/freshkey");
  return place.box.run(["-c", script, program, ...args], { program: "python3", env: { COPILOT_HOME: place.copilot } });
}
