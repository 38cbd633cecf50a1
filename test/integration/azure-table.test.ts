/**
 * Every credential of the azure source that needs nobody, against every way in which its endpoint can behave: the real
 * SDK, in the real mint process, on loopback. The table that comes of it is in the report.
 */
import assert from "node:assert/strict";
import { after, before, describe, type TestContext, test } from "node:test";
import { type AzureMinter, type MintOptions, type Outcome, openAzureMinter } from "../support/azure-mint.ts";
import {
  type Certificates,
  type ClientCertificate,
  makeCertificates,
  makeClientCertificate,
} from "../support/certificates.ts";
import { startConnectProxy } from "../support/connect-proxy.ts";
import {
  type Answer,
  accessToken,
  CLIENT_ID,
  CLIENT_SECRET,
  type Entra,
  IDENTITY_HEADER,
  json,
  startEntra,
  startManagedIdentity,
} from "../support/entra.ts";

const SCOPE = "api://gateway/.default";
const CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"1795459999"}}}';
const FEDERATED = accessToken(3600, {
  sub: "system:serviceaccount:default:freshkey",
  aud: "api://AzureADTokenExchange",
});
const WRONG = "wr0ng-secret~of.nobody-and-nothing";

/** How an endpoint behaves; `bad`: well, but the secret, or what stands for one, is wrong. */
type Behaviour = "well" | "hang" | "429" | "500" | "bad";

/** One credential in one of these situations: what the configuration says, and what its endpoint was asked. */
interface Situation extends Pick<MintOptions, "env"> {
  readonly options: object;
  /** How often a token was asked for. */
  readonly asked: () => number;
  readonly end?: () => Promise<void>;
}

interface Row {
  readonly name: string;
  readonly prepare: (behaviour: Behaviour, cell: string) => Situation | Promise<Situation>;
  /** What the bad secret is told as. */
  readonly bad: { code: string; message: RegExp; hint: RegExp } | { none: string };
  /** Seconds. */
  readonly lifetime: number;
  /** The credential that mints. */
  readonly by: string;
  /** Where there is no `Retry-After` to honour, why. */
  readonly deaf?: string;
  /** Where no other token can be had, why. */
  readonly cannotForce?: string;
  readonly claims: "sent" | "sign-in" | { none: string };
  /** Nobody asks a proxy for the machine's own endpoint; `az` does it by itself. */
  readonly proxy: "tunnel" | "direct";
}

let certificates: Certificates;
let certificate: ClientCertificate;
let entra: Entra;
let minter: AzureMinter;

before(async () => {
  certificates = makeCertificates();
  certificate = makeClientCertificate();
  entra = await startEntra(certificates);
  entra.certificate = certificate.certificate;
  entra.federatedToken = FEDERATED;
  minter = openAzureMinter(certificates.caFile);
});

after(async () => {
  await entra.close();
  certificates.remove();
  minter.remove();
});

const ANSWERS: Partial<Record<Behaviour, Answer>> = {
  hang: "hang",
  "429": { status: 429, headers: { "retry-after": "17", "content-type": "application/json" }, body: "{}" },
  "500": json({ error: "server_error" }, 500),
};

/** A tenant of its own for each cell. */
function tenant(behaviour: Behaviour, cell: string): string {
  const answer = ANSWERS[behaviour];
  if (answer) entra.answer(cell, answer);
  return cell;
}

const askedOf = (cell: string) => () => entra.posted.get(cell)?.length ?? 0;

const REFUSED_SECRET = {
  code: "ERR_SOURCE_REFUSED",
  message: /AADSTS7000215: the client secret is wrong/,
  hint: /^Put the secret's value there/,
};

async function managedIdentity(behaviour: Behaviour, client_id?: string): Promise<Situation> {
  const identity = await startManagedIdentity();
  identity.answer =
    behaviour === "bad"
      ? json({ statusCode: 400, message: "No User Assigned or Delegated Managed Identity found" }, 400)
      : ANSWERS[behaviour];
  return {
    options: { credential: "managed-identity", scope: SCOPE, ...(client_id && { client_id }) },
    env: { IDENTITY_ENDPOINT: identity.endpoint, IDENTITY_HEADER },
    asked: () => identity.queries.filter((query) => query.get("client_id") === (client_id ?? null)).length,
    end: () => identity.close(),
  };
}

