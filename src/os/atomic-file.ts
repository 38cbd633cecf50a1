import { constants } from "node:fs";
import { open, rename, unlink } from "node:fs/promises";
import { join } from "node:path";
import { errno, FreshkeyError } from "../core/errors.ts";

export interface NewFile {
  readonly name: string;
  readonly data: string;
  /** Set with fchmod: never left to the umask. 0600 unless told. */
  readonly mode?: number | undefined;
  /** Numeric group, set with fchown. */
  readonly group?: number | undefined;
}

/**
 * Replaces files of one directory, each as a whole and in the order given: all are written beside their targets and
 * fsynced before the first `rename`, and the directory is fsynced last. Whoever opens one of them sees the old or the
 * new content, never less; when the call has returned, a crash of the machine does not take it back.
 *
 * Only one process may write to the directory at a time: temporary names are fixed (`.NAME.new`), so that what a
 * killed writer left behind is replaced by the next one and nothing ever piles up.
 *
 * @throws FreshkeyError `ERR_TOKEN_WRITE` with the path; the targets are as they were, or the first ones replaced.
 */
export async function replaceFiles(directory: string, files: readonly NewFile[]): Promise<void> {
  const written: string[] = [];
  try {
    for (const file of files) {
      written.push(temporary(directory, file.name));
      await writeNew(temporary(directory, file.name), file);
    }
    for (const file of files) await rename(temporary(directory, file.name), join(directory, file.name));
    await syncDirectory(directory);
  } catch (error) {
    await Promise.all(written.map((path) => unlink(path).catch(() => undefined)));
    throw writeError(directory, error);
  }
}

/** Removes files of one directory that may or may not be there, in the order given, with what a killed writer left. */
export async function removeFiles(directory: string, names: readonly string[]): Promise<void> {
  for (const path of names.flatMap((name) => [join(directory, name), temporary(directory, name)])) {
    await unlink(path).catch((error) => {
      if (errno(error) !== "ENOENT") throw writeError(directory, error);
    });
  }
}

async function writeNew(path: string, file: NewFile): Promise<void> {
  const handle = await create(path);
  try {
    await handle.chmod(file.mode ?? 0o600);
    if (file.group !== undefined) await handle.chown(-1, file.group);
    await handle.writeFile(file.data);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function create(path: string) {
  // O_EXCL and O_NOFOLLOW: never through a link that somebody laid there.
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  try {
    return await open(path, flags, 0o600);
  } catch (error) {
    if (errno(error) !== "EEXIST") throw error;
    await unlink(path);
    return open(path, flags, 0o600);
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function temporary(directory: string, name: string): string {
  return join(directory, `.${name}.new`);
}

const ADVICE: Record<string, string> = {
  ENOSPC: "make room on that file system; freshkey tries again by itself",
  EDQUOT: "make room within your quota; freshkey tries again by itself",
  EROFS: "mount it writable, or choose another place with `file`",
  EACCES: "make the directory yours and writable: chown and chmod u+rwx",
  EPERM: "make the directory yours, or leave out `group` and `mode`",
  ENOENT: "make the directory again",
  EISDIR: "a directory is in the place of a file: move it away",
};

function writeError(directory: string, error: unknown): FreshkeyError {
  const code = errno(error) ?? String(error);
  return new FreshkeyError("ERR_TOKEN_WRITE", `cannot write in ${directory}: ${code}`, {
    hint: ADVICE[code] ?? "see that the directory is there and writable",
    cause: error,
  });
}
