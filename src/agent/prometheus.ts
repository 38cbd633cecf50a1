import type { State } from "../core/state.ts";
import type { Counts } from "./agent.ts";
import type { TokenStatus } from "./token-status.ts";

const STATES: readonly State[] = ["fresh", "renewing", "failing", "sign-in-needed", "expired", "missing"];

/** `status` in the text format of Prometheus (version 0.0.4). A token's name and source are safe in a label as they are. */
export function prometheusText(
  running: boolean,
  tokens: readonly (TokenStatus & Partial<Counts>)[],
  now: number,
): string {
  const lines: string[] = [];
  const metric = (name: string, type: "gauge" | "counter", help: string, samples: readonly string[]) => {
    if (samples.length === 0) return;
    lines.push(`# HELP freshkey_${name} ${help}`, `# TYPE freshkey_${name} ${type}`);
    lines.push(...samples.map((sample) => `freshkey_${name}${sample}`));
  };
  const each = (value: (token: TokenStatus & Partial<Counts>) => number | undefined) =>
    tokens.flatMap((token) => {
      const amount = value(token);
      return amount === undefined ? [] : [`{name="${token.name}",source="${token.source}"} ${amount}`];
    });
  metric("agent_up", "gauge", "Whether an agent runs.", [` ${running ? 1 : 0}`]);
  metric(
    "token_state",
    "gauge",
    "1 for the state that the token is in.",
    tokens.flatMap((token) =>
      STATES.map(
        (state) => `{name="${token.name}",source="${token.source}",state="${state}"} ${+(token.state === state)}`,
      ),
    ),
  );
  const expiry = each((token) => token.expires || undefined);
  metric("token_expiry_timestamp_seconds", "gauge", "When the token expires, where that is known.", expiry);
  const left = each((token) => (token.expires === 0 ? undefined : token.expires - Math.floor(now / 1000)));
  metric("token_remaining_seconds", "gauge", "Life that the token has left, where its expiry is known.", left);
  metric(
    "token_renewals_total",
    "counter",
    "Tokens published since the agent was started.",
    each((token) => token.renewals),
  );
  metric(
    "token_failures_total",
    "counter",
    "Mints that failed since the agent was started.",
    each((token) => token.failures),
  );
  const rejections = each((token) => token.rejections);
  metric("token_rejections_total", "counter", "Tokens that clients reported as rejected.", rejections);
  return `${lines.join("\n")}\n`;
}
