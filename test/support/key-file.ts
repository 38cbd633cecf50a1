/** A token file in a directory of its own, as the agent writes it, and an agent that does as the test says. */

/** A token file in a directory of its own, as the agent writes it, and an agent that does as the test says. */
import fs, { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { serveControl } from "../../src/agent/control-server.ts";
import { fingerprint } from "../../src/core/token.ts";
import type { ControlRequest } from "../../src/os/control-client.ts";
import { type KeyFile, type KeyFileOptions, openKeyFile } from "../../src/reader/key-file.ts";
import { formatTokenJson } from "../../src/reader/token-file.ts";
import { temporaryDirectory } from "./unit.ts";

export const NOW = Date.parse("2026-11-23T09:00:00Z");
export const LIFE = 3_600_000;

interface Put {
  readonly control?: string;
  readonly only?: "token" | "json";
  /** Where the token may go. */
  readonly baseUrl?: string;
}

/** A token file, and where its agent would be. */
export interface Place {
  readonly path: string;
  /** Where the agent of this place would listen. */
  readonly control: string;
  /** Puts a token in place as the writer does: token, then token.json, each by rename. */
  put(value: string, expires?: number, options?: Put): void;
  open(options?: KeyFileOptions): KeyFile;
}

export function place(t: TestContext): Place {
  const run = temporaryDirectory(t);
  const directory = join(run, "copilot");
  mkdirSync(directory, { mode: 0o700 });
  mkdirSync(join(run, "agent"), { mode: 0o700 });
  const path = join(directory, "token");
  const control = join(run, "agent/control.sock");
  const replace = (file: string, content: string) => {
    writeFileSync(`${file}.new`, content, { mode: 0o600 });
    renameSync(`${file}.new`, file);
  };
  return {
    path,
    control,
    put(value, expires = NOW + LIFE, options = {}) {
      const json = {
        expires: Math.floor(expires / 1000),
        minted: Math.floor((expires - LIFE) / 1000),
        fingerprint: fingerprint(value),
        name: "copilot",
        source: "command",
        control: options.control ?? control,
        base_url: options.baseUrl ?? "",
        verify: false,
        schema: 1,
      };
      if (options.only !== "json") replace(path, value);
      if (options.only !== "token") replace(`${path}.json`, formatTokenJson(json));
    },
    open(options = {}) {
      const key = openKeyFile(path, { now: () => NOW, wait: 10_000, ...options });
      t.after(() => key.close());
      return key;
    },
  };
}

/** Counts the files that are opened for reading, and what a `get()` stats, while `task` runs. */
export async function counting(task: () => Promise<unknown>): Promise<{ opened: number; looked: number }> {
  const counts = { opened: 0, looked: 0 };
  const { openSync, readFileSync, statSync } = fs;
  Object.assign(fs, {
    openSync: (...args: Parameters<typeof openSync>) => {
      counts.opened++;
      return openSync(...args);
    },
    readFileSync: (...args: Parameters<typeof readFileSync>) => {
      if (typeof args[0] === "string") counts.opened++;
      return readFileSync(...args);
    },
    statSync: (...args: Parameters<typeof statSync>) => {
      counts.looked++;
      return statSync(...args);
    },
  });
  syncBuiltinESMExports();
  try {
    await task();
  } finally {
    Object.assign(fs, { openSync, readFileSync, statSync });
    syncBuiltinESMExports();
  }
  return counts;
}

/** An agent that answers each request for a renewal with what `answer` gives. */
export async function agent(t: TestContext, at: Place, answer: (request: ControlRequest) => unknown) {
  const requests: ControlRequest[] = [];
  const server = await serveControl(at.control, async (request) => {
    requests.push(request);
    return ((await answer(request)) ?? {}) as object;
  });
  t.after(() => server.close());
  return requests;
}
