/** Longer than any challenge: what is longer would not fit the header that it arrives in. */
const LONGEST = 8 * 1024;

/**
 * Why `text` cannot be the claims of a challenge (OpenID Connect Core 1.0, 5.5: one JSON object), or undefined if it can.
 * An empty object asks for nothing, and an SDK would answer it from its cache without a word.
 */
export function claimsProblem(text: string): string | undefined {
  if (text.length > LONGEST) return `they are longer than ${LONGEST / 1024} KiB`;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return "they are not JSON (the parameter of WWW-Authenticate is base64: it must be decoded)";
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return "they are not a JSON object";
  return Object.keys(value).length === 0 ? "they ask for nothing" : undefined;
}
