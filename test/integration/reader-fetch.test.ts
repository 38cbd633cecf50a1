/** `createFetch` of the reader: real HTTP servers, and the real agent behind the token file. */
import assert from "node:assert/strict";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { describe, it, type TestContext } from "node:test";
import { createFetch, type FetchOptions, type FreshkeyError, openKeyFile } from "../../src/reader/index.ts";
import { makeCertificates } from "../support/certificates.ts";
import { CLIENT_ID, CLIENT_SECRET, startEntra } from "../support/entra.ts";
import { openSandbox } from "../support/freshkey.ts";
import { makeOlder, openSource } from "../support/source.ts";

interface Received {
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly status: number;
}

interface Server {
  readonly origin: string;
  readonly received: Received[];
  /** Tokens that are answered with a 401, in whatever header they come. */
  readonly revoked: Set<string>;
  /** Sent with a 401. */
  challenge: string;
  /** What answers a request that is let in. */
  answer: { status: number; headers?: Record<string, string>; body: string };
  /** Answers that were not read to their end. */
  cutOff: number;
  /** A 401 has no end: whoever does not read it has to cancel it. */
  endless: boolean;
}

async function startServer(t: TestContext): Promise<Server> {
  const http = createServer(async (request, response) => {
    const { headers, url = "" } = request;
    const body = await text(request);
    const tokens = [headers.authorization?.replace("Bearer ", ""), headers["api-key"], headers["x-api-key"]];
    const refused = tokens.some((token) => server.revoked.has(String(token)));
    const { answer } = server;
    server.received.push({ url, headers, body, status: refused ? 401 : answer.status });
    response.on("close", () => {
      if (!response.writableFinished) server.cutOff++;
    });
    if (!refused) return response.writeHead(answer.status, answer.headers).end(answer.body);
    response.writeHead(401, { "www-authenticate": server.challenge }).write("refused");
    if (!server.endless) response.end();
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    http.closeAllConnections();
    http.close();
  });
  const server: Server = {
    origin: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    received: [],
    revoked: new Set(),
    challenge: 'Bearer error="invalid_token"',
    answer: { status: 200, headers: { "x-from": "gateway" }, body: "hello" },
    cutOff: 0,
    endless: false,
  };
  return server;
}

/** A gateway, and an agent whose token is old enough to be minted anew when it is rejected. */
async function scene(t: TestContext, options: FetchOptions = {}) {
  const server = await startServer(t);
  const box = openSandbox(t);
  const source = openSource(box);
  box.writeConfig(`[clients.copilot]\ntoken = "copilot"\nbase_url = "${server.origin}/v1"\n${source.toml("copilot")}`);
  const agent = await box.startAgent();
  const key = openKeyFile(box.tokenPath("copilot"), { wait: 20_000 });
  t.after(() => key.close());
  const first = await key.get();
  makeOlder(key.path);
  return { server, box, source, agent, key, first, send: createFetch(key, options), url: `${server.origin}/v1/chat` };
}

const post = (body: unknown, more: object = {}) => ({ method: "POST", body, duplex: "half", ...more }) as RequestInit;

describe("a request", () => {
  it("carries the token in the header of its type, and no other credential", async (t) => {
    const { server, key, first, url } = await scene(t);
    const others = { Authorization: "Bearer other", "API-Key": "other", "x-api-key": "other", "x-mine": "1" };
    const expected = {
      openai: ["authorization", `Bearer ${first}`],
      azure: ["api-key", first],
      anthropic: ["x-api-key", first],
    };
    for (const [type, [header, value]] of Object.entries(expected) as [
      NonNullable<FetchOptions["type"]>,
      [string, string],
    ][]) {
      const send = createFetch(key, { type });
      for (const [input, init] of [
        [url, { headers: others }],
        [new URL(url), { headers: new Headers(others) }],
        [new Request(url, { headers: others }), undefined],
      ] as const) {
        assert.equal((await send(input, init)).status, 200);
        const { headers } = server.received.at(-1)!;
        assert.equal(headers[header], value);
        assert.equal(headers["x-mine"], "1");
        assert.equal(JSON.stringify(headers).includes("other"), false, type);
      }
    }
  });

  it("is handed over as it came", async (t) => {
    const { server, send, url } = await scene(t);
    server.answer = { status: 503, headers: { "retry-after": "7" }, body: "later" };
    const response = await send(url, post("{}"));
    assert.deepEqual([response.status, response.headers.get("retry-after")], [503, "7"]);
    assert.equal(await response.text(), "later");
    assert.equal(server.received.length, 1);
  });
});

