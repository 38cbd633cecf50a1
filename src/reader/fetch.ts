import { FreshkeyError } from "../core/errors.ts";
import { claimsOf } from "./challenge.ts";
import type { KeyFile } from "./key-file.ts";
import { checkTarget } from "./origin.ts";
import type { TokenFile } from "./token-file.ts";

type Fetch = typeof globalThis.fetch;
type Input = Parameters<Fetch>[0];
type Init = NonNullable<Parameters<Fetch>[1]>;

export interface FetchOptions {
  /**
   * Which header carries the token: `openai` `Authorization: Bearer`, `azure` `api-key`, `anthropic` `x-api-key`.
   * `openai` unless told.
   */
  readonly type?: "openai" | "azure" | "anthropic";
  /**
   * The gateway, by one or more of its URLs: the token goes to their origins and nowhere else. Unless told, those that
   * freshkey's configuration names for the token; where it names any, only they count.
   */
  readonly baseUrl?: string | readonly string[];
  /** Called where a 401 could not be answered with another token, which the caller then sees: why, and what to do. */
  readonly onFailure?: (error: FreshkeyError) => void;
  /** What sends the requests; Node's own `fetch` unless told. */
  readonly fetch?: Fetch;
}

/** All headers that clients put their keys into: of these only the token's own is sent. */
const CREDENTIALS = ["authorization", "api-key", "x-api-key"] as const;

/**
 * A `fetch` that sends each request with a fresh token, and once more with a new one where the gateway answers 401.
 *
 *     const client = new OpenAI({ baseURL, apiKey: "unused", fetch: createFetch(openKeyFile(), { baseUrl: baseURL }) });
 *
 * The agent is told of the 401, with the `claims` of its challenge, and waited for as `get()` does; many 401s at once
 * cause one mint. What comes then is handed over untouched, a second 401 as well; so is the first one where no new token
 * can be had, or where the body could not be sent twice (a stream, a `Request` with a body).
 *
 * A redirect is not followed, so that the token goes to no other origin: the caller is given the 3xx.
 *
 * @returns a function like `fetch`, which rejects with a FreshkeyError before anything is sent: `ERR_ORIGIN` for a URL
 *   that the token is not for, and whatever `get()` throws.
 */
export function createFetch(key: KeyFile, options: FetchOptions = {}): Fetch {
  const { type = "openai", baseUrl = [], onFailure } = options;
  const own = [baseUrl].flat();

  return async (input, init) => {
    const url = isRequest(input) ? input.url : String(input);
    // What is sent goes where was looked at, whatever becomes of a URL object meanwhile.
    const target = isRequest(input) ? input : url;
    const signal = init?.signal ?? (isRequest(input) ? input.signal : undefined);
    const replayable = isReplayable(input, init);
    const send = (token: TokenFile) => {
      const headers = withToken(input, init, { type, token: token.value });
      return (options.fetch ?? globalThis.fetch)(target, { ...init, headers, redirect: "manual" });
    };
    // A token that is in place after a 401 may be for another gateway than the one before: each is looked at.
    const tokenFor = async (need: { rejected?: string; claims?: string | undefined }) => {
      const token = await key.read({ ...need, signal });
      checkTarget(url, { own, configured: token.json?.base_url ?? "" });
      return token;
    };

    if (own.length > 0) checkTarget(url, { own, configured: "" });
    const token = await tokenFor({});
    const response = await send(token);
    if (response.status !== 401) return response;

    const need = { rejected: token.fingerprint, claims: claimsOf(response.headers.get("www-authenticate")) };
    const other = tokenFor(need).catch((error) => {
      if (!signal?.aborted) onFailure?.(FreshkeyError.from(error));
    });
    if (!replayable) return response;
    const another = await other;
    if (!another && !signal?.aborted) return response;
    await response.body?.cancel().catch(() => undefined);
    signal?.throwIfAborted();
    return send(another!);
  };
}

/** By its form: there are others than Node's own. */
function isRequest(input: Input): input is Request {
  return typeof input === "object" && "url" in input;
}

/** As `fetch` has it, headers of `init` replace those of a request. */
function withToken(
  input: Input,
  init: Init | undefined,
  { type, token }: { type: NonNullable<FetchOptions["type"]>; token: string },
): Headers {
  const headers = new Headers(init?.headers ?? (isRequest(input) ? input.headers : undefined));
  for (const name of CREDENTIALS) headers.delete(name);
  if (type === "openai") headers.set("authorization", `Bearer ${token}`);
  else headers.set(type === "azure" ? "api-key" : "x-api-key", token);
  return headers;
}

/** Whether the body is there to be sent again; a request's own is a stream, whatever it was made of. */
function isReplayable(input: Input, init: Init | undefined): boolean {
  const body: unknown = init?.body ?? (isRequest(input) ? input.body : null);
  if (body === null || body === undefined || typeof body === "string" || ArrayBuffer.isView(body)) return true;
  return [ArrayBuffer, URLSearchParams, FormData, Blob].some((kind) => body instanceof kind);
}
