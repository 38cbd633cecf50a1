/**
 * Tokens and secrets are in the token file, and where the user has put them, and nowhere else: not in a log, a message,
 * an argument list, another process's environment or any other file. With the real sources, those that fail too.
 */
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fingerprint } from "../../src/core/token.ts";
import { type Identity, startIdentity } from "../../src/demo/identity.ts";
import { type Certificates, makeCertificates, makeClientCertificate } from "../support/certificates.ts";
import { accessToken, CLIENT_ID, CLIENT_SECRET, type Entra, json, startEntra } from "../support/entra.ts";
import { Evidence, type Secret } from "../support/evidence.ts";
import { openSandbox, type Sandbox, until } from "../support/freshkey.ts";

const GOOD = ["raw", "json", "az-literal", "az-file", "az-env", "az-command", "az-cert", "az-federated", "bedrock"];
const BAD = [
  "bad-stderr",
  "bad-lines",
  "bad-hang",
  "az-wrong",
  "az-garbled",
  "az-echo",
  "az-command-fails",
  "az-cert-wrong",
  "az-cert-locked",
];

const WRONG_SECRET = `wr0ng~${randomBytes(20).toString("base64url")}`;
const CONTAINER_SECRET = `container-${randomBytes(20).toString("base64url")}`;
/** What the failing command prints: in the forms in which programs do. */
const PRINTED = {
  jwt: accessToken(3600, { aud: "api://x" }),
  bearer: `opaque-${randomBytes(12).toString("hex")}`,
  password: `pass-${randomBytes(8).toString("hex")}`,
  hex: randomBytes(32).toString("hex"),
  accessKey: `AKIA${randomBytes(8).toString("hex").toUpperCase()}`,
};
const GARBLED = accessToken(3600, { aud: "api://garbled" });

/** The file in which Kubernetes puts what a workload signs in with. */
const FEDERATED = accessToken(3600, { sub: "system:serviceaccount:default:freshkey" });
const certificate = makeClientCertificate();
const strange = makeClientCertificate();
const WRONG_PASSWORD = `wr0ng-${randomBytes(12).toString("hex")}`;

let certificates: Certificates;
let entra: Entra;
let identity: Identity;
let box: Sandbox;
/** The surroundings in which the user starts the agent. */
let env: Record<string, string>;

before(async () => {
  certificates = makeCertificates();
  [entra, identity] = await Promise.all([startEntra(certificates), startIdentity()]);
  box = openSandbox();
  env = {
    ...identity.environment,
    ENTRA_SECRET: CLIENT_SECRET,
    PEM_PASSWORD: certificate.password,
    NODE_EXTRA_CA_CERTS: certificates.caFile,
    // An SDK that is told so writes its requests, with all that is in them, to stderr.
    AZURE_LOG_LEVEL: "verbose",
    DEBUG: "*",
  };
  entra.certificate = certificate.certificate;
  entra.federatedToken = FEDERATED;
  entra.answer("garbled", { ...text(`{"token_type":"Bearer","expires_in":3599,"access_token":"${GARBLED}`) });
  const description = `AADSTS7000215: Invalid client secret: client_secret=${CLIENT_SECRET}&scope=x`;
  entra.answer("echo", json({ error: "invalid_client", error_description: description, error_codes: [7000215] }, 401));
  writeConfig();
});

after(async () => {
  await Promise.all([entra.close(), identity.close(), box.remove()]);
  certificates.remove();
});

function text(body: string) {
  return { status: 200, headers: { "content-type": "application/json" }, body };
}

