import type { Observer } from "./events.ts";

/** So many failures in a row, about half a minute, before a person is told of what may pass by itself. */
const PATIENCE = 5;

/**
 * Tells the user what they have to know, once an episode: that a sign-in is needed or a request was refused, that a
 * token has run out and its source still fails, and that it is over.
 */
export function notes(show: (text: string) => void): Observer {
  const told = new Set<string>();
  return ({ name }, event) => {
    if (event.kind === "failed") {
      const { error, attempts } = event.failure;
      const passing = error.class === "transient" || error.class === "internal";
      if (told.has(name) || (passing && (event.usable || attempts < PATIENCE))) return;
      told.add(name);
      show(`${name}: ${error.message}${error.hint ? `. ${error.hint}` : ""}`);
    } else if (event.kind === "removed") {
      told.delete(name);
    } else if (event.kind === "published" && told.delete(name)) {
      show(`${name}: fresh again`);
    }
  };
}