/** A stand-in that counts its runs and keeps its token, as `az` does. */
function azure(behaviour: Behaviour, cell: string): Situation {
  const count = minter.file(`${cell}.count`, "");
  const token = JSON.stringify({
    accessToken: accessToken(3600, { upn: "amy@contoso.com" }),
    expires_on: Math.floor(Date.now() / 1000) + 3600,
    expiresOn: "1999-01-01 00:00:00.000000",
  });
  const scripts: Record<Behaviour, string> = {
    well: `echo '${token}'`,
    // As the real one: a script with the program that does the work as its child.
    hang: "sleep 300 & sleep 301; wait",
    "429": "echo 'ERROR: HTTP 429 Too Many Requests' >&2; exit 1",
    "500": "echo 'ERROR: Internal Server Error' >&2; exit 1",
    bad: `echo "ERROR: Please run 'az login' to setup account." >&2; exit 1`,
  };
  return {
    options: { credential: "cli", scope: SCOPE, tenant_id: "contoso.com" },
    env: minter.az(`echo x >>'${count}'\n${scripts[behaviour]}`),
    asked: () => minter.lines(count),
  };
}

const ROWS: Row[] = [
  {
    name: "client-secret",
    prepare: (behaviour, cell) => ({
      options: {
        credential: "client-secret",
        scope: SCOPE,
        tenant_id: tenant(behaviour, cell),
        client_id: CLIENT_ID,
        client_secret: { env: "GATEWAY_SECRET" },
        authority: entra.authority,
      },
      env: { GATEWAY_SECRET: behaviour === "bad" ? WRONG : CLIENT_SECRET },
      asked: askedOf(cell),
    }),
    bad: REFUSED_SECRET,
    lifetime: 3599,
    by: "client-secret",
    claims: "sent",
    proxy: "tunnel",
  },
  {
    name: "client-certificate",
    prepare: (behaviour, cell) => ({
      options: {
        credential: "client-certificate",
        scope: SCOPE,
        tenant_id: tenant(behaviour, cell),
        client_id: CLIENT_ID,
        client_certificate: {
          file: minter.file(`${cell}.pem`, behaviour === "bad" ? makeClientCertificate().pem : certificate.encrypted),
        },
        ...(behaviour !== "bad" && { client_certificate_password: certificate.password }),
        authority: entra.authority,
      },
      asked: askedOf(cell),
    }),
    bad: {
      code: "ERR_SOURCE_REFUSED",
      message: /AADSTS700027: the certificate is none of the application's/,
      hint: /^Upload the certificate to the application 11111111-/,
    },
    lifetime: 3599,
    by: "client-certificate",
    claims: "sent",
    proxy: "tunnel",
  },
  {
    name: "workload-identity",
    prepare: (behaviour, cell) => ({
      options: { credential: "workload-identity", scope: SCOPE },
      env: {
        AZURE_AUTHORITY_HOST: `${entra.authority}/`,
        AZURE_TENANT_ID: tenant(behaviour, cell),
        AZURE_CLIENT_ID: CLIENT_ID,
        AZURE_FEDERATED_TOKEN_FILE: minter.file(
          `${cell}.jwt`,
          behaviour === "bad" ? accessToken(3600, { sub: "another" }) : `${FEDERATED}\n`,
        ),
      },
      asked: askedOf(cell),
    }),
    bad: {
      code: "ERR_SOURCE_REFUSED",
      message: /AADSTS700213: the application does not trust the federated token/,
      hint: /federated credential to the application 11111111-/,
    },
    lifetime: 3599,
    by: "workload-identity",
    claims: "sent",
    proxy: "tunnel",
  },
  {
    name: "environment",
    prepare: (behaviour, cell) => ({
      options: { credential: "environment", scope: SCOPE, authority: entra.authority },
      env: {
        AZURE_TENANT_ID: tenant(behaviour, cell),
        AZURE_CLIENT_ID: CLIENT_ID,
        AZURE_CLIENT_SECRET: behaviour === "bad" ? WRONG : CLIENT_SECRET,
      },
      asked: askedOf(cell),
    }),
    bad: REFUSED_SECRET,
    lifetime: 3599,
    by: "environment",
    claims: "sent",
    proxy: "tunnel",
  },
  {
    name: "managed-identity (system)",
    prepare: (behaviour) => managedIdentity(behaviour),
    bad: { none: "has no secret" },
    lifetime: 86_400,
    by: "managed-identity",
    claims: { none: "the SDK takes none" },
    proxy: "direct",
  },
  {
    name: "managed-identity (user)",
    prepare: (behaviour) => managedIdentity(behaviour, CLIENT_ID),
    bad: {
      code: "ERR_SOURCE_REFUSED",
      message: /No User Assigned or Delegated Managed Identity found/,
      hint: /^Assign the identity 11111111-/,
    },
    lifetime: 86_400,
    by: "managed-identity",
    claims: { none: "the SDK takes none" },
    proxy: "direct",
  },
  {
    name: "cli",
    prepare: azure,
    bad: {
      code: "ERR_SIGN_IN",
      message: /the Azure CLI is not signed in/,
      hint: /^Run: az login --tenant contoso\.com/,
    },
    lifetime: 3600,
    by: "cli",
    deaf: "az tells none",
    cannotForce: "az keeps its own",
    claims: "sign-in",
    proxy: "direct",
  },
  {
    name: "default",
    prepare: (behaviour, cell) => ({
      options: { credential: "default", scope: SCOPE },
      env: {
        AZURE_AUTHORITY_HOST: entra.authority,
        AZURE_TENANT_ID: tenant(behaviour, cell),
        AZURE_CLIENT_ID: CLIENT_ID,
        AZURE_FEDERATED_TOKEN_FILE: minter.file(
          `${cell}.jwt`,
          behaviour === "bad" ? accessToken(3600, { sub: "another" }) : FEDERATED,
        ),
      },
      asked: askedOf(cell),
    }),
    bad: {
      code: "ERR_SOURCE_REFUSED",
      message: /^no credential made a token\. environment: .*; workload-identity: AADSTS700213/,
      hint: /federated credential/,
    },
    lifetime: 3599,
    by: "workload-identity",
    claims: "sent",
    proxy: "tunnel",
  },
  {
    name: "a list, its second",
    prepare: async (behaviour) => {
      const { options, ...situation } = await managedIdentity(behaviour);
      return { ...situation, options: { ...options, credential: ["workload-identity", "managed-identity"] } };
    },
    bad: {
      code: "ERR_SOURCE_REFUSED",
      message:
        /^no credential made a token\. workload-identity: .*AZURE_FEDERATED_TOKEN_FILE.*; managed-identity: .*No User/,
      hint: /Assign the identity/,
    },
    lifetime: 86_400,
    by: "managed-identity",
    claims: { none: "the SDK takes none" },
    proxy: "direct",
  },
];

