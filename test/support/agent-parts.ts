/** A token's configuration, and a refresher whose clock, randomness and mint are the test's. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { TokenEvent } from "../../src/agent/events.ts";
import { FailureFile } from "../../src/agent/failure-file.ts";
import type { mint } from "../../src/agent/mint.ts";
import { Refresher } from "../../src/agent/refresher.ts";
import type { RefresherTools } from "../../src/agent/refresher-tools.ts";
import { Slots } from "../../src/agent/slots.ts";
import type { TokenConfig } from "../../src/config/load.ts";
import type { Token } from "../../src/core/token.ts";
import { openLog } from "../../src/os/log.ts";
import { StandingClock, temporaryDirectory } from "./unit.ts";

export const LIFE = 3_600_000;

/** As `loadConfig` makes it, for a token whose runtime directory is `run`. */
export function tokenConfig(run: string, more: Partial<TokenConfig> = {}): TokenConfig {
  return {
    name: "copilot",
    source: "command",
    options: { command: ["unused"], shell: false, format: "auto" },
    path: join(run, "copilot/token"),
    ownDirectory: true,
    timeout: 30_000,
    jitter: 0,
    baseUrls: [],
    ...more,
  } as TokenConfig;
}

type MintRequest = Parameters<typeof mint>[1];

export interface Workshop {
  readonly run: string;
  readonly config: TokenConfig;
  readonly clock: StandingClock;
  readonly events: TokenEvent[];
  /** Lines of the log, parsed. */
  readonly lines: Record<string, unknown>[];
  /** The requests of all mints so far. */
  readonly mints: MintRequest[];
  /** How often the agent's loop was woken up. */
  woken: number;
  random: number;
  /** What the source does; unless told, a new token that lives for an hour. */
  mint: (request: MintRequest) => Promise<Token> | Token;
  /** Another refresher of the same token, as after a restart. */
  open(tools?: Partial<RefresherTools>): Refresher;
}

export function openWorkshop(t: { after(clean: () => void): void }, more: Partial<TokenConfig> = {}): Workshop {
  const run = temporaryDirectory(t);
  mkdirSync(join(run, "agent"), { mode: 0o700 });
  const clock = new StandingClock();
  const config = tokenConfig(run, more);
  const slots = new Slots();
  const workshop: Workshop = {
    run,
    config,
    clock,
    events: [],
    lines: [],
    mints: [],
    woken: 0,
    random: 0,
    mint: () => ({ value: `token-number-${workshop.mints.length}`, expires: clock.now() + LIFE }),
    open: (tools = {}) =>
      new Refresher(config, {
        clock,
        random: () => workshop.random,
        log: openLog("debug", { write: (line: string) => workshop.lines.push(JSON.parse(line)) }),
        mint: async (asked, request) => {
          assert.equal(asked, config);
          workshop.mints.push(request);
          return workshop.mint(request);
        },
        slots,
        failures: new FailureFile(join(run, "agent"), config.name),
        schedule: undefined,
        control: join(run, "agent/control.sock"),
        wake: () => workshop.woken++,
        observe: (event) => workshop.events.push(event),
        ...tools,
      }),
  };
  return workshop;
}
