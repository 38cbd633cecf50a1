/**
 * The loopback identity endpoints and the gateway, each link checked with something that freshkey did not write: the
 * real SDKs of Azure and AWS mint, `jose` and `fetch` look at the answers.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import { createRemoteJWKSet, decodeJwt, jwtVerify } from "jose";
import { fingerprint } from "../../src/core/token.ts";
import { type Gateway, type GatewayOptions, type GatewayRequest, startGateway } from "../../src/demo/gateway.ts";
import { type Identity, startIdentity } from "../../src/demo/identity.ts";

const AUDIENCE = "api://gateway";
const run = promisify(execFile);
const json = async (response: Response) => JSON.parse(await response.text());

let identity: Identity;
before(async () => {
  identity = await startIdentity();
});
after(() => identity.close());

/** A program in a process of its own, with nothing in its environment but what is given; what it printed, as JSON. */
async function runScript(script: string, environment: Readonly<Record<string, string>>) {
  const env = { PATH: process.env.PATH, HOME: "/nonexistent", ...environment };
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], {
    cwd: import.meta.dirname,
    env,
    timeout: 30_000,
  });
  return JSON.parse(stdout);
}

const AZURE = `
  import { ManagedIdentityCredential } from "@azure/identity";
  const credential = new ManagedIdentityCredential({ retryOptions: { maxRetries: 0 } });
  const answer = await credential.getToken("${AUDIENCE}/.default").catch((error) => ({ error: error.name }));
  console.log(JSON.stringify(answer));`;

const AWS = `
  import { fromNodeProviderChain } from "@aws-sdk/credential-providers";
  const chain = fromNodeProviderChain({ maxRetries: 0 });
  const answer = await chain().catch((error) => ({ error: error.name }));
  console.log(JSON.stringify(answer));`;

const AWS_QUIET = { AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: "true" };

describe("the identity endpoints", () => {
  it("publish an OpenID discovery document and the keys of what they sign", async () => {
    const metadata = await json(await fetch(`${identity.issuer}/.well-known/openid-configuration`));
    assert.equal(metadata.issuer, identity.issuer);
    const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));
    const token = await identity.sign({ audience: AUDIENCE, lifetime: 60_000 });
    const { payload, protectedHeader } = await jwtVerify(token, keys, { issuer: identity.issuer, audience: AUDIENCE });
    assert.equal(protectedHeader.alg, "ES256");
    assert.equal(payload.exp! - payload.iat!, 60);
    assert.equal(payload.nbf, payload.iat);
    assert.ok(payload.sub);
  });

  it("publish no private key", async () => {
    const { keys } = await json(await fetch(`${identity.issuer}/jwks`));
    assert.deepEqual(Object.keys(keys[0]).sort(), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
  });

  it("sign a distinct token each time, even within one second", async () => {
    const tokens = await Promise.all(Array.from({ length: 10 }, () => identity.sign({ audience: AUDIENCE })));
    assert.equal(new Set(tokens).size, 10);
  });

  it("mint for the real ManagedIdentityCredential of @azure/identity", async () => {
    const before = identity.mints.azure;
    const answer = await runScript(AZURE, identity.environment);
    assert.equal(answer.error, undefined);
    const claims = decodeJwt(answer.token);
    assert.equal(claims.iss, identity.issuer);
    assert.equal(claims.aud, AUDIENCE);
    assert.equal(claims.exp! - claims.iat!, 8);
    assert.equal(answer.expiresOnTimestamp, claims.exp! * 1000);
    assert.equal(identity.mints.azure, before + 1);
  });

  it("mint nothing without the identity header", async () => {
    const before = identity.mints.azure;
    const answer = await runScript(AZURE, { ...identity.environment, IDENTITY_HEADER: "wrong" });
    assert.equal(answer.error, "CredentialUnavailableError");
    const bare = await fetch(`${identity.environment.IDENTITY_ENDPOINT}?resource=${AUDIENCE}`);
    assert.equal(bare.status, 401);
    assert.equal(identity.mints.azure, before);
  });

  it("give credentials to the real provider chain of AWS", async () => {
    const before = identity.mints.aws;
    const [first, second] = await Promise.all(
      [1, 2].map(() => runScript(AWS, { ...identity.environment, ...AWS_QUIET })),
    );
    assert.match(first.accessKeyId, /^ASIA[0-9A-Z]{16}$/);
    assert.equal(first.secretAccessKey.length, 40);
    assert.ok(first.sessionToken);
    const left = Date.parse(first.expiration) - Date.now();
    assert.ok(left > 3_500_000 && left <= 3_600_000, `${left} ms left`);
    assert.notEqual(first.accessKeyId, second.accessKeyId);
    assert.equal(identity.mints.aws, before + 2);
  });

  it("give no credentials without the container's authorization token", async () => {
    const before = identity.mints.aws;
    const environment = { ...identity.environment, ...AWS_QUIET, AWS_CONTAINER_AUTHORIZATION_TOKEN: "wrong" };
    // The chain would go on to ask the machine itself.
    const answer = await runScript(AWS, { ...environment, AWS_EC2_METADATA_DISABLED: "true" });
    assert.equal(answer.error, "CredentialsProviderError");
    assert.equal(identity.mints.aws, before);
  });
});

