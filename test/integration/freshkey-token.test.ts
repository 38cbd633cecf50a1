/** bin/freshkey-token and the readers in docs/token-file.md, run by every shell of this machine. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { hostname, tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { after, before, beforeEach, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { isFresh } from "../../src/core/policy.ts";
import { fingerprint } from "../../src/core/token.ts";
import { replaceFiles } from "../../src/os/atomic-file.ts";
import { formatTokenJson, type TokenJson } from "../../src/reader/token-file.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const uid = process.geteuid?.() ?? -1;
const has = (program: string, ...args: string[]) => spawnSync(program, args).error === undefined;
const without = (program: string, ...args: string[]) => !has(program, ...args) && `${program} is not installed`;

let base: string;
/** What stands in for the installed package: the script and, beside it, a `freshkey` that tells how it was called. */
let script: string;
let run: string;
let token: string;

before(() => {
  // A space and an apostrophe in every path of this file: quoting is tested throughout.
  base = fs.mkdtempSync(join(fs.realpathSync(tmpdir()), "it's freshkey-token-"));
  script = join(base, "bin/freshkey-token");
  fs.mkdirSync(dirname(script));
  fs.copyFileSync(join(root, "bin/freshkey-token"), script);
  program(join(base, "bin/freshkey"), `printf 'handed over:'; printf ' <%s>' "$@"`);
});
after(() => fs.rmSync(base, { recursive: true, force: true }));
beforeEach(() => {
  run = join(fs.mkdtempSync(join(base, "xdg-")), "freshkey");
  token = join(run, "copilot/token");
  fs.mkdirSync(dirname(token), { recursive: true, mode: 0o700 });
});

