import { closeSync, constants, openSync, writeSync } from "node:fs";
import { errno } from "../core/errors.ts";
import type { Observer, TokenEvent } from "./events.ts";

/**
 * The audit log: one JSON line an event, appended, 0600. It tells by fingerprint what was minted, published, rejected
 * and refused, and when. It is opened for each line, so that it may be moved away at any time.
 *
 * @param complain is told, once until it works again, why nothing can be written: the tokens go on.
 */
export function auditLog(path: string, complain: (problem: string) => void, now: () => number = Date.now): Observer {
  let broken = false;
  return ({ name, source }, event) => {
    const line = { time: new Date(now()).toISOString(), event: event.kind, name, source, ...details(event) };
    try {
      append(path, `${JSON.stringify(line)}\n`);
      broken = false;
    } catch (error) {
      if (!broken) complain(`cannot write the audit log ${path}: ${errno(error) ?? error}`);
      broken = true;
    }
  };
}

function details(event: TokenEvent): object {
  switch (event.kind) {
    case "failed":
    case "recovered": {
      const { error, attempts, since } = event.failure;
      return { code: error.code, message: error.message, attempts, since: new Date(since).toISOString() };
    }
    case "published":
    case "minted": {
      const { kind: _kind, expires, ...rest } = event;
      return { ...rest, expires: expires === 0 ? null : new Date(expires).toISOString() };
    }
    default: {
      const { kind: _kind, ...rest } = event;
      return rest;
    }
  }
}

function append(path: string, line: string): void {
  const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW } = constants;
  const file = openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  try {
    writeSync(file, line);
  } finally {
    closeSync(file);
  }
}
