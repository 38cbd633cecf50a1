/** The control socket: both ends, and what happens when one of them is not what it should be. */
import assert from "node:assert/strict";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Server, Socket } from "node:net";
import { join } from "node:path";
import { describe, mock, type TestContext, test } from "node:test";
import { type ControlServer, serveControl } from "../../src/agent/control-server.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import { askAgent, type ControlRequest, LONGEST_LINE, NoAgent } from "../../src/os/control-client.ts";
import { pause, temporaryDirectory, until } from "../support/unit.ts";

const RENEW = { op: "renew", name: "copilot", seen: "0123456789ab", reason: "expired" } as const;
const PATIENT = { timeout: 20_000 };

type Handle = (request: ControlRequest) => Promise<object>;

async function serve(
  t: TestContext,
  handle: Handle = async () => ({}),
): Promise<{ path: string; server: ControlServer }> {
  const path = join(temporaryDirectory(t), "control.sock");
  const server = await serveControl(path, handle);
  t.after(() => server.close());
  return { path, server };
}

/** What the server answers to `text`, sent as it is; "" if it closes the connection without a word. */
function send(path: string, text: string | readonly string[], end = false): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = "";
    const socket = createConnection(path);
    socket.setEncoding("utf8");
    socket.once("connect", async () => {
      for (const part of [text].flat()) {
        socket.write(part);
        await pause(5);
      }
      if (end) socket.end();
    });
    socket.on("data", (chunk) => {
      answer += chunk;
    });
    socket.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EPIPE" || error.code === "ECONNRESET" ? resolve(answer) : reject(error),
    );
    socket.once("close", () => resolve(answer));
  });
}

/** A server that says what it is told to, in place of an agent. */
async function pretend(t: TestContext, respond: (socket: Socket) => void): Promise<string> {
  const path = join(temporaryDirectory(t), "control.sock");
  const open = new Set<Socket>();
  const server: Server = createServer((socket) => {
    open.add(socket);
    socket.on("error", () => undefined);
    respond(socket);
  });
  await new Promise<void>((listening) => server.listen(path, listening));
  t.after(() => {
    server.close();
    for (const socket of open) socket.destroy();
  });
  return path;
}

