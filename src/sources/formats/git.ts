/**
 * Git's credential protocol (git-credential(1), "INPUT/OUTPUT FORMAT"; gitcredentials(7)): lines `key=value`, both to a
 * helper and from it.
 */
import type { Token } from "../../core/token.ts";
import { UNKNOWN_EXPIRY } from "../../core/token.ts";
import { BadAnswer, tokenOf } from "./answer.ts";
import { epochSeconds } from "./instant.ts";

/** The attributes before the first empty line; undefined where a line is none. Of a key that is repeated, the last. */
export function parseAttributes(text: string): Map<string, string> | undefined {
  const attributes = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    if (line === "") break;
    const divider = line.indexOf("=");
    if (divider < 1) return undefined;
    attributes.set(line.slice(0, divider), line.slice(divider + 1));
  }
  return attributes;
}

/** Whether a text that nobody has named a format for is a git credential. */
export function isGitCredential(text: string): boolean {
  return /^(password|credential)=/m.test(text) && parseAttributes(text) !== undefined;
}

/** What a helper or `git credential fill` prints: `password` is the token, or `credential` of Git 2.46 and later. */
export function parseGitCredential(text: string): Token {
  const attributes = parseAttributes(text);
  if (!attributes) throw new BadAnswer("a line that is no `key=value`");
  if (["1", "true"].includes(attributes.get("quit") ?? "")) throw new BadAnswer("that nobody is to be asked (quit)");
  const value = attributes.get("password") ?? attributes.get("credential");
  if (!value) throw new BadAnswer("no password");
  return tokenOf(value, epochSeconds(attributes.get("password_expiry_utc"), "a password_expiry_utc"));
}

/** Whether `text` is a URL that git can ask for, and that cannot smuggle another line into the question to the helper. */
export function isGitUrl(text: string): boolean {
  try {
    return !/[\0\r\n]/.test(decodeURIComponent(text)) && new URL(text).host !== "";
  } catch {
    return false;
  }
}

/** What a helper is asked with on stdin for the credential of `url`, which `isGitUrl` has found good. */
export function gitQuestion(url: string): string {
  const { protocol, host, pathname, username } = new URL(url);
  const path = decodeURIComponent(pathname.slice(1));
  const lines = [`protocol=${protocol.slice(0, -1)}`, `host=${host}`];
  if (path !== "") lines.push(`path=${path}`);
  if (username !== "") lines.push(`username=${decodeURIComponent(username)}`);
  return `${lines.join("\n")}\n\n`;
}

/** A helper's answer. Where git has a name for the user already, it stays. */
export function formatGitCredential({ value, expires }: Token, username: string | undefined): string {
  const lines = [`password=${value}`];
  if (username !== undefined) lines.unshift(`username=${username}`);
  if (expires !== UNKNOWN_EXPIRY) lines.push(`password_expiry_utc=${Math.floor(expires / 1000)}`);
  return `${lines.join("\n")}\n`;
}
