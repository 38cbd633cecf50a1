import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Sandbox } from "./freshkey.ts";

/** A credential that should be in one place alone, under a name by which a failing test may speak of it. */
export interface Secret {
  readonly name: string;
  readonly value: string;
}

/** A part of a secret of this many characters counts as a leak. */
const PIECE = 16;

/**
 * All that could give a secret away: what programs wrote, files, and the arguments and environments of processes,
 * sampled while they ran. Linux only.
 */
export class Evidence {
  readonly #texts: { where: string; text: string }[] = [];
  readonly #seen = new Set<string>();
  readonly #box: Sandbox;
  readonly #given: readonly string[];
  #timer: NodeJS.Timeout;

  /** Samples the processes of `box` from now on. `given` are variables into which the user has put secrets. */
  constructor(box: Sandbox, given: readonly string[]) {
    this.#box = box;
    this.#given = given;
    this.#timer = setInterval(() => this.#sample(), 25);
  }

  /** How many different programs' arguments were seen. */
  get processes(): number {
    return this.#texts.filter(({ where }) => where.startsWith("the arguments")).length;
  }

  add(where: string, text: string): void {
    if (this.#seen.has(`${where}\0${text}`)) return;
    this.#seen.add(`${where}\0${text}`);
    this.#texts.push({ where, text });
  }

  /** All files below `directory`, but those that `leaveOut` says. */
  addFiles(directory: string, leaveOut: (path: string) => boolean): void {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) this.addFiles(path, leaveOut);
      else if (entry.isFile() && !leaveOut(path)) this.add(`the file ${path}`, readFileSync(path, "latin1"));
    }
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Where something of a secret was found: names, never what. */
  leaks(secrets: readonly Secret[]): string[] {
    return secrets.flatMap(({ name, value }) => {
      const parts = pieces(value);
      const places = this.#texts.filter(({ text }) => parts.some((part) => text.includes(part)));
      return places.map(({ where }) => `${name} is in ${where}`);
    });
  }

  /** Whether `text` was written somewhere: that what is looked at is what was meant to be. */
  holds(text: string): boolean {
    return this.#texts.some((one) => one.text.includes(text));
  }

  #sample(): void {
    for (const pid of this.#box.processes()) {
      try {
        const name = readFileSync(`/proc/${pid}/comm`, "utf8").trim();
        const args = readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ");
        this.add(`the arguments of ${name}`, args);
        for (const variable of readFileSync(`/proc/${pid}/environ`, "latin1").split("\0")) {
          const [key = ""] = variable.split("=", 1);
          if (!this.#given.includes(key)) this.add(`the environment of ${name}`, variable);
        }
      } catch {
        // It has ended meanwhile.
      }
    }
  }
}

/** Parts of a secret that overlap, so that none of it in one run, but for a few characters, goes unnoticed. */
function pieces(value: string): string[] {
  if (value.length <= PIECE * 2) return [value];
  return Array.from({ length: Math.floor((value.length - PIECE) / (PIECE / 2)) + 1 }, (_, i) =>
    value.slice((i * PIECE) / 2, (i * PIECE) / 2 + PIECE),
  );
}
