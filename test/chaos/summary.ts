/** What a run comes to: the figures of the closing table, and which of them are not as they must be. */
import { Accounts, type Excuse, type Fault, type Records, type Request, type Verdict } from "./account.ts";
import { KINDS } from "./plan.ts";

/** What is known of a run beside its records. Instants epoch milliseconds, durations milliseconds. */
export interface Run {
  readonly seed: number;
  readonly seconds: number;
  readonly lifetime: number;
  readonly begun: number;
  readonly over: number;
  /** Whether everything was well again in time, and how long that took. */
  readonly settled: boolean;
  readonly settling: number;
  /** How many agents lived at the end, how often one was started, how long the last one took to stop. */
  readonly agents: number;
  readonly starts: number;
  readonly stopping: number;
  readonly left: { processes: number; temporary: string[]; sockets: string[]; other: string[] };
  /** Reads of the crowd by kind of reader. */
  readonly counts: Readonly<Record<string, number>>;
  /** Kinds of fault that could not be brought about here, and why. */
  readonly skipped: ReadonlyMap<string, string>;
  readonly provider: { readonly requests: number; readonly tooEarly: number };
}

/** One line of the table of faults. */
export interface KindLine {
  readonly kind: string;
  readonly injected: number;
  /** In how many of them one mint was possible in the overlap of every token. */
  readonly survivable: number;
  /** 401s and requests without a token, excused ones included, from its begin to a lifetime after its end. */
  readonly refused: number;
  readonly without: number;
  readonly skipped?: string;
}

/** How many, and how many of them for which reason. `counts`: for none, so they count. */
export type Judged = Partial<Record<Excuse | "counts", number>>;

export interface Summary {
  readonly seed: number;
  readonly seconds: number;
  readonly lifetime: number;
  readonly kinds: readonly KindLine[];
  readonly faults: number;
  readonly survivable: number;
  readonly survivableRefused: number;
  readonly requests: number;
  readonly refused: Judged;
  readonly without: Judged;
  readonly otherStatus: number;
  readonly reads: Readonly<Record<string, number>>;
  readonly torn: number;
  readonly late: number;
  readonly expired: number;
  readonly signIns: number;
  readonly gaps: { readonly all: number; readonly byHand: number; readonly unexcused: number };
  readonly recovery: number;
  readonly settling: number;
  readonly mints: number;
  readonly leastMints: number;
  readonly busiest: number;
  readonly attempts: number;
  readonly tooEarly: number;
  readonly starts: number;
  readonly agents: number;
  readonly stopping: number;
  readonly left: Run["left"];
  /** What is not as it must be, a sentence each. Empty: the run is good. */
  readonly violations: readonly string[];
}

/** The reader keeps two seconds of a short token's life: after that a client needs the next. */
const KEPT_BACK = 2_000;
/** The policy's promise: the back-off is at most a minute; then there is a mint. */
const RECOVERS_WITHIN = 66_000;
/** Five seconds until the agent looks, then a mint on a busy machine. */
const NOTICED_AND_MINTED = 10_000;
/** Ten tokens in five seconds would be a mint for each of a client's retries. */
const BUSIEST = 10;
const BUSIEST_WITHIN = 5_000;
/** A restart, a clock that was set, a file that was spoilt may each cost a token more than the schedule needs. */
const MINTS_PER_FAULT = 2;
const SIGN_IN_CODES = ["ERR_SIGN_IN", "ERR_SOURCE_REFUSED"];

export function summarize(records: Records, run: Run): Summary {
  const accounts = new Accounts(records);
  const { requests, faults, issues } = records;
  const refusals = requests.filter(({ status }) => status === 401);
  const failures = requests.filter(({ status }) => status === undefined);
  const survivable = faults.filter((fault) => accounts.survivable(fault));
  const counted = refusals.filter((one) => accounts.judgeRefusal(one) === undefined);
  const summary: Omit<Summary, "violations"> = {
    seed: run.seed,
    seconds: run.seconds,
    lifetime: run.lifetime,
    kinds: kindLines(faults, survivable, { refusals, failures }, run),
    faults: faults.length,
    survivable: survivable.length,
    survivableRefused: survivable.filter((fault) => counted.some(during(fault, run.lifetime))).length,
    requests: requests.length,
    refused: judge(refusals, (one) => accounts.judgeRefusal(one)),
    without: judge(failures, (one) => accounts.judgeFailure(one)),
    otherStatus: requests.filter(({ status }) => status !== undefined && status !== 200 && status !== 401).length,
    reads: run.counts,
    torn: accounts.torn().length,
    late: accounts.late().length,
    expired: accounts.expired().length,
    signIns: failures.filter(({ code }) => SIGN_IN_CODES.includes(code ?? "")).length,
    gaps: accounts.longestGaps(),
    recovery: accounts.slowestRecovery(),
    settling: run.settling,
    mints: issues.length,
    leastMints: leastMints(records, run),
    busiest: busiest(records),
    attempts: run.provider.requests,
    tooEarly: run.provider.tooEarly,
    starts: run.starts,
    agents: run.agents,
    stopping: run.stopping,
    left: run.left,
  };
  return { ...summary, violations: violationsOf(summary, run) };
}