function writeConfig(): void {
  const put = (name: string, content: string) => {
    writeFileSync(join(box.directory, `put-${name}`), content, { mode: 0o600 });
    return JSON.stringify(join(box.directory, `put-${name}`));
  };
  const script = (name: string, body: string) =>
    JSON.stringify(box.writeScript(`put-${name}.sh`, `#!/bin/sh\n${body}\n`));
  const command = (name: string, body: string, more = "") =>
    `[tokens.${name}]\nsource = "command"\ncommand = [${script(name, body)}]\n${more}\n`;
  const azure = (name: string, secret: string) =>
    `[tokens.${name}]\nsource = "azure"\ncredential = "client-secret"\nscope = "api://x/.default"
tenant_id = "${name.slice(3)}"\nclient_id = "${CLIENT_ID}"\nauthority = "${entra.authority}"\nclient_secret = ${secret}\n`;
  const keys = (name: string, credential: string, more: string) =>
    `[tokens.${name}]\nsource = "azure"\ncredential = "${credential}"\nscope = "api://x/.default"
tenant_id = "${name.slice(3)}"\nclient_id = "${CLIENT_ID}"\nauthority = "${entra.authority}"\n${more}\n`;
  const withCertificate = (name: string, pem: string, more: string) =>
    keys(name, "client-certificate", `client_certificate = { file = ${put(name, pem)} }\n${more}`);
  const uuid = "$(cat /proc/sys/kernel/random/uuid)";
  const says = [
    `token ${PRINTED.jwt} refused`,
    `Authorization: Bearer ${PRINTED.bearer}`,
    `password=${PRINTED.password} key ${PRINTED.accessKey} ${PRINTED.hex}`,
  ];
  box.writeConfig(
    [
      `audit = "${box.home}/audit.jsonl"\nnotify = [${script("notify", `echo "$@" >>"${box.home}/notes"`)}]\n`,
      command("raw", `printf 'raw-%s-%s' "${uuid}" "${uuid}"`),
      command("json", `printf '{"access_token":"json-%s-%s","expires_in":3600}' "${uuid}" "${uuid}"`),
      azure("az-literal", JSON.stringify(CLIENT_SECRET)),
      azure("az-file", `{ file = ${put("file", `${CLIENT_SECRET}\n`)} }`),
      azure("az-env", '{ env = "ENTRA_SECRET" }'),
      azure("az-command", `{ command = [${script("secret", `echo '${CLIENT_SECRET}'`)}] }`),
      withCertificate("az-cert", certificate.encrypted, 'client_certificate_password = { env = "PEM_PASSWORD" }'),
      withCertificate("az-cert-wrong", strange.pem, ""),
      withCertificate("az-cert-locked", certificate.encrypted, `client_certificate_password = "${WRONG_PASSWORD}"`),
      keys("az-federated", "workload-identity", `federated_token_file = ${put("federated", `${FEDERATED}\n`)}`),
      `[tokens.bedrock]\nsource = "aws"\nkind = "bedrock-api-key"\nregion = "us-west-2"\n`,
      command("bad-stderr", `cat >&2 <<'END'\n${says.join("\n")}\nEND\nexit 1`),
      command("bad-lines", `echo '${PRINTED.jwt}'; echo '${PRINTED.hex}'`),
      command(
        "bad-hang",
        `echo '${PRINTED.jwt}'; echo 'password: ${PRINTED.password}' >&2; sleep 60`,
        'timeout = "1s"',
      ),
      azure("az-wrong", `{ file = ${put("wrong", WRONG_SECRET)} }`),
      azure("az-garbled", JSON.stringify(CLIENT_SECRET)),
      azure("az-echo", JSON.stringify(CLIENT_SECRET)),
      azure(
        "az-command-fails",
        `{ command = [${script("vault", `echo "vault: client_secret=${WRONG_SECRET}" >&2; exit 4`)}] }`,
      ),
    ].join("\n"),
  );
}

