/**
 * A token directory that cannot be written to: the old token stays whole and is handed out, whoever asks learns which
 * path it is and what to do, and once the condition has ended the agent renews by itself.
 *
 * Full and read-only is a small tmpfs over the sandbox's runtime directory, which takes root; for root in turn no mode
 * is an obstacle, so there the unwritable directory is another user's, who runs the agent.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import {
  FRESHKEY,
  FRESHKEY_TOKEN,
  openSandbox,
  pause,
  type Running,
  type Sandbox,
  until,
} from "../support/freshkey.ts";
import { openSource } from "../support/source.ts";

const asRoot = process.geteuid?.() === 0;
/** A user who is nobody else on this machine, and what runs a program as that user. */
const STRANGER = 54_321;
const AS_STRANGER = ["setpriv", `--reuid=${STRANGER}`, `--regid=${STRANGER}`, "--clear-groups"];

/** Small enough to be full soon. The last argument is the directory. */
const TMPFS = ["-t", "tmpfs", "-o", "size=128k,mode=0700", "tmpfs"];

interface Fault {
  readonly code: string;
  /** What the hint is to say. */
  readonly advice: RegExp;
  readonly skip: string | false;
  /** What runs freshkey, if not the shell's own user. */
  readonly runner?: readonly string[];
  prepare(box: Sandbox): void;
  begin(directory: string): void;
  end(directory: string): void;
  cleanUp?(box: Sandbox): void;
}

const onTmpfs = {
  skip: noTmpfs(),
  prepare: ({ env }: Sandbox) => system("mount", ...TMPFS, env.XDG_RUNTIME_DIR!),
  cleanUp: ({ env }: Sandbox) => system("umount", "--lazy", env.XDG_RUNTIME_DIR!),
};
/** Root of the tmpfs, from a token's directory: `RUNTIME/freshkey/NAME`. */
const rootOf = (directory: string) => dirname(dirname(directory));

const faults: Fault[] = [
  {
    ...onTmpfs,
    code: "ENOSPC",
    advice: /make room/,
    begin: (directory) => fill(join(rootOf(directory), "filler")),
    end: (directory) => rmSync(join(rootOf(directory), "filler")),
  },
  {
    ...onTmpfs,
    code: "EROFS",
    advice: /mount it writable/,
    begin: (directory) => system("mount", "-o", "remount,ro", rootOf(directory)),
    end: (directory) => system("mount", "-o", "remount,rw", rootOf(directory)),
  },
  {
    code: "EACCES",
    advice: /chmod u\+rwx/,
    skip: asRoot && noStranger(),
    ...(asRoot && { runner: AS_STRANGER }),
    prepare: ({ directory }) => asRoot && system("chown", "-R", `${STRANGER}:${STRANGER}`, directory),
    begin: (directory) => chmodSync(directory, 0o500),
    end: (directory) => chmodSync(directory, 0o700),
  },
];

