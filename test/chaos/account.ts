/**
 * The accounts of a run: pure functions of what was recorded. All instants are epoch milliseconds of the true clock.
 *
 * What a client meets counts against freshkey unless it is excused, and these are all the excuses there are:
 *
 * - `outage`: there was no token because for all of the overlap (from when the token in place was due for renewal to its
 *   expiry) no mint could succeed and be published: the provider failed, mints were killed, the disk was full or
 *   read-only, the agent that holds the lock was stopped. It holds until the first token after it.
 * - `back-off`: the same where one mint would have been possible in the overlap, but the failure clock, which spares the
 *   provider, was still running. Excuses no 401.
 * - `by hand`: somebody wrote something into the files that is no token of the provider, until the next one was there.
 * - `clock`: the clock was ahead by more than a token lives. What the helper hands out says when it expires, so that by
 *   that clock it has; nothing can be right then. It holds until the first token after it.
 * - `asleep`: the machine was suspended while the request was under way. (In a real suspend timers stand still, under
 *   SIGSTOP they don't; and a request that was given its token before and leaves after it nobody can help.)
 *
 * A 401 is excused by `by hand` and `asleep` alone: a reader has to refuse an expired token, whatever the provider does.
 */
import { far, type Kind, type PlannedFault } from "./plan.ts";
import type { Issue } from "./provider.ts";

export interface Interval {
  readonly from: number;
  readonly to: number;
}

/** A fault that was brought about. */
export interface Fault extends Interval {
  readonly planned: PlannedFault;
  readonly token?: string | undefined;
  readonly blocks: boolean;
  readonly laid?: readonly string[] | undefined;
}

/** A request of the independent client. */
export interface Request {
  readonly request: string;
  /** When the token was asked for, when it was there, and when the answer was. */
  readonly start: number;
  readonly got?: number;
  readonly end: number;
  readonly fingerprint?: string;
  readonly status?: number;
  /** Of the error instead of an answer. */
  readonly code?: string;
  readonly message?: string;
}

/** What a reader saw: for the first time, or that must not be. */
export interface Sight {
  readonly kind: "seen" | "expired" | "late";
  readonly fingerprint: string;
  readonly name: string;
  readonly how?: string;
  readonly at: number;
  readonly by?: number;
}

/** A time in which a token's file held none that a gateway would have taken. */
export interface Gap extends Interval {
  readonly name: string;
}

export interface Records {
  readonly faults: readonly Fault[];
  readonly issues: readonly Issue[];
  readonly requests: readonly Request[];
  readonly sights: readonly Sight[];
  readonly gaps: readonly Gap[];
}

export type Excuse = "outage" | "back-off" | "by hand" | "clock" | "asleep";
export type Verdict = Excuse | undefined;

/** A mint takes so long at most on a busy machine: less of the overlap is no chance. */
const ONE_MINT = 1_500;
/** The policy: renewed at two thirds of the life at the latest. */
const RENEWED_AT = 2 / 3;
/** How long after the first token has been seen others may still be on their way to it. */
const SETTLING = 500;
/** The agent notices what a hand has done within this, or with the next renewal; then it mints. */
const NOTICED_WITHIN = 10_000;
const CLOCK_KINDS: readonly Kind[] = ["clock-forward", "clock-back", "clock-nudged"];
/** The token whose source says when it expires, and not how long it lives. */
const ABSOLUTE_EXPIRY = "helper";
/** Kinds that spoil what readers read. */
const BY_HAND: readonly Kind[] = ["token-edited", "token-replaced", "json-edited", "directory-replaced"];

export class Accounts {
  readonly #records: Records;
  /** Of tokens that reached a reader: when the first one saw them. */
  readonly #seenAt = new Map<string, number>();
  readonly #laid: ReadonlySet<string>;

