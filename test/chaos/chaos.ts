/**
 * Everything that can go wrong, at random, around the real agent: `node --import tsx test/chaos/chaos.ts [--seconds N]
 * [--seed S] [--lifetime SECONDS] [--json] [--log FILE]`. Exits with 0 if the accounts at the end are as they must be.
 *
 * The same seed gives the same faults at the same times; what the processes make of them is theirs.
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { runChaos } from "./run.ts";
import { printTable } from "./table.ts";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "180" },
    seed: { type: "string" },
    lifetime: { type: "string", default: "8" },
    json: { type: "boolean", default: false },
    log: { type: "string" },
  },
});
const number = (text: string, name: string) => {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`--${name} ${text}: must be a whole number above 0`);
};
const seed = values.seed === undefined ? Math.ceil(Math.random() * 1_000_000) : number(values.seed, "seed");
const seconds = number(values.seconds, "seconds");
const quiet = values.json;
const tell = (line: string) => void (quiet || process.stderr.write(`${line}\n`));

// What was set up is cleaned away when the process exits.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));

tell(`seed ${seed}, ${seconds} s of faults`);
const { summary, log } = await runChaos({ seed, seconds, lifetime: number(values.lifetime, "lifetime") * 1_000, tell });
if (values.log !== undefined) writeFileSync(values.log, log, { mode: 0o600 });
process.stdout.write(quiet ? `${JSON.stringify(summary)}\n` : printTable(summary));
process.exitCode = summary.violations.length === 0 ? 0 : 1;
