import { lstatSync, mkdirSync, type Stats } from "node:fs";
import { homedir, hostname } from "node:os";
import { dirname, join } from "node:path";
import { errno, FreshkeyError } from "../core/errors.ts";

/** What decides where files are. Injected in tests. */
export interface Surroundings {
  readonly env: NodeJS.ProcessEnv;
  readonly platform: NodeJS.Platform;
  readonly uid: number;
  readonly home: string;
  readonly hostname: string;
}

export function surroundings(): Surroundings {
  return {
    env: process.env,
    platform: process.platform,
    uid: process.geteuid?.() ?? -1,
    home: process.env.HOME || homedir(),
    hostname: hostname(),
  };
}

/** A path of the configuration with its leading `~/` made the home directory. */
export function expandHome(path: string): string {
  return path.startsWith("~/") ? join(surroundings().home, path.slice(2)) : path;
}

export interface RunDirectory {
  readonly path: string;
  /** On a disk rather than in memory: worth a warning. */
  readonly onDisk: boolean;
}

/**
 * `RUN`: where token files and the agent's sockets are. The user's runtime directory is in memory and private; cron
 * and `su` don't name it, so it is looked for; what is left is a directory for this host alone (a home directory may
 * be shared by several hosts).
 */
export function runDirectory(where: Surroundings = surroundings()): RunDirectory {
  if (where.platform === "darwin") {
    // Not $TMPDIR: it is cleaned after three days, and launchd's differs from a terminal's.
    return { path: join(where.home, "Library/Application Support/freshkey/run"), onDisk: true };
  }
  for (const candidate of [where.env.XDG_RUNTIME_DIR, `/run/user/${where.uid}`]) {
    if (candidate?.startsWith("/") && stat(candidate)?.uid === where.uid) {
      return { path: join(candidate, "freshkey"), onDisk: false };
    }
  }
  return { path: join(where.home, `.local/state/freshkey/run-${where.hostname}`), onDisk: true };
}

/** The configuration file: `explicit` (`--config`), else `FRESHKEY_CONFIG`, else the user's, else the system's. */
export function configFile(explicit?: string, where: Surroundings = surroundings()): string {
  const named = explicit ?? where.env.FRESHKEY_CONFIG;
  if (named) return named;
  const own = join(where.env.XDG_CONFIG_HOME || join(where.home, ".config"), "freshkey/config.toml");
  const system = "/etc/freshkey/config.toml";
  return stat(own) === undefined && stat(system) !== undefined ? system : own;
}

/**
 * Makes a private directory (0700) and every missing one above it, or checks the one that is there.
 *
 * @throws FreshkeyError `ERR_RUN_DIRECTORY` if it cannot be made, or is not safe: see `unsafeDirectory`.
 */
export function makePrivateDirectory(path: string, where: Surroundings = surroundings()): void {
  try {
    // Running as another user than the owner (`sudo -E`) would leave files that the owner can neither read nor mend.
    const above = nearest(dirname(path));
    if (above.stat.uid !== where.uid && above.stat.uid !== 0 && stat(path) === undefined) {
      throw new FreshkeyError(
        "ERR_RUN_DIRECTORY",
        `${above.path} belongs to uid ${above.stat.uid}, not to ${where.uid}`,
        {
          hint: `run freshkey as the user who owns ${above.path}; with sudo, leave out -E and set HOME`,
        },
      );
    }
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    if (error instanceof FreshkeyError) throw error;
    throw new FreshkeyError("ERR_RUN_DIRECTORY", `cannot make the directory ${path}: ${errno(error)}`, {
      hint: "make it yourself, owned by you, with mode 0700",
      cause: error,
    });
  }
  const unsafe = unsafeDirectory(path, where.uid);
  if (unsafe) {
    throw new FreshkeyError("ERR_RUN_DIRECTORY", `${path} ${unsafe.problem}`, { hint: unsafe.hint });
  }
}

/**
 * Why a directory is not safe to keep a token in, or undefined: it must be this user's (or root's), not a symbolic
 * link, and nobody else may write to it. For a reader it may also be another user's who shares it with a group.
 */
export function unsafeDirectory(
  path: string,
  uid: number = surroundings().uid,
  options: { sharedIsFine?: boolean } = {},
): { problem: string; hint: string } | undefined {
  const found = lstatSync(path);
  if (found.isSymbolicLink()) {
    return { problem: "is a symbolic link", hint: `name the directory itself, or remove the link: rm ${path}` };
  }
  if (!found.isDirectory()) return { problem: "is not a directory", hint: `move it away: mv ${path} ${path}.old` };
  const shared = options.sharedIsFine === true && (found.mode & 0o070) !== 0;
  if (found.uid !== uid && found.uid !== 0 && !shared) {
    return {
      problem: `belongs to uid ${found.uid}, not to ${uid}`,
      hint: "run freshkey as that user, or choose another directory",
    };
  }
  if ((found.mode & 0o022) !== 0) {
    const mode = (found.mode & 0o777).toString(8).padStart(4, "0");
    return { problem: `can be written to by others (mode ${mode})`, hint: `chmod go-w ${path}` };
  }
  return undefined;
}

function stat(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch {
    // ENOTDIR, EACCES: whatever is there, this user cannot use it.
    return undefined;
  }
}

function nearest(path: string): { path: string; stat: Stats } {
  for (let at = path; ; at = dirname(at)) {
    const found = stat(at);
    if (found) return { path: at, stat: found };
  }
}
