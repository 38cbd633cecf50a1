/**
 * freshkey as the credential helper of real programs: aws, kubectl, git and docker, each with a server on loopback that
 * lets nobody in without the token. A program that is not installed is left out, with a message.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import * as v from "valibot";
import { makeCertificates } from "../support/certificates.ts";
import { FRESHKEY, jwt, openSandbox, type RunOptions, type Sandbox } from "../support/freshkey.ts";
import { signerOf } from "../support/sigv4.ts";

const without = (program: string, ...args: string[]) => {
  const found = spawnSync(program, args.length > 0 ? args : ["--version"], { stdio: "ignore" });
  return (found.error !== undefined || found.status !== 0) && `${program} is not installed`;
};
/** Debian's own, and not a version manager's shim of that name. */
const AWS = "/usr/bin/aws";

/** A token that a script of the test's prints; what it prints can be changed. */
function tokenOf(box: Sandbox, name: string, value: string, more = ""): { file: string; toml: string } {
  const file = join(box.directory, name);
  writeFileSync(file, value);
  const toml = `[tokens.${name}]\nsource = "command"\ncommand = ["cat", ${JSON.stringify(file)}]\n${more}\n`;
  return { file, toml };
}

async function listen(t: TestContext, server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.closeAllConnections());
  t.after(() => void server.close());
  return (server.address() as AddressInfo).port;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  return body;
}

