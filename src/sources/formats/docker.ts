/**
 * The protocol of docker-credential helpers (https://github.com/docker/docker-credential-helpers): the server's address
 * on stdin, JSON on stdout, an error as plain text on stdout with exit code 1.
 */
import type { Token } from "../../core/token.ts";
import { isObject, member, parseObject, textMember, tokenOf } from "./answer.ts";

/** Docker goes on without credentials when a helper ends with exactly this. */
export const NOT_FOUND = "credentials not found in native keychain";

export function isDockerCredential(json: unknown): boolean {
  return isObject(json) && typeof member(json, "Secret") === "string" && member(json, "Username") !== undefined;
}

/** What `docker-credential-… get` prints. There is no expiry in it; a JWT has its own. */
export function parseDockerCredential(text: string): Token {
  return tokenOf(textMember(parseObject(text), "Secret"), undefined);
}

export function formatDockerCredential({ value }: Token, server: string, username: string): string {
  return `${JSON.stringify({ ServerURL: server, Username: username, Secret: value })}\n`;
}
