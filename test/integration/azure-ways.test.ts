/**
 * What only one or the other credential of the azure source has: lists and their order, certificates, federated tokens,
 * the metadata service of a machine, other clouds. The real SDK on loopback.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { fingerprint } from "../../src/core/token.ts";
import { askAgent, type RenewAnswer } from "../../src/os/control-client.ts";
import { type AzureMinter, openAzureMinter } from "../support/azure-mint.ts";
import {
  type Certificates,
  type ClientCertificate,
  makeCertificates,
  makeClientCertificate,
} from "../support/certificates.ts";
import {
  accessToken,
  CLIENT_ID,
  CLIENT_SECRET,
  type Entra,
  IDENTITY_HEADER,
  type ManagedIdentity,
  startEntra,
  startManagedIdentity,
} from "../support/entra.ts";
import { DIST, openSandbox, until } from "../support/freshkey.ts";

const SCOPE = "api://gateway/.default";
const LIST = { credential: ["workload-identity", "managed-identity", "cli"], scope: SCOPE };
/** Nobody listens there. */
const NO_IDENTITY = { IDENTITY_ENDPOINT: "http://127.0.0.1:9/msi/token", IDENTITY_HEADER };

let certificates: Certificates;
let certificate: ClientCertificate;
let entra: Entra;
let identity: ManagedIdentity;
let minter: AzureMinter;

before(async () => {
  certificates = makeCertificates();
  certificate = makeClientCertificate();
  [entra, identity] = await Promise.all([startEntra(certificates), startManagedIdentity()]);
  entra.certificate = certificate.certificate;
  minter = openAzureMinter(certificates.caFile);
});

after(async () => {
  await Promise.all([entra.close(), identity.close()]);
  certificates.remove();
  minter.remove();
});

const present = () => ({ IDENTITY_ENDPOINT: identity.endpoint, IDENTITY_HEADER });
const signedIn = () =>
  minter.az(`echo '{"accessToken":"${accessToken(3600, {})}","expires_on":${Math.floor(Date.now() / 1000) + 3600}}'`);
const signedOut = () => minter.az(`echo "ERROR: Please run 'az login' to setup account." >&2; exit 1`);

describe("a list", () => {
  test("goes on where a credential is not there: without variables, without an endpoint", async () => {
    const { token, error } = await minter.mint(LIST, { env: { ...NO_IDENTITY, ...signedIn() } });
    assert.equal(error, undefined, JSON.stringify(error));
    assert.equal(token?.credential, "cli");
  });

  test("goes on where az is not signed in, and where it has to be for a challenge", async () => {
    const options = { credential: ["cli", "managed-identity"], scope: SCOPE };
    const claims = '{"access_token":{"nbf":{"essential":true}}}';
    for (const mint of [
      minter.mint(options, { env: { ...present(), ...signedOut() } }),
      minter.mint(options, { env: { ...present(), ...signedIn() }, claims }),
    ]) {
      assert.equal((await mint).token?.credential, "managed-identity");
    }
  });

  test("does not go on where a credential is there and fails: the next one may be another identity", async () => {
    const ran = minter.file("list.count", "");
    const env = { ...present(), ...minter.az(`echo x >>'${ran}'`) };
    identity.answer = { status: 429, headers: { "retry-after": "9" }, body: "{}" };
    const { error } = await minter.mint(LIST, { env }).finally(() => {
      identity.answer = undefined;
    });
    assert.equal(error?.code, "ERR_SOURCE_FAILED");
    assert.equal(error.retryAfter, 9_000);
    assert.match(error.message, /^no credential made a token\. workload-identity: .*; managed-identity: .*HTTP 429$/);
    assert.equal(minter.lines(ran), 0);
  });

  test("that is used up names each, and says what the one that matters needs", async () => {
    const [signIn, nobody, config] = await Promise.all([
      minter.mint(LIST, { env: { ...NO_IDENTITY, ...signedOut() } }),
      minter.mint(LIST, { env: NO_IDENTITY }),
      minter.mint({ ...LIST, credential: ["environment", "cli"] }),
    ]);
    assert.equal(signIn.error?.code, "ERR_SIGN_IN");
    assert.match(
      signIn.error.message,
      /workload-identity: .*; managed-identity: .*ECONNREFUSED.*; cli: .*not signed in/,
    );
    assert.equal(signIn.error.hint, "Run: az login");
    // A machine's identity may come yet, with its metadata service.
    assert.equal(nobody.error?.code, "ERR_SOURCE_UNREACHABLE");
    assert.match(nobody.error.message, /cli: the Azure CLI \(az\) is not installed/);
    assert.equal(config.error?.code, "ERR_SOURCE_MISSING");
    assert.match(config.error.message, /environment: .*AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET or AZURE/);
  });

  test("tells the log which of them made the token", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(`[tokens.gateway]\nsource = "azure"\ncredential = "default"\nscope = "${SCOPE}"\n`);
    const { code, stderr } = await box.run(["renew", "gateway", "--verbose"], { env: present() });
    assert.equal(code, 0, stderr);
    assert.match(stderr, /credential\W+managed-identity/, stderr);
  });
});

