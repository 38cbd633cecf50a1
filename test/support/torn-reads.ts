import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { DIST, pause, type Running, type Sandbox, until } from "./freshkey.ts";

const WORKER = fileURLToPath(new URL("torn-reads.mjs", import.meta.url));
const READERS = ["module", "key-file", "foreign", "dawdling"];

/** What one reader has seen. */
export interface Counts {
  readonly role: string;
  readonly reads: number;
  /** How often the token was another one than in the read before. */
  readonly tokens: number;
  /** Reads between the writer's two renames, which a reader may tell by the fingerprint. */
  readonly mismatches: number;
  /** Reads that stopped for so long between the two files that the writer had not waited for them. */
  readonly slow: number;
  /** Of these three there are to be none. */
  readonly torn: number;
  readonly late: number;
  readonly failed: number;
  readonly example: string;
}

/**
 * Publishes without a pause and kills the writer again and again, while several processes read: until there have been
 * at least `reads` reads and `kills` kills. A writer publishes for up to `life` milliseconds. The seed decides on
 * the tokens and on the instants of the kills.
 *
 * @returns what each of the readers has seen, and how often was published and killed.
 */
export async function readWhileKilled(
  box: Sandbox,
  { reads, kills, seed, life }: { reads: number; kills: number; seed: number; life: number },
): Promise<{ counts: readonly Counts[]; reads: number; published: number; kills: number }> {
  const path = box.tokenPath("copilot");
  mkdirSync(dirname(dirname(path)), { mode: 0o700 });
  const worker = (...args: string[]) => box.start([WORKER, DIST, path, ...args], { program: process.execPath });

  let published = 0;
  const publishUntilKilled = async (round: number) => {
    const writer = worker("publish", String(seed + round));
    await until("the writer publishes", () => writer.output().stdout);
    await pause(share(seed + round) * life);
    const { stdout, stderr, signal } = await writer.stop("SIGKILL");
    assert.equal(signal, "SIGKILL", `the writer ended by itself: ${stderr}`);
    published += stdout.length;
  };
  await publishUntilKilled(0);

  const readers = READERS.map((role) => worker(role));
  const counts = () => readers.map(latest).filter((count) => count !== undefined);
  const total = () => counts().reduce((sum, count) => sum + count.reads, 0);
  await until("all readers read", () => counts().length === readers.length);
  let killed = 0;
  while (killed < kills || total() < reads) await publishUntilKilled(++killed);
  const ended = await Promise.all(readers.map((reader) => reader.stop()));
  assert.deepEqual(
    ended.map(({ code, stderr }) => ({ code, stderr })),
    readers.map(() => ({ code: 0, stderr: "" })),
  );
  return { counts: counts(), reads: total(), published, kills: killed };
}

/** Between 0 and 1, spread evenly over the rounds by the golden ratio. */
function share(round: number): number {
  return (round * 0.618_033_988_749) % 1;
}

/** The last whole line that a reader has printed. */
function latest(reader: Running): Counts | undefined {
  const line = reader.output().stdout.split("\n").at(-2);
  return line ? (JSON.parse(line) as Counts) : undefined;
}
