import { FreshkeyError } from "../core/errors.ts";

/** Where clients are told which gateway to talk to. A repository's `.env` can set them as well as the user can. */
export const CLIENT_BASE_URLS = ["COPILOT_PROVIDER_BASE_URL", "ANTHROPIC_BASE_URL"];

const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];

/**
 * Refuses a token to a client whose base URL has another origin than those the token is configured for. Where none is
 * configured, or the client names none, there is nothing to compare.
 *
 * @param configured base URLs separated by spaces, as token.json has them.
 * @throws FreshkeyError `ERR_ORIGIN`.
 */
export function checkOrigin(configured: string, actual: string | undefined, variable: string): void {
  if (!actual || isForOrigin(configured, actual)) return;
  const allowed = configured.split(" ").filter(Boolean);
  const origin = originOf(actual);
  // The origin alone: a URL may have a password in it.
  throw new FreshkeyError(
    "ERR_ORIGIN",
    `${variable} is at ${origin ?? "no valid URL"}, but this token is for ${allowed.join(" and ")}`,
    {
      hint: `unset ${variable} (a project's .env may have set it), or change base_url in freshkey's configuration`,
    },
  );
}

/** Whether `url` has the origin of one of the URLs in `configured`. Where none is configured, there is nothing to compare. */
export function isForOrigin(configured: string, url: string): boolean {
  const allowed = configured.split(" ").filter(Boolean);
  const origin = originOf(url);
  return allowed.length === 0 || allowed.some((one) => originOf(one) === origin);
}

/**
 * Refuses a token to a URL that is not of the gateway: `own`, URLs that the program named, and `configured`, those that
 * token.json has (separated by spaces). Where both name some, the URL has to be of both; where neither does, the token
 * goes nowhere. Nor does it go anywhere in the clear, but on this machine.
 *
 * @throws FreshkeyError `ERR_ORIGIN`.
 */
export function checkTarget(url: string, { own, configured }: { own: readonly string[]; configured: string }): void {
  const origin = originOf(url);
  const refuse = (problem: string, hint: string) => {
    throw new FreshkeyError("ERR_ORIGIN", problem, { hint });
  };
  if (own.length === 0 && configured === "") {
    refuse(
      "nothing says which gateway this token is for",
      "name it: pass `baseUrl`, or set base_url in freshkey's configuration",
    );
  }
  const lists = [own, configured.split(" ").filter(Boolean)].filter((list) => list.length > 0);
  const allowed = lists.find((list) => !list.some((one) => origin !== undefined && originOf(one) === origin));
  if (allowed) {
    const origins = allowed.map((one) => originOf(one) ?? "no valid URL");
    refuse(
      `${origin ?? "what is no valid URL"} is not what this token is for: ${origins.join(" and ")}`,
      "send other requests with another fetch, or change `baseUrl` or freshkey's base_url",
    );
  }
  const { protocol, hostname } = new URL(url);
  if (protocol !== "https:" && !(protocol === "http:" && LOOPBACK.includes(hostname))) {
    refuse(`${origin} would get the token in the clear`, "use https; http is for this machine alone");
  }
}

function originOf(url: string): string | undefined {
  return URL.canParse(url) ? new URL(url).origin : undefined;
}
