/**
 * The independent clients, as processes of their own on the machine: `client.mjs send|crowd DIST …`. They tell one JSON
 * line an event on stdout, by the true clock (milliseconds), and never a token.
 *
 * `send GATEWAY PROGRAM NAME=PATH…` sends requests all the while through the reader library; where no agent runs, the
 * program renews. `crowd PROGRAM NAME=PATH…` reads with a hundred readers of three kinds and looks at what they get.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const [role, dist, ...rest] = process.argv.slice(2);
const { FreshkeyError, openKeyFile } = await import(`${dist}/reader/index.js`);

/** The machine's clock may be anything; this one nobody sets. */
const trueNow = () => Math.round(performance.timeOrigin + performance.now());
const tell = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const tokensOf = (args) => args.map((arg) => arg.split("="));
const fingerprintOf = (value) => createHash("sha256").update(value).digest("hex").slice(0, 12);

function expiryOf(value) {
  try {
    return JSON.parse(Buffer.from(value.split(".")[1], "base64url").toString()).exp * 1000;
  } catch {
    return undefined;
  }
}

/** Milliseconds between two requests of one token: a client that is busy. */
const SEND_EVERY = 200;

async function send([gateway, program, ...tokens]) {
  const renew = ({ name }, { signal, timeout }) =>
    new Promise((resolve, reject) => {
      execFile(program, ["renew", name, "--json"], { signal, timeout, killSignal: "SIGKILL" }, (error, stdout) => {
        if (!error) return resolve();
        const failed = stdout.startsWith("[") ? JSON.parse(stdout)[0]?.error : undefined;
        const late = error.name === "AbortError" || error.killed;
        const otherwise = { code: late ? "ERR_DEADLINE" : "ERR_INTERNAL", message: `renew ended: ${error.code}` };
        reject(FreshkeyError.fromJSON(failed ?? otherwise));
      });
    });
  await Promise.all(
    tokensOf(tokens).map(async ([name, path]) => {
      const key = openKeyFile(path, { renew });
      for (;;) {
        const next = sleep(SEND_EVERY);
        const request = { request: name, start: trueNow() };
        try {
          const token = await key.get();
          Object.assign(request, { got: trueNow(), fingerprint: fingerprintOf(token), expires: expiryOf(token) });
          const headers = { authorization: `Bearer ${token}` };
          const response = await fetch(`${gateway}/models`, { headers, redirect: "manual" });
          await response.arrayBuffer();
          request.status = response.status;
        } catch (error) {
          Object.assign(request, { code: error.code ?? error.name, message: error.message });
        }
        tell({ ...request, end: trueNow() });
        await next;
      }
    }),
  );
}

const KEY_FILES = 64;
const FOREIGN = 30;
const PROGRAMS = 6;
/** How closely it is watched how long there is no token that a gateway would take. */
const WATCH_EVERY = 50;

async function crowd([program, ...args]) {
  const tokens = tokensOf(args);
  const counts = { "key-file": 0, foreign: 0, program: 0, absent: 0, refused: 0 };
  const seen = new Set();
  /** Told once for each: whoever knows what was issued can tell what is none of it. */
  const saw = (how, name, value) => {
    const expires = expiryOf(value);
    const fingerprint = value === "" ? "empty" : fingerprintOf(value);
    counts[how]++;
    const now = trueNow();
    if (!seen.has(fingerprint)) tell({ seen: fingerprint, how, name, at: now });
    seen.add(fingerprint);
    if (how !== "foreign" && expires !== undefined && expires <= now) {
      tell({ expired: fingerprint, how, name, at: now, by: now - expires });
    }
    return expires;
  };
  /** Of what thirty readers see at once, one is enough. */
  let told = { late: "", at: 0 };
  const tellNowAndThen = (event) => {
    if (event.late === told.late && event.at - told.at < 250) return;
    told = event;
    tell(event);
  };
  const loop = async (pause, read) => {
    for (;;) {
      await sleep(pause * (0.5 + Math.random()));
      try {
        await read();
      } catch (error) {
        counts[error.code === "ENOENT" ? "absent" : "refused"]++;
      }
    }
  };
  const many = (count, start) => Array.from({ length: count }, (_, i) => start(...tokens[i % tokens.length]));

  many(KEY_FILES, (name, path) => {
    const key = openKeyFile(path);
    return loop(400, async () => saw("key-file", name, await key.get()));
  });
  many(FOREIGN, (name, path) =>
    loop(300, () => {
      const stated = JSON.parse(readFileSync(`${path}.json`, "utf8"));
      const value = readFileSync(path, "latin1");
      const expires = saw("foreign", name, value);
      const by = stated.expires * 1000 - expires;
      if (by > 0) tellNowAndThen({ late: fingerprintOf(value), name, at: trueNow(), by });
    }),
  );
  many(PROGRAMS, (name, path) =>
    loop(1_500, async () => {
      const value = await new Promise((resolve, reject) => {
        execFile(program, [path], { timeout: 20_000 }, (error, stdout) => (error ? reject(error) : resolve(stdout)));
      });
      saw("program", name, value);
    }),
  );
  for (const [name, path] of tokens) {
    let since;
    void loop(WATCH_EVERY, () => {
      const now = trueNow();
      let usable = false;
      try {
        usable = expiryOf(readFileSync(path, "latin1")) > now;
      } catch {
        // There is none.
      }
      if (usable && since !== undefined) tell({ gap: name, from: since, to: now });
      since = usable ? undefined : (since ?? now);
    });
  }
  for (;;) {
    await sleep(500);
    tell({ counts });
  }
}

await (role === "send" ? send(rest) : crowd(rest));
