/** What will go wrong, when and for how long: all of it decided by the seed before anything starts. */
import { randomFrom } from "../support/random.ts";

/** Faults of the provider and of the machine happen side by side; of one lane there is one at a time. */
export type Lane = "provider" | "machine";

export const KINDS = {
  provider: ["down", "slow", "throttled", "error-500", "html", "half-json", "tls-broken"],
  machine: [
    "clock-forward",
    "clock-back",
    "clock-nudged",
    "asleep",
    "agent-stopped",
    "agent-killed",
    "mints-killed",
    "disk-full",
    "read-only",
    "directory-removed",
    "directory-replaced",
    "runtime-removed",
    "token-removed",
    "token-edited",
    "token-replaced",
    "json-removed",
    "json-edited",
    "config-broken",
    "config-extended",
    "two-agents-more",
    "killed-and-two-started",
  ],
} as const;

export type Kind = (typeof KINDS)[Lane][number];

/** Milliseconds. `amount`, uniform in [0, 1), is for what else there is to choose: how slow, how far the clock is off. */
export interface PlannedFault {
  readonly lane: Lane;
  readonly kind: Kind;
  readonly at: number;
  readonly lasts: number;
  readonly amount: number;
}

/** Most outages are shorter than the part of a token's life that is left when it is renewed, some are longer than all of it. */
const SHORT = [300, 2_500] as const;
const LONG = [6_000, 12_000] as const;
const LONG_SHARE = 0.25;
/**
 * Between two faults of a lane: sometimes too short to recover from the first. Of the provider's longer, since the back-off
 * is made for tokens of an hour: once it has grown past the life of these here, nothing but the back-off would be seen.
 */
const GAP = { provider: [2_000, 12_000], machine: [1_000, 5_000] } as const;

/**
 * From ten seconds to two hours. Less than five the agent cannot tell from the rounding of the uptime, and more than one
 * (`clock-nudged`) a token of eight seconds does not forgive, whereas to one of an hour neither is anything.
 */
export const far = (amount: number) => 10_000 + amount ** 3 * 7_200_000;

/** What is done in an instant, and mended by freshkey alone. */
const INSTANT: readonly Kind[] = [
  "agent-killed",
  "directory-removed",
  "runtime-removed",
  "token-removed",
  "token-edited",
  "token-replaced",
  "json-removed",
  "json-edited",
  "two-agents-more",
  "killed-and-two-started",
];
/** Has to outlast a token to be what it is. Longer than `lifetime`, milliseconds. */
const OUTLASTS_A_TOKEN: readonly Kind[] = ["asleep", "agent-stopped"];

/** The faults of a run of `seconds` with tokens that live for `lifetime` milliseconds. The same seed gives the same ones. */
export function planFaults(seed: number, seconds: number, lifetime: number): PlannedFault[] {
  const lanes: Lane[] = ["provider", "machine"];
  return lanes
    .flatMap((lane, index) => planLane(lane, randomFrom(seed * 2 + index), seconds * 1_000, lifetime))
    .sort((a, b) => a.at - b.at);
}

function planLane(lane: Lane, random: () => number, end: number, lifetime: number): PlannedFault[] {
  const between = ([low, high]: readonly [number, number]) => Math.round(low + random() * (high - low));
  const faults: PlannedFault[] = [];
  let deck: Kind[] = [];
  for (let at = between(GAP[lane]); at < end; ) {
    // From a shuffled deck: each kind comes once before any comes twice.
    if (deck.length === 0) deck = shuffled(KINDS[lane], random);
    const kind = deck.pop()!;
    const long = random() < LONG_SHARE;
    const chosen = OUTLASTS_A_TOKEN.includes(kind)
      ? between([lifetime + 1_000, lifetime + 4_000])
      : between(long ? LONG : SHORT);
    const lasts = INSTANT.includes(kind) ? 0 : chosen;
    faults.push({ lane, kind, at, lasts, amount: random() });
    at += lasts + between(GAP[lane]);
  }
  return faults;
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const all = [...items];
  for (let i = all.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  return all;
}
