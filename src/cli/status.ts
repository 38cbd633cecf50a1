import type { AgentStatus } from "../agent/agent.ts";
import type { TokenStatus } from "../agent/token-status.ts";
import { formatDuration } from "../core/duration.ts";
import { CODES } from "../core/errors.ts";
import { openConfig } from "./context.ts";
import { message, result } from "./output.ts";
import type { Invocation, Verb } from "./verb.ts";

export const status: Verb = {
  usage: "status",
  summary: "every token: state, expiry, next renewal, last error",
  options: {
    check: { help: "say nothing; exit 0 if every token is fresh, else as its error says (69 without one)" },
    prometheus: { help: "metrics, for the textfile collector of node_exporter" },
  },
  examples: [
    ["freshkey status", "a table for a person"],
    ["freshkey status --json", "the same for a program"],
    ["freshkey status --check", "a probe: the exit code alone"],
  ],
  operands: 0,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const { agent, tokens } = await gather(invocation);
  const exitCode = Math.max(0, ...tokens.map(exitCodeOf));
  if (invocation.flag("check")) return exitCode;
  if (invocation.flag("json")) {
    const about = agent && { pid: agent.pid, since: agent.since, config_error: agent.config_error };
    result(`${JSON.stringify({ schema: 1, agent: about ?? null, tokens })}\n`);
    return 0;
  }
  if (invocation.flag("prometheus")) {
    const { prometheusText } = await import("../agent/prometheus.ts");
    result(prometheusText(agent !== undefined, tokens, Date.now()));
    return 0;
  }
  result(table(tokens, Date.now()));
  if (agent?.config_error) {
    message(invocation, `the configuration on disk is not in force: ${agent.config_error.message}`);
  }
  if (!agent)
    message(invocation, "no agent runs: tokens are renewed when a client asks; start one with `freshkey agent`");
  return 0;
}

/** From the agent where one runs, else from what lies in the runtime directory. */
async function gather(
  invocation: Invocation,
): Promise<{ agent: AgentStatus | undefined; tokens: readonly TokenStatus[] }> {
  const { agentDirectory, controlSocket } = await import("../agent/agent.ts");
  const { askAgent, NoAgent } = await import("../os/control-client.ts");
  const { runDirectory } = await import("../os/paths.ts");
  const run = runDirectory().path;
  try {
    const agent = await askAgent<AgentStatus>(controlSocket(run), { op: "status" }, { timeout: 5_000 });
    return { agent, tokens: agent.tokens };
  } catch (error) {
    if (!(error instanceof NoAgent)) throw error;
  }
  const { published } = await import("../agent/publish.ts");
  const { FailureFile } = await import("../agent/failure-file.ts");
  const { describeToken } = await import("../agent/token-status.ts");
  const config = await openConfig(invocation);
  const tokens = [...config.tokens.values()].map((token) =>
    describeToken(token, {
      found: published(token),
      failure: new FailureFile(agentDirectory(run), token.name).read(),
      minting: false,
      nextRenewal: 0,
      now: Date.now(),
    }),
  );
  return { agent: undefined, tokens };
}

function exitCodeOf(token: TokenStatus): number {
  if (token.state === "fresh" || token.state === "renewing") return 0;
  const usable = token.expires === 0 ? token.fingerprint !== "" : token.expires * 1000 > Date.now();
  if (token.state === "failing" && usable) return 0;
  return token.error ? CODES[token.error.code].exit : 69;
}

function table(tokens: readonly TokenStatus[], now: number): string {
  const until = (seconds: number) => (seconds === 0 ? "-" : relative(seconds * 1000 - now));
  const rows = tokens.map((one) => [
    one.name,
    one.state,
    one.fingerprint === "" ? "-" : one.expires === 0 ? "unknown" : until(one.expires),
    until(one.next_renewal),
    one.source,
    one.fingerprint || "-",
  ]);
  const all = [["TOKEN", "STATE", "EXPIRES", "NEXT RENEWAL", "SOURCE", "FINGERPRINT"], ...rows];
  const widths = all[0]!.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  const lines = all.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("  ")
      .trimEnd(),
  );
  tokens.forEach((one, index) => {
    if (one.error) lines[index + 1] += `\n  ${one.error.message}${one.error.hint ? `\n  → ${one.error.hint}` : ""}`;
  });
  return `${lines.join("\n")}\n`;
}

function relative(ms: number): string {
  if (Math.abs(ms) < 1_000) return "now";
  return ms > 0 ? `in ${formatDuration(ms)}` : `${formatDuration(-ms)} ago`;
}
