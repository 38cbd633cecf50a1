/**
 * Mints with the real AWS SDK against local endpoints. Each `mint` is a process of its own, as in production: where the
 * SDK looks for credentials is its environment.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { build } from "esbuild";
import * as v from "valibot";
import type { ErrorRecord } from "../../src/core/errors.ts";
import type { Token } from "../../src/core/token.ts";
import { type AwsOptions, awsOptions } from "../../src/sources/aws.ts";
import type { MintRequest } from "../../src/sources/source.ts";

/** FRESHKEY_TEST_NO_DNS: as on a machine without a network; the name that was asked for is in the error. */
const DRIVER = `
  import dns from "node:dns";
  import { text } from "node:stream/consumers";
  import { FreshkeyError } from "./src/core/errors.ts";
  import { mintAws } from "./src/sources/aws.ts";
  if (process.env.FRESHKEY_TEST_NO_DNS) {
    dns.lookup = (name, options, callback) => setImmediate(callback, Object.assign(new Error(name), { code: "ENOTFOUND" }));
  }
  const { options, request } = JSON.parse(await text(process.stdin));
  const start = performance.now();
  const answer = await mintAws(options, request).then(
    (token) => ({ token }),
    (error) => ({ error: FreshkeyError.from(error).toJSON() }),
  );
  const settled = performance.now();
  process.stdout.write(JSON.stringify({ ...answer, elapsed: settled - start }));
`;

export interface Outcome {
  token?: Token;
  error?: ErrorRecord;
  /** Milliseconds until the mint settled. */
  elapsed: number;
  /** Milliseconds until the process had ended by itself, its start included. */
  lived: number;
  stderr: string;
}

export type Environment = Record<string, string>;

export const STATIC = {
  AWS_ACCESS_KEY_ID: "AKIAFRESHKEYTEST0000",
  AWS_SECRET_ACCESS_KEY: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};
/** The same as a profile of AWS's credentials file. */
export const staticProfile = (name: string) =>
  `[${name}]\naws_access_key_id = ${STATIC.AWS_ACCESS_KEY_ID}\naws_secret_access_key = ${STATIC.AWS_SECRET_ACCESS_KEY}\n`;
export const NO_INSTANCE = { AWS_EC2_METADATA_DISABLED: "true" };
export const ROLE_ARN = "arn:aws:iam::123456789012:role/r";

export interface AwsMinter {
  /** A folder of its own, which is also the home directory. */
  readonly home: string;
  mint(input: object, env: Environment, request?: Partial<MintRequest>): Promise<Outcome>;
  /** AWS's two files in a folder of their own, and the variables that lead there. */
  files(config: string, credentials?: string): Environment;
  /** A home directory as `aws sso login` leaves it: a file named after the session, or after the start URL. */
  signedIn(session: string, lifetime: number, more?: object): Environment;
  close(): void;
}

export async function makeAwsMinter(): Promise<AwsMinter> {
  const home = mkdtempSync(join(tmpdir(), "freshkey-aws-"));
  const driver = join(home, "driver.mjs");
  await bundle(DRIVER, driver);
  return {
    home,
    async mint(input, env, request = {}) {
      const options: AwsOptions = v.parse(awsOptions, { kind: "bedrock-api-key", region: "us-west-2", ...input });
      const start = performance.now();
      const child = spawn(process.execPath, [driver], {
        env: { PATH: process.env.PATH, HOME: home, ...env },
        stdio: ["pipe", "pipe", "pipe"],
      });
      child.stdin.end(JSON.stringify({ options, request: { name: "test", timeout: 10_000, ...request } }));
      const [out, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
      assert.notEqual(out, "", stderr);
      return { ...(JSON.parse(out) as Outcome), lived: performance.now() - start, stderr };
    },
    files(config, credentials = "") {
      const directory = mkdtempSync(join(home, "aws-"));
      const env = {
        AWS_CONFIG_FILE: join(directory, "config"),
        AWS_SHARED_CREDENTIALS_FILE: join(directory, "credentials"),
      };
      writeFileSync(env.AWS_CONFIG_FILE, config);
      writeFileSync(env.AWS_SHARED_CREDENTIALS_FILE, credentials);
      return { ...env, ...NO_INSTANCE };
    },
    signedIn(session, lifetime, more = {}) {
      const directory = mkdtempSync(join(home, "sso-"));
      const cache = join(directory, ".aws/sso/cache");
      mkdirSync(cache, { recursive: true });
      const expiresAt = new Date(Date.now() + lifetime).toISOString();
      const content = JSON.stringify({ accessToken: "sso-access-token", expiresAt, ...more });
      writeFileSync(join(cache, `${createHash("sha1").update(session).digest("hex")}.json`), content);
      return { HOME: directory };
    },
    close: () => rmSync(home, { recursive: true, force: true }),
  };
}

/** The driver and the SDK as one file: it starts in a quarter of the time. */
async function bundle(contents: string, outfile: string): Promise<void> {
  // The SDK's CommonJS parts ask for `require`, which a module doesn't have.
  const banner = 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);';
  const stdin = { contents, resolveDir: join(import.meta.dirname, "../.."), loader: "ts" } as const;
  await build({ stdin, outfile, bundle: true, platform: "node", format: "esm", banner: { js: banner } });
}
