import * as v from "valibot";
import { FreshkeyError } from "../core/errors.ts";
import type { TomlDocument } from "./document.ts";
import { nearest } from "./nearest.ts";

/** Gathers everything that is wrong, so that one run of an editor mends it all. */
export class Mistakes {
  readonly #file: string;
  readonly #document: TomlDocument;
  readonly #found: { line: number; text: string }[] = [];

  constructor(file: string, document: TomlDocument) {
    this.#file = file;
    this.#document = document;
  }

  get any(): boolean {
    return this.#found.length > 0;
  }

  add(path: readonly string[], problem: string): void {
    const line = this.#document.lineOf(path);
    const key = path.length > 0 ? `${path.join(".")}: ` : "";
    this.#found.push({ line, text: `${this.#file}:${line}: ${key}${problem}` });
  }

  unknown(path: readonly string[], allowed: readonly string[]): void {
    const meant = nearest(path.at(-1)!, allowed);
    this.add(path, `unknown key; ${meant ? `did you mean "${meant}"?` : `allowed are ${allowed.join(", ")}`}`);
  }

  /** Checks `value` against `schema`; what is wrong is gathered, with the keys that `allowed` names. */
  check<S extends v.GenericSchema>(
    schema: S,
    value: unknown,
    path: readonly string[],
    allowed: readonly string[],
  ): v.InferOutput<S> | undefined {
    const result = v.safeParse(schema, value);
    if (result.success) return result.output;
    for (const issue of result.issues) {
      const at = [...path, ...(issue.path ?? []).map((item) => String(item.key))];
      if (issue.type === "strict_object" && issue.expected === "never")
        this.unknown(at, at.length === path.length + 1 ? allowed : []);
      else this.add(at, issue.received === "undefined" ? "is missing" : issue.message);
    }
    return undefined;
  }

  raise(): void {
    if (!this.any) return;
    const lines = this.#found.sort((a, b) => a.line - b.line).map((mistake) => mistake.text);
    throw new FreshkeyError("ERR_CONFIG_INVALID", lines.join("\n"), {
      hint: `mend ${lines.length === 1 ? "that line" : `those ${lines.length} lines`}; what each key means: docs/configuration.md`,
    });
  }
}
