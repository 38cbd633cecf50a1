import type { Clock } from "../os/clock.ts";
import type { Log } from "../os/log.ts";
import type { TokenEvent } from "./events.ts";
import type { FailureFile } from "./failure-file.ts";
import type { mint } from "./mint.ts";
import type { Schedule } from "./schedule.ts";
import type { Slots } from "./slots.ts";

/** What a refresher works with; clock, randomness and the mint are injected in tests. */
export interface RefresherTools {
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly mint: typeof mint;
  readonly slots: Slots;
  readonly failures: FailureFile;
  readonly schedule: Schedule | undefined;
  /** The agent's control socket, for token.json. */
  readonly control: string;
  /** Called when `nextDue` may have become earlier. */
  readonly wake: () => void;
  /** Tells whether the source has another token to give, where one look can. Asked at every tick. */
  readonly sourceStamp?: (() => string | undefined) | undefined;
  /** Whether the gateway rejects a token; undefined where it cannot be asked. */
  readonly gatewayRejects?: ((token: string, signal: AbortSignal) => Promise<boolean>) | undefined;
  /** Called for everything that happens to the token. */
  readonly observe?: (event: TokenEvent) => void;
}