describe("the claims of a challenge", () => {
  test("reach Entra from the control socket; what are none is refused there, and the token stays", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(
      `[tokens.gateway]\nsource = "azure"\ncredential = "client-secret"\nscope = "${SCOPE}"\ntenant_id = "challenged"
client_id = "${CLIENT_ID}"\nclient_secret = "${CLIENT_SECRET}"\nauthority = "${entra.authority}"\n`,
    );
    const agent = await box.startAgent({ env: { NODE_EXTRA_CA_CERTS: certificates.caFile } });
    const first = await until("the token is there", () =>
      existsSync(box.tokenPath("gateway")) ? readFileSync(box.tokenPath("gateway"), "utf8") : undefined,
    );
    const socket = join(box.runPath, "agent/control.sock");
    const ask = (claims: string) =>
      askAgent<RenewAnswer>(
        socket,
        { op: "renew", name: "gateway", seen: fingerprint(first), reason: "manual", claims },
        { timeout: 30_000 },
      );
    await assert.rejects(ask("eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="), {
      code: "ERR_USAGE",
      message: /base64: it must be decoded/,
    });
    assert.equal(entra.posted.get("challenged")?.length, 1);
    const claims = '{"access_token":{"nbf":{"essential":true,"value":"1795459999"}}}';
    assert.equal((await ask(claims)).result, "renewed");
    const [before, after] = entra.posted.get("challenged") ?? [];
    assert.equal(before?.has("claims"), false);
    assert.equal(JSON.parse(after?.get("claims") ?? "{}").access_token.nbf.value, "1795459999");
    await agent.stop();
  });
});

describe("a federated token", () => {
  const options = (file: string) => ({
    credential: "workload-identity",
    scope: SCOPE,
    authority: entra.authority,
    tenant_id: "federated",
    client_id: CLIENT_ID,
    federated_token_file: file,
  });

  test("is read for every mint: the SDK would keep it for five minutes", async () => {
    for (const name of ["first", "second"]) {
      entra.federatedToken = accessToken(3600, { sub: name });
      const { error } = await minter.mint(options(minter.file("federated", `${entra.federatedToken}\n`)));
      assert.equal(error, undefined, JSON.stringify(error));
      assert.equal(entra.posted.get("federated")?.at(-1)?.get("client_assertion"), entra.federatedToken);
    }
  });

  test("that is not there, or empty, is named by its file", async () => {
    const asked = entra.posted.get("federated")?.length;
    const missing = await minter.mint(options("/nowhere/token"));
    assert.equal(missing.error?.code, "ERR_SOURCE_CONFIG");
    assert.match(missing.error.message, /\/nowhere\/token, cannot be read \(ENOENT\)/);
    const empty = await minter.mint(options(minter.file("empty", "\n")));
    assert.match(empty.error?.message ?? "", /empty is empty$/);
    assert.equal(entra.posted.get("federated")?.length, asked);
  });
});

describe("a certificate", () => {
  test("of the environment signs in, and one with a password", async () => {
    const env = {
      AZURE_TENANT_ID: "pem",
      AZURE_CLIENT_ID: CLIENT_ID,
      AZURE_CLIENT_CERTIFICATE_PATH: minter.file("encrypted.pem", certificate.encrypted),
      AZURE_CLIENT_CERTIFICATE_PASSWORD: certificate.password,
    };
    const options = { credential: "environment", scope: SCOPE, authority: entra.authority };
    const { token, error } = await minter.mint(options, { env });
    assert.equal(error, undefined, JSON.stringify(error));
    assert.equal(token?.identity, CLIENT_ID);
    assert.equal(entra.posted.get("pem")?.[0]?.get("client_assertion_type")?.endsWith(":jwt-bearer"), true);
  });

  test("that cannot be used is refused before anybody is asked, with what is wrong with it", async () => {
    const another = makeClientCertificate();
    const key = (pem: string) => pem.slice(pem.indexOf("-----END CERTIFICATE-----") + 26);
    const cases: [string, string, RegExp][] = [
      ["garbage", "MIIC", /not a PEM text with a certificate/],
      ["keyless", certificate.certificate, /no private key with it/],
      ["strange", certificate.certificate + key(another.pem), /do not belong together/],
      ["locked", certificate.encrypted, /key cannot be decrypted/],
    ];
    for (const [name, pem, message] of cases) {
      const { error } = await minter.mint({
        credential: "client-certificate",
        scope: SCOPE,
        authority: entra.authority,
        tenant_id: "unused",
        client_id: CLIENT_ID,
        client_certificate: { file: minter.file(name, pem) },
        ...(name === "locked" && { client_certificate_password: "wrong-password" }),
      });
      assert.equal(error?.code, "ERR_SOURCE_CONFIG", `${name}: ${JSON.stringify(error)}`);
      assert.match(error.message, message);
      assert.doesNotMatch(JSON.stringify(error), /wrong-password|BEGIN|MII/);
    }
    assert.equal(entra.posted.has("unused"), false);
  });
});

/**
 * A mint without its process, so that it can be told where the machine's metadata service is (it has one address
 * everywhere), and that there are no names: those that were asked for are printed.
 */
