/**
 * The real SDKs that docs/library.md shows, installed where the real clients are; and its snippets, run as they stand.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const VERSIONS = { openai: "7.57.0", "@anthropic-ai/sdk": "1.12.0", "@github/copilot-sdk": "1.0.14" };
const root = fileURLToPath(new URL("../..", import.meta.url));

/** Installs them, unless they are there already, and returns their node_modules. FRESHKEY_TEST_CLIENTS must be set. */
export async function installSdks(): Promise<string> {
  const clients = process.env.FRESHKEY_TEST_CLIENTS!;
  const packages = Object.entries(VERSIONS).map(([name, version]) => `${name}@${version}`);
  const directory = join(clients, `sdks-${Object.values(VERSIONS).join("-")}`);
  const modules = join(directory, "node_modules");
  const there = () => readFile(join(modules, "openai/package.json")).then(Boolean, () => false);
  if (await there()) return modules;
  await mkdir(clients, { recursive: true });
  const fresh = await mkdtemp(join(clients, ".installing-"));
  try {
    const options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
    await promisify(execFile)("npm", ["install", "--prefix", fresh, ...options, ...packages]);
    await rename(fresh, directory);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    // Somebody else has been quicker.
    if (!(await there())) throw error;
  }
  return modules;
}

/** The blocks of JavaScript in docs/library.md. */
export async function snippets(): Promise<string[]> {
  const page = await readFile(join(root, "docs/library.md"), "utf8");
  return [...page.matchAll(/^```js\n([\s\S]*?)^```$/gm)].map(([, code = ""]) => code);
}

export interface Program {
  /** Does once more what the snippet's last paragraph does, and gives the lines that it printed; rejects if it failed. */
  again(): Promise<string[]>;
  close(): Promise<void>;
}

/**
 * Runs a snippet: all but its last paragraph once, and that as often as it is asked to. Nothing is inherited but PATH.
 *
 * @param modules Where the SDKs are; the package itself is the one built here.
 */
export async function startSnippet(code: string, modules: string, env: Record<string, string>): Promise<Program> {
  const home = await mkdtemp(join(tmpdir(), "freshkey-snippet-"));
  const installed = join(home, "node_modules");
  await mkdir(installed);
  const names = ["openai", "@anthropic-ai", "@github"];
  await Promise.all(names.map((name) => symlink(join(modules, name), join(installed, name))));
  await symlink(root, join(installed, "freshkey"));
  const end = code.trimEnd().lastIndexOf("\n\n");
  const repeated = `for await (const line of lines) {\n${code.slice(end)}\nconsole.log("::done");\n}\nprocess.exit(0);\n`;
  const lines = `import { createInterface } from "node:readline";\n${code.slice(0, end)}\nconst lines = createInterface({ input: process.stdin });\n`;
  await writeFile(join(home, "snippet.mjs"), lines + repeated);
  const child = spawn(process.execPath, ["snippet.mjs"], {
    cwd: home,
    env: { PATH: process.env.PATH, HOME: home, COPILOT_OFFLINE: "true", ...env },
    stdio: ["pipe", "pipe", "pipe"],
    detached: true,
  });
  return follow(child, home);
}

function follow(child: ChildProcess, home: string): Program {
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  child.stdin?.on("error", () => undefined);
  const output = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  const ended = new Promise((resolve) => child.once("close", resolve));
  return {
    async again() {
      child.stdin?.write("\n");
      const printed: string[] = [];
      for (;;) {
        const { value, done } = await output.next();
        if (done) throw new Error(`the snippet ended: ${said}`);
        if (value === "::done") return printed;
        printed.push(value);
      }
    },
    async close() {
      child.stdin?.end();
      await ended;
      await rm(home, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
