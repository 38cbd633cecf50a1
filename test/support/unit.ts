/** What the unit tests share: a clock of their own, a directory of their own, properties with a fixed seed. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import fc from "fast-check";
import type { Clock } from "../../src/os/clock.ts";

/** Of every property: `SEED=42 npm test` tries other cases. */
const SEED = Number(process.env.SEED ?? 20_261_123);

/** Checks a property with a fixed seed, and prints it: what fails once fails again. */
export function holds<T>(t: TestContext, property: fc.IRawProperty<T>, numRuns = 300): void {
  t.diagnostic(`seed ${SEED}, ${numRuns} cases`);
  fc.assert(property, { seed: SEED, numRuns });
}

/** Uniform in [0, 1), like Math.random. */
export const random01 = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

/** A private directory (0700) that is removed with the test. Its path is short: a socket's has 103 bytes at most. */
export function temporaryDirectory(t: { after(clean: () => void): void }): string {
  const path = mkdtempSync(join(tmpdir().length <= 24 ? tmpdir() : "/tmp", "fk-unit-"));
  t.after(() => rmSync(path, { recursive: true, force: true, maxRetries: 3 }));
  return path;
}

/** A clock that stands still until it is told to go on. */
export class StandingClock implements Clock {
  wall: number;
  up = 5_000_000;

  constructor(wall = Date.parse("2026-11-23T09:00:00Z")) {
    this.wall = wall;
  }

  now(): number {
    return this.wall;
  }

  uptime(): number {
    return this.up;
  }

  after(): { cancel(): void } {
    return { cancel() {} };
  }

  /** Lets `ms` pass. */
  pass(ms: number): void {
    this.wall += ms;
    this.up += ms;
  }
}

/** The text of a JWT with these claims, signed by nobody. */
export function jwt(claims: Record<string, unknown>, header: Record<string, unknown> = { alg: "RS256", typ: "JWT" }) {
  const part = (content: unknown) => Buffer.from(JSON.stringify(content)).toString("base64url");
  return `${part(header)}.${part(claims)}.${"c2lnbmF0dXJl".repeat(8)}`;
}

/** Fails if 12 characters in a row of `secret` are in `text`. It shows neither of them. */
export function assertNothingOf(secret: string, text: string, where: string): void {
  for (let at = 0; at + 12 <= secret.length; at++) {
    if (text.includes(secret.slice(at, at + 12)))
      assert.fail(`${where} has characters ${at} to ${at + 12} of the secret`);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until `condition` gives something true, and returns that; throws after `timeout` milliseconds. */
export async function until<T>(what: string, condition: () => T, timeout = 5_000) {
  for (const end = Date.now() + timeout; ; await pause(10)) {
    const value = condition();
    if (value) return value as Exclude<NonNullable<T>, false>;
    if (Date.now() > end) throw new Error(`after ${timeout} ms still not: ${what}`);
  }
}