/** A gateway of this test's own, with what it told of its requests. */
async function withGateway(
  options: Partial<GatewayOptions>,
  test: (gateway: Gateway, seen: GatewayRequest[]) => Promise<void>,
) {
  const seen: GatewayRequest[] = [];
  const onRequest = (request: GatewayRequest) => void seen.push(request);
  const gateway = await startGateway({ issuer: identity.issuer, audience: AUDIENCE, onRequest, ...options });
  try {
    await test(gateway, seen);
  } finally {
    await gateway.close();
  }
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const models = (gateway: Gateway, headers: Record<string, string>) => fetch(`${gateway.baseUrl}/models`, { headers });

function post(gateway: Gateway, path: string, token: string, body: unknown) {
  return fetch(gateway.origin + path, {
    method: "POST",
    headers: { ...bearer(token), "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
}

describe("the gateway's check of a token", () => {
  it("lets a valid token through and tells its fingerprint alone", () =>
    withGateway({}, async (gateway, seen) => {
      const token = await identity.sign({ audience: AUDIENCE, lifetime: 60_000 });
      const response = await models(gateway, bearer(token));
      assert.equal(response.status, 200);
      assert.equal((await json(response)).object, "list");
      assert.deepEqual(seen, [
        {
          method: "GET",
          path: "/v1/models",
          header: "authorization",
          fingerprint: fingerprint(token),
          status: 200,
          reason: undefined,
        },
      ]);
      assert.deepEqual(gateway.counts, { requests: 1, refused: 0 });
    }));

  it("refuses a token in the very second in which it expires, and not before", async () => {
    const token = await identity.sign({ audience: AUDIENCE });
    const expires = decodeJwt(token).exp! * 1000;
    let now = expires - 1;
    await withGateway({ now: () => now }, async (gateway, seen) => {
      assert.equal((await models(gateway, bearer(token))).status, 200);
      now = expires;
      const refused = await models(gateway, bearer(token));
      assert.equal(refused.status, 401);
      assert.equal(
        refused.headers.get("www-authenticate"),
        'Bearer realm="freshkey demo", error="invalid_token", ' +
          `error_description="the token expired at ${new Date(expires).toISOString()}"`,
      );
      assert.equal((await json(refused)).error.type, "authentication_error");
      assert.equal(seen[1]?.status, 401);
      assert.deepEqual(gateway.counts, { requests: 2, refused: 1 });
    });
  });

  it("refuses another audience, another issuer, another key, a changed payload, and what is no JWT", () =>
    withGateway({}, async (gateway) => {
      const stranger = await startIdentity();
      try {
        const sign = { audience: AUDIENCE, lifetime: 60_000 };
        const [head, , signature] = (await identity.sign(sign)).split(".");
        const [, payload] = (await identity.sign({ ...sign, lifetime: 600_000 })).split(".");
        const none = Buffer.from('{"alg":"none"}').toString("base64url");
        const refused: [string, RegExp][] = [
          [await identity.sign({ ...sign, audience: "api://other" }), /claim aud/],
          [await identity.sign({ ...sign, issuer: "http://127.0.0.1:9" }), /claim iss/],
          [await identity.sign({ ...sign, lifetime: -1_000 }), /expired/],
          [await stranger.sign({ ...sign, issuer: identity.issuer }), /signature/],
          [`${head}.${payload}.${signature}`, /signature/],
          [`${none}.${payload}.`, /not a JWT/],
          ["nonsense", /not a JWT/],
        ];
        for (const [token, reason] of refused) {
          const response = await models(gateway, bearer(token));
          assert.equal(response.status, 401);
          const challenge = response.headers.get("www-authenticate") ?? "";
          assert.match(challenge, /^Bearer realm="[^"]+", error="invalid_token", error_description="[^"]+"$/);
          assert.match(challenge, reason);
          assert.ok(!(await response.text()).includes(token));
        }
        assert.equal(gateway.counts.refused, refused.length);
      } finally {
        await stranger.close();
      }
    }));

  it("refuses a revoked token, and only that one", () =>
    withGateway({}, async (gateway) => {
      const [one, other] = [await identity.sign({ audience: AUDIENCE }), await identity.sign({ audience: AUDIENCE })];
      gateway.revoke(fingerprint(one));
      const refused = await models(gateway, bearer(one));
      assert.equal(refused.status, 401);
      assert.match(refused.headers.get("www-authenticate") ?? "", /error="invalid_token".*revoked/);
      assert.equal((await models(gateway, bearer(other))).status, 200);
    }));

  it("challenges a request without a token, with no error code", () =>
    withGateway({}, async (gateway, seen) => {
      const token = await identity.sign({ audience: AUDIENCE });
      for (const headers of [{}, { authorization: `Basic ${token}` }, { "api-key": token }]) {
        const response = await models(gateway, headers as Record<string, string>);
        assert.equal(response.status, 401);
        assert.equal(response.headers.get("www-authenticate"), 'Bearer realm="freshkey demo"');
      }
      assert.deepEqual(
        seen.map(({ header, fingerprint }) => ({ header, fingerprint })),
        Array(3).fill({ header: undefined, fingerprint: undefined }),
      );
    }));

  it("takes the token from the headers that it was told to take it from", () =>
    withGateway({ accepts: ["api-key", "x-api-key"] }, async (gateway, seen) => {
      const token = await identity.sign({ audience: AUDIENCE });
      assert.equal((await models(gateway, { "api-key": token })).status, 200);
      assert.equal((await models(gateway, { "x-api-key": token })).status, 200);
      assert.equal((await models(gateway, bearer(token))).status, 401);
      assert.deepEqual(
        seen.map(({ header }) => header),
        ["api-key", "x-api-key", undefined],
      );
    }));

  it("answers 503, not 401, when it cannot get the issuer's keys", async () => {
    const gone = await startIdentity();
    const token = await gone.sign({ audience: AUDIENCE });
    const gateway = await startGateway({ issuer: gone.issuer, audience: AUDIENCE });
    try {
      await gone.close();
      assert.equal((await models(gateway, bearer(token))).status, 503);
      assert.deepEqual(gateway.counts, { requests: 1, refused: 0 });
    } finally {
      await gateway.close();
    }
  });

  it("does not start without the issuer's discovery document", async () => {
    await assert.rejects(
      startGateway({ issuer: `${identity.issuer}/other`, audience: AUDIENCE }),
      /discovery document/,
    );
  });
});

interface Event {
  readonly name: string | undefined;
  readonly data: string;
}

async function events(response: Response): Promise<Event[]> {
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const blocks = (await response.text()).split("\n\n");
  assert.equal(blocks.pop(), "", "the stream ends with an empty line");
  return blocks.map((block) => {
    const match = /^(?:event: (\S+)\n)?data: (.+)$/.exec(block);
    assert.ok(match, `an event of one or two lines: ${block}`);
    return { name: match[1], data: match[2]! };
  });
}

describe("the gateway's answers", () => {
  const SCRIPT = { toolCalls: 2, text: "Bye." };
  const ARGUMENTS = { command: "sleep 1", description: "wait" };
  let token: string;
  before(async () => {
    token = await identity.sign({ audience: AUDIENCE, lifetime: 300_000 });
  });

  const chatTools = [{ type: "function", function: { name: "bash", parameters: {} } }];
  const chatResult = { role: "tool", tool_call_id: "x", content: "" };
  const chatBody = (results: number) => ({
    model: "m",
    tools: chatTools,
    messages: [{ role: "user", content: "hi" }, ...Array(results).fill(chatResult)],
  });

  it("count the tool's results in the conversation, and end with the text", () =>
    withGateway(SCRIPT, async (gateway) => {
      const ask = async (body: unknown) =>
        (await json(await post(gateway, "/v1/chat/completions", token, body))).choices[0];
      for (const results of [0, 1]) {
        const { message, finish_reason } = await ask(chatBody(results));
        assert.equal(finish_reason, "tool_calls");
        assert.equal(message.tool_calls.length, 1);
        assert.equal(message.tool_calls[0].function.name, "bash");
        assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), ARGUMENTS);
      }
      // Another conversation in between starts from the beginning: nothing is kept.
      assert.equal((await ask(chatBody(0))).finish_reason, "tool_calls");
      const last = await ask(chatBody(2));
      assert.deepEqual(last, {
        index: 0,
        message: { role: "assistant", content: "Bye." },
        finish_reason: "stop",
      });
      assert.equal((await ask({ ...chatBody(0), tools: undefined })).finish_reason, "stop");
    }));

  it("stream Chat Completions", () =>
    withGateway(SCRIPT, async (gateway) => {
      const body = { ...chatBody(0), stream: true, stream_options: { include_usage: true } };
      const all = await events(await post(gateway, "/v1/chat/completions", token, body));
      assert.equal(all.pop()?.data, "[DONE]");
      const chunks = all.map(({ data }) => JSON.parse(data));
      assert.deepEqual([...new Set(chunks.map(({ object }) => object))], ["chat.completion.chunk"]);
      assert.equal(new Set(chunks.map(({ id }) => id)).size, 1);
      assert.equal(chunks[0].choices[0].delta.tool_calls[0].index, 0);
      assert.equal(chunks[0].choices[0].finish_reason, null);
      assert.equal(chunks[1].choices[0].finish_reason, "tool_calls");
      assert.deepEqual(chunks[2].choices, []);
      assert.equal(chunks[2].usage.total_tokens, 2);

      const plain = await events(await post(gateway, "/v1/chat/completions", token, { ...chatBody(2), stream: true }));
      assert.equal(plain.length, 3);
      assert.equal(JSON.parse(plain[0]!.data).choices[0].delta.content, "Bye.");
      assert.equal(JSON.parse(plain[1]!.data).choices[0].finish_reason, "stop");
    }));

  it("speak the Responses API", () =>
    withGateway(SCRIPT, async (gateway) => {
      const result = { type: "function_call_output", call_id: "x", output: "" };
      const body = (results: number, more = {}) => ({
        model: "m",
        tools: [{ type: "function", name: "bash" }],
        input: [{ role: "user", content: "hi" }, ...Array(results).fill(result)],
        ...more,
      });
      const whole = await json(await post(gateway, "/v1/responses", token, body(2)));
      assert.equal(whole.status, "completed");
      assert.equal(whole.output[0].content[0].text, "Bye.");

      const called = await events(await post(gateway, "/v1/responses", token, body(1, { stream: true })));
      const parsed = called.map(({ data }) => JSON.parse(data));
      assert.deepEqual(
        called.map(({ name }) => name),
        parsed.map(({ type }) => type),
      );
      assert.deepEqual(
        parsed.map(({ sequence_number }) => sequence_number),
        parsed.map((_, index) => index),
      );
      assert.equal(parsed[0].type, "response.created");
      const { type, response } = parsed.at(-1);
      assert.equal(type, "response.completed");
      assert.equal(response.output[0].type, "function_call");
      assert.deepEqual(JSON.parse(response.output[0].arguments), ARGUMENTS);

      const said = await events(await post(gateway, "/v1/responses", token, body(2, { stream: true })));
      const delta = said.find(({ name }) => name === "response.output_text.delta");
      assert.equal(JSON.parse(delta!.data).delta, "Bye.");
    }));

  it("speak Anthropic's Messages API", () =>
    withGateway({ ...SCRIPT, accepts: ["x-api-key", "authorization"] }, async (gateway, seen) => {
      const result = { role: "user", content: [{ type: "tool_result", tool_use_id: "x", content: "" }] };
      const body = (results: number, more = {}) => ({
        model: "m",
        tools: [{ name: "bash", input_schema: {} }],
        messages: [{ role: "user", content: "hi" }, ...Array(results).fill(result)],
        ...more,
      });
      const response = await fetch(`${gateway.origin}/v1/messages`, {
        method: "POST",
        headers: { "x-api-key": token, ...bearer("another") },
        body: JSON.stringify(body(0)),
      });
      const whole = await json(response);
      assert.equal(whole.stop_reason, "tool_use");
      assert.deepEqual(whole.content[0].input, ARGUMENTS);
      assert.equal(seen[0]?.header, "x-api-key");

      const said = await events(await post(gateway, "/v1/messages", token, body(2, { stream: true })));
      assert.deepEqual(
        said.map(({ name }) => name),
        [
          "message_start",
          "content_block_start",
          "content_block_delta",
          "content_block_stop",
          "message_delta",
          "message_stop",
        ],
      );
      assert.equal(JSON.parse(said[2]!.data).delta.text, "Bye.");
      assert.equal(JSON.parse(said[4]!.data).delta.stop_reason, "end_turn");

      const called = await events(await post(gateway, "/v1/messages", token, body(1, { stream: true })));
      const input = JSON.parse(called[2]!.data).delta;
      assert.equal(input.type, "input_json_delta");
      assert.deepEqual(JSON.parse(input.partial_json), ARGUMENTS);
    }));

  it("call another tool with another command where the script says so", () =>
    withGateway({ toolCalls: 1, tool: { name: "shell", arguments: { command: ["true"] } } }, async (gateway) => {
      const tools = [{ type: "function", function: { name: "shell" } }];
      const response = await post(gateway, "/v1/chat/completions", token, { ...chatBody(0), tools });
      const { name, arguments: text } = (await json(response)).choices[0].message.tool_calls[0].function;
      assert.equal(name, "shell");
      assert.deepEqual(JSON.parse(text), { command: ["true"] });
    }));

  it("are at Azure's paths too", () =>
    withGateway({}, async (gateway) => {
      for (const path of [
        "/openai/v1/chat/completions",
        "/openai/deployments/gpt-5.1/chat/completions?api-version=2024-10-21",
        "/openai/v1/responses",
      ]) {
        assert.equal((await post(gateway, path, token, chatBody(0))).status, 200, path);
      }
      const response = await fetch(`${gateway.origin}/openai/v1/models`, { headers: bearer(token) });
      assert.equal(response.status, 200);
    }));

  it("say what is wrong with a request", () =>
    withGateway({}, async (gateway) => {
      assert.equal((await post(gateway, "/v1/chat/completions", token, "{")).status, 400);
      assert.equal((await post(gateway, "/v1/chat/completions", token, "[]")).status, 400);
      assert.equal((await post(gateway, "/v1/nothing", token, {})).status, 404);
      assert.equal((await post(gateway, "/v1/models", token, {})).status, 405);
      // Who has no token learns nothing of what there is.
      assert.equal((await fetch(`${gateway.origin}/v1/nothing`)).status, 401);
      assert.equal((await post(gateway, "/v1/chat/completions", token, " ".repeat(17 * 1024 * 1024))).status, 413);
    }));
});
