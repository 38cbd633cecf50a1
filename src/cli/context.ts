import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Config } from "../config/load.ts";
import type { LogLevel } from "../os/log.ts";
import { configFile, runDirectory } from "../os/paths.ts";
import type { Invocation } from "./verb.ts";

/** The program itself, for those who have to name it: a client's configuration, a process in the background. */
export const PROGRAM = fileURLToPath(import.meta.resolve("../../bin/freshkey"));
/** The reader as a shell script: what a client runs before its requests. */
export const READER = fileURLToPath(import.meta.resolve("../../bin/freshkey-token"));

/** @throws FreshkeyError what is wrong with the configuration. */
export async function openConfig(invocation: Invocation): Promise<Config> {
  const { loadConfig } = await import("../config/load.ts");
  return loadConfig(configFile(invocation.text("config")), runDirectory().path);
}

/** Messages of verbs that are no daemon: warnings, and with `--verbose` everything. */
export async function openVerbLog(invocation: Invocation, level: LogLevel = "silent") {
  const { openLog } = await import("../os/log.ts");
  return openLog(invocation.flag("verbose") ? "debug" : level);
}

/**
 * Finishes in the background what this process has begun and cannot wait for: a source that takes longer than a client
 * waits would otherwise be started anew by every request, and never get to its end.
 */
export function finishInBackground(config: Config, name: string): void {
  const args = [PROGRAM, "renew", name, "--quiet", "--config", config.file];
  spawn(process.execPath, args, { detached: true, stdio: "ignore" }).unref();
}
