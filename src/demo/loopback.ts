import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface LoopbackServer {
  /** `http://127.0.0.1:PORT`, without a slash at its end. */
  readonly origin: string;
  /** Stops at once: open connections are closed. */
  close(): Promise<void>;
}

/** A request that is answered with this status and this message. */
export class HttpError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** An HTTP server that only this machine can reach, on a port that is free. */
export async function serve(
  handle: (request: IncomingMessage, response: ServerResponse, url: URL) => Promise<void> | void,
): Promise<LoopbackServer> {
  const server = createServer(async (request, response) => {
    try {
      await handle(request, response, new URL(request.url ?? "/", "http://127.0.0.1"));
    } catch (error) {
      if (response.headersSent) return void response.destroy();
      const { status, message } = error instanceof HttpError ? error : new HttpError(500, "the server failed");
      sendJson(response, status, { error: { message } });
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(0, "127.0.0.1", resolve);
  });
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Answers with JSON that nobody may keep (RFC 6749 5.1 asks that of tokens; here it does no harm elsewhere). */
export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store", ...headers });
  response.end(JSON.stringify(body));
}

/** A long conversation of a coding CLI is a few megabytes. */
const MAX_BODY = 16 * 1024 * 1024;

/**
 * The request's body as a JSON object.
 *
 * @throws HttpError 400 or 413.
 */
export async function readJson(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request) {
      size += chunk.length;
      if (size > MAX_BODY) throw new HttpError(413, "the body is larger than 16 MiB");
      chunks.push(chunk);
    }
    const body: unknown = JSON.parse(Buffer.concat(chunks).toString("utf8"));
    if (typeof body === "object" && body !== null && !Array.isArray(body)) return body as Record<string, unknown>;
  } catch (error) {
    if (error instanceof HttpError) throw error;
    // Cut off or no JSON: told below, as what is JSON and no object.
  }
  throw new HttpError(400, "the body is not a JSON object");
}
