import { formatDuration } from "../core/duration.ts";
import type { DemoEvent, DemoSummary, LaneName } from "./demo.ts";
import type { Outcome } from "./lane.ts";

export interface Screen {
  show(event: DemoEvent): void;
  /** The closing sentence. */
  close(summary: DemoSummary): void;
}

const TITLES: Record<LaneName, string> = { static: "key read once ", freshkey: "with freshkey " };
const MARKS: Record<Outcome, string> = { ok: "✓", refused: "✗" };
const WORDS: Record<Outcome, string> = { ok: "answered", refused: "401 refused" };

/** The demo for a person: two lanes that grow at the foot of a terminal, plain lines elsewhere. */
export function openScreen(stream: NodeJS.WriteStream, env: NodeJS.ProcessEnv): Screen {
  const lanes: Record<LaneName, Outcome[]> = { static: [], freshkey: [] };
  const started = Date.now();
  const live = stream.isTTY === true && env.TERM !== "dumb";
  const colour = live && !env.NO_COLOR;
  const paint = (text: string, code: number) => (colour ? `\x1b[${code}m${text}\x1b[0m` : text);
  const at = () => `${String(Math.round((Date.now() - started) / 1000)).padStart(3)} s  `;
  let footer = 0;

  const laneLine = (lane: LaneName) => {
    const room = Math.max(10, (stream.columns ?? 80) - TITLES[lane].length - 4);
    const marks = lanes[lane].slice(-room).map((outcome) => paint(MARKS[outcome], outcome === "ok" ? 32 : 31));
    return `  ${TITLES[lane]}${marks.join("")}`;
  };
  const eraseFooter = () => {
    if (footer > 0) stream.write(`\x1b[${footer}A\x1b[0J`);
    footer = 0;
  };
  const drawFooter = () => {
    if (!live) return;
    stream.write(`\n${laneLine("static")}\n${laneLine("freshkey")}\n`);
    footer = 3;
  };
  const say = (text: string) => {
    if (live) eraseFooter();
    stream.write(`${text}\n`);
    drawFooter();
  };

  const intro = ({ curl, lifetime, copilot }: DemoEvent & { kind: "ready" }) => {
    const other = copilot ? "other is GitHub Copilot CLI, whose hook" : "other";
    const rows = [
      "An identity provider, a gateway and the freshkey agent run on this machine.",
      `Tokens live ${formatDuration(lifetime)}. Two clients ask the gateway once a second: one read its key`,
      `at the start, as coding CLIs do; the ${other}`,
      "reads the token file before each request.",
      "Try it yourself in a second terminal:",
      "",
      `  ${curl}`,
      "",
    ];
    say(rows.join("\n"));
  };

  return {
    show(event) {
      switch (event.kind) {
        case "ready":
          return intro(event);
        case "request":
          lanes[event.lane].push(event.outcome);
          if (!live) return say(`${at()}${TITLES[event.lane]} ${WORDS[event.outcome]}`);
          eraseFooter();
          return drawFooter();
        case "renewed":
          return say(`${at()}${event.token} renewed: ${event.fingerprint}`);
        case "killed":
          return say(`${at()}${paint("the agent is killed (SIGKILL)", 33)}`);
        case "restarted":
          return say(`${at()}the agent is started again`);
      }
    },
    // Below the lanes, which stay.
    close: (summary) => void stream.write(`\n${sentence(summary)}\n`),
  };
}

/** What the demo has shown, in words. */
export function sentence({ lanes, renewals, kills }: DemoSummary): string {
  const { static: once, freshkey } = lanes;
  const fell =
    once.refused > 0
      ? `The key that was read once was refused ${once.refused} times of ${once.requests}: it had expired.`
      : `The key that was read once got through all ${once.requests} times: it has not expired yet.`;
  const never = freshkey.refused === 0 ? "never" : `${freshkey.refused} times`;
  const killed = kills > 0 ? ",\nalthough the agent was killed on the way" : "";
  return `${fell}\nThe client with freshkey was ${never} refused in ${freshkey.requests} requests over ${renewals} renewals${killed}.`;
}
