/**
 * COPILOT_PROVIDER_API_KEY_FILE for the unmodified GitHub Copilot CLI: an extension that gives each session a token
 * callback, which reads the key file again before every request. Bundled to one file; `connect` puts the settings in
 * front of it.
 */
import { spawn } from "node:child_process";
import { joinSession } from "@github/copilot-sdk/extension";
import { FreshkeyError } from "../core/errors.ts";
import { openKeyFile } from "../reader/key-file.ts";
import { checkOrigin } from "../reader/origin.ts";
import type { ExtensionSettings } from "./copilot.ts";

declare const settings: ExtensionSettings;

/** The CLI waits for the callback: longer than for a command, not for ever. */
const WAIT = 20_000;

const path = process.env.COPILOT_PROVIDER_API_KEY_FILE || settings.tokenPath;
const key = openKeyFile(path, { wait: WAIT, renew: (_request, { timeout, signal }) => renewApart(timeout, signal) });

await joinSession({
  provider: {
    ...settings.provider,
    bearerTokenProvider: async () => {
      const { value, json } = await key.read();
      checkOrigin(json?.base_url ?? "", settings.provider.baseUrl, "the extension's base URL");
      return value;
    },
  },
});

/** No agent runs: the program renews in a process of its own. What it prints, the token, is not read. */
function renewApart(timeout: number, signal: AbortSignal): Promise<void> {
  const [node, program] = settings.program;
  const child = spawn(node, [program, "token", path, "--wait", `${timeout}ms`], {
    stdio: ["ignore", "ignore", "pipe"],
    signal,
  });
  return new Promise((resolve, reject) => {
    let said = "";
    child.stderr.on("data", (chunk) => {
      said += chunk;
    });
    child.once("error", reject);
    child.once("close", (code) => {
      if (code === 0) resolve();
      else reject(new FreshkeyError("ERR_TOKEN_EXPIRED", said.trim() || `freshkey token ended with exit code ${code}`));
    });
  });
}