describe("a 401", () => {
  it("in mid-run is answered with a new token before the caller sees it, and its body is cancelled", async (t) => {
    const { server, source, agent, first, send, url } = await scene(t);
    assert.equal(await (await send(url)).text(), "hello");
    server.revoked.add(first);
    server.endless = true;
    const bodies = ["text", new URLSearchParams({ a: "1" }), new Blob(["blob"]), Buffer.from("bytes")];
    const response = await send(url, post(bodies[0]));
    assert.deepEqual(
      [response.status, response.headers.get("x-from"), await response.text()],
      [200, "gateway", "hello"],
    );
    assert.deepEqual(
      server.received.map(({ status }) => status),
      [200, 401, 200],
    );
    assert.deepEqual(
      server.received.map(({ body }) => body),
      ["", "text", "text"],
    );
    for (const body of bodies) assert.equal((await send(url, post(body))).status, 200);
    assert.equal(source.runs(), 2);
    assert.equal(server.cutOff, 1);
    assert.equal(agent.log().filter(({ reason }) => reason === "rejected").length, 1);
  });

  it("every body that can be sent twice is the same the second time", async (t) => {
    const { server, send, key, url } = await scene(t);
    const form = new FormData();
    form.set("field", "value");
    const bodies = [
      new URLSearchParams({ a: "1" }),
      new Blob(["blob"]),
      Buffer.from("bytes"),
      new TextEncoder().encode("buffer").buffer,
      form,
    ];
    for (const body of bodies) {
      makeOlder(key.path);
      server.revoked.add(await key.get());
      const earlier = server.received.length;
      assert.equal((await send(url, post(body))).status, 200);
      const [one, two, ...more] = server.received.slice(earlier).map((got) => got.body.replaceAll(/-{4,}\S+/g, ""));
      assert.ok(one !== "" && one === two && more.length === 0, `${one} and ${two}`);
    }
  });

  it("many at once cause one mint, and each is sent twice", async (t) => {
    const { server, source, first, send, url } = await scene(t);
    server.revoked.add(first);
    const responses = await Promise.all(Array.from({ length: 25 }, () => send(url, post("{}"))));
    assert.deepEqual([...new Set(responses.map(({ status }) => status))], [200]);
    assert.equal(source.runs(), 2);
    assert.equal(server.received.length, 50);
  });

  it("a second one is the caller's", async (t) => {
    const { server, source, send, url } = await scene(t);
    server.revoked.has = () => true;
    const response = await send(url);
    assert.deepEqual([response.status, await response.text()], [401, "refused"]);
    assert.deepEqual([server.received.length, source.runs()], [2, 2]);
  });

  it("where no new token can be had: the 401 is the caller's, whole, and why is told", async (t) => {
    const failures: FreshkeyError[] = [];
    const { server, source, first, send, url } = await scene(t, { onFailure: (error) => failures.push(error) });
    server.revoked.add(first);
    source.behave({ exit: 1, says: "the realm is closed" });
    const response = await send(url);
    assert.deepEqual([response.status, await response.text()], [401, "refused"]);
    assert.equal(server.received.length, 1);
    assert.deepEqual(
      failures.map(({ code }) => code),
      ["ERR_SOURCE_FAILED"],
    );
    assert.match(failures[0]!.message, /the realm is closed/);
  });

  it("a stream is not sent twice: the 401 is the caller's, and the agent is told", async (t) => {
    const { server, source, first, key, send, url } = await scene(t);
    const streams: (() => Parameters<typeof send>)[] = [
      () => [url, post(new Blob(["streamed"]).stream())],
      () => [new Request(url, post("streamed"))],
      () => [
        url,
        post(
          (async function* () {
            yield Buffer.from("streamed");
          })(),
        ),
      ],
    ];
    let last = first;
    for (const [i, stream] of streams.entries()) {
      server.revoked.add(last);
      const earlier = server.received.length;
      const response = await send(...stream());
      assert.deepEqual([response.status, await response.text()], [401, "refused"]);
      assert.deepEqual(
        server.received.slice(earlier).map(({ body }) => body),
        ["streamed"],
      );
      // Asked meanwhile, or afterwards: the next request carries the new one.
      last = await key.get();
      assert.equal(server.revoked.has(last), false);
      assert.equal(source.runs(), i + 2);
      makeOlder(key.path);
      assert.equal((await send(...stream())).status, 200);
    }
  });

  it("is not answered where the caller has had enough", async (t) => {
    const { server, source, first, send, url } = await scene(t);
    server.revoked.add(first);
    source.hold();
    const controller = new AbortController();
    const reason = new Error("enough");
    const response = send(url, { signal: controller.signal });
    for (const end = Date.now() + 10_000; source.runs() < 2 && Date.now() < end; )
      await new Promise((resolve) => setTimeout(resolve, 10));
    controller.abort(reason);
    await assert.rejects(response, reason);
    source.release();
    await assert.rejects(send(new Request(url, { signal: AbortSignal.abort(reason) })), reason);
    assert.equal(server.received.length, 1);
  });
});

