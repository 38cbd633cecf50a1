/**
 * The mint process: reads one JSON line with source, options and request from stdin, answers with one JSON line on
 * descriptor 3 (what a library prints goes elsewhere), and ends. When stdin ends, whoever asked is gone: it ends too,
 * with all its children.
 */
import { writeSync } from "node:fs";
import { FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import type { Token } from "../core/token.ts";
import type { Mint, MintAnswer, MintRequest } from "./source.ts";

type Options = Record<string, unknown>;

/** Each source is loaded only when it is the one asked for. */
const SOURCES: Record<string, () => Promise<Mint<never>>> = {
  azure: async () => (await import("./azure.ts")).mintAzure,
  aws: async () => (await import("./aws.ts")).mintAws,
};

const ANSWER_ON = 3;

function answer(content: MintAnswer): never {
  writeSync(ANSWER_ON, `${JSON.stringify(content)}\n`);
  process.exit();
}

/** Ends this process and all that it started: it leads a process group of its own. */
function endGroup(): never {
  try {
    process.kill(-process.pid, "SIGKILL");
  } catch {
    // Not the leader of a group: somebody runs this file by hand.
  }
  process.exit();
}

async function mintOnce(line: string): Promise<Token> {
  const { source, options, request } = JSON.parse(line) as { source: string; options: Options; request: MintRequest };
  const load = SOURCES[source];
  if (!load) throw new FreshkeyError("ERR_INTERNAL", `there is no source "${source}"`);
  const run = (await load()) as Mint<Options>;
  return run(options, { ...request, signal: AbortSignal.timeout(request.timeout) });
}

process.title = "freshkey mint";
let received = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk: string) => {
  const complete = received.includes("\n");
  received += chunk;
  if (complete || !received.includes("\n")) return;
  mintOnce(received)
    .then((token) => answer({ ok: true, token }))
    .catch((error) => {
      const known = FreshkeyError.from(error, "ERR_SOURCE_FAILED");
      answer({ ok: false, error: { ...known.toJSON(), message: mask(known.message, 1_000) } });
    });
});
process.stdin.on("end", endGroup);
