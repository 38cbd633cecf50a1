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
  /(?<=\b(?:password|passwd|secret|client_secret|access_token|refresh_token|id_token|api[-_]?key|assertion|code)["']?\s*[=:]\s*["']?)[^\s"'&,;}]+/gi,
  // 40 characters and more in one run with letters and digits. A GUID is shorter; a path starts with a slash.
  /(?<![\w./+-])(?=[\w+/=.-]*\d)(?=[\w+/=.-]*[A-Za-z])[\w+][\w+/=-]{39,}(?:\.[\w+/=-]+)*/g,
];

/** `text` with everything that looks like a credential replaced by `***`, on one line, at most `limit` characters. */
export function mask(text: string, limit = 300): string {
  let clean = text;
  for (const secret of SECRETS) clean = clean.replace(secret, "***");
  clean = clean.replace(/[\x00-\x1f\x7f\s]+/g, " ").trim();
  return clean.length > limit ? `${clean.slice(0, limit - 1)}…` : clean;
}