describe("a claims challenge", () => {
  it("reaches the authority that mints, and the request is sent again with what it gave", async (t) => {
    const certificates = makeCertificates();
    const entra = await startEntra(certificates);
    t.after(async () => {
      await entra.close();
      certificates.remove();
    });
    const server = await startServer(t);
    const box = openSandbox(t);
    box.writeConfig(`
[clients.copilot]
token = "copilot"
base_url = "${server.origin}"
[tokens.copilot]
source = "azure"
credential = "client-secret"
scope = "api://gateway/.default"
authority = "${entra.authority}"
tenant_id = "t"
client_id = "${CLIENT_ID}"
client_secret = { env = "ENTRA_SECRET" }
`);
    await box.startAgent({ env: { ENTRA_SECRET: CLIENT_SECRET, NODE_EXTRA_CA_CERTS: certificates.caFile } });
    const key = openKeyFile(box.tokenPath("copilot"), { wait: 30_000 });
    t.after(() => key.close());
    server.revoked.add(await key.get());
    makeOlder(key.path);
    const claims = JSON.stringify({ access_token: { nbf: { essential: true, value: "1795459999" } } });
    const encoded = Buffer.from(claims).toString("base64");
    server.challenge = `Bearer realm="", error="insufficient_claims", claims="${encoded}"`;
    assert.equal((await createFetch(key)(server.origin)).status, 200);
    const asked = entra.posted.get("t")?.map((posted) => JSON.parse(posted.get("claims") ?? "{}").access_token?.nbf);
    assert.deepEqual(asked, [undefined, { essential: true, value: "1795459999" }]);
  });
});

describe("the token goes nowhere else", () => {
  it("not to where the gateway redirects: the 3xx is the caller's", async (t) => {
    const { server, first, key, url } = await scene(t);
    const elsewhere = await startServer(t);
    for (const status of [301, 302, 303, 307, 308]) {
      server.answer = { status, headers: { location: `${elsewhere.origin}/v1/chat` }, body: "" };
      for (const type of ["openai", "azure", "anthropic"] as const) {
        const response = await createFetch(key, { type })(url, post("{}", { redirect: "follow" }));
        assert.equal(response.status, status);
      }
    }
    assert.deepEqual(elsewhere.received, []);
    assert.ok(server.received.every(({ headers }) => JSON.stringify(headers).includes(first)));
  });

  it("not to another origin than that of the configuration, nor of the program", async (t) => {
    const { server, key, send, url } = await scene(t);
    const elsewhere = await startServer(t);
    await assert.rejects(send(`${elsewhere.origin}/v1`), { code: "ERR_ORIGIN" });
    const own = createFetch(key, { baseUrl: elsewhere.origin });
    await assert.rejects(own(`${elsewhere.origin}/v1`), { code: "ERR_ORIGIN" }, "the configuration names another");
    await assert.rejects(own(url), { code: "ERR_ORIGIN" });
    await assert.rejects(send("http://gw.example/v1"), { code: "ERR_ORIGIN" });
    await assert.rejects(send("/v1"), { code: "ERR_ORIGIN" });
    assert.deepEqual([elsewhere.received, server.received], [[], []]);
  });
});
