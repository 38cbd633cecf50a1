/** Where the configuration holds secrets, or says where they are. */
import { statSync } from "node:fs";
import { expandHome } from "../os/paths.ts";
import type { TokenConfig } from "./load.ts";
import type { Mistakes } from "./mistakes.ts";
import { isTable } from "./table.ts";

/** Options whose value is a credential. */
const SECRET_KEYS = ["client_secret", "client_certificate", "client_certificate_password"];
/** Variables of a command whose value is one, as far as their names tell. */
const SECRET_VARIABLE = /TOKEN|SECRET|PASSW|KEY|CREDENTIAL/i;

/** A secret may stand in the configuration itself only where nobody else can read that. */
export function checkLiteralSecrets(
  table: Record<string, unknown>,
  path: readonly string[],
  { mistakes, file }: { readonly mistakes: Mistakes; readonly file: string },
): void {
  const values: (readonly [readonly string[], unknown])[] = [
    ...SECRET_KEYS.map((key) => [[key], table[key]] as const),
    ...Object.entries(isTable(table.env) ? table.env : {})
      .filter(([name]) => SECRET_VARIABLE.test(name))
      .map(([name, value]) => [["env", name], value] as const),
  ];
  const [literal] = values.find(([, value]) => typeof value === "string") ?? [];
  if (literal === undefined || (statSync(file).mode & 0o077) === 0) return;
  mistakes.add(
    [...path, ...literal],
    `a secret may stand here only if nobody else can read the file: chmod 600 ${file}; or say { file = "…" }, { env = "…" } or { command = […] }`,
  );
}

/** The files that a token's source reads its secrets from. */
export function secretFiles({ options }: TokenConfig): string[] {
  return Object.values(options).flatMap((value: unknown) =>
    isTable(value) && typeof value.file === "string" ? [expandHome(value.file)] : [],
  );
}