describe("a token directory that cannot be written to", { concurrency: faults.length }, () => {
  for (const fault of faults) {
    it(`${fault.code}: the old token stays, the path is named, it heals by itself`, { skip: fault.skip }, async (t) => {
      const { path, directory, run, agent, statusOf } = await openPlace(t, fault);
      const files = () => [readFileSync(path, "latin1"), readFileSync(`${path}.json`, "latin1")];

      fault.begin(directory);
      const forced = await run(FRESHKEY, "renew", "copilot", "--force");
      assert.equal(forced.code, 1, forced.stderr);
      const complaint = `cannot write in ${directory}: ${fault.code}`;
      assert.ok(forced.stderr.includes(complaint), forced.stderr);
      assert.match(forced.stderr, fault.advice);
      const [token, ...rest] = files();

      // It goes on trying, with nobody asking.
      const failing = await until("the agent tries again", async () => {
        const status = await statusOf();
        return (status.error?.attempts ?? 0) >= 3 ? status : undefined;
      });
      assert.equal(failing.state, "failing");
      assert.ok(failing.error?.message.includes(complaint), failing.error?.message);
      assert.match(failing.error?.hint ?? "", fault.advice);
      const { stderr: log } = agent.output();
      const warned = log.split("\n").find((line) => line.includes(complaint));
      assert.ok(warned !== undefined && fault.advice.test(warned), `the log does not say so: ${log}`);

      assert.deepEqual(files(), [token, ...rest]);
      assert.deepEqual(readdirSync(directory).sort(), ["token", "token.json"]);
      const read = await run(FRESHKEY_TOKEN, "copilot");
      assert.deepEqual({ code: read.code, stdout: read.stdout }, { code: 0, stdout: token }, read.stderr);

      fault.end(directory);
      const ended = Date.now();
      await until("there is a new token", () => readFileSync(path, "latin1") !== token, 30_000);
      t.diagnostic(`renewed ${Date.now() - ended} ms after the end`);
      const healed = await until("the agent is content", async () => {
        const status = await statusOf();
        return status.state === "fresh" ? status : undefined;
      });
      assert.equal(healed.error, undefined);
      await until("the log says that it is over", () => agent.output().stderr.includes("works again"));
      assert.deepEqual(readdirSync(directory).sort(), ["token", "token.json"]);
    });
  }
});

interface Status {
  readonly state: string;
  readonly error?: { readonly message: string; readonly hint?: string; readonly attempts: number };
}

/** An agent that has published a token, where the fault is about to strike. */
async function openPlace(t: TestContext, fault: Fault) {
  const box = openSandbox();
  let agent: Running | undefined;
  t.after(async () => {
    await agent?.stop("SIGKILL");
    fault.cleanUp?.(box);
    await box.remove();
  });
  const source = openSource(box);
  // Often due, and good for an hour: what is tried again does not wait for an expiry.
  box.writeConfig(source.toml("copilot", 'cron = "*/2 * * * * *"\njitter = "0s"'));
  fault.prepare(box);
  const start = (program: string, ...args: string[]) => {
    const [first = program, ...rest] = [...(fault.runner ?? []), program, ...args];
    return box.start(rest, { program: first });
  };
  const run = (program: string, ...args: string[]) => start(program, ...args).ended;
  agent = start(FRESHKEY, "agent");
  const statusOf = async (): Promise<Status> => {
    await pause(200);
    const { code, stdout, stderr } = await run(FRESHKEY, "status", "--json");
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout).tokens[0];
  };
  const { output } = agent;
  await until("the first token is published", async () => (await statusOf()).state === "fresh").catch((error) => {
    throw new Error(`${error.message}; the agent's log: ${output().stderr}`);
  });
  const path = box.tokenPath("copilot");
  return { path, directory: dirname(path), run, agent, statusOf };
}

/** Writes until there is no room left. */
function fill(path: string): void {
  for (let number = 0; number < 10_000; number++) {
    try {
      writeFileSync(path, Buffer.alloc(4_096, "x"), { flag: "a" });
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, "ENOSPC");
      return;
    }
  }
  throw new Error(`${path} has become 40 MB, and the disk is not full yet`);
}

function system(...[program = "", ...args]: string[]): void {
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${error?.message ?? stderr}`);
}

function noTmpfs(): string | false {
  if (!asRoot || process.platform !== "linux") return "only root can mount a small tmpfs";
  const place = mkdtempSync(join(tmpdir(), "fk-"));
  try {
    system("mount", ...TMPFS, place);
    system("umount", place);
    return false;
  } catch (error) {
    return `a tmpfs cannot be mounted here: ${(error as Error).message}`;
  } finally {
    rmdirSync(place);
  }
}

/** Whether another user can run freshkey from where it lies. */
function noStranger(): string | false {
  const [program = "", ...args] = AS_STRANGER;
  const { status, stderr, error } = spawnSync(program, [...args, FRESHKEY, "--help"], { encoding: "utf8" });
  return status !== 0 && `freshkey cannot be run as another user: ${error?.message ?? stderr}`;
}