describe("a request and its answer", () => {
  test("cross the socket as one line each", async (t) => {
    const seen: ControlRequest[] = [];
    const { path } = await serve(t, async (request) => {
      seen.push(request);
      return { result: "renewed", fingerprint: "ba9876543210", expires: 5 };
    });
    const answer = await askAgent(path, { ...RENEW, reason: "rejected", claims: '{"a":"ä"}' }, PATIENT);
    assert.deepEqual(answer, { v: 1, ok: true, result: "renewed", fingerprint: "ba9876543210", expires: 5 });
    assert.deepEqual(seen, [{ v: 1, ...RENEW, reason: "rejected", claims: '{"a":"ä"}' }]);
  });

  test("the socket is this user's alone", async (t) => {
    const previous = process.umask(0);
    const { path } = await serve(t);
    process.umask(previous);
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  test("an error arrives as what it was", async (t) => {
    const { path } = await serve(t, async () => {
      throw new FreshkeyError("ERR_BACKOFF", "not now", { hint: "later", retryAfter: 8_000 });
    });
    await assert.rejects(askAgent(path, RENEW, PATIENT), (error: FreshkeyError) => {
      assert.deepEqual(
        [error.code, error.class, error.message, error.hint, error.retryAfter],
        ["ERR_BACKOFF", "transient", "not now", "later", 8_000],
      );
      return true;
    });
  });

  test("a handler that breaks is an internal error, and the server goes on", async (t) => {
    let broken = true;
    const { path } = await serve(t, async () => {
      if (broken) throw new TypeError("x is not a function");
      return {};
    });
    await assert.rejects(askAgent(path, RENEW, PATIENT), { code: "ERR_INTERNAL", message: "x is not a function" });
    broken = false;
    await askAgent(path, { op: "status" }, PATIENT);
  });

  test("many at once are answered each on its own: one that takes long holds nobody up", async (t) => {
    let finish = () => {};
    const slow = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const { path } = await serve(t, async (request) => {
      if (request.op !== "renew") return {};
      if (request.name === "slow") await slow;
      return { fingerprint: request.name };
    });
    const ask = async (name: string) => {
      const answer = await askAgent<{ fingerprint: string }>(path, { ...RENEW, name }, PATIENT);
      assert.equal(answer.fingerprint, name);
    };
    const last = ask("slow");
    await Promise.all(Array.from({ length: 30 }, (_, i) => ask(`fast-${i}`)));
    finish();
    await last;
  });
});

describe("the server refuses", () => {
  const line = (request: object) => `${JSON.stringify(request)}\n`;
  const cases: [what: string, text: string, code: string][] = [
    ["what is not JSON", "renew copilot\n", "ERR_USAGE"],
    ["an empty line", "\n", "ERR_USAGE"],
    ["JSON that is no object", "5\n", "ERR_AGENT"],
    ["null", "null\n", "ERR_AGENT"],
    ["no version", line(RENEW), "ERR_AGENT"],
    ["another version", line({ v: 2, ...RENEW }), "ERR_AGENT"],
    ["a version of another type", line({ v: "1", ...RENEW }), "ERR_AGENT"],
    ["an unknown verb", line({ v: 1, op: "shutdown" }), "ERR_USAGE"],
    ["a renewal of nothing", line({ v: 1, op: "renew", seen: "", reason: "expired" }), "ERR_USAGE"],
    ["a renewal for no reason that it knows", line({ v: 1, ...RENEW, reason: "because" }), "ERR_USAGE"],
    ["values of the wrong type", line({ v: 1, ...RENEW, seen: 5 }), "ERR_USAGE"],
    ["claims of the wrong type", line({ v: 1, ...RENEW, claims: {} }), "ERR_USAGE"],
    ["claims that are not JSON", line({ v: 1, ...RENEW, claims: "eyJhIjoxfQ==" }), "ERR_USAGE"],
    ["claims that ask for nothing", line({ v: 1, ...RENEW, claims: "{}" }), "ERR_USAGE"],
    ["a line that is too long", `{"v":1,${" ".repeat(LONGEST_LINE)}`, "ERR_USAGE"],
  ];
  for (const [what, text, code] of cases) {
    test(what, async (t) => {
      const { path } = await serve(t, async () => assert.fail("the request got through"));
      const answer = JSON.parse(await send(path, text));
      assert.deepEqual([answer.v, answer.ok, answer.error.code], [1, false, code]);
    });
  }

  test("nothing that comes in parts, and nothing after the line", async (t) => {
    let calls = 0;
    const { path } = await serve(t, async () => ({ calls: ++calls }));
    const answer = JSON.parse(await send(path, ['{"v":1,', '"op":"sta', 'tus"}\n{"v":1,"op":"reload"}\n']));
    assert.deepEqual([answer, calls], [{ v: 1, ok: true, calls: 1 }, 1]);
  });

  test("a client that has nothing more to say still gets its answer", async (t) => {
    const { path } = await serve(t, async () => pause(20).then(() => ({ late: true })));
    assert.equal(JSON.parse(await send(path, '{"v":1,"op":"status"}\n', true)).late, true);
  });

  test("to wait for a client that says nothing", async (t) => {
    // Five seconds are too long for a test: what the socket was told is looked at, and shortened.
    const told: number[] = [];
    const original = Socket.prototype.setTimeout;
    mock.method(Socket.prototype, "setTimeout", function (this: Socket, ms: number, callback?: () => void) {
      told.push(ms);
      return original.call(this, ms === 5_000 ? 30 : ms, callback);
    });
    t.after(() => mock.restoreAll());
    const { path } = await serve(t, async () => assert.fail("the request got through"));
    assert.equal(await send(path, '{"v":1,'), "");
    assert.equal(told.includes(5_000), true);
  });

  test("a path that cannot be listened on", async (t) => {
    const path = join(temporaryDirectory(t), "missing/control.sock");
    await assert.rejects(
      serveControl(path, async () => ({})),
      { code: "ERR_RUN_DIRECTORY" },
    );
  });
});

describe("the server's end", () => {
  test("the socket goes, who waits learns that there is no agent any more", async (t) => {
    let begun = false;
    const { path, server } = await serve(t, () => {
      begun = true;
      return new Promise(() => {});
    });
    const waiting = assert.rejects(askAgent(path, RENEW, PATIENT), NoAgent);
    const silent = send(path, "");
    await until("a request", () => begun);
    await server.close();
    await waiting;
    assert.equal(await silent, "");
    assert.equal(existsSync(path), false);
    await assert.rejects(askAgent(path, RENEW, PATIENT), NoAgent);
  });

  test("what a dead one left in the way is removed", async (t) => {
    const path = join(temporaryDirectory(t), "control.sock");
    writeFileSync(path, "");
    const server = await serveControl(path, async () => ({}));
    t.after(() => server.close());
    await askAgent(path, { op: "status" }, PATIENT);
  });
});

describe("askAgent", () => {
  test("nobody there: no socket, no directory, something else in its place", async (t) => {
    const directory = temporaryDirectory(t);
    const plain = join(directory, "plain");
    writeFileSync(plain, "");
    for (const path of [join(directory, "none"), join(directory, "no/such"), plain, join(plain, "below")]) {
      await assert.rejects(askAgent(path, RENEW, PATIENT), NoAgent, path);
    }
  });

  test("an agent that goes away before it has answered", async (t) => {
    for (const say of ["", '{"v":1,"ok":tr']) {
      const path = await pretend(t, (socket) => {
        socket.once("data", () => socket.end(say));
      });
      await assert.rejects(askAgent(path, RENEW, PATIENT), NoAgent);
    }
    const reset = await pretend(t, (socket) => {
      socket.once("data", () => socket.destroy());
    });
    await assert.rejects(askAgent(reset, RENEW, PATIENT), NoAgent);
  });

  test("an answer that cannot be understood", async (t) => {
    const answers = ["hello\n", "null\n", "5\n", "{}\n", '{"v":1}\n', '{"v":1,"ok":false}\n', '{"ok":"yes"}\n'];
    for (const answer of [...answers, "x".repeat(LONGEST_LINE + 1)]) {
      const path = await pretend(t, (socket) => {
        socket.once("data", () => socket.write(answer));
      });
      const expected = { name: "FreshkeyError", code: "ERR_AGENT", message: "the agent's answer cannot be understood" };
      await assert.rejects(askAgent(path, RENEW, PATIENT), expected, answer.slice(0, 20));
    }
  });

  test("an answer in several parts, and one with a newline to spare", async (t) => {
    const path = await pretend(t, (socket) => {
      socket.once("data", async () => {
        for (const part of ['{"v":1,"ok":', 'true,"x":5}', "\n{}\n"]) {
          socket.write(part);
          await pause(5);
        }
      });
    });
    assert.deepEqual(await askAgent(path, RENEW, PATIENT), { v: 1, ok: true, x: 5 });
  });

  test("an agent that is suspended: the time-out, said as one", async (t) => {
    const path = await pretend(t, () => undefined);
    const began = performance.now();
    await assert.rejects(askAgent(path, RENEW, { timeout: 50 }), {
      code: "ERR_AGENT",
      message: "the agent did not answer within 50 ms",
    });
    assert.ok(performance.now() - began < 3_000, "it waited for longer");
  });

  test("a signal ends the wait with its reason", async (t) => {
    const path = await pretend(t, () => undefined);
    const reason = new Error("enough");
    await assert.rejects(askAgent(path, RENEW, { timeout: 60_000, signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const waiting = askAgent(path, RENEW, { timeout: 60_000, signal: controller.signal });
    setTimeout(() => controller.abort(reason), 20);
    await assert.rejects(waiting, reason);
  });
});
