import { appendFileSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { formatTokenJson, type TokenJson } from "../../src/reader/token-file.ts";
import type { Sandbox } from "./freshkey.ts";

export interface Behaviour {
  /** Of its tokens, in seconds; 0: it prints the bare token, whose expiry nobody knows. 3,600 unless told. */
  readonly lifetime?: number;
  /** Seconds that it takes. */
  readonly delay?: number;
  /** Its exit code. With another one than 0 it prints no token. */
  readonly exit?: number;
  /** What it says on stderr. */
  readonly says?: string;
}

/** A program for `source = "command"` that can be told how to behave, and writes down when it was run. */
export interface Source {
  /** The program's path. */
  readonly path: string;
  /** The table `[tokens.NAME]` that uses it, with more lines of TOML if given. */
  toml(name: string, more?: string): string;
  behave(behaviour: Behaviour): void;
  /** From now on it begins and gets no further, until it is released. */
  hold(): void;
  release(): void;
  /** How often it was run. */
  runs(): number;
  /** When it was run, epoch milliseconds. */
  times(): number[];
}

const SCRIPT = `#!/bin/sh
date +%s%3N >>"$0.runs"
. "$0.behaviour"
while [ -e "$0.held" ]; do sleep 0.05; done
sleep "$delay"
[ -z "$says" ] || echo "$says" >&2
[ "$exit" -eq 0 ] || exit "$exit"
token=tok-$(cat /proc/sys/kernel/random/uuid)
[ "$lifetime" -ne 0 ] || exec printf %s "$token"
printf '{"access_token":"%s","expires_in":%s}' "$token" "$lifetime"
`;

/** Puts such a program into the sandbox. Linux only. */
export function openSource(box: Sandbox, behaviour: Behaviour = {}, name = "source"): Source {
  const path = box.writeScript(name, SCRIPT);
  const log = `${path}.runs`;
  appendFileSync(log, "");
  const source: Source = {
    path,
    toml: (token, more = "") => `[tokens.${token}]\nsource = "command"\ncommand = ["${path}"]\n${more}\n`,
    behave({ lifetime = 3600, delay = 0, exit = 0, says = "" }) {
      const lines = `lifetime=${lifetime} delay=${delay} exit=${exit} says='${says}'\n`;
      // As a whole: it may be run just now.
      writeFileSync(`${path}.new`, lines);
      renameSync(`${path}.new`, `${path}.behaviour`);
    },
    hold: () => writeFileSync(`${path}.held`, ""),
    release: () => rmSync(`${path}.held`),
    runs: () => source.times().length,
    times: () => readFileSync(log, "utf8").split("\n").filter(Boolean).map(Number),
  };
  source.behave(behaviour);
  return source;
}

/** Lets token.json say that the token was minted a minute earlier: the agent mints anew for one that is rejected then. */
export function makeOlder(tokenPath: string): void {
  const path = `${tokenPath}.json`;
  const json = JSON.parse(readFileSync(path, "utf8")) as TokenJson;
  writeFileSync(`${path}.older`, formatTokenJson({ ...json, minted: json.minted - 60 }), { mode: 0o600 });
  renameSync(`${path}.older`, path);
}
