import { accessSync, constants } from "node:fs";
import { constants as system } from "node:os";
import { delimiter, join } from "node:path";
import { FreshkeyError } from "../core/errors.ts";
import { PROGRAM, READER } from "./context.ts";
import { result } from "./output.ts";
import type { Invocation, Verb } from "./verb.ts";

const DEFAULT_SECONDS = 30;

export const demo: Verb = {
  usage: "demo",
  summary: "the whole thing on this machine, no account needed, in half a minute",
  details: `Starts identity endpoints and a gateway on loopback, the real agent, and two clients that ask once a second:
one with the key it read at its start, one with the reader. Half-way the agent is killed and started again.
The exit code is 0 if the client with freshkey was never refused.`,
  options: {
    seconds: { value: "N", help: `how long (${DEFAULT_SECONDS})` },
    copilot: { help: "the real GitHub Copilot CLI as the second client (it must be installed)" },
  },
  examples: [
    ["freshkey demo", "watch it"],
    ["freshkey demo --seconds 10 --json", "a summary for a program"],
  ],
  operands: 0,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const seconds = Number(invocation.text("seconds") ?? DEFAULT_SECONDS);
  if (!Number.isInteger(seconds) || seconds < 2 || seconds > 3_600) {
    throw new FreshkeyError("ERR_USAGE", "--seconds must be a whole number from 2 to 3600");
  }
  const { runDemo } = await import("../demo/demo.ts");
  const { openScreen } = await import("../demo/screen.ts");
  const json = invocation.flag("json");
  const screen = json || invocation.flag("quiet") ? undefined : openScreen(process.stdout, process.env);
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort(signal));
  try {
    const summary = await runDemo({
      seconds,
      program: PROGRAM,
      reader: READER,
      copilot: invocation.flag("copilot") ? findOnPath("copilot") : undefined,
      signal: interrupted.signal,
      onEvent: (event) => screen?.show(event),
    });
    if (json) result(`${JSON.stringify(summary)}\n`);
    else screen?.close(summary);
    const { requests, refused } = summary.lanes.freshkey;
    return requests > 0 && refused === 0 ? 0 : 1;
  } catch (error) {
    if (interrupted.signal.aborted) return 128 + system.signals[interrupted.signal.reason as "SIGINT" | "SIGTERM"];
    throw error;
  }
}

function findOnPath(name: string): string {
  for (const directory of (process.env.PATH ?? "").split(delimiter)) {
    try {
      const path = join(directory, name);
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not there.
    }
  }
  throw new FreshkeyError("ERR_CLIENT", `${name} is not on the PATH`, {
    hint: "npm install --global @github/copilot, or run the demo without --copilot",
  });
}