function program(path: string, body: string): void {
  fs.writeFileSync(path, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
}

const seconds = () => Math.floor(Date.now() / 1000);

function publish(value = "s3cret-token", fields: Partial<TokenJson> = {}, path = token): string {
  const now = seconds();
  fs.writeFileSync(path, value, { mode: 0o600 });
  const json = {
    expires: now + 3600,
    minted: now,
    fingerprint: fingerprint(value),
    name: "copilot",
    source: "command",
  };
  const rest = { control: join(run, "agent/control.sock"), base_url: "", verify: false, schema: 1 };
  fs.writeFileSync(`${path}.json`, formatTokenJson({ ...json, ...rest, ...fields }), { mode: 0o600 });
  return value;
}

interface Run {
  readonly out: string;
  readonly err: string;
  readonly code: number | null;
}

const environment = (more: Record<string, string> = {}) => ({
  PATH: process.env.PATH ?? "",
  HOME: base,
  XDG_RUNTIME_DIR: dirname(run),
  ...more,
});

function sh(command: readonly string[], args: readonly string[], env: Record<string, string> = {}, cwd = base): Run {
  const [file, ...before] = command as [string, ...string[]];
  const ran = spawnSync(file, [...before, ...args], { env: environment(env), cwd, timeout: 20_000 });
  return { out: ran.stdout.toString("latin1"), err: ran.stderr.toString("latin1"), code: ran.status };
}

const printed = (value: string): Run => ({ out: value, err: "", code: 0 });
const handedOver = (...args: string[]): Run =>
  printed(`handed over:${["token", ...args].map((arg) => ` <${arg}>`).join("")}`);

const SHELLS = [["dash"], ["bash"], ["bash", "--posix"], ["busybox", "sh"]] as const;

for (const shell of SHELLS) {
  describe(`freshkey-token in ${shell.join(" ")}`, { skip: without(shell[0], ...shell.slice(1), "-c", ":") }, () => {
    const reader = (args: readonly string[], env?: Record<string, string>, cwd?: string) =>
      sh([...shell, script], args, env, cwd);

    it("prints the token's bytes and nothing else, from 1 byte to 16 KiB", () => {
      const printable = String.fromCharCode(...Array.from({ length: 94 }, (_, index) => 0x21 + index));
      for (const size of [1, 2, 94, 1024, 4095, 4096, 4097, 16_384]) {
        const value = publish(`\\c%s${printable}`.repeat(200).slice(-size));
        assert.deepEqual(reader(["copilot"]), printed(value), `${size} bytes`);
      }
    });

    it("finds the token by name, by path, and by COPILOT_PROVIDER_API_KEY_FILE", () => {
      const value = publish();
      assert.deepEqual(reader(["copilot"]), printed(value));
      assert.deepEqual(reader([token]), printed(value));
      assert.deepEqual(reader(["./token"], {}, dirname(token)), printed(value));
      assert.deepEqual(reader(["copilot/token"], {}, run), printed(value));
      assert.deepEqual(reader([], { COPILOT_PROVIDER_API_KEY_FILE: token }), printed(value));
      assert.deepEqual(reader(["--wait", "4s"], { COPILOT_PROVIDER_API_KEY_FILE: token }), printed(value));
      assert.deepEqual(reader([]), handedOver(), "no argument and no variable");
    });

    it("hands over to `freshkey token`, with the arguments as they are, what it cannot answer", () => {
      publish();
      const odd = [
        ["--help"],
        ["--wait"],
        ["--wait", "250ms", token],
        ["--wait=", token],
        ["--wait", "1h30m", "copilot"],
      ];
      const more = [
        ["other", "copilot"],
        [""],
        ["-x/token"],
        ["--", token],
        ["--min-validity=2.5s", token],
        ["../x", "a  b\n*"],
      ];
      const missing = [["other"], ["Copilot"], ["no*"], [join(base, "none/token")], [`${dirname(token)}/`]];
      for (const args of [...odd, ...more, ...missing]) assert.deepEqual(reader(args), handedOver(...args));
    });

    it("hands over what is stale, unreadable or not freshkey's", () => {
      const states: Record<string, () => void> = {
        expired: () => publish("t", { expires: seconds() - 1 }),
        "without the 30 s of an hour's token": () =>
          publish("t", { expires: seconds() + 25, minted: seconds() - 3575 }),
        "a bare token": () => fs.rmSync(`${token}.json`),
        "no token": () => fs.rmSync(token),
        "an empty token": () => fs.truncateSync(token),
        "an empty token.json": () => fs.truncateSync(`${token}.json`),
        "half a token.json": () => fs.truncateSync(`${token}.json`, 40),
        "no number": () => fs.writeFileSync(`${token}.json`, '{"expires":a[$(touch pwned)],"minted":1}\n'),
        "an octal number": () => fs.writeFileSync(`${token}.json`, '{"expires":09999999999,"minted":1}\n'),
        "a huge number": () => fs.writeFileSync(`${token}.json`, `{"expires":${"9".repeat(30)},"minted":1}\n`),
        "a linked token": () => {
          fs.renameSync(token, `${token}.1`);
          fs.symlinkSync(`${token}.1`, token);
        },
        "a linked directory": () => {
          fs.renameSync(dirname(token), `${dirname(token)}.1`);
          fs.symlinkSync(`${dirname(token)}.1`, dirname(token));
        },
        ...(uid === 0 && { "another user's directory": () => fs.chownSync(dirname(token), 1, 1) }),
        ...(uid === 0 && { "another user's token": () => fs.chownSync(token, 1, 1) }),
      };
      for (const [state, arrange] of Object.entries(states)) {
        fs.rmSync(run, { recursive: true });
        fs.mkdirSync(dirname(token), { recursive: true, mode: 0o700 });
        publish();
        arrange();
        assert.deepEqual(reader([token]), handedOver(token), state);
      }
    });

    it("gives out short-lived tokens up to 2 s before their end, and as --min-validity says", () => {
      publish("short", { minted: seconds(), expires: seconds() + 8 });
      assert.deepEqual(reader(["copilot"]), printed("short"));
      assert.deepEqual(reader(["--min-validity", "1m", "copilot"]), handedOver("--min-validity", "1m", "copilot"));
      publish("short", { minted: seconds() - 7, expires: seconds() + 1 });
      assert.deepEqual(reader(["copilot"]), handedOver("copilot"));
      publish("hour", { minted: seconds() - 3580, expires: seconds() + 20 });
      assert.deepEqual(reader(["--min-validity=5s", "copilot"]), printed("hour"));
    });

    it("takes a token of unknown expiry as it is, and trusts no clock in the environment", () => {
      publish("unknown", { expires: 0, minted: 0 });
      assert.deepEqual(reader(["copilot"]), printed("unknown"));
      publish("expired", { expires: seconds() - 10, minted: 0 });
      assert.deepEqual(reader(["copilot"], { EPOCHSECONDS: "1", now: "1", required: "0" }), handedOver("copilot"));
    });

    it("takes no part of a path for code", () => {
      for (const name of [
        "a b",
        "q\"u'o",
        "new\nline",
        "-rf",
        "$(touch pwned)",
        "`touch pwned`",
        "*",
        "a\\b",
        "ü",
        "!",
        "(",
      ]) {
        const path = join(base, "paths", name, name);
        fs.mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
        const value = publish(`of-${encodeURIComponent(name)}`, {}, path);
        assert.deepEqual(reader([path]), printed(value), name);
        const relative = { COPILOT_PROVIDER_API_KEY_FILE: `${name}/${name}` };
        assert.deepEqual(reader([], relative, join(base, "paths")), printed(value), name);
      }
      assert.deepEqual(reader(["$(touch pwned)"]), handedOver("$(touch pwned)"));
      const found = (fs.readdirSync(base, { recursive: true }) as string[]).filter((path) => /(^|\/)pwned$/.test(path));
      assert.deepEqual(found, []);
    });

    it("refuses (77) to give a token to another origin, with one line that does not hold it", () => {
      const value = publish("s3cret", { base_url: "https://gw.example/v1 http://127.0.0.1:8080" });
      const to = (url: string, variable = "COPILOT_PROVIDER_BASE_URL") => reader(["copilot"], { [variable]: url });
      for (const url of ["https://gw.example", "https://gw.example:443/x?y", "http://127.0.0.1:8080/openai", ""]) {
        assert.deepEqual(to(url), printed(value), url);
        assert.deepEqual(to(url, "ANTHROPIC_BASE_URL"), printed(value), url);
      }
      const others = [
        "http://gw.example/v1",
        "https://gw.example:8443/v1",
        "https://gw.example.evil.test/v1",
        "https://evil.test",
      ];
      for (const url of [
        ...others,
        "https://evil.test/https://gw.example/",
        "http://127.0.0.1:80801/",
        "https://w.example",
      ]) {
        for (const variable of ["COPILOT_PROVIDER_BASE_URL", "ANTHROPIC_BASE_URL"]) {
          const refused = to(url, variable);
          assert.equal(refused.code, 77, url);
          assert.equal(refused.out, "");
          assert.match(refused.err, new RegExp(`^freshkey: refused: ${variable} leads to [^\n]+\n$`));
          assert.ok(!refused.err.includes(value));
        }
      }
      // What URL parsers read differently is for the one that `freshkey token` has.
      const tricks = [
        "https://gw.example@evil.test",
        "https://gw.example\\@evil.test",
        "https://GW.example",
        "gw.example",
      ];
      for (const url of [
        ...tricks,
        "https:gw.example",
        "https://gw.example\n.evil.test",
        "https://[::1]/",
        "https://gw.example:",
      ]) {
        assert.deepEqual(to(url), handedOver("copilot"), url);
      }
      publish("s3cret", { base_url: "" });
      assert.deepEqual(to("https://evil.test"), printed("s3cret"), "no base_url is configured");
    });

    it("serves a hundred at once while the token is being replaced", { timeout: 60_000 }, async () => {
      const values = ["a", "b"].map((letter) => publish(letter.repeat(3000)));
      let done = false;
      const writer = (async () => {
        for (let turn = 0; !done; turn++) {
          const data = values[turn % 2] as string;
          const expires = seconds() + 3600;
          const json = {
            expires,
            minted: expires - 3600,
            fingerprint: fingerprint(data),
            name: "copilot",
            source: "command",
          };
          const line = formatTokenJson({ ...json, control: "", base_url: "", verify: false, schema: 1 });
          await replaceFiles(dirname(token), [
            { name: "token", data },
            { name: "token.json", data: line },
          ]);
        }
      })();
      const results = await Promise.all(Array.from({ length: 100 }, () => start([...shell, script, "copilot"])));
      done = true;
      await writer;
      for (const result of results) assert.ok(values.includes(result.out) && result.code === 0, JSON.stringify(result));
    });
  });
}

function start([file, ...args]: readonly string[]): Promise<Run> {
  return new Promise((resolve, reject) => {
    const child = spawn(file as string, args, { env: environment(), stdio: ["ignore", "pipe", "pipe"] });
    let [out, err] = ["", ""];
    child.stdout.on("data", (chunk) => {
      out += chunk;
    });
    child.stderr.on("data", (chunk) => {
      err += chunk;
    });
    child.once("error", reject);
    child.once("close", (code) => resolve({ out, err, code }));
  });
}

describe("freshkey-token", () => {
  it("is fresh by the same rule as the rest of freshkey, erring only by the second that has begun", () => {
    const fake = fs.mkdtempSync(join(base, "clock-"));
    program(join(fake, "date"), 'echo "$NOW"');
    const now = 1_795_456_399;
    for (const life of [3, 8, 15, 25, 60, 299, 300, 301, 3600]) {
      for (const left of [-5, 0, 1, 2, 3, 4, 5, 6, 7, 29, 30, 31, 32].filter((left) => left <= life)) {
        const times = { expires: now + left, minted: now + left - life };
        publish("t", times);
        const { out } = sh([script], ["copilot"], { NOW: String(now), PATH: `${fake}${delimiter}${process.env.PATH}` });
        const at = (second: number) =>
          isFresh({ expires: times.expires * 1000, minted: times.minted * 1000 }, second * 1000);
        if (out === "t") assert.ok(at(now + 0.999), `given out although stale: life ${life}, left ${left}`);
        else assert.ok(!at(now + 1.5), `handed over although fresh for long: life ${life}, left ${left}`);
      }
    }
  });

  it("hands over what was minted ahead of the clock, which has been set back since", () => {
    const fake = fs.mkdtempSync(join(base, "clock-"));
    program(join(fake, "date"), 'echo "$NOW"');
    const now = 1_795_456_399;
    const givenOut = [0, 2, 3, 60, 7_200].filter((ahead) => {
      publish("t", { expires: now + ahead + 3_600, minted: now + ahead });
      const env = { NOW: String(now), PATH: `${fake}${delimiter}${process.env.PATH}` };
      return sh([script], ["copilot"], env).out === "t";
    });
    assert.deepEqual(givenOut, [0, 2]);
  });

  it("finds `freshkey` through the links that npm makes, and from PATH", () => {
    const modules = join(fs.mkdtempSync(join(base, "npm-")), "node_modules");
    fs.mkdirSync(join(modules, ".bin"), { recursive: true });
    fs.cpSync(dirname(script), join(modules, "freshkey/bin"), { recursive: true });
    fs.symlinkSync("../freshkey/bin/freshkey-token", join(modules, ".bin/freshkey-token"));
    const global = join(base, "global link");
    fs.symlinkSync(join(modules, ".bin/freshkey-token"), global);
    const PATH = `${join(modules, ".bin")}${delimiter}${process.env.PATH}`;
    assert.deepEqual(sh([join(modules, ".bin/freshkey-token")], ["other"]), handedOver("other"));
    assert.deepEqual(sh(["node_modules/.bin/freshkey-token"], ["other"], {}, dirname(modules)), handedOver("other"));
    assert.deepEqual(sh([global], ["other"]), handedOver("other"));
    assert.deepEqual(sh(["/bin/sh", "-c", "freshkey-token other"], [], { PATH }), handedOver("other"));
  });

  it("says (78) that freshkey or Node.js is missing, on one line", () => {
    const alone = join(fs.mkdtempSync(join(base, "alone-")), "freshkey-token");
    fs.copyFileSync(script, alone);
    for (const expected of [
      /freshkey is not there; install freshkey again\n$/,
      /Node\.js \(node\) is not in PATH=\S+\n$/,
    ]) {
      const { out, err, code } = sh(["/bin/sh", alone], ["other"], { PATH: "/nonexistent" });
      assert.deepEqual([out, code], ["", 78]);
      assert.match(err, /^freshkey: [^\n]+\n$/);
      assert.match(err, expected);
      fs.writeFileSync(join(dirname(alone), "freshkey"), "#!/usr/bin/env node\n", { mode: 0o755 });
    }
  });

  const elsewhere = process.platform === "darwin" || fs.existsSync(`/run/user/${uid}`);
  it("looks below ~/.local/state where no runtime directory is this user's", {
    skip: elsewhere && "there is one",
  }, () => {
    run = join(base, `.local/state/freshkey/run-${hostname()}`);
    fs.mkdirSync(join(run, "copilot"), { recursive: true, mode: 0o700 });
    publish("on-a-disk", {}, join(run, "copilot/token"));
    for (const XDG_RUNTIME_DIR of ["", "/proc/self/none", "relative", ...(uid === 0 ? [] : ["/"])]) {
      assert.deepEqual(sh([script], ["copilot"], { XDG_RUNTIME_DIR }), printed("on-a-disk"), XDG_RUNTIME_DIR);
    }
  });

  it("passes shellcheck", { skip: without("shellcheck", "--version") }, () => {
    assert.deepEqual(sh(["shellcheck", "-s", "sh"], [join(root, "bin/freshkey-token")]), printed(""));
  });

  it("costs at most four times a cat", { skip: without("dash", "-c", ":") }, (t) => {
    publish("t".repeat(1600));
    // Timed around a shell's loop: Node.js takes longer to start a program than either of them runs.
    const loop = 'i=0; while [ $i -lt 20 ]; do "$@" >/dev/null || exit; i=$((i + 1)); done';
    const time = (...command: string[]) => {
      const from = process.hrtime.bigint();
      assert.deepEqual(sh(["dash", "-c", loop, "-"], command), printed(""));
      return Number(process.hrtime.bigint() - from) / 20e6;
    };
    const median = (times: number[]) => times.sort((a, b) => a - b)[times.length >> 1] as number;
    // In turn, so that what else the machine does falls on both alike; the best of three, since it does not always.
    const ratios = [1, 2, 3].map(() => {
      const pairs = Array.from({ length: 9 }, () => [time("cat", token), time("dash", script, token)] as const);
      const [cat, reader] = [median(pairs.map(([first]) => first)), median(pairs.map(([, second]) => second))];
      t.diagnostic(`cat ${cat.toFixed(2)} ms, freshkey-token ${reader.toFixed(2)} ms`);
      return reader / cat;
    });
    assert.ok(Math.min(...ratios) <= 4, `${ratios.map((ratio) => ratio.toFixed(1)).join(", ")} times`);
  });
});

for (const [language, command] of [
  ["sh", ["sh"]],
  ["python", ["python3"]],
] as const) {
  it(`the reader in docs/token-file.md, ${language}`, { skip: without(command[0], "-c", "") }, () => {
    const text = fs.readFileSync(join(root, "docs/token-file.md"), "utf8");
    const example = new RegExp(`\n\`\`\`${language}\n(.*?)\n\`\`\`\n`, "s").exec(text)?.[1] as string;
    const file = join(base, `example.${language}`);
    fs.writeFileSync(file, example);
    const read = () => sh([...command, file], [token]);
    const fails = () => {
      const { out, err, code } = read();
      assert.deepEqual([out, code !== 0, err.includes("s3cret")], ["", true, false], err);
    };
    const value = publish();
    assert.deepEqual(read(), printed(value));
    publish("s3cret", { expires: 0, minted: 0 });
    assert.deepEqual(read(), printed("s3cret"));
    publish("s3cret", { minted: seconds(), expires: seconds() + 8 });
    assert.deepEqual(read(), printed("s3cret"));
    for (const left of [-10, 0, 1, 20]) {
      publish("s3cret", { minted: seconds() - 3600, expires: seconds() + left });
      fails();
    }
    publish();
    fs.writeFileSync(`${token}.json`, "nonsense\n");
    fails();
    fs.rmSync(`${token}.json`);
    fs.writeFileSync(token, "bare\n");
    assert.deepEqual(read(), printed("bare"));
    fs.rmSync(token);
    fails();
  });
}
