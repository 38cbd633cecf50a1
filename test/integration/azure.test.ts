/**
 * The azure source with the real @azure/identity, against a local authority. Each `mint` is a process of its own, as in
 * production; those cases that only differ in what the authority answers share one.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { build } from "esbuild";
import * as v from "valibot";
import type { ErrorRecord } from "../../src/core/errors.ts";
import type { Token } from "../../src/core/token.ts";
import { type AzureOptions, azureOptions } from "../../src/sources/azure.ts";
import { readSecret, type SecretReference, secretReference } from "../../src/sources/secret.ts";
import type { MintRequest } from "../../src/sources/source.ts";
import { type Certificates, makeCertificates } from "../support/certificates.ts";
import {
  accessToken,
  CLIENT_ID,
  CLIENT_SECRET,
  type Entra,
  entraError,
  IDENTITY_HEADER,
  json,
  type ManagedIdentity,
  startEntra,
  startManagedIdentity,
  webPage,
} from "../support/entra.ts";

const DRIVER = `
  import { text } from "node:stream/consumers";
  import { FreshkeyError } from "./src/core/errors.ts";
  import { mintAzure } from "./src/sources/azure.ts";
  const answers = JSON.parse(await text(process.stdin)).map(async ({ options, request }) => {
    const start = performance.now();
    const answer = await mintAzure(options, request).then(
      (token) => ({ token }),
      (error) => ({ error: FreshkeyError.from(error).toJSON() }),
    );
    return { ...answer, elapsed: performance.now() - start };
  });
  process.stdout.write(JSON.stringify(await Promise.all(answers)), () => process.exit());
`;

interface Outcome {
  token?: Token;
  error?: ErrorRecord;
  elapsed: number;
}

interface Job {
  options: AzureOptions;
  request: MintRequest;
}

let certificates: Certificates;
let entra: Entra;
let identity: ManagedIdentity;
let directory: string;
let driver: string;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), "freshkey-azure-"));
  driver = join(directory, "driver.mjs");
  await bundle(DRIVER, driver);
  certificates = makeCertificates();
  entra = await startEntra(certificates);
  identity = await startManagedIdentity();
});

after(async () => {
  await Promise.all([entra.close(), identity.close()]);
  certificates.remove();
  rmSync(directory, { recursive: true });
});

/** The driver and the SDK as one file: it starts in a quarter of the time. */
async function bundle(contents: string, outfile: string): Promise<void> {
  // The SDK's CommonJS parts ask for `require`, which a module doesn't have.
  const banner = 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);';
  const stdin = { contents, resolveDir: join(import.meta.dirname, "../.."), loader: "ts" } as const;
  await build({ stdin, outfile, bundle: true, platform: "node", format: "esm", banner: { js: banner } });
}

