import { spawn } from "node:child_process";

/** A note on the desktop where there is one; `command` instead, with the text as its last argument, where one is given. */
export function showNote(text: string, command?: readonly string[]): void {
  const [file, ...args] = command ?? desktop() ?? [];
  if (file === undefined) return;
  // Nobody waits for it, and nothing depends on it: the log has said the same.
  spawn(file, [...args, text], { stdio: "ignore", detached: true })
    .on("error", () => undefined)
    .unref();
}

function desktop(): readonly string[] | undefined {
  if (process.platform === "darwin") {
    const script = ["on run argv", 'display notification (item 1 of argv) with title "freshkey"', "end run"];
    return ["osascript", ...script.flatMap((line) => ["-e", line])];
  }
  const { DISPLAY, WAYLAND_DISPLAY } = process.env;
  return DISPLAY || WAYLAND_DISPLAY ? ["notify-send", "--app-name=freshkey", "freshkey"] : undefined;
}