  constructor(records: Records) {
    this.#records = records;
    for (const { kind, fingerprint, at } of records.sights) {
      if (kind === "seen" && !this.#seenAt.has(fingerprint)) this.#seenAt.set(fingerprint, at);
    }
    this.#laid = new Set(records.faults.flatMap(({ laid }) => laid ?? []));
  }

  /** Why a 401 does not count, or undefined if it does. */
  judgeRefusal(request: Request): Verdict {
    if (this.#laid.has(request.fingerprint ?? "")) return "by hand";
    return this.#asleep({ from: request.got ?? request.start, to: request.end }) ? "asleep" : undefined;
  }

  /** Why it does not count that there was no token, or undefined if it does. */
  judgeFailure(request: Request): Verdict {
    if (this.#asleep({ from: request.start, to: request.end })) return "asleep";
    if (this.#spoilt(request.request, request.end)) return "by hand";
    return this.judgeAbsence(request.request, request.end);
  }

  /** The same for an instant at which a token's file held nothing usable. */
  judgeAbsence(name: string, at: number): Verdict {
    const causes = this.outages(name).filter(
      ({ from, to }) => at >= from && at <= this.#recovered(name, to) + SETTLING,
    );
    if (causes.length === 0) return this.#aheadOfItsLife(name, at) ? "clock" : undefined;
    return causes.some((outage) => !this.#leavesTime(name, outage)) ? "outage" : "back-off";
  }

  #aheadOfItsLife(name: string, at: number): boolean {
    if (name !== ABSOLUTE_EXPIRY) return false;
    const lives = this.#records.issues.filter((issue) => issue.name === name).map((issue) => issue.expires - issue.at);
    return this.#of(["clock-forward"]).some(
      ({ planned, from, to }) =>
        far(planned.amount) > Math.max(...lives) && at >= from && at <= this.#recovered(name, to) + SETTLING,
    );
  }

  /** Tokens that nobody issued and no hand laid there: torn, or empty. */
  torn(): Sight[] {
    const issued = new Set(this.#records.issues.map(({ fingerprint }) => fingerprint));
    const laid = (sight: Sight) => this.#laid.has(sight.fingerprint) || this.#spoilt(sight.name, sight.at);
    return this.#records.sights.filter((one) => one.kind === "seen" && !issued.has(one.fingerprint) && !laid(one));
  }

  /** Expired tokens that the reader library or the program handed out as if they were good. */
  expired(): Sight[] {
    return this.#sights("expired").filter(({ at }) => !this.#asleep({ from: at - SETTLING, to: at + SETTLING }));
  }

  /** Tokens whose token.json promised a later expiry than they had, by a clock that was right. */
  late(): Sight[] {
    const clockWasOff = ({ at }: Sight) =>
      this.#of(CLOCK_KINDS).some(({ from, to }) => at >= from && at <= to + NOTICED_WITHIN);
    return this.#sights("late").filter((sight) => !clockWasOff(sight));
  }

  /** When no mint of `name` could succeed and be published; what overlaps is one. */
  outages(name: string): Interval[] {
    const blocking = this.#records.faults.filter(({ blocks, token }) => blocks && (token ?? name) === name);
    return merged(blocking);
  }

  /** Whether one mint was possible in the overlap of every token that was in place during the fault. */
  survivable({ from, to, token }: Fault): boolean {
    const names = token ? [token] : [...new Set(this.#records.issues.map(({ name }) => name))];
    return names.every((name) => this.#leavesTime(name, { from, to }));
  }

  /** The longest time from the end of an outage to a token after it, milliseconds. */
  slowestRecovery(): number {
    const names = [...new Set(this.#records.issues.map(({ name }) => name))];
    const times = names.flatMap((name) => {
      const outages = this.outages(name);
      return outages.flatMap((outage, index) => {
        const recovered = this.#recovered(name, outage.to);
        // Where the next outage came first, that one's recovery is what counts.
        if (this.#leavesTime(name, outage) || recovered > (outages[index + 1]?.from ?? Number.POSITIVE_INFINITY))
          return [];
        return [recovered - outage.to];
      });
    });
    return Math.max(0, ...times);
  }

  /**
   * The longest time in which a token's file held none that a gateway would have taken, milliseconds: of all; of those
   * that began when somebody removed or spoilt a file, and last until that is noticed; of those that nothing excuses.
   */
  longestGaps(): { all: number; byHand: number; unexcused: number } {
    const gaps = this.#records.gaps.map((gap) => {
      const outage = this.judgeAbsence(gap.name, gap.from) ?? this.judgeAbsence(gap.name, gap.to);
      const byHand = this.#spoilt(gap.name, gap.from) || this.#removed(gap);
      const why = outage || this.#asleep(gap) ? "outage" : byHand ? "by hand" : undefined;
      return { length: gap.to - gap.from, why };
    });
    const longest = (some: typeof gaps) => Math.max(0, ...some.map(({ length }) => length));
    return {
      all: longest(gaps),
      byHand: longest(gaps.filter(({ why }) => why === "by hand")),
      unexcused: longest(gaps.filter(({ why }) => why === undefined)),
    };
  }

  /** Whether the overlap of each token in place during `outage` left time for one mint. */
  #leavesTime(name: string, outage: Interval): boolean {
    const blocked = this.outages(name);
    const inPlace = this.#records.issues.filter((issue) => issue.name === name && this.#seenAt.has(issue.fingerprint));
    return inPlace.every(({ at, expires }) => {
      const overlap = { from: at + (expires - at) * RENEWED_AT, to: expires };
      if (!meet(overlap, outage)) return true;
      return longestFree(overlap, blocked) >= ONE_MINT || this.#replacedBefore(name, at, outage.from);
    });
  }

  /** A token whose successor was there before the outage has no overlap left to lose. */
  #replacedBefore(name: string, at: number, instant: number): boolean {
    const seen = ({ fingerprint }: Issue) => this.#seenAt.get(fingerprint) ?? Number.POSITIVE_INFINITY;
    return this.#records.issues.some((issue) => issue.name === name && issue.at > at && seen(issue) <= instant);
  }

  /** When the first token after `instant` was seen. */
  #recovered(name: string, instant: number): number {
    const later = this.#records.issues.flatMap((issue) => {
      const seen = this.#seenAt.get(issue.fingerprint);
      return issue.name === name && seen !== undefined && seen >= instant ? [seen] : [];
    });
    return Math.min(...later);
  }

  #spoilt(name: string, at: number): boolean {
    return this.#of(BY_HAND).some(({ token, from }) => {
      if ((token ?? name) !== name || at < from) return false;
      return at <= Math.min(this.#recovered(name, from) + SETTLING, from + NOTICED_WITHIN);
    });
  }

  #removed({ name, from }: Gap): boolean {
    const kinds: Kind[] = ["directory-removed", "directory-replaced", "runtime-removed", "token-removed"];
    return this.#of(kinds).some((fault) => (fault.token ?? name) === name && Math.abs(from - fault.from) < SETTLING);
  }

