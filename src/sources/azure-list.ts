/** A list of credentials: when the next one is tried, and what it means that none of them made a token. */
import { type ErrorCode, FreshkeyError } from "../core/errors.ts";
import type { CredentialKind } from "./azure-options.ts";

export interface KindFailure {
  readonly kind: CredentialKind;
  readonly error: FreshkeyError;
}

/** It lacks what it needs here: variables, a file, a program. */
const NOT_HERE: readonly ErrorCode[] = ["ERR_SOURCE_MISSING", "ERR_SOURCE_CONFIG"];

/** Away from Azure there is nobody to answer; in Azure a machine may have no identity, or not this one. */
const ALSO: Partial<Record<CredentialKind, readonly ErrorCode[]>> = {
  cli: ["ERR_SIGN_IN"],
  "managed-identity": ["ERR_SOURCE_UNREACHABLE", "ERR_SOURCE_REFUSED"],
};

/**
 * Whether the next credential is to be tried. Only where this one is not there at all, as with the SDK's own chain: one
 * that is there and fails must not hand over to another identity because its endpoint had a bad minute.
 */
export function tryNext({ kind, error }: KindFailure): boolean {
  return [...NOT_HERE, ...(ALSO[kind] ?? [])].includes(error.code);
}

/** The one error for all of them: each is named; the class and the next step are those of the one that matters. */
export function failureOfAll(failures: readonly KindFailure[]): FreshkeyError {
  const [first] = failures;
  if (failures.length === 1 && first) return first.error;
  const { code, hint, retryAfter } = decisive(failures).error;
  const message = failures.map(({ kind, error }) => `${kind}: ${error.message}`).join("; ");
  return new FreshkeyError(code, `no credential made a token. ${message}`, { hint, retryAfter });
}

/** One that is there and failed; else one that a person can sign in to; else one that may come back by itself. */
function decisive(failures: readonly KindFailure[]): KindFailure {
  const last = failures.at(-1)!;
  if (!tryNext(last)) return last;
  const of = (kind: string) => failures.find(({ error }) => error.class === kind);
  return of("sign-in") ?? of("transient") ?? last;
}
