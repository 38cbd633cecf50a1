/** `1*tchar`, RFC 9110, section 5.6.2. */
const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
/** Liberal in what may stand without quotes: base64 has characters that a token has not. */
const PARAMETER = new RegExp(`(${TOKEN})[ \\t]*=[ \\t]*(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s,"=]+=*))[ \\t]*(?=,|$)`, "y");
const SCHEME = new RegExp(`(${TOKEN})(?:[ \\t]+|(?=,|$))`, "y");
const TOKEN68 = /[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)/y;
const BETWEEN = /[\s,]*/y;

/** One challenge of a `WWW-Authenticate`; names in lower case. */
interface Challenge {
  readonly scheme: string;
  readonly parameters: Map<string, string>;
}

/**
 * The claims that a gateway asks for with a 401: of a Bearer challenge (RFC 6750, section 3) with the error
 * `insufficient_claims`, `claims` out of its base64. A minting source can pass them on (continuous access evaluation).
 *
 * @param header the values of `WWW-Authenticate`, as `Headers.get` joins them.
 * @returns JSON text (OpenID Connect Core 1.0, section 5.5), or undefined where there is none that can be understood.
 */
export function claimsOf(header: string | null): string | undefined {
  for (const { scheme, parameters } of challengesOf(header ?? "")) {
    if (scheme !== "bearer" || parameters.get("error") !== "insufficient_claims") continue;
    const text = Buffer.from(parameters.get("claims") ?? "", "base64").toString();
    if (isObject(text)) return text;
  }
  return undefined;
}

/** RFC 9110, section 11.6.1: challenges and their parameters are both separated by commas. Ends where it is no more that. */
function challengesOf(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  let at = 0;
  const take = (pattern: RegExp) => {
    pattern.lastIndex = at;
    const found = pattern.exec(header);
    if (found) at = pattern.lastIndex;
    return found;
  };
  for (;;) {
    take(BETWEEN);
    const current = challenges.at(-1);
    const [, name, quoted, plain] = (current && take(PARAMETER)) ?? [];
    if (name !== undefined) {
      current?.parameters.set(name.toLowerCase(), plain ?? quoted?.replaceAll(/\\(.)/g, "$1") ?? "");
      continue;
    }
    const [, scheme] = take(SCHEME) ?? [];
    if (scheme === undefined) return challenges;
    challenges.push({ scheme: scheme.toLowerCase(), parameters: new Map() });
    const before = at;
    // `Negotiate YII…=`: neither a parameter nor the next scheme.
    if (take(PARAMETER)) at = before;
    else take(TOKEN68);
  }
}

function isObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
