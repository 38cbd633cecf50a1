import { formatDuration } from "../core/duration.ts";
import { openConfig, openVerbLog } from "./context.ts";
import { message, report, result } from "./output.ts";
import type { Invocation, Verb } from "./verb.ts";

export const renew: Verb = {
  usage: "renew [NAME]",
  summary: "renew what is due, then exit",
  details: `For cron and timers: quiet when nothing is due, and safe to run beside an agent, which is asked where one runs.
Without a NAME it looks after every token. The exit code is that of the first failure.`,
  options: { force: { help: "renew although nothing is due; overwrite a file that freshkey did not write" } },
  examples: [
    ["freshkey renew", "renew whatever is due"],
    ["freshkey renew copilot --force", "get a new token now"],
  ],
  operands: 1,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const { renewAll } = await import("../agent/renew.ts");
  const { tokenOf } = await import("../config/load.ts");
  const { runDirectory } = await import("../os/paths.ts");
  const config = await openConfig(invocation);
  const [name] = invocation.operands;
  const tokens = name === undefined ? [...config.tokens.values()] : [tokenOf(config, name)];
  const outcomes = await renewAll(
    config,
    tokens.map((token) => token.name),
    {
      run: runDirectory().path,
      log: await openVerbLog(invocation),
      // The mint keeps its own deadline; this is for whoever mints in another process.
      timeout: Math.max(...tokens.map((token) => token.timeout)) + 5_000,
      force: invocation.flag("force"),
    },
  );
  if (invocation.flag("json")) {
    const records = outcomes.map((one) =>
      "answer" in one ? { name: one.name, ...one.answer } : { name: one.name, error: one.error.toJSON() },
    );
    result(`${JSON.stringify(records)}\n`);
  }
  let exitCode = 0;
  for (const outcome of outcomes) {
    if ("error" in outcome) {
      if (invocation.flag("json")) exitCode ||= outcome.error.exitCode;
      else {
        outcome.error.message = `${outcome.name}: ${outcome.error.message}`;
        exitCode ||= report(outcome.error, { json: false, verbose: invocation.flag("verbose") });
      }
    } else if (outcome.answer.result === "renewed" || invocation.flag("verbose")) {
      const { expires } = outcome.answer;
      const life = expires === 0 ? "expiry unknown" : `expires in ${formatDuration(expires * 1000 - Date.now())}`;
      const said = outcome.answer.result === "renewed" ? "renewed" : "not due";
      if (!invocation.flag("json")) message(invocation, `${outcome.name}: ${said}, ${life}`);
    }
  }
  return exitCode;
}