describe("freshkey token --format", () => {
  const helper = (box: Sandbox, args: readonly string[], input?: string, options: RunOptions = {}) =>
    box.run(["token", "--format", ...args], { ...options, ...(input !== undefined && { input }) });

  function box(t: TestContext, value: string, clients = ""): Sandbox {
    const sandbox = openSandbox(t);
    sandbox.writeConfig(tokenOf(sandbox, "one", value).toml + clients);
    return sandbox;
  }

  /** k8s.io/client-go/pkg/apis/clientauthentication/v1/types.go; metav1.Time is RFC 3339 in whole seconds. */
  const execCredential = v.strictObject({
    apiVersion: v.literal("client.authentication.k8s.io/v1"),
    kind: v.literal("ExecCredential"),
    spec: v.optional(v.strictObject({ interactive: v.boolean(), cluster: v.optional(v.looseObject({})) })),
    status: v.strictObject({
      expirationTimestamp: v.optional(v.pipe(v.string(), v.regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$/))),
      token: v.optional(v.string()),
      authProxyHeaders: v.optional(v.record(v.string(), v.string())),
      clientCertificateData: v.optional(v.string()),
      clientKeyData: v.optional(v.string()),
    }),
  });

  it("kubernetes-exec is an ExecCredential of the published schema", async (t) => {
    const expires = Math.floor(Date.now() / 1000) * 1000 + 3_600_000;
    const value = jwt(expires);
    const { stdout } = await helper(box(t, value), ["kubernetes-exec", "one"]);
    const { status } = v.parse(execCredential, JSON.parse(stdout));
    assert.equal(status.token, value);
    assert.equal(Date.parse(status.expirationTimestamp ?? ""), expires);

    const bare = await helper(box(t, "of-unknown-expiry"), ["kubernetes-exec", "one"]);
    assert.deepEqual(v.parse(execCredential, JSON.parse(bare.stdout)).status, { token: "of-unknown-expiry" });
    assert.throws(() => v.parse(execCredential, { ...JSON.parse(stdout), token: value }), "the schema is strict");
  });

  it("json is what --json prints", async (t) => {
    const sandbox = box(t, "t0ken");
    const { stdout } = await sandbox.run(["token", "--json", "one"]);
    assert.equal(JSON.parse(stdout).token, "t0ken");
    assert.equal((await helper(sandbox, ["json", "one"])).stdout, stdout);
  });

  it("aws-credential-process is refused for a token that is no AWS credentials", async (t) => {
    const { code, stdout, stderr } = await helper(box(t, jwt(Date.now() + 3_600_000)), [
      "aws-credential-process",
      "one",
    ]);
    assert.deepEqual([code, stdout], [64, ""]);
    assert.match(stderr, /this token is no AWS credentials/);
    assert.match(stderr, /→ .*aws-credential-process/);
  });

  it("git-credential gives the token for its origin only, and never in the clear over a network", async (t) => {
    const clients = '[clients.git]\ntoken = "one"\nbase_url = "https://git.example.com/api"\n';
    const sandbox = box(t, "t0ken", clients);
    const ask = async (question: string) => helper(sandbox, ["git-credential", "one", "get"], `${question}\n\n`);
    const granted = await ask("protocol=https\nhost=git.example.com\npath=team/repository");
    assert.deepEqual([granted.code, granted.stdout], [0, "username=oauth2\npassword=t0ken\n"]);
    assert.equal((await ask("protocol=https\nhost=git.example.com\nusername=me")).stdout, "password=t0ken\n");
    for (const other of [
      "https\nhost=evil.example.com",
      "http\nhost=git.example.com",
      "https\nhost=git.example.com:8443",
    ]) {
      // A helper that has nothing says nothing: git goes on to the next one.
      const { code, stdout, stderr } = await ask(`protocol=${other}`);
      assert.deepEqual([code, stdout, stderr], [0, "", ""], other);
    }
    const open = box(t, "t0ken");
    const clear = await helper(open, ["git-credential", "one", "get"], "protocol=http\nhost=git.example.com\n\n");
    assert.equal(clear.stdout, "");
  });

  it("git-credential stores nothing, and passes over what it does not know", async (t) => {
    const sandbox = box(t, "t0ken");
    for (const operation of ["store", "erase", "capability"]) {
      const input = "protocol=https\nhost=git.example.com\nusername=me\npassword=other\n\n";
      const { code, stdout } = await helper(sandbox, ["git-credential", "one", operation], input);
      assert.deepEqual([code, stdout], [0, ""], operation);
    }
  });

  it("docker-credential answers as docker's helpers do", async (t) => {
    const clients = '[clients.images]\ntoken = "one"\nbase_url = "https://images.example.com"\n';
    const sandbox = box(t, "t0ken", clients);
    const ask = (operation: string, input: string) =>
      helper(sandbox, ["docker-credential", "--username", "AWS", "one", operation], input);
    const { stdout } = await ask("get", "images.example.com\n");
    assert.deepEqual(JSON.parse(stdout), { ServerURL: "images.example.com", Username: "AWS", Secret: "t0ken" });
    const other = await ask("get", "https://evil.example.com");
    assert.deepEqual([other.code, other.stdout], [1, "credentials not found in native keychain\n"]);
    assert.equal((await ask("list", "")).stdout, "{}\n");
    for (const operation of ["store", "erase"]) assert.equal((await ask(operation, "{}")).code, 0);
  });

  it("docker-credential says on stdout, where docker looks, why there is no token", async (t) => {
    const { code, stdout, stderr } = await helper(
      box(t, "null"),
      ["docker-credential", "one", "get"],
      "images.example.com",
    );
    assert.equal(code, 69);
    assert.match(stdout, /^cat printed the word null instead of a token\n$/);
    assert.match(stderr, /printed the word null/);
  });

  it("waits for no question that does not come", async (t) => {
    const sandbox = box(t, "t0ken");
    const began = Date.now();
    const args = ["token", "--wait", "1s", "--format", "git-credential", "one", "get"];
    assert.equal((await sandbox.run(args)).stdout, "username=oauth2\npassword=t0ken\n");
    // stdin that nobody writes to, and nobody closes.
    const child = spawn(FRESHKEY, args, { env: sandbox.env, stdio: ["pipe", "pipe", "inherit"] });
    t.after(() => child.kill("SIGKILL"));
    let stdout = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    await once(child, "close");
    assert.match(stdout, /password=t0ken/);
    assert.ok(Date.now() - began < 15_000);
  });

  it("refuses what it cannot understand", async (t) => {
    const sandbox = box(t, "t0ken");
    for (const args of [
      ["token", "--format", "yaml", "one"],
      ["token", "--format", "kubernetes-exec", "one", "get"],
      ["token", "--format", "git-credential", "--json", "one"],
      ["token", "--username", "me", "one"],
      ["token", "--format", "git-credential", "--username", "a\nb", "one"],
    ]) {
      const { code, stderr } = await sandbox.run(args);
      assert.equal(code, 64, args.join(" "));
      assert.doesNotMatch(stderr, /\bat .*\.js:/);
    }
  });
});

