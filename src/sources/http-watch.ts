/** What became of the requests of an SDK that doesn't say it: they are watched where Node.js makes them. */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { errorMonitor } from "node:events";
import type { ClientRequest, IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { errno } from "../core/errors.ts";

/** The `error` of a request that was given up without a reason that the system has a name for. */
export const NO_ANSWER = "no answer";

export interface Exchange {
  readonly host: string;
  /** Somebody accepted the connection. */
  connected: boolean;
  status?: number | undefined;
  retryAfter?: string | undefined;
  error?: string | undefined;
}

export interface HttpWatch {
  /** The last request of this process, and what came of it. */
  readonly last: Exchange | undefined;
  /** Ends the watching, and all requests that are still under way. */
  close(): void;
}

/** Watches the HTTP requests of this process: host, status, error; never a path, a header that is sent, or a body. */
export function watchHttp(): HttpWatch {
  const pending = new Set<ClientRequest>();
  const exchanges = new WeakMap<ClientRequest, Exchange>();
  let last: Exchange | undefined;
  const started = (message: unknown) => {
    const { request } = message as { request: ClientRequest };
    const exchange: Exchange = { host: request.host, connected: false };
    last = exchange;
    exchanges.set(request, exchange);
    pending.add(request);
    const connecting = (socket: Socket) => {
      if (socket.connecting) socket.once("connect", () => (exchange.connected = true));
      else exchange.connected = true;
    };
    if (request.socket) connecting(request.socket);
    else request.once("socket", connecting);
    request.on("close", () => pending.delete(request));
    request.on(errorMonitor, (error) => {
      exchange.error = errno(error) ?? NO_ANSWER;
    });
  };
  const answered = (message: unknown) => {
    const { request, response } = message as { request: ClientRequest; response: IncomingMessage };
    const exchange = exchanges.get(request);
    if (!exchange) return;
    exchange.status = response.statusCode;
    exchange.retryAfter = response.headers["retry-after"];
  };
  subscribe("http.client.request.start", started);
  subscribe("http.client.response.finish", answered);
  return {
    get last() {
      return last;
    },
    close() {
      unsubscribe("http.client.request.start", started);
      unsubscribe("http.client.response.finish", answered);
      for (const request of pending) request.destroy();
    },
  };
}
