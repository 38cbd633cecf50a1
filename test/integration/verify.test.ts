/** The gateway is asked before a token that works is replaced: the real agent, a gateway that says what it takes. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, it, type TestContext } from "node:test";
import { gatewayOf } from "../../src/agent/gateway.ts";
import type { TokenConfig } from "../../src/config/load.ts";
import { openSandbox, type Sandbox, until } from "../support/freshkey.ts";
import { openSource } from "../support/source.ts";

/** A gateway whose list of models tells nothing but whether it takes a token. */
async function openGateway(t: TestContext, answer: (headers: IncomingHttpHeaders) => number) {
  const asked: { url: string | undefined; headers: IncomingHttpHeaders }[] = [];
  const server = createServer(({ url, headers }, response) => {
    asked.push({ url, headers });
    const status = answer(headers);
    response.writeHead(status, status === 302 ? { Location: "http://127.0.0.1:1/elsewhere" } : {}).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return { asked, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

const contentOf = (box: Sandbox) => {
  const path = box.tokenPath("copilot");
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
};
const client = (url: string) => `[clients.copilot]\ntoken = "copilot"\nbase_url = "${url}/v1"\n`;

describe("a renewal whose token the gateway does not take", {
  skip: process.platform !== "linux" && "needs /proc",
}, () => {
  it("leaves the one in place as long as that works, says so, and goes on trying", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box, { lifetime: 3600 });
    let only: string | undefined;
    const gateway = await openGateway(t, ({ authorization }) =>
      only && authorization !== `Bearer ${only}` ? 401 : 200,
    );
    // Renewed every second.
    const often = 'cron = "* * * * * *"\njitter = "0s"';
    box.writeConfig(`${source.toml("copilot", often)}${client(gateway.url)}`);
    const agent = await box.startAgent();
    await until("there is a token", () => contentOf(box));
    only = contentOf(box);
    // One that was on its way when the gateway made up its mind.
    await until("a new one was rejected", async () => {
      only = contentOf(box);
      return (await box.run(["status"])).stdout.includes("the gateway answered 401");
    });
    const kept = contentOf(box);
    const minted = source.runs();
    await until("more are minted", () => source.runs() > minted, 15_000);
    assert.ok(contentOf(box) === kept && kept === only, "the token that works is not in place any more");

    const told = JSON.parse((await box.run(["status", "--json"])).stdout).tokens[0];
    assert.equal(told.state, "failing");
    assert.match(told.error.message, /the gateway answered 401 to a new token of copilot; the one before still works/);
    assert.match(told.error.hint, /audience and scope .* freshkey renew copilot --force/);
    const forced = await box.run(["renew", "copilot", "--force"]);
    assert.equal(forced.code, 0, forced.stderr);
    assert.ok(contentOf(box) !== kept, "--force puts the new one in place");
    // Now neither is taken: the newer one is the better guess.
    const latest = contentOf(box);
    await until("renewals go on", () => contentOf(box) !== latest);
    assert.deepEqual(new Set(gateway.asked.map(({ url }) => url)), new Set(["/v1/models"]));
    await agent.stop();
  });

  it("keeps nobody waiting where the gateway hangs: the agent ends within a second", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    let asked = false;
    const server = createServer(() => {
      asked = true;
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => server.close().closeAllConnections());
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    box.writeConfig(`${source.toml("copilot", 'cron = "* * * * * *"\njitter = "0s"')}${client(url)}`);
    const agent = await box.startAgent();
    await until("the gateway is asked", () => asked);
    const kept = contentOf(box);
    const began = Date.now();
    await agent.stop();
    assert.ok(Date.now() - began < 1_000, `it took ${Date.now() - began} ms`);
    assert.ok(contentOf(box) === kept, "a token was put in place after the end");
  });

  it("is not in doubt because of anything but a 401, and is not asked about without one in place", async (t) => {
    for (const status of [403, 404, 500, 302]) {
      const box = openSandbox(t);
      const source = openSource(box);
      const gateway = await openGateway(t, () => status);
      box.writeConfig(`${source.toml("copilot", 'cron = "* * * * * *"\njitter = "0s"')}${client(gateway.url)}`);
      const agent = await box.startAgent();
      const first = await until("there is a token", () => contentOf(box));
      await until("it is renewed", () => contentOf(box) !== first);
      assert.ok(gateway.asked.length > 0, `${status}: the gateway was asked`);
      assert.ok(gateway.asked.every(({ headers }) => headers.authorization !== `Bearer ${first}`));
      await agent.stop();
    }
  });
});

describe("how the gateway is asked", () => {
  const config = (url: string, more: Partial<TokenConfig> = {}) =>
    ({ verify: `${url}/models`, ...more }) as TokenConfig;

  const { signal } = new AbortController();

  it("by the header of the client's type, and by Bearer before it is said to reject", async (t) => {
    for (const [type, header, sent] of [
      ["openai", "authorization", "Bearer tok-1"],
      ["azure", "api-key", "tok-1"],
      ["anthropic", "x-api-key", "tok-1"],
      ["azure", "authorization", "Bearer tok-1"],
    ] as const) {
      const gateway = await openGateway(t, (headers) => (headers[header] === sent ? 200 : 401));
      const rejects = gatewayOf(config(gateway.url, { clientType: type }))!;
      assert.deepEqual(
        [await rejects("tok-1", signal), await rejects("tok-2", signal)],
        [false, true],
        `${type}, ${header}`,
      );
      assert.ok(gateway.asked.every(({ url }) => url === "/models"));
    }
  });

  it("ends with its signal", async (t) => {
    const server = createServer(() => undefined);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => server.close().closeAllConnections());
    const stopping = new AbortController();
    server.once("request", () => stopping.abort());
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const began = performance.now();
    assert.equal(await gatewayOf(config(url))!("tok-1", stopping.signal), false);
    assert.ok(performance.now() - began < 1_500, "it waited for its time-out");
  });

  it("one that is not there rejects nothing; without `verify` none is asked", async () => {
    assert.equal(await gatewayOf(config("http://127.0.0.1:1"))!("tok-1", signal), false);
    assert.equal(gatewayOf({} as TokenConfig), undefined);
  });
});