describe("secrets", { skip: process.platform !== "linux" && "needs /proc" }, () => {
  it("are nowhere but where they belong", async (t) => {
    const evidence = new Evidence(box, Object.keys(env));
    t.after(() => evidence.stop());
    const tokens = new Map<string, string>();
    const collect = () => {
      for (const name of GOOD) {
        if (!existsSync(box.tokenPath(name))) continue;
        const token = readFileSync(box.tokenPath(name), "utf8");
        tokens.set(`a token of ${name} (${fingerprint(token)})`, token);
      }
      return GOOD.every((name) => existsSync(box.tokenPath(name)));
    };
    /** Runs freshkey, and keeps all it says; only `token` has a result that is a token. */
    const run = async (args: string[], own: Record<string, string> = env) => {
      const result = await box.run(args, { env: own });
      evidence.add(`what \`${args.join(" ")}\` says`, result.stderr);
      if (args[0] !== "token" || result.code !== 0) evidence.add(`the output of \`${args.join(" ")}\``, result.stdout);
      collect();
      return result;
    };

    const agent = await box.startAgent({ args: ["--log-level", "trace"], env });
    const failed = (name: string) => existsSync(join(box.runPath, "agent", `${name}.failure.json`));
    await until("all good tokens are there and all bad ones have failed", () => collect() && BAD.every(failed), 30_000);

    // End to end through the mint process: within the time in which the SDK would answer from its cache.
    const seen = new Set([readFileSync(box.tokenPath("az-file"), "utf8")]);
    for (const round of [2, 3]) {
      assert.equal((await run(["renew", "az-file", "--force"])).code, 0);
      seen.add(readFileSync(box.tokenPath("az-file"), "utf8"));
      assert.equal(seen.size, round, "a forced renewal brought no new token");
    }
    await Promise.all(BAD.map((name) => run(["token", name, "--verbose"])));
    await run(["renew", "--force", "--json"]);
    for (const verb of [["status"], ["status", "--json"], ["status", "--verbose"]]) await run(verb);
    assert.equal((await run(["token", "raw"])).code, 0);
    const printEnvironment = ["--", "/bin/sh", "-c", "env; sleep 0.1"];
    assert.equal((await run(["exec", "--token", "json", ...printEnvironment], {})).code, 0);
    const { stdout, stderr } = await agent.stop();
    evidence.add("the agent's output", stdout);
    evidence.add("the agent's log", stderr);

    // The same without an agent: the verbs mint themselves.
    for (const name of ["az-env", "az-wrong", "az-echo", "bad-stderr"]) {
      await run(["renew", name, "--force", "--verbose"]);
    }
    const wrong = { ...env, AWS_CONTAINER_AUTHORIZATION_TOKEN: CONTAINER_SECRET };
    assert.notEqual((await run(["renew", "bedrock", "--force", "--verbose"], wrong)).code, 0);
    await run(["status", "--json"]);
    const script = join(box.directory, "put-json.sh");
    assert.equal((await run(["exec", "--mint", script, ...printEnvironment], {})).code, 0);

    evidence.stop();
    const tokenFiles = [...GOOD, ...BAD].map((name) => box.tokenPath(name));
    const putByUser = (path: string) => path.startsWith(join(box.directory, "put-")) || path === box.configFile;
    evidence.addFiles(box.directory, (path) => tokenFiles.includes(path) || putByUser(path));

    const secrets: Secret[] = [
      ...[...tokens].map(([name, value]) => ({ name, value })),
      ...Object.entries(PRINTED).map(([name, value]) => ({ name: `the ${name} that a command printed`, value })),
      { name: "the garbled token", value: GARBLED },
      { name: "Entra's client secret", value: CLIENT_SECRET },
      { name: "the wrong client secret", value: WRONG_SECRET },
      { name: "the federated token", value: FEDERATED },
      // A line from within each key: no two keys begin and end differently.
      { name: "the certificate's key", value: certificate.pem.trim().split("\n").at(-3)! },
      { name: "the certificate's encrypted key", value: certificate.encrypted.trim().split("\n").at(-3)! },
      { name: "the strange certificate's key", value: strange.pem.trim().split("\n").at(-3)! },
      { name: "the certificate's password", value: certificate.password },
      { name: "the certificate's wrong password", value: WRONG_PASSWORD },
      { name: "the wrong container token", value: CONTAINER_SECRET },
      { name: "the container token", value: env.AWS_CONTAINER_AUTHORIZATION_TOKEN ?? "" },
      { name: "the identity header", value: env.IDENTITY_HEADER ?? "" },
      ...[...tokens.values()].filter((token) => token.startsWith("bedrock-")).map(sessionToken),
    ];
    assert.ok(
      secrets.every(({ value }) => value.length >= 16),
      "a secret is too short to be looked for",
    );
    assert.deepEqual(evidence.leaks(secrets), []);

    // What was looked at is what was meant to be.
    assert.equal(new Set([...tokens.keys()].map((name) => name.split(" ")[3])).size, GOOD.length);
    for (const token of [...tokens.values()]) assert.ok(evidence.holds(fingerprint(token)), "no log tells of a token");
    for (const words of ["exit code 1: token *** refused", "AADSTS7000215", "agent started", '"event":"published"']) {
      assert.ok(evidence.holds(words), `nowhere is said: ${words}`);
    }
    for (const name of BAD) assert.ok(evidence.holds(`"name":"${name}","code":"ERR_`), `${name} is in no log`);
    assert.ok(existsSync(join(box.home, "notes")), "nobody was notified");
    assert.ok(evidence.holds("mint-process.js"), "no mint process was seen");
    assert.ok(evidence.processes > 10);
    t.diagnostic(`${secrets.length} secrets, arguments of ${evidence.processes} processes`);
  });

  it("would be found", async (t) => {
    const other = openSandbox(t);
    const evidence = new Evidence(other, ["GIVEN"]);
    t.after(() => evidence.stop());
    const [inArguments, inEnvironment, given, inFile] = Array.from(
      { length: 4 },
      () => `${randomUUID()}${randomUUID()}`,
    );
    const child = other.start(["-c", "sleep 0.5; exit 0", inArguments!], {
      program: "/bin/sh",
      env: { NOT_GIVEN: inEnvironment, GIVEN: given },
    });
    await child.ended;
    writeFileSync(join(other.directory, "file"), `a part: ${inFile?.slice(10, 40)}.`);
    evidence.addFiles(other.directory, () => false);
    const names = ["inArguments", "inEnvironment", "given", "inFile"];
    const secrets = [inArguments, inEnvironment, given, inFile].map((value, i) => ({ name: names[i]!, value: value! }));
    const found = evidence.leaks(secrets).map((leak) => leak.split(" ")[0]);
    assert.deepEqual([...new Set(found)], ["inArguments", "inEnvironment", "inFile"]);
  });
});

/** The credential within an API key for Bedrock: the session token that it was signed with. */
function sessionToken(key: string): Secret {
  const url = Buffer.from(key.replace("bedrock-api-key-", ""), "base64").toString("utf8");
  const query = new URLSearchParams(url.slice(url.indexOf("?") + 1));
  return { name: "the AWS session token", value: query.get("X-Amz-Security-Token") ?? "" };
}
