import { constants, statSync } from "node:fs";
import { open } from "node:fs/promises";
import * as v from "valibot";
import { formatDuration } from "../core/duration.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import type { Token } from "../core/token.ts";
import { deadline, sleep } from "../os/clock.ts";
import { BadAnswer } from "./formats/answer.ts";
import { parseToken } from "./formats/parse.ts";
import { isPointer, POINTER_FORM } from "./formats/pointer.ts";
import type { Mint } from "./source.ts";

const pointer = v.optional(
  v.pipe(
    v.string(POINTER_FORM),
    v.check((text) => text !== "" && isPointer(text), POINTER_FORM),
  ),
);

/** Keys of `[tokens.NAME]` with `source = "file"`. */
export const fileOptions = v.pipe(
  v.strictObject({
    path: v.pipe(v.string("must be a path"), v.startsWith("/", "must be an absolute path")),
    pointer,
    expiry_pointer: pointer,
  }),
  v.forward(
    v.partialCheck(
      [["pointer"], ["expiry_pointer"]],
      ({ pointer, expiry_pointer }) => expiry_pointer === undefined || pointer !== undefined,
      "goes with `pointer`",
    ),
    ["expiry_pointer"],
  ),
);
export type FileOptions = v.InferOutput<typeof fileOptions>;

/** A token has 64 KiB at most; a JSON file may hold more than one. */
const MOST = 1024 * 1024;
/** A file that was written a moment ago, and not replaced, may be half written. */
const SETTLED = 300;
const HINT = "see to what writes that file; it must hold one token, or JSON with `pointer` to it";

/** Takes the token that something else keeps fresh in a file: alone, or in a JSON document. */
export const mintFile: Mint<FileOptions> = async (options, { timeout, signal }) => {
  const { path, pointer, expiry_pointer } = options;
  const limit = deadline(timeout, signal);
  try {
    const text = await Promise.race([settledContent(path, limit.signal), aborted(limit.signal)]);
    return parseFile(text, path, pointer, expiry_pointer);
  } catch (error) {
    if (error instanceof FreshkeyError || signal?.aborted || !limit.signal.aborted) throw error;
    throw new FreshkeyError("ERR_SOURCE_TIMEOUT", `${path} could not be read within ${formatDuration(timeout)}`, {
      hint: "see that the file system it is on answers",
    });
  } finally {
    limit.end();
  }
};

function parseFile(text: string, path: string, token: string | undefined, expiry: string | undefined): Token {
  try {
    return parseToken(text, "auto", Date.now(), { token, expiry });
  } catch (error) {
    if (!(error instanceof BadAnswer)) throw error;
    throw new FreshkeyError("ERR_SOURCE_ANSWER", `${path} holds ${error.message}`, { hint: HINT });
  }
}

/** Rejects when `signal` aborts: a read from a network's disk may never return. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** The content once nobody is writing it any more. A file that was put in place by a rename is read once. */
async function settledContent(path: string, signal: AbortSignal): Promise<string> {
  for (let before: string | undefined; ; await sleep(SETTLED, signal)) {
    const { text, stamp, age } = await content(path);
    if (age >= SETTLED || stamp === before) return text;
    before = stamp;
  }
}

async function content(path: string): Promise<{ text: string; stamp: string; age: number }> {
  // O_NONBLOCK: a named pipe without a writer would never open.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error) => {
    throw unreadable(path, errno(error) ?? "unknown error");
  });
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw unreadable(path, stats.isDirectory() ? "it is a directory" : "it is no regular file");
    if (stats.size > MOST) throw unreadable(path, `it is larger than ${MOST / 1024} KiB`);
    const buffer = Buffer.alloc(MOST + 1);
    const { bytesRead } = await file.read(buffer, 0, MOST + 1, 0);
    const stamp = `${stats.ino}:${stats.mtimeMs}:${bytesRead}`;
    return { text: buffer.toString("utf8", 0, bytesRead), stamp, age: Math.abs(Date.now() - stats.mtimeMs) };
  } catch (error) {
    throw error instanceof FreshkeyError ? error : unreadable(path, errno(error) ?? "unknown error");
  } finally {
    await file.close();
  }
}

/** Something else keeps the file, and may put it back any moment: never a reason to give up. */
function unreadable(path: string, why: string): FreshkeyError {
  return new FreshkeyError("ERR_SOURCE_FAILED", `cannot read ${path}: ${why}`, {
    hint: "see to what writes that file, and that the user who runs freshkey may read it",
  });
}

/** Another one after every change of the file at `path`, or of what a link there leads to; undefined where there is none. */
export function fileStamp(path: string): string | undefined {
  try {
    const { dev, ino, mtimeMs, ctimeMs, size } = statSync(path);
    return `${dev}:${ino}:${mtimeMs}:${ctimeMs}:${size}`;
  } catch {
    return undefined;
  }
}