const DRIVER = `
  import dns from "node:dns";
  import net from "node:net";
  import { text } from "node:stream/consumers";
  import { mintAzure } from ${JSON.stringify(pathToFileURL(join(DIST, "sources/azure.js")).href)};
  const { options, port, timeout } = JSON.parse(await text(process.stdin));
  const names = [];
  dns.lookup = (name, options, callback) => {
    names.push(name);
    setImmediate(callback, Object.assign(new Error(name), { code: "ENOTFOUND" }));
  };
  const { connect } = net.Socket.prototype;
  net.Socket.prototype.connect = function (...args) {
    const [target] = Array.isArray(args[0]) ? args[0] : args;
    if (target.host === "169.254.169.254") Object.assign(target, { host: "127.0.0.1", port });
    return connect.apply(this, args);
  };
  const start = performance.now();
  const answer = await mintAzure(options, { name: "test", timeout }).then((token) => ({ token }), (error) => ({ error }));
  process.stdout.write(JSON.stringify({ ...answer, names, elapsed: performance.now() - start }), () => process.exit());
`;

async function direct(options: object, env: Record<string, string> = {}, port = 9, timeout = 30_000) {
  const child = spawn(process.execPath, ["--input-type=module", "-e", DRIVER], {
    env: { PATH: minter.directory, HOME: minter.directory, ...env },
    stdio: ["pipe", "pipe", "inherit"],
  });
  child.stdin.end(JSON.stringify({ options, port, timeout }));
  return JSON.parse(await text(child.stdout)) as Awaited<ReturnType<AzureMinter["mint"]>> & { names: string[] };
}

describe("a machine's metadata service", () => {
  /** What it answers: to the probe (which lacks the header) and to a request for a token. */
  async function startImds(answer: "hang" | number): Promise<{ port: number; asked: string[]; server: Server }> {
    const asked: string[] = [];
    const server = createServer(({ url, headers }, response) => {
      asked.push(headers.metadata === "true" ? "token" : "probe");
      if (answer === "hang") return;
      if (headers.metadata !== "true") return void response.writeHead(400).end("{}");
      const resource = new URL(url ?? "", "http://imds").searchParams.get("resource");
      const token = accessToken(3600, { aud: resource });
      const body = { access_token: token, expires_in: "3600", resource, token_type: "Bearer" };
      response.writeHead(answer, { "content-type": "application/json" });
      response.end(JSON.stringify(answer === 200 ? body : { error: "not_ready" }));
    });
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    return { port: (server.address() as AddressInfo).port, asked, server };
  }
  const alone = { credential: "managed-identity", scope: SCOPE };

  test("mints, alone and in a list", async (t) => {
    const { port, asked, server } = await startImds(200);
    t.after(() => server.close());
    const [one, list] = [await direct(alone, {}, port), await direct(LIST, {}, port)];
    assert.equal(one.error, undefined, JSON.stringify(one.error));
    assert.equal(list.token?.credential, "managed-identity");
    assert.deepEqual(asked, ["token", "probe", "token"]);
  });

  test("that says 404 (its identity is not ready) is asked once: the SDK would for 16 seconds and more", async (t) => {
    const { port, asked, server } = await startImds(404);
    t.after(() => server.close());
    const { error, elapsed } = await direct(alone, {}, port);
    assert.equal(error?.code, "ERR_SOURCE_FAILED", JSON.stringify(error));
    assert.deepEqual(asked, ["token"]);
    assert.ok(elapsed < 10_000, `${elapsed} ms`);
  });

  test("that nobody answers for costs a list a second, and alone the deadline", async (t) => {
    const { port, server } = await startImds("hang");
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    const [list, one] = await Promise.all([direct(LIST, signedIn(), port), direct(alone, {}, port, 3_000)]);
    assert.equal(list.token?.credential, "cli", JSON.stringify(list.error));
    assert.ok(list.elapsed < 8_000, `${list.elapsed} ms`);
    assert.equal(one.error?.code, "ERR_SOURCE_TIMEOUT");
  });
});

describe("an authority", () => {
  const AUTHORITIES: [string | undefined, string][] = [
    [undefined, "login.microsoftonline.com"],
    ["https://login.microsoftonline.us", "login.microsoftonline.us"],
    // The SDK knows the newer name of China's.
    ["https://login.chinacloudapi.cn/", "login.partner.microsoftonline.cn"],
    ["https://login.partner.microsoftonline.cn", "login.partner.microsoftonline.cn"],
    ["https://sts.corp.example", "sts.corp.example"],
  ];
  for (const [authority, host] of AUTHORITIES) {
    test(`${authority ?? "by default"}: ${host} alone is asked`, async () => {
      const { error, names } = await direct({
        credential: "client-secret",
        scope: SCOPE,
        tenant_id: "contoso.com",
        client_id: CLIENT_ID,
        client_secret: CLIENT_SECRET,
        authority,
      });
      assert.equal(error?.code, "ERR_SOURCE_UNREACHABLE", JSON.stringify(error));
      assert.deepEqual([...new Set(names)], [host]);
    });
  }
});
