import { FreshkeyError } from "../core/errors.ts";

/** Where clients are told which gateway to talk to. A repository's `.env` can set them as well as the user can. */
export const CLIENT_BASE_URLS = ["COPILOT_PROVIDER_BASE_URL", "ANTHROPIC_BASE_URL"];

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

function originOf(url: string): string | undefined {
  return URL.canParse(url) ? new URL(url).origin : undefined;
}