async function mintAll(jobs: Job[], env: Record<string, string> = {}): Promise<Outcome[]> {
  const child = spawn(process.execPath, [driver], {
    env: { PATH: process.env.PATH, HOME: directory, NODE_EXTRA_CA_CERTS: certificates.caFile, ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  child.stdin.end(JSON.stringify(jobs));
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
  assert.notEqual(out, "", err);
  return JSON.parse(out) as Outcome[];
}

async function mint(options: AzureOptions, env: Record<string, string> = {}, request: Partial<MintRequest> = {}) {
  const [outcome] = await mintAll([{ options, request: { name: "test", timeout: 10_000, ...request } }], env);
  return outcome!;
}

function secretOptions(tenant: string, more: Partial<AzureOptions> = {}): AzureOptions {
  return {
    credential: "client-secret",
    scope: "api://gateway/.default",
    tenant_id: tenant,
    client_id: CLIENT_ID,
    client_secret: CLIENT_SECRET,
    authority: entra.authority,
    ...more,
  };
}

/** One process for many tenants: each differs only in how the authority answers it. */
async function mintTenants(tenants: string[], timeout = 10_000): Promise<Outcome[]> {
  return mintAll(tenants.map((tenant) => ({ options: secretOptions(tenant), request: { name: "test", timeout } })));
}

describe("client-secret", { concurrency: 2 }, () => {
  test("two mints within the SDK's cache window give two tokens; expiry and identity are right", async () => {
    const before = Date.now();
    const [first, second] = await Promise.all([mint(secretOptions("two")), mint(secretOptions("two"))]);
    assert.ok(first.token && second.token, JSON.stringify(first.error ?? second.error));
    assert.ok(first.token.value !== second.token.value, "both mints gave the same token");
    assert.equal(entra.posted.get("two")?.length, 2);
    const lifetime = first.token.expires - before;
    assert.ok(lifetime > 3_597_000 && lifetime < 3_605_000, `lifetime ${lifetime}`);
    assert.equal(first.token.identity, CLIENT_ID);
    assert.equal(first.token.renewAt, undefined);
    const posted = entra.posted.get("two")?.[0];
    assert.equal(posted?.get("scope")?.split(" ").includes("api://gateway/.default"), true);
    assert.equal(posted?.has("claims"), false);
  });

  test("claims of a challenge reach the authority; claims that are none are refused, and nothing is sent", async () => {
    const claims = JSON.stringify({ access_token: { nbf: { essential: true, value: "1795459999" } } });
    const outcomes = await mintAll([
      { options: secretOptions("claims"), request: { name: "test", timeout: 10_000, claims } },
      ...["{nonsense", "", "{}", "[1]", "null"].map((nonsense) => ({
        options: secretOptions("no-claims"),
        request: { name: "test", timeout: 10_000, claims: nonsense },
      })),
    ]);
    assert.equal(outcomes[0]?.error, undefined);
    for (const { error } of outcomes.slice(1)) {
      assert.equal(error?.code, "ERR_USAGE");
      assert.match(error.message, /^the claims of the challenge cannot be used: they /);
    }
    const sent = JSON.parse(entra.posted.get("claims")?.[0]?.get("claims") ?? "{}");
    assert.equal(sent.access_token.nbf.value, "1795459999");
    assert.equal(entra.posted.has("no-claims"), false);
  });

  test("refresh_in becomes the time of renewal", async () => {
    const token = accessToken(7200, { oid: "someone" });
    entra.answer("refresh-in", json({ token_type: "Bearer", expires_in: 7200, refresh_in: 3600, access_token: token }));
    const before = Date.now();
    const [outcome] = await mintTenants(["refresh-in"]);
    const wait = (outcome?.token?.renewAt ?? 0) - before;
    assert.ok(wait > 3_590_000 && wait < 3_610_000, `renewAt in ${wait}`);
    assert.equal(outcome?.token?.identity, "someone");
  });

  const CODES: [number, string, string, RegExp, RegExp][] = [
    [50076, "interaction_required", "ERR_SIGN_IN", /multi-factor/, /credential = "cli"/],
    [50173, "invalid_grant", "ERR_SIGN_IN", /revoked/, /cannot sign in by itself/],
    [53003, "access_denied", "ERR_SOURCE_REFUSED", /Conditional Access/, /which policy/],
    [65001, "consent_required", "ERR_SOURCE_REFUSED", /consented/, /grant consent for api:\/\/gateway/],
    [70043, "invalid_grant", "ERR_SIGN_IN", /policy says how often/, /administrator/],
    [
      700016,
      "unauthorized_client",
      "ERR_SOURCE_REFUSED",
      /application is not known/,
      /client_id .*tenant_id .*127\.0\.0\.1/,
    ],
    [700082, "invalid_grant", "ERR_SIGN_IN", /not used for too long/, /administrator/],
    [7000215, "invalid_client", "ERR_SOURCE_REFUSED", /secret is wrong/, /value there, not its ID/],
    [7000222, "invalid_client", "ERR_SOURCE_REFUSED", /secret has expired/, /az ad app credential reset .*11111111-/],
    [500011, "invalid_resource", "ERR_SOURCE_REFUSED", /API is not known/, /scope \(api:\/\/gateway/],
    [90002, "invalid_request", "ERR_SOURCE_REFUSED", /no such tenant/, /tenant_id/],
    [1234567, "invalid_request", "ERR_SOURCE_FAILED", /AADSTS1234567: Something in prose\.$/, /error\?code=1234567/],
    [1234568, "invalid_client", "ERR_SOURCE_REFUSED", /AADSTS1234568: Something in prose\.$/, /error\?code=1234568/],
  ];
  test("every code of Entra has its class, its sentence and what to do", async () => {
    for (const [code, error] of CODES) entra.answer(`code-${code}`, entraError(code, error));
    const outcomes = await mintTenants(CODES.map(([code]) => `code-${code}`));
    for (const [index, [code, , expected, message, hint]] of CODES.entries()) {
      const error = outcomes[index]?.error;
      assert.equal(error?.code, expected, String(code));
      assert.match(error.message, message);
      assert.match(error.message, new RegExp(`AADSTS${code}`));
      assert.match(error.hint ?? "", hint);
    }
  });

  test("a wrong secret is refused, and is in no message", async () => {
    const secret = "wr0ng~secret-that-nobody-may-see.0123456789";
    const { error } = await mint(secretOptions("wrong", { client_secret: secret }));
    assert.equal(error?.code, "ERR_SOURCE_REFUSED");
    assert.equal(JSON.stringify(error).includes(secret), false);
  });

  test("a tenant that discovery does not know", async () => {
    entra.discovery("nobody", entraError(90002, "invalid_tenant"));
    const [outcome] = await mintTenants(["nobody"]);
    assert.equal(outcome?.error?.code, "ERR_SOURCE_REFUSED");
    assert.match(outcome.error.message, /no such tenant/);
  });

  test("outages: 429 and 503 with Retry-After, 500, web pages, a redirect, bad JSON, a reset", async () => {
    const date = new Date(Date.now() + 90_000).toUTCString();
    const cases = [
      [
        "429",
        { ...(json({ error: "temporarily_unavailable" }, 429) as object), headers: { "retry-after": "20" } },
        "ERR_SOURCE_FAILED",
        /HTTP 429/,
      ],
      ["503", { status: 503, headers: { "retry-after": date }, body: "busy" }, "ERR_SOURCE_FAILED", /HTTP 503/],
      ["500", json({ error: "server_error" }, 500), "ERR_SOURCE_FAILED", /HTTP 500/],
      ["page", webPage(), "ERR_SOURCE_ANSWER", /a web page that is no token \(HTTP 200\)/],
      ["page-500", webPage(500), "ERR_SOURCE_FAILED", /HTTP 500/],
      ["page-401", webPage(401), "ERR_SOURCE_ANSWER", /a web page/],
      [
        "307",
        { status: 307, headers: { location: `${entra.authority}/elsewhere/oauth2/v2.0/token` }, body: "" },
        "ERR_SOURCE_ANSWER",
        /a web page/,
      ],
      ["truncated", { status: 200, body: '{"access_token":"ey' }, "ERR_SOURCE_ANSWER", /no token/],
      ["tokenless", json({ token_type: "Bearer" }), "ERR_SOURCE_ANSWER", /without an access token/],
      ["reset", "reset", "ERR_SOURCE_UNREACHABLE", /ECONNRESET/],
    ] as [string, Parameters<Entra["answer"]>[1], string, RegExp][];
    for (const [tenant, answer] of cases) entra.answer(tenant, answer);
    entra.discovery("page-discovery", webPage());
    const outcomes = await mintTenants([...cases.map(([tenant]) => tenant), "page-discovery"]);
    for (const [index, [tenant, , expected, message]] of cases.entries()) {
      const { error, elapsed } = outcomes[index]!;
      assert.equal(error?.code, expected, `${tenant}: ${JSON.stringify(error)}`);
      assert.match(error.message, message, tenant);
      assert.doesNotMatch(JSON.stringify(error), /Hotel|DOCTYPE/);
      assert.equal(entra.posted.get(tenant)?.length, 1, `${tenant} was retried inside`);
      assert.ok(elapsed < 5_000, `${tenant} took ${elapsed} ms`);
    }
    assert.equal(outcomes[0]?.error?.retryAfter, 20_000);
    const wait = outcomes[1]?.error?.retryAfter ?? 0;
    assert.ok(wait > 60_000 && wait <= 90_000, `Retry-After as a date: ${wait}`);
    assert.equal(entra.posted.has("elsewhere"), false, "the secret followed a redirect");
    assert.equal(outcomes.at(-1)?.error?.code, "ERR_SOURCE_ANSWER");
    assert.equal(entra.posted.has("page-discovery"), false);
  });

  test("refused, no such name, a certificate that is not trusted, a hanging authority: all within the deadline", async () => {
    entra.answer("hang", "hang");
    entra.discovery("hang-discovery", "hang");
    const request = { name: "test", timeout: 1_500 };
    const [[refused, unknown, hanging, discovering], untrusted] = await Promise.all([
      mintAll([
        { options: secretOptions("t", { authority: "https://127.0.0.1:9" }), request },
        {
          options: secretOptions("t", { authority: "https://login.invalid" }),
          request: { ...request, timeout: 10_000 },
        },
        { options: secretOptions("hang"), request },
        { options: secretOptions("hang-discovery"), request },
      ]),
      mint(secretOptions("t"), { NODE_EXTRA_CA_CERTS: "" }),
    ]);
    assert.equal(refused?.error?.code, "ERR_SOURCE_UNREACHABLE");
    assert.match(refused.error.message, /127\.0\.0\.1:9 .*ECONNREFUSED/);
    assert.equal(unknown?.error?.code, "ERR_SOURCE_UNREACHABLE");
    assert.match(unknown.error.message, /login\.invalid .*(ENOTFOUND|EAI_AGAIN)/);
    for (const outcome of [hanging, discovering]) {
      assert.equal(outcome?.error?.code, "ERR_SOURCE_TIMEOUT");
      assert.ok(outcome.elapsed < 1_500, `${outcome.elapsed} ms`);
    }
    assert.equal(untrusted.error?.code, "ERR_SOURCE_UNREACHABLE");
    assert.match(untrusted.error.hint ?? "", /CA file as ca under \[network\]/);
  });
});

describe("managed-identity", () => {
  const options: AzureOptions = {
    credential: "managed-identity",
    scope: "https://cognitiveservices.azure.com/.default",
  };
  const env = (header = IDENTITY_HEADER) => ({ IDENTITY_ENDPOINT: identity.endpoint, IDENTITY_HEADER: header });

  test("a token from the endpoint of an App Service, for the resource and the identity asked for", async () => {
    const before = Date.now();
    const { token, error } = await mint({ ...options, client_id: CLIENT_ID }, env());
    assert.equal(error, undefined);
    const query = identity.queries.at(-1);
    assert.equal(query?.get("resource"), "https://cognitiveservices.azure.com");
    assert.equal(query.get("client_id"), CLIENT_ID);
    assert.ok(Math.abs((token?.expires ?? 0) - before - 86_400_000) < 5_000);
    // The SDK's hint for a token of more than two hours: half of its life.
    assert.ok(Math.abs((token?.renewAt ?? 0) - before - 43_200_000) < 5_000);
    assert.equal(token?.identity, CLIENT_ID);
  });

  test("an identity that the machine does not have, a wrong header, a 429, and no endpoint at all", async () => {
    identity.answer = json({ statusCode: 400, message: "No User Assigned or Delegated Managed Identity found" }, 400);
    const missing = await mint({ ...options, client_id: CLIENT_ID }, env());
    identity.answer = { status: 429, headers: { "retry-after": "7" }, body: "{}" };
    const busy = await mint(options, env());
    identity.answer = undefined;
    const [wrong, nothing] = await Promise.all([
      mint(options, env("wrong")),
      mint(options, { ...env(), IDENTITY_ENDPOINT: "http://127.0.0.1:9/msi/token" }),
    ]);
    assert.equal(missing.error?.code, "ERR_SOURCE_REFUSED");
    assert.match(missing.error.hint ?? "", /Assign the identity 11111111-/);
    assert.equal(busy.error?.code, "ERR_SOURCE_FAILED");
    assert.equal(busy.error.retryAfter, 7_000);
    assert.equal(wrong.error?.code, "ERR_SOURCE_FAILED");
    assert.match(wrong.error.message, /HTTP 401/);
    assert.equal(nothing.error?.code, "ERR_SOURCE_UNREACHABLE");
    assert.match(nothing.error.hint ?? "", /only on Azure's own machines/);
  });
});

describe("cli", { concurrency: 2 }, () => {
  /** A folder with an `az` that runs `script`, and nothing else that the SDK's shell would find there. */
  function withAz(name: string, script: string | undefined): Record<string, string> {
    const bin = mkdtempSync(join(directory, `${name}-`));
    if (script !== undefined) {
      writeFileSync(join(bin, "az"), `#!/bin/sh\n${script}\n`);
      chmodSync(join(bin, "az"), 0o755);
      return { PATH: `${bin}:/usr/bin:/bin` };
    }
    return { PATH: bin };
  }
  const options: AzureOptions = { credential: "cli", scope: "api://gateway/.default", tenant_id: "contoso.com" };
  const gov: AzureOptions = { ...options, authority: "https://login.microsoftonline.us" };
  const fail = (stderr: string) => `printf '%s\\n' ${JSON.stringify(stderr)} >&2; exit 1`;

  test("expires_on, and the local time of an older az; a user's name; the arguments", async () => {
    const value = accessToken(3600, { upn: "amy@contoso.com", appid: "04b07795-8ddb-461a-bbee-02f9e1bf7b46" });
    const expires = Math.floor(Date.now() / 1000) + 3600;
    const local = new Date((expires - new Date().getTimezoneOffset() * 60) * 1000).toISOString();
    const older = local.replace("T", " ").replace(/\.\d+Z$/, ".000000");
    const print = (fields: object) =>
      `echo "$*" > "$0.args"; echo '${JSON.stringify({ accessToken: value, ...fields })}'`;
    const newEnv = withAz("new", print({ expires_on: expires, expiresOn: "1999-01-01 00:00:00.000000" }));
    const zone = process.env.TZ === undefined ? {} : { TZ: process.env.TZ };
    const outcomes = await Promise.all([
      mint(options, newEnv),
      mint(options, { ...withAz("old", print({ expiresOn: older })), ...zone }),
    ]);
    for (const { token, error } of outcomes) {
      assert.equal(error, undefined);
      assert.equal(token?.expires, expires * 1000);
      assert.ok(token.value === value, "another token than az printed");
      assert.equal(token.identity, "amy@contoso.com");
    }
    const args = await text((await import("node:fs")).createReadStream(`${newEnv.PATH?.split(":")[0]}/az.args`));
    assert.equal(args.trim(), "account get-access-token --output json --resource api://gateway --tenant contoso.com");
  });

  const SIGN_IN = "ERROR: Please run 'az login' to setup account.";
  const MFA =
    "ERROR: AADSTS50076: Due to a configuration change, you must use multi-factor authentication. Interactive authentication is needed. Please run: az login --scope api://gateway/.default";
  const NETWORK =
    "ERROR: HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries exceeded with url: /organizations";
  const LEAK = `ERROR: unexpected: ${accessToken(60, {})}`;
  const CASES: [string, AzureOptions, string | undefined, string, RegExp][] = [
    ["not signed in", options, fail(SIGN_IN), "ERR_SIGN_IN", /Run: az login --tenant contoso\.com$/],
    [
      "not signed in, another cloud",
      gov,
      fail(SIGN_IN),
      "ERR_SIGN_IN",
      /Run: az cloud set --name AzureUSGovernment && az login --tenant contoso\.com$/,
    ],
    ["MFA", options, fail(MFA), "ERR_SIGN_IN", /az login --tenant contoso\.com --scope api:\/\/gateway\/\.default$/],
    [
      "missing",
      options,
      undefined,
      "ERR_SOURCE_MISSING",
      /Install it \(https:\/\/aka\.ms\/azure-cli\), then: az login/,
    ],
    ["no network", options, fail(NETWORK), "ERR_SOURCE_UNREACHABLE", /proxy/],
    ["no JSON", options, "echo hello", "ERR_SOURCE_ANSWER", /by hand: az account get-access-token/],
    ["no token", options, `echo '{"expires_on": 1999999999}'`, "ERR_SOURCE_ANSWER", /az upgrade/],
    ["something else", options, fail(LEAK), "ERR_SOURCE_FAILED", /by hand/],
  ];
  for (const [name, given, script, code, hint] of CASES) {
    test(name, async () => {
      const { error } = await mint(given, withAz("case", script));
      assert.equal(error?.code, code, JSON.stringify(error));
      assert.match(error.hint ?? "", hint);
      assert.doesNotMatch(JSON.stringify(error), /eyJ/);
    });
  }

  test("a claims challenge needs a person, who is given the command", async () => {
    const claims = '{"access_token":{"nbf":{"essential":true}}}';
    const { error } = await mint(options, withAz("claims", "exit 1"), { claims });
    assert.equal(error?.code, "ERR_SIGN_IN");
    const challenge = Buffer.from(claims).toString("base64");
    assert.ok(error.hint?.endsWith(`--scope api://gateway/.default --claims-challenge ${challenge}`), error.hint);
  });

  test("an az that hangs is given up before the deadline", async () => {
    const { error, elapsed } = await mint(options, withAz("hang", "exec sleep 20"), { timeout: 1_000 });
    assert.equal(error?.code, "ERR_SOURCE_TIMEOUT");
    assert.match(error.message, /^az did not answer within/);
    assert.ok(elapsed < 1_000 + 100, `${elapsed} ms`);
  });
});

describe("the configuration's keys", () => {
  const good = {
    credential: "client-secret",
    scope: "api://x/.default",
    tenant_id: "t",
    client_id: "c",
    client_secret: "s",
  };
  const issues = (input: object) =>
    (v.safeParse(azureOptions, input).issues ?? []).map((issue) => `${v.getDotPath(issue)}: ${issue.message}`);

  test("what is right is taken as it is", () => {
    assert.deepEqual(v.parse(azureOptions, good), good);
    assert.deepEqual(
      issues({ credential: "cli", scope: "api://x/.default", authority: "https://login.microsoftonline.us" }),
      [],
    );
    assert.deepEqual(issues({ ...good, client_secret: { file: "/run/credentials/freshkey/secret" } }), []);
    const { scope, client_id } = good;
    assert.deepEqual(issues({ credential: ["workload-identity", "managed-identity", "cli"], scope, client_id }), []);
    assert.deepEqual(issues({ credential: "default", scope }), []);
  });

  test("what is wrong is named with its key, and says what is allowed", () => {
    const { client_secret, ...secretless } = good;
    assert.deepEqual(issues(secretless), ['client_secret: is needed for credential = "client-secret"']);
    assert.deepEqual(
      issues({ ...good, credential: "cli" }).map((issue) => issue.split(":")[0]),
      ["client_id", "client_secret"],
    );
    const kinds =
      '"default", "cli", "environment", "managed-identity", "workload-identity", "client-secret", "client-certificate"';
    for (const credential of [
      "magic",
      "browser",
      "device-code",
      [],
      ["cli", "cli"],
      ["default"],
      ["cli", "magic"],
      7,
    ]) {
      assert.match(
        issues({ ...secretless, credential })[0] ?? "",
        new RegExp(`^credential[^:]*: must be one of ${kinds}`),
      );
    }
    assert.deepEqual(issues({ ...secretless, credential: "client-certificate" }), [
      'client_certificate: is needed for credential = "client-certificate"',
    ]);
    assert.deepEqual(issues({ ...secretless, credential: ["cli", "client-secret"] }), [
      'client_secret: is needed for credential = ["cli","client-secret"]',
    ]);
    assert.deepEqual(issues({ ...good, credential: ["cli", "managed-identity"] }), [
      'client_secret: has no meaning for credential = ["cli","managed-identity"]',
    ]);
    assert.match(issues({ ...good, scope: "api://x/read" })[0] ?? "", /^scope: must end in "\/\.default"/);
    assert.match(issues({ ...good, scope: "api://x/.default; rm -rf" })[0] ?? "", /^scope: must be one scope/);
    assert.match(issues({ ...good, authority: "http://localhost" })[0] ?? "", /^authority: must be an https URL/);
    assert.match(issues({ ...good, tenant_id: "a b" })[0] ?? "", /^tenant_id: must be an identifier/);
    assert.match(issues({ ...good, secret: "x" })[0] ?? "", /^secret: /);
    for (const reference of [7, {}, { file: "relative" }, { command: [] }, { env: "A", file: "/b" }]) {
      assert.match(issues({ ...good, client_secret: reference })[0] ?? "", /^client_secret[^:]*: must be /);
    }
  });
});

describe("a secret reference", () => {
  const read = (reference: unknown) => readSecret(v.parse(secretReference, reference) as SecretReference);
  const refused = (reference: unknown, message: RegExp, hidden = "s3cret-Value") =>
    assert.rejects(read(reference), (error: Error & { code?: string }) => {
      assert.equal(error.code, "ERR_SOURCE_CONFIG");
      assert.match(error.message, message);
      assert.equal(`${error.message} ${JSON.stringify(error)}`.includes(hidden), false);
      return true;
    });

  test("literal, file, variable, command: less one trailing newline", async () => {
    const file = join(directory, "secret");
    writeFileSync(file, "s3cret \n\n");
    process.env.FRESHKEY_TEST_SECRET = "from the environment";
    assert.equal(await read("s3cret"), "s3cret");
    assert.equal(await read({ file }), "s3cret \n");
    assert.equal(await read({ env: "FRESHKEY_TEST_SECRET" }), "from the environment");
    assert.equal(await read({ command: ["printf", "%s\\n", "$HOME; x"] }), "$HOME; x");
    assert.equal(
      await read({ command: ["cat"] }).catch((error) => error.message),
      "the output of the secret's command cat is empty",
    );
  });

  test("missing, empty, unreadable, failing: an error that names the place and not the content", async () => {
    const empty = join(directory, "empty");
    writeFileSync(empty, "\n");
    await refused({ file: empty }, /empty is empty/);
    await refused({ file: join(directory, "nowhere") }, /nowhere cannot be read \(ENOENT\)/);
    await refused({ file: directory }, /cannot be read \(EISDIR\)/);
    await refused({ env: "FRESHKEY_TEST_NOTHING" }, /FRESHKEY_TEST_NOTHING is not set/);
    await refused({ command: ["freshkey-no-such-program"] }, /freshkey-no-such-program failed \(ENOENT\)/);
    const script = 'echo "password=s3cret-Value" >&2; echo s3cret-Value; exit 3';
    await refused({ command: ["sh", "-c", script] }, /command sh failed \(3\): password=\*\*\*$/);
  });
});
