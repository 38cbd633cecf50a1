/**
 * The real Azure CLI, signed in to the local authority: a cloud whose endpoint ends in /adfs needs neither Microsoft's
 * directory of authorities nor a subscription.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { type AzureMinter, openAzureMinter } from "../support/azure-mint.ts";
import { type Certificates, makeCertificates } from "../support/certificates.ts";
import { startConnectProxy } from "../support/connect-proxy.ts";
import {
  type Answer,
  CLIENT_ID,
  CLIENT_SECRET,
  type Entra,
  entraError,
  IDENTITY_HEADER,
  json,
  startEntra,
} from "../support/entra.ts";

/** By its path: another `az` on the PATH is not the one that the tests drive. */
const AZ = "/usr/bin/az";
const TENANT = "33333333-2222-3333-4444-555555555555";

describe("the real az", { skip: !existsSync(AZ) && `there is no ${AZ} (apt-get install azure-cli)` }, () => {
  let certificates: Certificates;
  let entra: Entra;
  let minter: AzureMinter;
  let env: Record<string, string>;

  before(async () => {
    certificates = makeCertificates();
    entra = await startEntra(certificates);
    minter = openAzureMinter(certificates.caFile);
    env = {
      PATH: "/usr/bin:/bin",
      HOME: minter.directory,
      AZURE_CONFIG_DIR: join(minter.directory, "az"),
      AZURE_CORE_COLLECT_TELEMETRY: "no",
      REQUESTS_CA_BUNDLE: certificates.caFile,
    };
    const az = (...args: string[]) => promisify(execFile)(AZ, args, { env });
    const host = entra.authority.replace("127.0.0.1", "localhost");
    // All four, or it asks the resource manager for the rest.
    const others = ["resource-manager", "active-directory-resource-id", "active-directory-graph-resource-id"];
    const endpoints = others.flatMap((name) => [`--endpoint-${name}`, host]);
    await az("cloud", "register", "--name", "Local", "--endpoint-active-directory", `${host}/adfs`, ...endpoints);
    await az("cloud", "set", "--name", "Local");
    const account = ["--username", CLIENT_ID, "--password", CLIENT_SECRET, "--tenant", TENANT];
    await az("login", "--service-principal", ...account, "--allow-no-subscriptions");
  });

  after(async () => {
    await entra?.close();
    certificates?.remove();
    minter?.remove();
  });

  /** A scope that `az` has no token for yet. */
  let scopes = 0;
  const fresh = () => ({ credential: "cli", scope: `api://gateway-${scopes++}/.default` });
  const behave = (answer: Answer | undefined) => entra.answer("adfs", answer);

  test("mints; the expiry is right in a zone that is not UTC; its cache gives the same token again", async () => {
    const options = fresh();
    const before = Date.now();
    const asked = entra.posted.get("adfs")?.length ?? 0;
    const away = { ...env, TZ: "Pacific/Auckland" };
    const [first, second] = [await minter.mint(options, { env: away }), await minter.mint(options, { env: away })];
    assert.equal(first.error, undefined, JSON.stringify(first.error));
    const off = (first.token?.expires ?? 0) - before - 3_599_000;
    assert.ok(off > -3_000 && off < 30_000, `expiry off by ${off} ms`);
    assert.equal(first.token?.identity, CLIENT_ID);
    assert.equal(first.token.value === second.token?.value, true, "another token than the one on az's disk");
    assert.equal(entra.posted.get("adfs")?.length, asked + 1);
    const [posted] = entra.posted.get("adfs")?.slice(-1) ?? [];
    assert.equal(posted?.get("scope"), options.scope);
  });

  test("that hangs is ended at the deadline, with all its children", async (t) => {
    behave("hang");
    t.after(() => behave(undefined));
    const { error, left, elapsed } = await minter.mint(fresh(), { env, timeout: 4_000 });
    assert.equal(error?.code, "ERR_SOURCE_TIMEOUT", JSON.stringify(error));
    assert.match(error.message, /^az did not answer/);
    assert.ok(elapsed < 5_000, `${elapsed} ms`);
    assert.deepEqual(left, []);
  });

  const CASES: [string, Answer, string, RegExp, RegExp][] = [
    ["429", json({ error: "busy" }, 429), "ERR_SOURCE_FAILED", /az failed/, /by hand: az account get-access-token/],
    ["a busy Entra", entraError(90033, "temporarily_unavailable"), "ERR_SOURCE_FAILED", /AADSTS90033/, /tries again/],
    ["500", json({ error: "server_error" }, 500), "ERR_SOURCE_FAILED", /az failed/, /by hand/],
    ["a reset", "reset", "ERR_SOURCE_UNREACHABLE", /az cannot reach Entra/, /proxy/],
    ["a wrong secret", entraError(7000215, "invalid_client"), "ERR_SOURCE_REFUSED", /AADSTS7000215/, /not its ID/],
    ["a revoked sign-in", entraError(50173), "ERR_SIGN_IN", /AADSTS50173/, /^Run: az login --scope api:/],
    ["multi-factor", entraError(50076, "interaction_required"), "ERR_SIGN_IN", /AADSTS50076|sign-in/, /^Run: az login/],
    ["an expired sign-in", entraError(700082), "ERR_SIGN_IN", /AADSTS700082/, /^Run: az login --scope api:/],
  ];
  for (const [name, answer, code, message, hint] of CASES) {
    test(`and ${name}`, async (t) => {
      behave(answer);
      t.after(() => behave(undefined));
      const { error, elapsed } = await minter.mint(fresh(), { env });
      assert.equal(error?.code, code, JSON.stringify(error));
      assert.match(error.message, message);
      assert.match(error.hint ?? "", hint);
      assert.ok(elapsed < 20_000, `${elapsed} ms`);
    });
  }

  test("asks through the proxy of the environment", async (t) => {
    const proxy = await startConnectProxy();
    t.after(() => proxy.close());
    const { error } = await minter.mint(fresh(), { env: { ...env, HTTPS_PROXY: proxy.url } });
    assert.equal(error, undefined, JSON.stringify(error));
    assert.ok(proxy.asked.includes(new URL(entra.authority).host), String(proxy.asked));
  });

  test("that nobody signed in to says so, and a list goes on to it from a machine without an identity", async () => {
    const elsewhere = { ...env, AZURE_CONFIG_DIR: join(minter.directory, "nobody") };
    const { error } = await minter.mint(fresh(), { env: elsewhere });
    assert.equal(error?.code, "ERR_SIGN_IN", JSON.stringify(error));
    assert.equal(error.hint, "Run: az login");
    const list = { ...fresh(), credential: ["managed-identity", "cli"] };
    const here = { ...env, IDENTITY_ENDPOINT: "http://127.0.0.1:9/", IDENTITY_HEADER };
    assert.equal((await minter.mint(list, { env: here })).token?.credential, "cli");
  });
});