describe("aws", { skip: without(AWS) }, () => {
  const secret = "wJalrXUtnFEMI+K7MDENG/bPxRfiCYEXAMPLEKEY";
  const STS = `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
    <Arn>arn:aws:iam::123456789012:user/x</Arn><UserId>X</UserId><Account>123456789012</Account>
    </GetCallerIdentityResult></GetCallerIdentityResponse>`;

  it("gives its credentials to freshkey, gets them back from it, and signs a request with them", async (t) => {
    const signers: ReturnType<typeof signerOf>[] = [];
    const server = createServer(async (request, response) => {
      const { method = "", url: path = "", headers } = request;
      signers.push(signerOf({ method, path, headers, body: await bodyOf(request) }, secret));
      response.writeHead(200, { "content-type": "text/xml" }).end(STS);
    });
    const port = await listen(t, server);

    const box = openSandbox(t);
    const expires = new Date(Math.floor(Date.now() / 1000) * 1000 + 3_600_000);
    const printed = { Version: 1, AccessKeyId: "AKIDEXAMPLE", SecretAccessKey: secret, SessionToken: "session==" };
    const file = join(box.directory, "credentials.json");
    writeFileSync(file, JSON.stringify({ ...printed, Expiration: expires.toISOString() }));
    // The source: the AWS CLI with a profile of its own. The consumer: the AWS CLI with freshkey behind it.
    writeFileSync(join(box.directory, "source"), `[profile base]\ncredential_process = cat ${file}\n`);
    writeFileSync(
      join(box.directory, "consumer"),
      `[default]\nregion = eu-central-1\ncredential_process = ${FRESHKEY} token --format aws-credential-process aws\n`,
    );
    box.writeConfig(`[tokens.aws]
source = "command"
command = ["${AWS}", "configure", "export-credentials", "--profile", "base", "--format", "process"]
format = "aws-credential-process"
env = { AWS_CONFIG_FILE = "${join(box.directory, "source")}" }
`);
    const env = { AWS_CONFIG_FILE: join(box.directory, "consumer"), AWS_EC2_METADATA_DISABLED: "true" };
    const exported = await box.run(["configure", "export-credentials", "--format", "process"], { program: AWS, env });
    assert.equal(exported.code, 0, exported.stderr);
    const { Expiration, ...keys } = JSON.parse(exported.stdout);
    assert.deepEqual(keys, printed);
    assert.equal(Date.parse(Expiration), expires.getTime());

    const call = ["sts", "get-caller-identity", "--endpoint-url", `http://127.0.0.1:${port}`, "--output", "json"];
    const called = await box.run(call, { program: AWS, env });
    assert.equal(called.code, 0, called.stderr);
    assert.equal(JSON.parse(called.stdout).Account, "123456789012");
    assert.equal(signers.length, 1);
    const { accessKeyId, sessionToken, service } = signers[0] ?? assert.fail("the signature is not of these keys");
    assert.deepEqual([accessKeyId, sessionToken, service], ["AKIDEXAMPLE", "session==", "sts"]);
  });

  it("shows freshkey's own sentence where there are no credentials", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(tokenOf(box, "plain", "no-credentials").toml);
    const config = join(box.directory, "consumer");
    writeFileSync(config, `[default]\ncredential_process = ${FRESHKEY} token --format aws-credential-process plain\n`);
    const env = { AWS_CONFIG_FILE: config, AWS_EC2_METADATA_DISABLED: "true" };
    const { code, stderr } = await box.run(["configure", "export-credentials"], { program: AWS, env });
    assert.notEqual(code, 0);
    assert.match(stderr, /this token is no AWS credentials/);
  });
});

