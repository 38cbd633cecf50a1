import { chmodSync, renameSync, rmSync, statSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { claimsProblem } from "../core/claims.ts";
import { type ErrorRecord, errno, FreshkeyError } from "../core/errors.ts";
import { type ControlRequest, LONGEST_LINE, PROTOCOL_VERSION } from "../os/control-client.ts";
import { Stopped } from "./refusals.ts";

/** A client that connects says what it wants within this time, or is cut off. */
const TIME_TO_ASK = 5_000;

export interface ControlServer {
  close(): Promise<void>;
}

/**
 * Listens on `socketPath` and answers each connection's one JSON line with one JSON line (docs/token-file.md). Only
 * the holder of the lock may call it: what a dead holder left in the way is removed.
 */
export function serveControl(
  socketPath: string,
  handle: (request: ControlRequest) => Promise<object>,
): Promise<ControlServer> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    socket.setTimeout(TIME_TO_ASK, () => socket.destroy());
    socket.setEncoding("utf8");
    let received = "";
    const take = (chunk: string) => {
      received += chunk;
      const end = received.indexOf("\n");
      if (end < 0 && received.length <= LONGEST_LINE) return;
      socket.off("data", take);
      // The answer may take as long as a mint does.
      socket.setTimeout(0);
      void respond(received.slice(0, end), handle).then((line) => socket.end(line));
    };
    socket.on("data", take);
  });
  // Bound under a name of its own and renamed: closing a server unlinks the path that it was bound to, whosever socket
  // is there by then. Whoever has lost the lock must not take its successor's away.
  const own = join(dirname(socketPath), `control.${process.pid}`);
  rmSync(own, { force: true });
  return new Promise((resolve, reject) => {
    server.on("error", (error) => {
      reject(
        new FreshkeyError("ERR_RUN_DIRECTORY", `cannot listen on ${socketPath}: ${errno(error)}`, { cause: error }),
      );
    });
    server.listen(own, () => {
      chmodSync(own, 0o600);
      const { ino } = statSync(own);
      renameSync(own, socketPath);
      resolve({
        close: () =>
          new Promise((closed) => {
            if (statSync(socketPath, { throwIfNoEntry: false })?.ino === ino) rmSync(socketPath, { force: true });
            server.close(() => closed());
            for (const socket of open) socket.destroySoon();
          }),
      });
    });
  });
}

async function respond(line: string, handle: (request: ControlRequest) => Promise<object>): Promise<string> {
  const send = (answer: { ok: true } | { ok: false; error: ErrorRecord }) =>
    `${JSON.stringify({ v: PROTOCOL_VERSION, ...answer })}\n`;
  try {
    return send({ ok: true, ...(await handle(parseRequest(line))) });
  } catch (error) {
    // This holder had less time than whoever asked: left without an answer, they find the next one, or become it.
    if (error instanceof Stopped) return "";
    return send({ ok: false, error: FreshkeyError.from(error).toJSON() });
  }
}

const REASONS = ["expired", "rejected", "suspect", "manual"];

function parseRequest(line: string): ControlRequest {
  let request: Record<string, unknown>;
  try {
    request = JSON.parse(line) as Record<string, unknown>;
  } catch {
    throw new FreshkeyError("ERR_USAGE", "the request is not one line of JSON");
  }
  if (request?.v !== PROTOCOL_VERSION) {
    throw new FreshkeyError(
      "ERR_AGENT",
      `this agent speaks version ${PROTOCOL_VERSION} of the protocol, not ${request?.v}`,
      {
        hint: "restart the agent: it and the program that asks it come from different versions of freshkey",
      },
    );
  }
  if (request.op === "status" || request.op === "reload") return { op: request.op };
  const { name, seen, reason, claims } = request;
  const strings = typeof name === "string" && typeof seen === "string" && typeof reason === "string";
  const optional = claims === undefined || typeof claims === "string";
  if (request.op !== "renew" || !strings || !optional || !REASONS.includes(reason)) {
    throw new FreshkeyError("ERR_USAGE", "the request is none that this agent knows");
  }
  const problem = typeof claims === "string" ? claimsProblem(claims) : undefined;
  if (problem) {
    throw new FreshkeyError("ERR_USAGE", `the claims of the challenge cannot be used: ${problem}`, {
      hint: "ask again without them: a new token may be all that the gateway wants",
    });
  }
  return request as unknown as ControlRequest;
}