function violationsOf(summary: Omit<Summary, "violations">, run: Run): string[] {
  const { left } = summary;
  const checks: [boolean, string][] = [
    [summary.requests > 0, "no request was sent"],
    [!summary.refused.counts, `${summary.refused.counts} requests got a 401 that nothing excuses`],
    [!summary.without.counts, `${summary.without.counts} requests had no token, and nothing excuses it`],
    [summary.otherStatus === 0, `${summary.otherStatus} requests were answered with neither 200 nor 401`],
    [summary.torn === 0, `${summary.torn} torn or empty reads`],
    [summary.late === 0, `${summary.late} reads with a later expiry than the token's own`],
    [summary.expired === 0, `${summary.expired} expired tokens were handed out`],
    [
      summary.signIns === 0,
      `${summary.signIns} times somebody was asked to sign in, or told of a refusal, for nothing`,
    ],
    [summary.gaps.unexcused === 0, `${summary.gaps.unexcused} ms without a usable token, and nothing excuses it`],
    [summary.gaps.byHand <= NOTICED_AND_MINTED, `a spoilt file was mended after ${summary.gaps.byHand} ms only`],
    [summary.recovery <= RECOVERS_WITHIN, `after an outage it took ${summary.recovery} ms to the first token`],
    [run.settled, `it did not settle within ${summary.settling} ms`],
    [
      summary.mints <= summary.leastMints * 2 + summary.faults * MINTS_PER_FAULT,
      `${summary.mints} mints where ${summary.leastMints} would have done`,
    ],
    [summary.busiest <= BUSIEST, `${summary.busiest} mints of one token within ${BUSIEST_WITHIN} ms`],
    [summary.agents === 1, `${summary.agents} agents at the end`],
    [left.processes === 0, `${left.processes} processes were left`],
    [left.temporary.length === 0, `temporary files were left: ${left.temporary.join(", ")}`],
    [left.sockets.length === 0, `sockets were left: ${left.sockets.join(", ")}`],
    [left.other.length === 0, `files were left that nobody needs: ${left.other.join(", ")}`],
  ];
  return checks.filter(([good]) => !good).map(([, sentence]) => sentence);
}

function judge(requests: readonly Request[], verdict: (request: Request) => Verdict): Judged {
  const judged: Judged = {};
  for (const request of requests) {
    const key = verdict(request) ?? "counts";
    judged[key] = (judged[key] ?? 0) + 1;
  }
  return judged;
}

function kindLines(
  faults: readonly Fault[],
  survivable: readonly Fault[],
  { refusals, failures }: { refusals: readonly Request[]; failures: readonly Request[] },
  run: Run,
): KindLine[] {
  return [...KINDS.provider, ...KINDS.machine].map((kind) => {
    const own = faults.filter(({ planned }) => planned.kind === kind);
    const near = (requests: readonly Request[]) =>
      requests.filter((request) => own.some((fault) => during(fault, run.lifetime)(request))).length;
    const why = run.skipped.get(kind);
    return {
      kind,
      injected: own.length,
      survivable: own.filter((fault) => survivable.includes(fault)).length,
      refused: near(refusals),
      without: near(failures),
      ...(why !== undefined && { skipped: why }),
    };
  });
}

const during = (fault: Fault, after: number) => (request: Request) =>
  (fault.token ?? request.request) === request.request && request.end >= fault.from && request.end <= fault.to + after;

/** As many as it takes for a fresh token all the while, apart from the time in which there was none. */
function leastMints({ requests, gaps }: Records, run: Run): number {
  const names = [...new Set(requests.map(({ request }) => request))];
  const least = names.map((name) => {
    const without = gaps.filter((gap) => gap.name === name).reduce((sum, { from, to }) => sum + to - from, 0);
    return Math.ceil((run.over - run.begun - without) / (run.lifetime - KEPT_BACK));
  });
  return least.reduce((sum, one) => sum + one, 0);
}

/** The most mints of one token within five seconds. */
function busiest({ issues }: Records): number {
  const within = issues.map(
    ({ name, at }) => issues.filter((one) => one.name === name && one.at >= at && one.at < at + BUSIEST_WITHIN).length,
  );
  return Math.max(0, ...within);
}
