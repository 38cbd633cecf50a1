/**
 * `ExecCredential` of client.authentication.k8s.io/v1, by which kubectl and every client-go program gets credentials
 * from a plug-in (https://kubernetes.io/docs/reference/config-api/client-authentication.v1/). v1beta1 differs in nothing
 * that matters here.
 */
import type { Token } from "../../core/token.ts";
import { UNKNOWN_EXPIRY } from "../../core/token.ts";
import { BadAnswer, isObject, member, parseObject, textMember, tokenOf } from "./answer.ts";
import { rfc3339 } from "./instant.ts";

const GROUP = "client.authentication.k8s.io";
const VERSIONS = [`${GROUP}/v1`, `${GROUP}/v1beta1`];
/** The latest that RFC 3339 seconds can say. */
const LATEST = Date.parse("9999-12-31T23:59:59Z");

/** What client-go tells a plug-in, and some insist on: nobody is there to answer questions. */
export const KUBERNETES_EXEC_INFO = JSON.stringify({
  apiVersion: VERSIONS[0],
  kind: "ExecCredential",
  spec: { interactive: false },
});

export function isExecCredential(json: unknown): boolean {
  return member(json, "kind") === "ExecCredential";
}

export function parseExecCredential(text: string): Token {
  const json = parseObject(text);
  if (!isExecCredential(json)) throw new BadAnswer("JSON that is no ExecCredential");
  if (!VERSIONS.includes(String(member(json, "apiVersion")))) {
    throw new BadAnswer(`an ExecCredential whose apiVersion is not ${VERSIONS.join(" or ")}`);
  }
  const status = member(json, "status");
  if (!isObject(status)) throw new BadAnswer("an ExecCredential without a status");
  if (member(status, "token") === undefined && member(status, "clientCertificateData") !== undefined) {
    throw new BadAnswer("an ExecCredential with a client certificate and no token");
  }
  const value = textMember(status, "token", "status.token");
  return tokenOf(value, rfc3339(member(status, "expirationTimestamp"), "status.expirationTimestamp"));
}

/** The answer to a client that asked with `execInfo` (the variable KUBERNETES_EXEC_INFO): in the version it wants. */
export function formatExecCredential({ value, expires }: Token, execInfo: string | undefined): string {
  const seconds = Math.floor(Math.min(expires, LATEST) / 1000) * 1000;
  const status = {
    ...(expires !== UNKNOWN_EXPIRY && { expirationTimestamp: new Date(seconds).toISOString().replace(".000Z", "Z") }),
    token: value,
  };
  return `${JSON.stringify({ apiVersion: wantedVersion(execInfo), kind: "ExecCredential", status })}\n`;
}

function wantedVersion(execInfo: string | undefined): string {
  try {
    const version = member(JSON.parse(execInfo ?? "{}"), "apiVersion");
    return VERSIONS.find((known) => known === version) ?? VERSIONS[0]!;
  } catch {
    return VERSIONS[0]!;
  }
}
