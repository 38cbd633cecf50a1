import type { Config } from "../config/load.ts";
import { FreshkeyError } from "../core/errors.ts";
import { abortable, isTimeout, sleep } from "../os/clock.ts";
import { askAgent, NoAgent, type RenewAnswer, type RenewRequest } from "../os/control-client.ts";
import type { Log } from "../os/log.ts";
import { Agent, controlSocket } from "./agent.ts";

export interface RenewOptions {
  readonly run: string;
  readonly log: Log;
  /** Milliseconds that an agent, or whoever renews just now, is waited for. */
  readonly timeout: number;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
  /** Called when the wait ends before a mint that this process has begun: whoever calls may have another finish it. */
  readonly unfinished?: () => void;
}

/**
 * Renews, whoever has the lock: the agent is asked; where there is none, this process becomes the holder for as long
 * as `work` takes and answers whoever else comes meanwhile. A holder that dies on the way is succeeded.
 *
 * `work` looks again whether there is still something to do: the last holder may have done it.
 */
async function withHolder<T>(
  config: Config,
  options: RenewOptions,
  ask: (socket: string) => Promise<T>,
  work: (holder: Agent) => Promise<T>,
): Promise<T> {
  const { run, log, signal } = options;
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await ask(controlSocket(run));
    } catch (error) {
      if (!(error instanceof NoAgent)) throw error;
    }
    const holder = await Agent.open(config, { run, log });
    if (holder) {
      try {
        return await work(holder);
      } finally {
        await holder.close();
      }
    }
    // Somebody has just taken the lock and does not listen yet, or is letting it go.
    await sleep(5 + Math.random() * 20, signal);
  }
}

/**
 * Gets a token other than the one with the fingerprint `request.seen` into the token file.
 *
 * @throws FreshkeyError of the source, or `ERR_DEADLINE`.
 */
export function renew(config: Config, request: Omit<RenewRequest, "op">, options: RenewOptions): Promise<RenewAnswer> {
  return withHolder(
    config,
    options,
    (socket) => askAgent<RenewAnswer>(socket, { op: "renew", ...request }, options),
    (holder) => unlessAborted(holder.refresher(request.name).renew(request), options),
  );
}

/** What became of each token, in the order asked for. */
export type RenewResult = { name: string; answer: RenewAnswer } | { name: string; error: FreshkeyError };

/**
 * Renews those of the tokens `names` that are due, as cron and a systemd timer do, or all of them with `force`. One
 * token's failure does not keep the others from being renewed.
 */
export function renewAll(
  config: Config,
  names: readonly string[],
  options: RenewOptions & { force: boolean },
): Promise<RenewResult[]> {
  const reason = options.force ? "manual" : "expired";
  return withHolder(
    config,
    options,
    (socket) => each(names, (name) => askAgent<RenewAnswer>(socket, { op: "renew", name, seen: "", reason }, options)),
    (holder) =>
      each(names, (name) => {
        const refresher = holder.refresher(name);
        return options.force ? refresher.renew({ seen: "", reason }) : refresher.renewIfDue();
      }),
  );
}

function each(names: readonly string[], renewOne: (name: string) => Promise<RenewAnswer>): Promise<RenewResult[]> {
  return Promise.all(
    names.map(async (name) => {
      try {
        return { name, answer: await renewOne(name) };
      } catch (error) {
        if (error instanceof NoAgent) throw error;
        return { name, error: FreshkeyError.from(error) };
      }
    }),
  );
}

async function unlessAborted<T>(promise: Promise<T>, { signal, unfinished }: RenewOptions): Promise<T> {
  try {
    return await abortable(promise, signal);
  } catch (error) {
    // An abort for another reason than time: whoever waited has what they need.
    if (error !== signal?.reason || !isTimeout(error)) throw error;
    unfinished?.();
    throw new FreshkeyError("ERR_DEADLINE", "the source takes longer than could be waited for", {
      hint: "it goes on in the background: try again in a moment, or wait longer with --wait",
    });
  }
}
