import { createHash } from "node:crypto";

/** The expiry of a token of which none is known. Readers take such a token as it is; only `cron` rotates it. */
export const UNKNOWN_EXPIRY = 0;

/** Larger than any header that a gateway accepts, so only nonsense is refused. */
const MAX_BYTES = 64 * 1024;

/** What a source mints. Instants are epoch milliseconds here and everywhere but in `token.json` and in a JWT. */
export interface Token {
  /** The credential itself, as a client sends it. Never logged, never shown. */
  readonly value: string;
  /** When it ends, or `UNKNOWN_EXPIRY`. */
  readonly expires: number;
  /** The source's own wish when to renew (`refresh_in`, RFC 6749 clients call it a hint), where it has one. */
  readonly renewAt?: number;
  /** Whom the token speaks for (an account, a role, a client id), where the source knows: it is shown, so no secret. */
  readonly identity?: string;
  /** Which of the source's ways of signing in it came by, where there are several. */
  readonly credential?: string;
}

/** The first 12 hex digits of SHA-256: the only form in which a token may be logged, shown or sent to the agent. */
export function fingerprint(value: string): string {
  return createHash("sha256").update(value).digest("hex").slice(0, 12);
}

/**
 * Why `value` cannot be published, or undefined if it can. Printable ASCII without spaces: anything else would break
 * an HTTP header (RFC 9110 5.5) or is not a token at all, but a page or a message.
 */
export function unpublishable(value: string): string | undefined {
  if (value === "") return "it is empty";
  if (value.length > MAX_BYTES) return `it is longer than ${MAX_BYTES / 1024} KiB`;
  if (/^\s*</.test(value)) return "it is HTML or XML, not a token";
  if (/[\r\n]/.test(value)) return "it has more than one line";
  if (/\s/.test(value)) return "it has spaces in it";
  if (!/^[\x21-\x7e]+$/.test(value)) return "it has characters that are not printable ASCII";
  return undefined;
}

/** Epoch seconds. Later than that is nonsense, and no whole number that every reader of token.json can count with. */
const YEAR_10000 = 253_402_300_800;

/** Registered claims that freshkey looks at (RFC 7519 4.1), instants in epoch milliseconds. */
export interface JwtTimes {
  readonly expires: number;
  readonly issued: number | undefined;
}

/**
 * The `exp` and `iat` of a JWT, without checking its signature: that is the gateway's business.
 * Undefined where `value` is not a JWT or has no `exp`.
 */
export function jwtTimes(value: string): JwtTimes | undefined {
  const [header, payload, signature, ...rest] = value.split(".");
  if (header === undefined || payload === undefined || signature === undefined || rest.length > 0) return undefined;
  try {
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString("utf8")) as Record<string, unknown>;
    const milliseconds = (claim: unknown) => {
      const instant = typeof claim === "number" && claim < YEAR_10000 ? Math.floor(claim * 1000) : 0;
      return instant > 0 ? instant : undefined;
    };
    const expires = milliseconds(claims.exp);
    return expires === undefined ? undefined : { expires, issued: milliseconds(claims.iat) };
  } catch {
    return undefined;
  }
}
