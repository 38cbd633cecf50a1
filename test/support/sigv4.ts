/**
 * Checks an API key for Amazon Bedrock and a request to STS as their receiver would: Signature Version 4, computed anew
 * from AWS's description of it ("Create a signed AWS API request") with nothing but node:crypto.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";

export interface BedrockKey {
  /** The signature is the one that `secretAccessKey` makes, and the key is one for Bedrock. */
  readonly valid: boolean;
  /** Epoch milliseconds: what the URL says of itself. The credentials' own end may be earlier. */
  readonly expires: number;
  readonly accessKeyId: string;
  readonly region: string;
  readonly sessionToken: string | undefined;
}

const PREFIX = "bedrock-api-key-";

export function verifyBedrockKey(key: string, secretAccessKey: string): BedrockKey {
  const url = Buffer.from(key.slice(PREFIX.length), "base64").toString("utf8");
  const mark = url.indexOf("/?");
  const host = url.slice(0, mark);
  const query = new Map(
    url
      .slice(mark + 2)
      .split("&")
      .map((pair) => pair.split("=").map(decodeURIComponent) as [string, string]),
  );
  const get = (name: string) => query.get(name) ?? "";
  const [accessKeyId = "", date = "", region = "", service = "", terminator = ""] = get("X-Amz-Credential").split("/");
  const stamp = get("X-Amz-Date");

  // Version is no part of what was signed, and a signature does not sign itself.
  const signed = [...query].filter(([name]) => name !== "X-Amz-Signature" && name !== "Version");
  const canonicalQuery = signed
    .map(([name, value]) => `${encode(name)}=${encode(value)}`)
    .sort()
    .join("&");
  // The URL can't carry a body, and its signer leaves that open: the hash of the empty one.
  const canonical = ["POST", "/", canonicalQuery, `host:${host}\n`, get("X-Amz-SignedHeaders"), sha256("")].join("\n");
  const scope = `${date}/${region}/${service}/${terminator}`;
  const expected = signature(secretAccessKey, scope, stamp, canonical);
  const given = Buffer.from(get("X-Amz-Signature"), "hex");
  const forBedrock =
    key.startsWith(PREFIX) &&
    host === "bedrock.amazonaws.com" &&
    service === "bedrock" &&
    terminator === "aws4_request" &&
    get("Action") === "CallWithBearerToken" &&
    get("X-Amz-Algorithm") === "AWS4-HMAC-SHA256" &&
    get("X-Amz-SignedHeaders") === "host" &&
    get("Version") === "1" &&
    stamp.startsWith(date);
  return {
    valid: forBedrock && given.length === expected.length && timingSafeEqual(given, expected),
    expires: instant(stamp) + Number(get("X-Amz-Expires")) * 1000,
    accessKeyId,
    region,
    sessionToken: query.get("X-Amz-Security-Token"),
  };
}

export interface SignedRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

/** Who signed a request that has its signature in the header `Authorization`; undefined where it is another's. */
export function signerOf(request: SignedRequest, secretAccessKey: string) {
  const { authorization, ...headers } = request.headers;
  const form = /^AWS4-HMAC-SHA256 Credential=([^/]+)\/([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/;
  const [, accessKeyId = "", scope = "", names = "", given = ""] = form.exec(String(authorization)) ?? [];
  const signed = names.split(";").map((name) => `${name}:${String(headers[name]).trim()}\n`);
  const canonical = [request.method, request.path, "", signed.join(""), names, sha256(request.body)].join("\n");
  const stamp = String(headers["x-amz-date"]);
  const [date = "", region = "", service = ""] = scope.split("/");
  const expected = signature(secretAccessKey, scope, stamp, canonical);
  const valid = stamp.startsWith(date) && timingSafeEqual(Buffer.from(given.padEnd(64, "0"), "hex"), expected);
  return valid ? { accessKeyId, region, service, sessionToken: headers["x-amz-security-token"] } : undefined;
}

/** `scope`: date/region/service/aws4_request. */
function signature(secretAccessKey: string, scope: string, stamp: string, canonical: string): Buffer {
  const toSign = ["AWS4-HMAC-SHA256", stamp, scope, sha256(canonical)].join("\n");
  const [date = "", ...rest] = scope.split("/");
  return hmac(rest.reduce<Buffer>(hmac, hmac(`AWS4${secretAccessKey}`, date)), toSign);
}

function instant(stamp: string): number {
  return Date.parse(stamp.replace(/^(....)(..)(..)T(..)(..)(..)Z$/, "$1-$2-$3T$4:$5:$6Z"));
}

/** URI encoding as RFC 3986 has it: everything but the unreserved characters. */
function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function hmac(key: string | Buffer, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}
