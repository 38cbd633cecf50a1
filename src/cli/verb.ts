import { parseArgs } from "node:util";
import { nearest } from "../config/nearest.ts";
import { DURATION_FORM, parseDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";

/** An option of a verb; `value` names what follows it (`--wait DURATION`), an option without one is a switch. */
export interface OptionSpec {
  readonly value?: string;
  readonly help: string;
}

/** One definition of a verb: what `--help` prints and what the command line is parsed by. */
export interface Verb {
  /** The command line after `freshkey`. */
  readonly usage: string;
  readonly summary: string;
  /** A paragraph or two for `--help`. */
  readonly details?: string;
  readonly options?: Readonly<Record<string, OptionSpec>>;
  /** Command lines that work as they stand, each with what it is for. */
  readonly examples: readonly (readonly [command: string, purpose: string])[];
  /** How many operands there may be; `Infinity` for a verb that runs a command. */
  readonly operands: number;
  /** Returns the exit code. */
  run(invocation: Invocation): Promise<number>;
}

export interface Invocation {
  readonly operands: readonly string[];
  /** What stands behind `--`. */
  readonly command: readonly string[];
  flag(name: string): boolean;
  text(name: string): string | undefined;
  /** Milliseconds. */
  duration(name: string): number | undefined;
}

/** Options that every verb has. */
export const COMMON_OPTIONS: Readonly<Record<string, OptionSpec>> = {
  config: { value: "FILE", help: "the configuration, instead of ~/.config/freshkey/config.toml" },
  json: { help: "the result, or the error, as one JSON document on stdout" },
  quiet: { help: "no messages but errors" },
  verbose: { help: "more messages; the causes of an error" },
  help: { help: "this text" },
};

/** @throws FreshkeyError `ERR_USAGE`. */
export function parseInvocation(name: string, verb: Verb, args: readonly string[]): Invocation {
  const specs = { ...verb.options, ...COMMON_OPTIONS };
  const hint = `see: freshkey ${name} --help`;
  const usage = (problem: string) => new FreshkeyError("ERR_USAGE", problem, { hint });
  const divider = args.indexOf("--");
  const own = divider < 0 ? args : args.slice(0, divider);
  const command = divider < 0 ? [] : args.slice(divider + 1);

  const { values, positionals, tokens } = parseArgs({
    args: [...own],
    options: Object.fromEntries(
      Object.entries(specs).map(([option, spec]) => [option, { type: spec.value ? "string" : "boolean" } as const]),
    ),
    allowPositionals: true,
    strict: false,
    tokens: true,
  });
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const spec = specs[token.name];
    if (!spec) {
      const meant = nearest(token.name, Object.keys(specs));
      throw usage(`${token.rawName} is no option of freshkey ${name}${meant ? `; did you mean --${meant}?` : ""}`);
    }
    if (spec.value && (token.value === undefined || token.value === "")) {
      throw usage(`${token.rawName} needs a value: --${token.name} ${spec.value}`);
    }
    if (!spec.value && token.value !== undefined) throw usage(`${token.rawName} takes no value`);
  }
  if (positionals.length > verb.operands)
    throw usage(`${JSON.stringify(positionals[verb.operands])} is one word too many`);
  if (command.length > 0 && verb.operands !== Number.POSITIVE_INFINITY) throw usage("this verb runs no command");

  const text = (option: string) => values[option] as string | undefined;
  return {
    operands: positionals,
    command,
    flag: (option) => values[option] === true,
    text,
    duration(option) {
      const given = text(option);
      const parsed = given === undefined ? undefined : parseDuration(given);
      if (given !== undefined && parsed === undefined) throw usage(`--${option} ${given}: must be ${DURATION_FORM}`);
      return parsed;
    },
  };
}

/** The text of `freshkey VERB --help`. */
export function helpText(verb: Verb): string {
  const options = Object.entries({ ...verb.options, ...COMMON_OPTIONS });
  const heads = options.map(([name, spec]) => `--${name}${spec.value ? ` ${spec.value}` : ""}`);
  const width = Math.max(...heads.map((head) => head.length));
  return [
    `freshkey ${verb.usage}`,
    "",
    `${verb.summary}.`,
    ...(verb.details ? ["", verb.details] : []),
    "",
    "Options:",
    ...options.map(([, spec], i) => `  ${heads[i]!.padEnd(width)}  ${spec.help}`),
    "",
    "Examples:",
    ...verb.examples.flatMap(([command, purpose]) => [`  # ${purpose}`, `  ${command}`]),
    "",
  ].join("\n");
}
