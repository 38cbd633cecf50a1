/**
 * Reads of a token file while it is published to without a pause, by a writer that is killed again and again: whatever
 * is read is a whole token, and its stated expiry is never later than the token's own. Many more of them:
 * test/stress/reads.ts.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { openSandbox } from "../support/freshkey.ts";
import { readWhileKilled } from "../support/torn-reads.ts";

const READS = 100_000;
const KILLS = 20;
/** Of the instants of the kills and of the tokens: `SEED=1234 npm test` runs with another one. */
const SEED = Number(process.env.SEED ?? 20_261);

describe("reading while the writer is killed", () => {
  it("gives whole tokens, none said to live longer than it does", async (t) => {
    const seen = await readWhileKilled(openSandbox(t, { inMemory: true }), {
      reads: READS,
      kills: KILLS,
      seed: SEED,
      life: 300,
    });
    for (const { role, reads, tokens, mismatches, slow } of seen.counts) {
      t.diagnostic(`${role}: ${reads} reads, ${tokens} tokens, ${mismatches} between two renames, ${slow} slow`);
    }
    t.diagnostic(`${seen.reads} reads, ${seen.published} publications, ${seen.kills} kills, seed ${SEED}`);
    const bad = seen.counts.filter(({ torn, late, failed }) => torn + late + failed > 0);
    assert.deepEqual(bad, [], `with seed ${SEED}`);
    assert.ok(
      seen.counts.every(({ tokens }) => tokens > KILLS),
      "the readers have hardly seen a publication",
    );
  });
});
