/**
 * Mints of the azure source through the real mint process, in surroundings of its own: what each leaves behind is found
 * by a variable that only its processes have.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";
import * as v from "valibot";
import type { ErrorRecord } from "../../src/core/errors.ts";
import type { Token } from "../../src/core/token.ts";
import { azureOptions } from "../../src/sources/azure.ts";
import { DIST } from "./freshkey.ts";

export interface Outcome {
  readonly token?: Token;
  readonly error?: ErrorRecord;
  /** Milliseconds, with the start of the mint process. */
  readonly elapsed: number;
  /** Programs that are left once the mint has settled. */
  readonly left: string[];
}

export interface MintOptions {
  readonly env?: Record<string, string> | undefined;
  readonly claims?: string;
  /** Milliseconds. */
  readonly timeout?: number;
}

export interface AzureMinter {
  readonly directory: string;
  /** Mints with these keys of the configuration. */
  mint(options: object, request?: MintOptions): Promise<Outcome>;
  /** Writes a file and returns its path. */
  file(name: string, content: string): string;
  /** How many lines a file has. */
  lines(path: string): number;
  /** A folder with an `az` that runs `script`, first of the `PATH` that is returned. */
  az(script: string): { PATH: string };
  remove(): void;
}

const DRIVER = `
  import { text } from "node:stream/consumers";
  import { mint } from ${JSON.stringify(pathToFileURL(join(DIST, "agent/mint.js")).href)};
  const { options, timeout, claims } = JSON.parse(await text(process.stdin));
  const start = performance.now();
  const config = { name: "test", source: "azure", options, timeout };
  const answer = await mint(config, { claims, now: Date.now() }).then((token) => ({ token }), (error) => ({ error: error.toJSON() }));
  process.stdout.write(JSON.stringify({ ...answer, elapsed: performance.now() - start }));
`;

/** `caFile`: of the authority to trust. Commands that the surroundings have are looked for in /bin and /usr/bin, but no `az`. */
export function openAzureMinter(caFile: string): AzureMinter {
  const directory = mkdtempSync(join(tmpdir(), "freshkey-azure-"));
  const driver = join(directory, "driver.mjs");
  writeFileSync(driver, DRIVER);
  const noAz = join(directory, "no-az");
  mkdirSync(noAz);
  return {
    directory,
    async mint(input, { env = {}, claims, timeout = 30_000 } = {}) {
      const options = v.parse(azureOptions, input);
      const marker = `FRESHKEY_TEST_MINT=${randomUUID()}`;
      const [name, value] = marker.split("=") as [string, string];
      const child = spawn(process.execPath, [driver], {
        env: { PATH: noAz, HOME: directory, NODE_EXTRA_CA_CERTS: caFile, ...env, [name]: value },
        stdio: ["pipe", "pipe", "pipe"],
      });
      child.stdin.end(JSON.stringify({ options, timeout, claims }));
      const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
      assert.notEqual(out, "", err);
      assert.equal(err, "");
      return { ...(JSON.parse(out) as Omit<Outcome, "left">), left: await leftBehind(marker, child.pid) };
    },
    file(name, content) {
      const path = join(directory, name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, content, { mode: 0o600 });
      return path;
    },
    lines: (path) => readFileSync(path, "utf8").split("\n").length - 1,
    az(script) {
      const bin = mkdtempSync(join(directory, "az-"));
      writeFileSync(join(bin, "az"), `#!/bin/sh\n${script}\n`);
      chmodSync(join(bin, "az"), 0o755);
      return { PATH: `${bin}:/usr/bin:/bin` };
    },
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** The command lines of the processes with `marker` in their environment. A killed one may take a moment to go. */
async function leftBehind(marker: string, driver: number | undefined): Promise<string[]> {
  if (process.platform !== "linux") return [];
  const end = performance.now() + 2_000;
  for (;;) {
    const found = readdirSync("/proc")
      .filter((pid) => /^\d+$/.test(pid) && Number(pid) !== driver && has(pid, marker))
      .map((pid) => read(`/proc/${pid}/cmdline`).replaceAll("\0", " "));
    if (found.length === 0 || performance.now() > end) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function has(pid: string, marker: string): boolean {
  return read(`/proc/${pid}/environ`).split("\0").includes(marker);
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
