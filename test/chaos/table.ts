/** The closing table, for a person. */
import { formatDuration } from "../../src/core/duration.ts";
import type { Judged, Summary } from "./summary.ts";

export function printTable(summary: Summary): string {
  const { gaps, left, reads } = summary;
  const faults = summary.kinds.map((line) =>
    line.skipped === undefined
      ? [line.kind, `${line.injected}`, `${line.survivable}`, `${line.refused}`, `${line.without}`]
      : [line.kind, `left out: ${line.skipped}`],
  );
  const whatFor = ["fault", "injected", "one mint possible", "401s near it", "without a token near it"];
  const readers = ["key-file", "foreign", "program"].map((kind) => `${reads[kind] ?? 0} ${kind}`).join(", ");
  const least = `${summary.leastMints} the least; ${summary.busiest} of one token in the busiest 5 s`;
  const figures = [
    ["requests sent", `${summary.requests}`],
    ["401s", judged(summary.refused)],
    ["requests without a token", judged(summary.without)],
    ["torn or empty reads", `${summary.torn} (of ${readers})`],
    ["reads with a later expiry than the token's own", `${summary.late}`],
    ["expired tokens handed out as good", `${summary.expired}`],
    [
      "faults with one mint possible in the overlap",
      `${summary.survivable} of ${summary.faults}; 401s in ${summary.survivableRefused} of them`,
    ],
    ["longest time without a usable token", formatDuration(gaps.all)],
    ["  that began when a hand had spoilt or removed it", formatDuration(gaps.byHand)],
    ["  that nothing excuses", formatDuration(gaps.unexcused)],
    ["longest from an outage's end to the next token", formatDuration(summary.recovery)],
    ["everything well after the last fault", formatDuration(summary.settling)],
    ["mints", `${summary.mints}; ${least}`],
    ["requests to the provider", `${summary.attempts}; before a Retry-After was over ${summary.tooEarly}`],
    ["sign-ins asked for in vain", `${summary.signIns}`],
    [
      "agents started",
      `${summary.starts}; at the end ${summary.agents}, which stopped within ${formatDuration(summary.stopping)}`,
    ],
    [
      "processes, temporary files, sockets left behind",
      `${left.processes}, ${left.temporary.length}, ${left.sockets.length}`,
    ],
  ];
  const verdict =
    summary.violations.length === 0
      ? "All is as it must be."
      : ["Not as it must be:", ...summary.violations.map((sentence) => `  ${sentence}`)].join("\n");
  const head = `Chaos: seed ${summary.seed}, ${summary.seconds} s of faults, tokens of ${formatDuration(summary.lifetime)}`;
  return `\n${head}\n\n${columns([whatFor, ...faults])}\n\n${columns(figures)}\n\n${verdict}\n`;
}

/** `12, excused: 10 outage, 2 by hand; 0 that count`. */
function judged({ counts = 0, ...excused }: Judged): string {
  const reasons = Object.entries(excused).map(([reason, count]) => `${count} ${reason}`);
  return `${counts}${reasons.length > 0 ? ` (and excused: ${reasons.join(", ")})` : ""}`;
}

function columns(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) =>
    Math.max(...rows.map((row) => (row.length > 2 || column === 0 ? row[column]!.length : 0))),
  );
  return rows
    .map((row) =>
      row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column]!))).join("  "),
    )
    .join("\n");
}