const COLUMNS = [
  "mints",
  "expiry",
  "another token",
  "hangs",
  "429",
  "500",
  "bad secret",
  "claims",
  "proxy and CA",
] as const;
type Cells = Partial<Record<(typeof COLUMNS)[number], string>>;
const table = new Map<string, Cells>();

describe("credential × behaviour", { concurrency: 3 }, () => {
  for (const [index, row] of ROWS.entries()) {
    test(row.name, async (t) => {
      const cells: Cells = {};
      const mint = async (behaviour: Behaviour, more: MintOptions = {}, times = 1) => {
        const cell = `row${index}-${behaviour}${Object.keys(more).join("")}`;
        const situation = await row.prepare(behaviour, cell);
        const outcomes: Outcome[] = [];
        for (let n = 0; n < times; n++) {
          outcomes.push(await minter.mint(situation.options, { ...more, env: { ...more.env, ...situation.env } }));
        }
        const asked = situation.asked();
        await situation.end?.();
        for (const { left } of outcomes) assert.deepEqual(left, [], "a process is left");
        return { outcomes, outcome: outcomes[0]!, asked, cell };
      };
      await t.test("mints; expiry; another token", async () => {
        const before = Date.now();
        const { outcomes, asked } = await mint("well", {}, 2);
        const [first, second] = outcomes.map(({ token, error }) => {
          assert.equal(error, undefined, JSON.stringify(error));
          return token!;
        });
        assert.equal(first?.credential, row.by);
        cells.mints = row.by === row.name ? "yes" : `yes, ${row.by}`;
        const off = (first?.expires ?? 0) - before - row.lifetime * 1000;
        assert.ok(off > -2_000 && off < 30_000, `expiry off by ${off} ms`);
        cells.expiry = "right";
        assert.equal(asked, 2, "the second mint came out of a cache of ours");
        assert.equal(first?.value === second?.value, row.cannotForce !== undefined);
        cells["another token"] = row.cannotForce ? `cannot: ${row.cannotForce}` : "yes";
      });
      await t.test("an endpoint that hangs", async () => {
        const timeout = 4_000;
        const { outcome, asked } = await mint("hang", { timeout });
        assert.equal(outcome.error?.code, "ERR_SOURCE_TIMEOUT", JSON.stringify(outcome));
        assert.ok(outcome.elapsed < timeout + 1_000, `${outcome.elapsed} ms`);
        assert.equal(asked, 1);
        cells.hangs = `${(outcome.elapsed / 1000).toFixed(1)} s of 4, none left`;
      });
      await t.test("429 with Retry-After, 500: told at once, asked once", async () => {
        const [busy, broken] = [await mint("429"), await mint("500")];
        for (const { outcome, asked } of [busy, broken]) {
          assert.equal(outcome.error?.class, "transient", JSON.stringify(outcome));
          assert.equal(asked, 1, "retried inside the SDK");
          assert.ok(outcome.elapsed < 10_000, `${outcome.elapsed} ms`);
        }
        assert.equal(busy.outcome.error?.retryAfter, row.deaf ? undefined : 17_000);
        cells["429"] = row.deaf ?? "17 s kept";
        cells["500"] = "once";
      });
      await t.test("a bad secret", async () => {
        if ("none" in row.bad) {
          cells["bad secret"] = row.bad.none;
          return;
        }
        const { outcome } = await mint("bad");
        assert.equal(outcome.error?.code, row.bad.code, JSON.stringify(outcome));
        assert.match(outcome.error.message, row.bad.message);
        assert.match(outcome.error.hint ?? "", row.bad.hint);
        assert.equal(JSON.stringify(outcome).includes(WRONG), false);
        cells["bad secret"] = outcome.error.class;
      });
      await t.test("claims of a challenge", async () => {
        const { outcome, asked, cell } = await mint("well", { claims: CLAIMS });
        if (row.claims === "sign-in") {
          assert.equal(outcome.error?.code, "ERR_SIGN_IN");
          assert.match(outcome.error.hint ?? "", / --claims-challenge [\w=]+$/);
          assert.equal(asked, 0);
          cells.claims = "sign-in";
        } else if (row.claims === "sent") {
          assert.equal(outcome.error, undefined);
          const sent = JSON.parse(entra.posted.get(cell)?.at(-1)?.get("claims") ?? "{}");
          assert.equal(sent.access_token?.nbf?.value, "1795459999");
          cells.claims = "sent";
        } else {
          assert.equal(outcome.error, undefined);
          cells.claims = row.claims.none;
        }
      });
      await t.test("through a proxy, with a private CA", async () => {
        const proxy = await startConnectProxy();
        const variables = { HTTPS_PROXY: proxy.url, HTTP_PROXY: proxy.url };
        const { outcome } = await mint("well", { env: variables }).finally(() => proxy.close());
        assert.equal(outcome.error, undefined, JSON.stringify(outcome.error));
        const tunnels = row.proxy === "tunnel" ? [new URL(entra.authority).host] : [];
        assert.deepEqual([...new Set(proxy.asked)], tunnels);
        cells["proxy and CA"] = row.proxy;
      });
      table.set(row.name, cells);
    });
  }
});

test("the table has every cell", (t: TestContext) => {
  const lines = [["credential", ...COLUMNS]];
  for (const { name } of ROWS) lines.push([name, ...COLUMNS.map((column) => table.get(name)?.[column] ?? "")]);
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  for (const line of lines) t.diagnostic(line.map((cell, column) => cell.padEnd(widths[column]!)).join(" | "));
  assert.deepEqual(
    lines.flat().filter((cell) => cell === ""),
    [],
  );
});
