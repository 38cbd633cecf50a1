import { createConnection } from "node:net";
import { type ErrorRecord, errno, FreshkeyError } from "../core/errors.ts";

/** One JSON line each way. No token ever crosses it: a fingerprint names one. */
export const PROTOCOL_VERSION = 1;
export const LONGEST_LINE = 64 * 1024;

export type RenewReason = "expired" | "rejected" | "suspect" | "manual";

/** Asks for a token other than the one with the fingerprint `seen` (empty: none was seen). */
export interface RenewRequest {
  readonly op: "renew";
  readonly name: string;
  readonly seen: string;
  readonly reason: RenewReason;
  /** `claims` of the gateway's challenge, as JSON text. */
  readonly claims?: string | undefined;
}

export type ControlRequest = RenewRequest | { readonly op: "status" } | { readonly op: "reload" };

export interface RenewAnswer {
  readonly result: "renewed" | "already-renewed";
  readonly fingerprint: string;
  /** Epoch seconds, as in token.json. */
  readonly expires: number;
}

export type ControlAnswer =
  | { v: number; ok: true; [key: string]: unknown }
  | { v: number; ok: false; error: ErrorRecord };

/** Nobody listens on the socket: there is no agent, or it has just gone. */
export class NoAgent extends Error {}

/**
 * Sends one request to the agent that listens on `socketPath` and returns its answer.
 *
 * @throws NoAgent if nobody listens there, or the agent went away before it answered.
 * @throws FreshkeyError the agent's own error, or `ERR_AGENT` if it did not answer within `timeout` milliseconds.
 */
export function askAgent<Answer>(
  socketPath: string,
  request: ControlRequest,
  options: { timeout: number; signal?: AbortSignal | undefined },
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(socketPath);
    let received = "";
    const finish = (settle: () => void) => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", abort);
      socket.destroy();
      settle();
    };
    const fail = (error: unknown) => finish(() => reject(error));
    const abort = () => fail(options.signal?.reason);
    const timer = setTimeout(() => {
      fail(
        new FreshkeyError("ERR_AGENT", `the agent did not answer within ${Math.round(options.timeout)} ms`, {
          hint: "see what it is doing: freshkey status",
        }),
      );
    }, options.timeout);
    options.signal?.addEventListener("abort", abort, { once: true });
    if (options.signal?.aborted) return abort();

    socket.setEncoding("utf8");
    socket.once("connect", () => socket.write(`${JSON.stringify({ v: PROTOCOL_VERSION, ...request })}\n`));
    socket.on("data", (chunk: string) => {
      received += chunk;
      const end = received.indexOf("\n");
      if (end < 0 && received.length <= LONGEST_LINE) return;
      finish(() => {
        try {
          resolve(read<Answer>(received.slice(0, end)));
        } catch (error) {
          reject(error);
        }
      });
    });
    socket.once("end", () => fail(new NoAgent("the agent closed the connection")));
    socket.on("error", (error) => {
      const gone = ["ENOENT", "ECONNREFUSED", "ECONNRESET", "EPIPE", "ENOTDIR"].includes(errno(error) ?? "");
      fail(gone ? new NoAgent(`no agent on ${socketPath}`, { cause: error }) : cannotAsk(socketPath, error));
    });
  });
}

function read<Answer>(line: string): Answer {
  let answer: Partial<ControlAnswer> | null = null;
  try {
    answer = JSON.parse(line) as Partial<ControlAnswer> | null;
  } catch {
    // Said below.
  }
  if (answer?.ok === true) return answer as Answer;
  if (answer?.ok === false && answer.error) throw FreshkeyError.fromJSON(answer.error);
  throw new FreshkeyError("ERR_AGENT", "the agent's answer cannot be understood", {
    hint: "restart the agent: it and this program may come from different versions of freshkey",
  });
}

function cannotAsk(path: string, error: unknown): FreshkeyError {
  const hint =
    errno(error) === "EACCES"
      ? "the agent belongs to another user, who has to renew the token: a reader of another user cannot ask for it"
      : "see that the agent runs: freshkey status";
  return new FreshkeyError("ERR_AGENT", `cannot ask the agent on ${path}: ${errno(error)}`, { hint, cause: error });
}
