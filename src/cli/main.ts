import { nearest } from "../config/nearest.ts";
import { FreshkeyError } from "../core/errors.ts";
import { report, result } from "./output.ts";
import { helpText, parseInvocation, type Verb } from "./verb.ts";

/** The verbs, in the order in which a newcomer meets them. Only the one that is asked for is loaded. */
const VERBS: Record<string, () => Promise<Verb>> = {
  demo: async () => (await import("./demo.ts")).demo,
  connect: async () => (await import("./connect.ts")).connect,
  exec: async () => (await import("./exec.ts")).exec,
  agent: async () => (await import("./agent.ts")).agent,
  renew: async () => (await import("./renew.ts")).renew,
  token: async () => (await import("./token.ts")).token,
  status: async () => (await import("./status.ts")).status,
};

/** Runs one command line (without `node` and the program's name) and returns the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const own = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  try {
    checkPlatform();
    const [name, ...rest] = args;
    if (name === undefined || name === "--help" || name === "help") {
      (name === undefined ? process.stderr : process.stdout).write(await overview());
      return name === undefined ? 64 : 0;
    }
    if (name === "--version") {
      result(`${await version()}\n`);
      return 0;
    }
    const load = VERBS[name];
    if (!load) {
      const meant = nearest(name, Object.keys(VERBS));
      throw new FreshkeyError("ERR_USAGE", `there is no verb "${name}"${meant ? `; did you mean "${meant}"?` : ""}`, {
        hint: "see: freshkey --help",
      });
    }
    const verb = await load();
    const invocation = parseInvocation(name, verb, rest);
    if (invocation.flag("help")) {
      result(helpText(verb));
      return 0;
    }
    return await verb.run(invocation);
  } catch (error) {
    return report(error, { json: own.includes("--json"), verbose: own.includes("--verbose") });
  }
}

function checkPlatform(): void {
  if (process.platform !== "win32") return;
  throw new FreshkeyError("ERR_PLATFORM", "native Windows is not supported yet", { hint: "use freshkey in WSL2" });
}

async function overview(): Promise<string> {
  const verbs = await Promise.all(Object.values(VERBS).map((load) => load()));
  const width = Math.max(...verbs.map((verb) => verb.usage.length));
  return [
    "freshkey keeps short-lived API credentials fresh on disk, so that no coding CLI has to be restarted for one.",
    "",
    ...verbs.map((verb) => `  freshkey ${verb.usage.padEnd(width)}  ${verb.summary}`),
    "",
    "`freshkey VERB --help` says more. Start with: freshkey demo",
    "",
  ].join("\n");
}

async function version(): Promise<string> {
  const { readFile } = await import("node:fs/promises");
  const manifest = await readFile(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(manifest) as { version: string }).version;
}
