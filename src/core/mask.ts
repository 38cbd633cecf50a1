/**
 * What looks like a credential in a text of foreign origin (a program's stderr, an SDK's message): JWTs, AWS and other
 * keys with a known head, values of well-known parameters, and any long run of characters that only a machine writes.
 */
const SECRETS = [
  /\beyJ[\w-]+(\.[\w-]*){1,4}/g,
  /\bbedrock-api-key-\S+/g,
  /\b(?:A[KS]IA)[A-Z0-9]{12,}\b/g,
  /\b(?:sk|pk|ghp|gho|ghu|ghs|xox[abp])[-_][\w-]{8,}/g,
  /(?<=\b(?:[Bb]earer|[Bb]asic)\s+)\S+/g,
  // Names as they are in JSON, in a query, in a variable: clientSecret, AWS_SECRET_ACCESS_KEY, …
  /(?<=(?:passw(?:or)?d|secret|(?:secret|access)_?(?:access_?)?key|(?:access|refresh|session|id)_?token|api[-_]?key|assertion)["']?\s*[=:]\s*["']?)[^\s"'&,;}]+/gi,
  /(?<=[?&]code=)[^\s"'&]+/g,
  // A client secret of Entra ID.
  /(?<![\w.~-])[\w.~-]{3}\dQ~[\w.~-]{30,}/g,
  // 40 characters and more in one run with letters and digits. A GUID is shorter; a path starts with a slash.
  /(?<![\w./+-])(?=[\w+/=.-]*\d)(?=[\w+/=.-]*[A-Za-z])[\w+][\w+/=-]{39,}(?:\.[\w+/=-]+)*/g,
  // The same with dots in it, as refresh tokens have: then with both cases and 24 characters between two dots, which
  // the name of a host hasn't.
  /(?<![\w./+-])(?=[\w+/=.-]*\d)(?=[\w+/=.-]*[a-z])(?=[\w+/=.-]*[A-Z])(?=[\w+/=.-]*[\w+/=-]{24})[\w+][\w+/=.-]{39,}/g,
];

/** `text` with everything that looks like a credential replaced by `***`, on one line, at most `limit` characters. */
export function mask(text: string, limit = 300): string {
  let clean = text;
  for (const secret of SECRETS) clean = clean.replace(secret, "***");
  clean = clean.replace(/[\x00-\x1f\x7f\s]+/g, " ").trim();
  return clean.length > limit ? `${clean.slice(0, limit - 1)}…` : clean;
}
