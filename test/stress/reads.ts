/**
 * The token file under fire: several processes read while it is published to without a pause, by a writer that is
 * killed again and again.
 *
 *     node --import tsx test/stress/reads.ts [--reads 1000000] [--kills 100] [--seed 1]
 *
 * Ends with one line of figures, and exit code 1 if a read was torn or empty, failed, or gave a token that was said to
 * live longer than it does. The seed decides on the tokens and on the instants of the kills.
 */
import { parseArgs } from "node:util";
import { openSandbox } from "../support/freshkey.ts";
import { readWhileKilled } from "../support/torn-reads.ts";

const { values } = parseArgs({
  options: {
    reads: { type: "string", default: "1000000" },
    kills: { type: "string", default: "100" },
    seed: { type: "string", default: "1" },
  },
});
const seed = Number(values.seed);
/** Milliseconds that a writer publishes, at most. */
const LIFE = 1_000;

const box = openSandbox();
const began = Date.now();
try {
  const wanted = { reads: Number(values.reads), kills: Number(values.kills), seed, life: LIFE };
  const { counts, reads, published, kills } = await readWhileKilled(box, wanted);
  for (const { role, reads, tokens, mismatches, slow, torn, late, failed, example } of counts) {
    console.log(
      `${role}: ${reads} reads, ${tokens} tokens, ${mismatches} between two renames, ${slow} too slow to be judged; ` +
        `${torn} torn, ${late} with a later expiry, ${failed} failed ${example}`,
    );
  }
  const sum = (what: "torn" | "late" | "failed") => counts.reduce((total, count) => total + count[what], 0);
  const time = ((Date.now() - began) / 1000).toFixed(0);
  console.log(
    `${reads} reads by ${counts.length} processes against ${published} publications and ${kills} SIGKILL: ` +
      `${sum("torn")} torn, ${sum("late")} with a later expiry than the token's own, ${sum("failed")} failed, ` +
      `in ${time} s, seed ${seed}`,
  );
  process.exitCode = sum("torn") + sum("late") + sum("failed") > 0 ? 1 : 0;
} finally {
  await box.remove();
}