describe("git", { skip: without("git") }, () => {
  /** A repository over HTTP, for whoever has the password. */
  async function gitServer(t: TestContext, box: Sandbox, accepted: () => string) {
    const repository = join(box.directory, "repository");
    const git = (...args: string[]) => {
      const identity = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main"];
      const { status, stderr } = spawnSync("git", [...identity, ...args], {
        cwd: repository,
        env: box.env,
        encoding: "utf8",
      });
      assert.equal(status, 0, stderr);
    };
    mkdirSync(repository);
    git("init", "--quiet");
    writeFileSync(join(repository, "file"), "content");
    git("add", "file");
    git("commit", "--quiet", "--message", "one");
    git("update-server-info");
    const users: string[] = [];
    const server = createServer((request, response: ServerResponse) => {
      const [, basic = ""] = /^Basic (.*)$/.exec(request.headers.authorization ?? "") ?? [];
      const [user = "", password] = Buffer.from(basic, "base64").toString("utf8").split(":");
      if (password !== accepted()) return response.writeHead(401, { "www-authenticate": 'Basic realm="git"' }).end();
      users.push(user);
      try {
        const path = new URL(request.url ?? "", "http://localhost").pathname.replace("/team/repository.git/", ".git/");
        response.end(readFileSync(join(repository, path)));
      } catch {
        response.writeHead(404).end();
      }
    });
    const port = await listen(t, server);
    return { url: `http://127.0.0.1:${port}/team/repository.git`, users };
  }

  function config(box: Sandbox, helper: string) {
    writeFileSync(join(box.home, ".gitconfig"), `[credential]\n\thelper = ${JSON.stringify(helper)}\n`);
  }
  const env = { GIT_TERMINAL_PROMPT: "0", GIT_CONFIG_NOSYSTEM: "1" };

  it("clones with freshkey as its helper, and gets another token after one that was refused", async (t) => {
    const box = openSandbox(t);
    let accepted = "first-token";
    const { url, users } = await gitServer(t, box, () => accepted);
    const { file, toml } = tokenOf(box, "git", accepted);
    box.writeConfig(toml);
    config(box, `!${FRESHKEY} token --format git-credential git`);
    const clone = (directory: string) => box.run(["clone", "--quiet", url, directory], { program: "git", env });
    const first = await clone("first");
    assert.equal(first.code, 0, first.stderr);
    assert.equal(readFileSync(join(box.directory, "first", "file"), "utf8"), "content");
    assert.ok(users.length > 0 && users.every((user) => user === "oauth2"));

    // The server has changed its mind; freshkey's token is half an hour from its next renewal.
    accepted = "second-token";
    writeFileSync(file, accepted);
    backdate(box, "git");
    assert.notEqual((await clone("refused")).code, 0);
    const second = await clone("second");
    assert.equal(second.code, 0, second.stderr);
    assert.equal(readFileSync(box.tokenPath("git"), "utf8"), accepted);
  });

  it("is given nothing for a server that the token is not for", async (t) => {
    const box = openSandbox(t);
    const { url } = await gitServer(t, box, () => "the-token");
    box.writeConfig(
      `${tokenOf(box, "git", "the-token").toml}[clients.git]\ntoken = "git"\nbase_url = "https://git.example.com"\n`,
    );
    config(box, `!${FRESHKEY} token --format git-credential git`);
    const { code, stderr } = await box.run(["ls-remote", url], { program: "git", env });
    assert.equal(code, 128);
    assert.match(stderr, /terminal prompts disabled/);
  });

  it("is a source as well: freshkey asks git, which asks its own helper", async (t) => {
    const box = openSandbox(t);
    const { url } = await gitServer(t, box, () => "in-gits-store");
    const { host } = new URL(url);
    writeFileSync(join(box.directory, "store"), `http://me:in-gits-store@${host.replace(":", "%3a")}\n`);
    config(box, `store --file ${join(box.directory, "store")}`);
    box.writeConfig(`[tokens.git]
source = "command"
command = ["git", "credential", "fill"]
format = "git-credential"
url = "${url}"
`);
    const { stdout, stderr } = await box.run(["token", "git"]);
    assert.equal(stdout, "in-gits-store", stderr);
    config(box, `!${FRESHKEY} token --format git-credential git`);
    const { code } = await box.run(["ls-remote", url], { program: "git", env });
    assert.equal(code, 0);
  });
});

