/**
 * The processes of test/integration/torn-reads.test.ts, run with the compiled modules of `DIST`:
 *
 *     torn-reads.mjs DIST TOKENFILE publish SEED     publishes as fast as it can, until it is killed
 *     torn-reads.mjs DIST TOKENFILE module           reads with the reader's own functions
 *     torn-reads.mjs DIST TOKENFILE key-file         reads with `freshkey/reader`, as a client does before its requests
 *     torn-reads.mjs DIST TOKENFILE foreign          reads as any other program would: token.json, then token
 *     torn-reads.mjs DIST TOKENFILE dawdling         the same, stopped for a while between the two
 *
 * Every token says in its own text when it ends, and carries a checksum of that text. A reader counts until
 * SIGTERM, and prints its counts as JSON lines.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { pathToFileURL } from "node:url";

/** Milliseconds: the writer's own. Who lets more pass between the two files may see what no writer can prevent. */
const ANNOUNCED_FOR = 100;

const [dist, path, role, seed = "0"] = process.argv.slice(2);
const load = (module) => import(pathToFileURL(`${dist}/${module}`).href);

/** A token that ends at `expires` (epoch seconds, 0: nobody knows), with `length` characters of filling. */
function tokenOf(expires, number, length) {
  const body = `${expires}.${number}.${"x".repeat(length)}`;
  return `${body}.${checksum(body)}`;
}

/** What a token says of its own end; undefined if it is not a whole one. */
function ownExpiry(token) {
  const cut = token.lastIndexOf(".");
  const body = token.slice(0, Math.max(0, cut));
  return cut > 0 && checksum(body) === token.slice(cut + 1) ? Number(body.split(".", 1)[0]) : undefined;
}

function checksum(text) {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** Uniform in [0, 1), the same for the same seed (mulberry32). */
function randomFrom(start) {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

async function publishForEver() {
  const { publish } = await load("agent/publish.js");
  const random = randomFrom(Number(seed));
  const config = { name: "copilot", source: "command", options: {}, path, ownDirectory: true, baseUrls: [] };
  let ahead = random() * 10_000;
  for (let number = 0; ; number++) {
    const minted = Date.now();
    // Mostly up, at times down, all far enough away for a reader to take them; and some that nobody knows.
    ahead = random() < 0.05 ? random() * ahead : ahead + random() * 1_000;
    const expires = random() < 0.03 ? 0 : Math.floor(minted / 1000 + 3_600 + ahead);
    const value = tokenOf(expires, `${seed}-${number}`, Math.floor(random() * 6_000));
    await publish(config, { token: { value, expires: expires * 1000 }, minted, control: `${path}.sock` });
    process.stdout.write(".");
  }
}

const READERS = {
  async module() {
    const { readTokenFile } = await load("reader/token-file.js");
    return () => {
      const read = readTokenFile(path);
      return read && { token: read.value, stated: read.expires / 1000, matches: read.matches };
    };
  },
  async "key-file"() {
    const { openKeyFile } = await load("reader/index.js");
    const key = openKeyFile(path, { wait: 1 });
    return async () => {
      const read = await key.read();
      return { token: read.value, stated: read.expires / 1000, matches: read.matches };
    };
  },
  async foreign() {
    return () => ({ stated: statedExpiry(), token: readFileSync(path, "latin1"), matches: true });
  },
  async dawdling() {
    return async () => {
      const stated = statedExpiry();
      await setTimeout(Math.random() * (ANNOUNCED_FOR / 2));
      return { stated, token: readFileSync(path, "latin1"), matches: true };
    };
  },
};

function statedExpiry() {
  return JSON.parse(readFileSync(`${path}.json`, "utf8")).expires;
}

async function readUntilTold() {
  const read = await READERS[role]();
  const counts = { role, reads: 0, tokens: 0, mismatches: 0, slow: 0, torn: 0, late: 0, failed: 0, example: "" };
  let last = "";
  let told = false;
  process.on("SIGTERM", () => {
    told = true;
  });
  while (!told) {
    for (const end = performance.now() + 4; performance.now() < end; counts.reads++) {
      const begun = performance.now();
      try {
        const found = await read();
        const slow = performance.now() - begun >= ANNOUNCED_FOR;
        const own = found && ownExpiry(found.token);
        if (slow) counts.slow++;
        if (own === undefined) counts.torn++;
        else if (later(found.stated, own) && !slow) {
          counts.late++;
          counts.example ||= `${found.stated} was stated for a token that ends at ${own}`;
        }
        if (found?.matches === false) counts.mismatches++;
        if (found && found.token !== last) counts.tokens++;
        last = found?.token ?? "";
      } catch (error) {
        counts.failed++;
        counts.example ||= String(error.message);
      }
    }
    process.stdout.write(`${JSON.stringify(counts)}\n`);
    // The writer needs the processor as well.
    await setTimeout(4);
  }
  process.stdout.write(`${JSON.stringify(counts)}\n`);
  process.exit();
}

/** Whether the instant `a` is later than `b`, an unknown one (0) being the latest of all. */
function later(a, b) {
  return (a || Number.POSITIVE_INFINITY) > (b || Number.POSITIVE_INFINITY);
}

await (role === "publish" ? publishForEver() : readUntilTold());
