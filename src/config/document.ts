import type { AST } from "toml-eslint-parser";
import { getStaticTOMLValue, ParseError, parseTOML } from "toml-eslint-parser";
import { FreshkeyError } from "../core/errors.ts";

/** A TOML document that knows where each of its keys stands. */
export interface TomlDocument {
  readonly values: Record<string, unknown>;
  /** The line of the key at `path`, or of the nearest table around it; 1 where there is none. */
  lineOf(path: readonly string[]): number;
}

/** @throws FreshkeyError `ERR_CONFIG_SYNTAX` with file, line and column. */
export function parseDocument(text: string, file: string): TomlDocument {
  try {
    const program = parseTOML(text, { tomlVersion: "1.0.0" });
    const lines = new Map<string, number>();
    for (const node of program.body[0].body) record(node, [], lines);
    // Taken as a value it would change every object of this process.
    const proto = [...lines].find(([path]) => (JSON.parse(path) as string[]).includes("__proto__"));
    if (proto) throw new FreshkeyError("ERR_CONFIG_SYNTAX", `${file}:${proto[1]}: a key cannot be called __proto__`);
    return {
      values: getStaticTOMLValue(program) as Record<string, unknown>,
      lineOf(path) {
        for (let end = path.length; end > 0; end--) {
          const line = lines.get(JSON.stringify(path.slice(0, end)));
          if (line !== undefined) return line;
        }
        return 1;
      },
    };
  } catch (error) {
    if (!(error instanceof ParseError)) throw error;
    throw new FreshkeyError("ERR_CONFIG_SYNTAX", `${file}:${error.lineNumber}:${error.column + 1}: ${error.message}`, {
      hint: "mend that line; strings need quotes, and a table begins with [name]",
      cause: error,
    });
  }
}

type Recorded = AST.TOMLTable | AST.TOMLKeyValue;

function record(node: Recorded, above: readonly string[], lines: Map<string, number>): void {
  const own = node.type === "TOMLTable" ? node.resolvedKey.map(String) : node.key.keys.map(keyName);
  const path = [...above, ...own];
  for (let end = above.length + 1; end <= path.length; end++) {
    const key = JSON.stringify(path.slice(0, end));
    if (!lines.has(key) || end === path.length) lines.set(key, node.loc.start.line);
  }
  if (node.type === "TOMLTable") for (const child of node.body) record(child, path, lines);
  else if (node.value.type === "TOMLInlineTable") for (const child of node.value.body) record(child, path, lines);
}

function keyName(key: AST.TOMLBare | AST.TOMLQuoted): string {
  return key.type === "TOMLBare" ? key.name : key.value;
}