/** As if the token had been minted a minute ago: a gateway's word against a token that is younger is not believed. */
function backdate(box: Sandbox, name: string): void {
  const path = `${box.tokenPath(name)}.json`;
  const json = JSON.parse(readFileSync(path, "utf8"));
  writeFileSync(path, `${JSON.stringify({ ...json, minted: json.minted - 60 })}\n`);
}

describe("kubectl", { skip: without("kubectl", "version", "--client") }, () => {
  it("gets in with the token of its exec plug-in", async (t) => {
    const certificates = makeCertificates();
    t.after(() => certificates.remove());
    const box = openSandbox(t);
    const value = jwt(Date.now() + 3_600_000);
    const seen: (string | undefined)[] = [];
    const server = createHttpsServer(certificates, (request, response) => {
      seen.push(request.headers.authorization);
      const granted = request.headers.authorization === `Bearer ${value}`;
      response.writeHead(granted ? 200 : 401, { "content-type": "application/json" }).end('{"granted":true}');
    });
    const port = await listen(t, server as unknown as Server);
    box.writeConfig(tokenOf(box, "kube", value).toml);
    for (const version of ["v1", "v1beta1"]) {
      const kubeconfig = join(box.directory, `${version}.json`);
      const exec = {
        apiVersion: `client.authentication.k8s.io/${version}`,
        command: FRESHKEY,
        args: ["token", "--format", "kubernetes-exec", "kube"],
        interactiveMode: "Never",
        provideClusterInfo: true,
      };
      const cluster = { server: `https://127.0.0.1:${port}`, "certificate-authority": certificates.caFile };
      const content = {
        apiVersion: "v1",
        kind: "Config",
        clusters: [{ name: "c", cluster }],
        users: [{ name: "u", user: { exec } }],
        contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
        "current-context": "x",
      };
      writeFileSync(kubeconfig, JSON.stringify(content));
      const { code, stdout, stderr } = await box.run(["--kubeconfig", kubeconfig, "get", "--raw", "/hello"], {
        program: "kubectl",
      });
      assert.equal(code, 0, stderr);
      assert.equal(stdout, '{"granted":true}');
    }
    assert.ok(seen.every((authorization) => authorization === `Bearer ${value}`));
  });
});

describe("docker", { skip: without("docker") }, () => {
  it("gets in with the token of its credential helper", async (t) => {
    const box = openSandbox(t);
    const manifest = JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.docker.distribution.manifest.v2+json",
      config: {
        mediaType: "application/vnd.docker.container.image.v1+json",
        size: 2,
        digest: `sha256:${"a".repeat(64)}`,
      },
      layers: [],
    });
    const seen = new Set<string>();
    const server = createServer((request, response) => {
      const [, basic = ""] = /^Basic (.*)$/.exec(request.headers.authorization ?? "") ?? [];
      seen.add(Buffer.from(basic, "base64").toString("utf8"));
      if (basic === "") return response.writeHead(401, { "www-authenticate": 'Basic realm="images"' }).end();
      if (/\/manifests\//.test(request.url ?? "")) {
        return response
          .writeHead(200, { "content-type": "application/vnd.docker.distribution.manifest.v2+json" })
          .end(manifest);
      }
      response.writeHead(200).end("{}");
    });
    const port = await listen(t, server);
    box.writeConfig(tokenOf(box, "images", "image-token").toml);
    const bin = join(box.directory, "bin");
    const docker = join(box.directory, "docker");
    mkdirSync(bin);
    mkdirSync(docker);
    box.writeScript(
      "bin/docker-credential-freshkey",
      `#!/bin/sh\nexec ${FRESHKEY} token --format docker-credential images "$@"\n`,
    );
    writeFileSync(join(docker, "config.json"), JSON.stringify({ credHelpers: { [`127.0.0.1:${port}`]: "freshkey" } }));
    const env = { DOCKER_CONFIG: docker, PATH: `${bin}:${box.env.PATH}` };
    const args = ["manifest", "inspect", "--insecure", `127.0.0.1:${port}/team/image:latest`];
    const { stderr } = await box.run(args, { program: "docker", env });
    assert.ok(seen.has("oauth2:image-token"), `${[...seen].length} requests; ${stderr}`);
  });
});