  #asleep(time: Interval): boolean {
    return this.#of(["asleep"]).some((fault) => meet(fault, time));
  }

  #of(kinds: readonly Kind[]): Fault[] {
    return this.#records.faults.filter(({ planned }) => kinds.includes(planned.kind));
  }

  #sights(kind: Sight["kind"]): Sight[] {
    return this.#records.sights.filter((sight) => sight.kind === kind);
  }
}

function meet(a: Interval, b: Interval): boolean {
  return a.from <= b.to && b.from <= a.to;
}

function merged(intervals: readonly Interval[]): Interval[] {
  const result: { from: number; to: number }[] = [];
  for (const { from, to } of [...intervals].sort((a, b) => a.from - b.from)) {
    const last = result.at(-1);
    if (last && from <= last.to) last.to = Math.max(last.to, to);
    else result.push({ from, to });
  }
  return result;
}

/** The longest part of `whole` that none of the `blocked` (apart and in order) covers, milliseconds. */
function longestFree(whole: Interval, blocked: readonly Interval[]): number {
  let longest = 0;
  let at = whole.from;
  for (const { from, to } of blocked) {
    if (to <= at || from >= whole.to) continue;
    longest = Math.max(longest, from - at);
    at = to;
  }
  return Math.max(longest, whole.to - at);
}
