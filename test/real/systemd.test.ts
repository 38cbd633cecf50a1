/**
 * The units under a real systemd, on a machine that is booted for it: the agent as a service of its own user, what
 * happens when it is killed, stands still, or is configured wrongly, and the form without a daemon.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { type Certificates, makeCertificates } from "../support/certificates.ts";
import { CLIENT_ID, CLIENT_SECRET, type Entra, startEntra } from "../support/entra.ts";
import { bootMachine, INSTALLED, type Machine, noMachine, PATH, pause, until } from "../support/machine.ts";

const RUN = "/run/freshkey/freshkey";
const TOKEN = `${RUN}/copilot/token`;
const CONFIG = "/etc/freshkey/config.toml";
/** How its own user's programs find the machine-wide agent. */
const OWN = { user: "freshkey", env: { XDG_RUNTIME_DIR: "/run/freshkey" } };

/** A token that lives as long as /etc/freshkey/lifetime says; keeps what variables it was given. */
const PRINT_TOKEN = `#!/bin/sh
env | sed 's/=.*//' >"$HOME/variables"
life=$(cat /etc/freshkey/lifetime 2>/dev/null || echo 3600)
echo "{\\"accessToken\\":\\"token-$(date +%s%N)\\",\\"expires_on\\":$(($(date +%s) + life))}"
`;
const COMMAND = `[tokens.copilot]\nsource = "command"\ncommand = ["print-token"]\nrefresh_before = "2s"\n`;

const skip = noMachine();
if (skip !== false && process.env.CI) throw new Error(`this test is never skipped in CI: ${skip}`);

describe("freshkey under systemd", { skip, timeout: 180_000 }, () => {
  let machine: Machine;
  let certificates: Certificates;
  let entra: Entra;

  before(async () => {
    certificates = makeCertificates();
    entra = await startEntra(certificates);
    machine = await bootMachine();
    await machine.sh("useradd -m alice; useradd -m mallory; groupadd readers; useradd -m -G readers reader");
    await machine.write("/usr/local/bin/print-token", PRINT_TOKEN, { mode: "0755" });
    await machine.write("/etc/freshkey/ca.pem", readFileSync(certificates.caFile, "utf8"));
    await machine.write("/etc/credstore/freshkey.secret", `${CLIENT_SECRET}\n`, { mode: "0600" });
    await machine.write(CONFIG, `${COMMAND}${entraToken()}`);
    const units = `${INSTALLED}/systemd/system`;
    await machine.sh(
      `install -D -m 644 ${units}/freshkey.sysusers.conf /etc/sysusers.d/freshkey.conf; systemd-sysusers`,
    );
    await install(units, ["freshkey.service", "freshkey-renew.service", "freshkey-renew.timer"], "/etc/systemd/system");
    await dropIn("freshkey.service", "ca", "[Service]\nEnvironment=NODE_EXTRA_CA_CERTS=/etc/freshkey/ca.pem\n");
  });
  after(async () => {
    await machine?.remove();
    await entra?.close();
    certificates?.remove();
  });

  /** A token whose client secret is a credential of the unit. */
  function entraToken(): string {
    const secret = '{ file = "/run/credentials/freshkey.service/secret" }';
    const options = [`tenant_id = "contoso"`, `client_id = "${CLIENT_ID}"`, `client_secret = ${secret}`];
    const where = [`scope = "api://gateway/.default"`, `authority = "${entra.authority}"`];
    return ["[tokens.entra]", 'source = "azure"', 'credential = "client-secret"', ...options, ...where, ""].join("\n");
  }

  /** Copies units with the one line changed that they say is to be edited. */
  async function install(from: string, names: readonly string[], to: string): Promise<void> {
    const edit = (name: string) =>
      `sed 's#^Environment=PATH=.*#Environment=PATH=${PATH}#' ${from}/${name} >${to}/${name}`;
    await machine.sh([`mkdir -p ${to}`, ...names.map(edit)].join("\n"));
  }

  async function dropIn(unit: string, name: string, text: string): Promise<void> {
    await machine.write(`/etc/systemd/system/${unit}.d/${name}.conf`, text);
    await machine.sh("systemctl daemon-reload");
  }

  async function show(unit: string, ...properties: string[]): Promise<Record<string, string>> {
    const text = await machine.sh(`systemctl show ${unit} ${properties.map((one) => `-p ${one}`).join(" ")}`);
    return Object.fromEntries(text.split("\n").map((line) => line.split(/=(.*)/s, 2) as [string, string]));
  }

  const statusText = async (unit = "freshkey") => (await show(unit, "StatusText")).StatusText ?? "";
  const journal = (unit = "freshkey") => machine.sh(`journalctl --sync; journalctl -u ${unit} -o cat --no-pager`);

  it("is ready within three seconds, and has its tokens", async () => {
    const begun = Date.now();
    await machine.sh("systemctl start freshkey");
    const took = Date.now() - begun;
    assert.ok(took < 3_000, `it took ${took} ms`);
    assert.equal((await show("freshkey", "SubState")).SubState, "running");
    await until(
      "both tokens",
      async () => (await machine.run(["test", "-s", TOKEN, "-a", "-s", `${RUN}/entra/token`])).code === 0,
    );
    assert.equal(
      await machine.sh(`stat -c '%n %U:%G %a' /run/freshkey ${RUN} ${RUN}/copilot ${TOKEN} ${TOKEN}.json`),
      [
        "/run/freshkey freshkey:freshkey 700",
        `${RUN} freshkey:freshkey 700`,
        `${RUN}/copilot freshkey:freshkey 700`,
        `${TOKEN} freshkey:freshkey 600`,
        `${TOKEN}.json freshkey:freshkey 600`,
      ].join("\n"),
    );
  });

  it("runs as its own user, without a capability", async () => {
    const { MainPID } = await show("freshkey", "MainPID");
    const status = await machine.sh(`cat /proc/${MainPID}/status`);
    const uid = await machine.sh("id -u freshkey");
    assert.notEqual(uid, "0");
    assert.match(status, new RegExp(`^Uid:\t${uid}\t${uid}\t${uid}\t${uid}$`, "m"));
    for (const set of ["CapEff", "CapBnd", "CapAmb"]) assert.match(status, new RegExp(`^${set}:\t0+$`, "m"));
    assert.match(status, /^NoNewPrivs:\t1$/m);
    assert.match(status, /^Seccomp:\t2$/m);
  });

  it("is read by a client of that user, and by no other's", async () => {
    const token = await machine.sh(`cat ${TOKEN}`);
    assert.match(token, /^token-\d+$/);
    for (const reader of [
      ["freshkey-token", TOKEN],
      ["freshkey", "token", "copilot", "--config", CONFIG],
    ]) {
      const { code, stdout } = await machine.run(reader, OWN);
      assert.deepEqual({ code, stdout: stdout.trimEnd() }, { code: 0, stdout: token }, reader[0]);
    }
    for (const reader of [
      ["cat", TOKEN],
      ["freshkey-token", TOKEN],
    ]) {
      const { code, stdout } = await machine.run(reader, { user: "mallory" });
      assert.notEqual(code, 0, reader[0]);
      assert.equal(stdout, "", reader[0]);
    }
    assert.equal((await machine.run(["freshkey", "status", "--check", "--config", CONFIG], OWN)).code, 0);
  });

  it("used the credential, which is nowhere to be seen", async () => {
    assert.equal(entra.posted.get("contoso")?.[0]?.get("client_secret"), CLIENT_SECRET);
    const { MainPID } = await show("freshkey", "MainPID");
    const everything = await machine.sh(
      `systemctl show freshkey; systemctl cat freshkey; systemctl status freshkey; journalctl --no-pager -o export; tr '\\0' '\\n' </proc/${MainPID}/environ; cat ${CONFIG}`,
    );
    assert.ok(everything.includes("LoadCredential=secret:freshkey.secret"));
    assert.ok(!everything.includes(CLIENT_SECRET));
    const { code } = await machine.run(["cat", "/run/credentials/freshkey.service/secret"], { user: "mallory" });
    assert.notEqual(code, 0);
  });

  it("gives no mint the means to speak in its name", async () => {
    const variables = (await machine.sh("cat /var/lib/freshkey/variables")).split("\n");
    assert.ok(variables.includes("CREDENTIALS_DIRECTORY"), "it is the service's environment");
    for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) assert.ok(!variables.includes(name), name);
  });

  it("has a status that a person wants to read", async () => {
    await until("both tokens fresh", async () => (await statusText()).startsWith("2 tokens fresh"));
    assert.match(await statusText(), /^2 tokens fresh, next renewal \d\d:\d\d \((copilot|entra)\)$/);
    assert.match(await machine.sh("systemctl status --no-pager freshkey"), /^ +Status: "2 tokens fresh, next/m);
  });

  it("reloads: a mistake changes nothing and is told, its correction is in force", async () => {
    const good = await machine.sh(`cat ${CONFIG}`);
    const { MainPID } = await show("freshkey", "MainPID");
    await machine.write(CONFIG, good.replace("print-token", "print-token\nand then?"));
    await machine.sh("systemctl reload freshkey");
    await until("the status tells", async () => (await statusText()).includes("mistake"));
    assert.match(
      await statusText(),
      /^2 tokens fresh, .*, the configuration on disk has a mistake and is not in force$/,
    );
    await machine.write(CONFIG, `${good}\n${COMMAND.replace("copilot", "third")}`);
    await machine.sh("systemctl reload freshkey");
    await until("a third token", async () => (await statusText()).startsWith("3 tokens fresh"));
    await machine.write(CONFIG, `${good}\n`);
    await machine.sh("systemctl reload freshkey");
    await until("it is gone again", async () => /^2 tokens fresh, [^,]*$/.test(await statusText()));
    assert.deepEqual(await show("freshkey", "MainPID", "SubState", "NRestarts"), {
      MainPID,
      SubState: "running",
      NRestarts: "0",
    });
  });

  it("logs with the journal's priorities", async () => {
    const text = await machine.sh("journalctl --sync; journalctl -u freshkey -o json --no-pager");
    const entries = text.split("\n").map((line) => JSON.parse(line) as Record<string, string>);
    const own = entries.filter((entry) => entry.SYSLOG_IDENTIFIER === "freshkey");
    const priority = (words: string) => own.find(({ MESSAGE }) => MESSAGE?.includes(words))?.PRIORITY;
    assert.equal(priority("agent started"), "6");
    assert.equal(priority("not reloaded"), "3");
    assert.deepEqual(
      own.filter(({ MESSAGE }) => MESSAGE?.startsWith("<")),
      [],
    );
    for (const { MESSAGE = "" } of own) assert.doesNotThrow(() => JSON.parse(MESSAGE), MESSAGE);
  });

  it("is back within two seconds when it is killed, and the token could be read all the time", async () => {
    const { MainPID } = await show("freshkey", "MainPID");
    const reading = machine.sh(`
      count=0
      until [ -e /run/enough ]; do
        token=$(cat ${TOKEN}) && [ -n "$token" ] || echo unreadable
        count=$((count + 1))
      done
      echo $count`);
    await machine.sh("systemctl kill --kill-who=main -s KILL freshkey");
    const killed = Date.now();
    await until("it is back", async () => {
      const now = await show("freshkey", "MainPID", "SubState");
      return now.SubState === "running" && now.MainPID !== MainPID;
    });
    const took = Date.now() - killed;
    await machine.sh("touch /run/enough");
    const read = await reading;
    assert.ok(took < 2_000, `it took ${took} ms`);
    assert.match(read, /^\d+$/, "no time was it unreadable");
    assert.ok(Number(read) > 100, `it was read ${read} times`);
  });

  it("feeds the watchdog, and is started again when it stands still", async () => {
    await dropIn("freshkey.service", "watchdog", "[Service]\nWatchdogSec=3s\n");
    await machine.sh("systemctl restart freshkey");
    await pause(7_000);
    const before = await show("freshkey", "MainPID", "NRestarts");
    assert.equal(before.NRestarts, "0", "its loop turns");
    await machine.sh("systemctl kill --kill-who=main -s STOP freshkey");
    await until("systemd starts it again", async () => {
      const now = await show("freshkey", "MainPID", "SubState", "NRestarts");
      return now.SubState === "running" && now.NRestarts === "1" && now.MainPID !== before.MainPID;
    });
    assert.match(await journal(), /Watchdog timeout/);
    await machine.sh("rm /etc/systemd/system/freshkey.service.d/watchdog.conf; systemctl daemon-reload");
  });

  it("shares a token with another user's reader where both sides say so", async () => {
    await dropIn("freshkey.service", "shared", "[Service]\nRuntimeDirectoryMode=0711\nSupplementaryGroups=readers\n");
    const good = await machine.sh(`cat ${CONFIG}`);
    const shared = `[tokens.shared]\nsource = "command"\ncommand = ["print-token"]\nmode = "0640"\ngroup = "readers"\n`;
    await machine.write(CONFIG, `${good}\n${shared}`);
    await machine.sh("systemctl restart freshkey");
    const path = `${RUN}/shared/token`;
    await until("the token", async () => (await machine.run(["test", "-s", path])).code === 0);
    const token = await machine.sh(`cat ${path}`);
    const { stdout } = await machine.run(["freshkey-token", path], { user: "reader" });
    assert.equal(stdout.trimEnd(), token);
    assert.notEqual((await machine.run(["cat", path], { user: "mallory" })).code, 0);
    assert.notEqual((await machine.run(["cat", TOKEN], { user: "reader" })).code, 0, "not the others");
    await machine.write(CONFIG, `${good}\n`);
    await machine.sh("rm /etc/systemd/system/freshkey.service.d/shared.conf; systemctl daemon-reload");
  });

  it("stops, and leaves no process and no socket behind, but the token", async () => {
    const token = await machine.sh(`cat ${TOKEN}`);
    await machine.sh("systemctl stop freshkey");
    const { ActiveState, Result, ExecMainStatus } = await show("freshkey", "ActiveState", "Result", "ExecMainStatus");
    assert.deepEqual(
      { ActiveState, Result, ExecMainStatus },
      { ActiveState: "inactive", Result: "success", ExecMainStatus: "0" },
    );
    assert.equal((await machine.run(["pgrep", "-u", "freshkey", "-l"])).stdout, "");
    assert.equal(await machine.sh("find /run/freshkey -type s"), "");
    assert.equal(await machine.sh(`cat ${TOKEN}`), token);
  });

  it("ends with 78 over a broken configuration, and is not started again and again", async () => {
    const good = await machine.sh(`cat ${CONFIG}`);
    await machine.write(CONFIG, good.replace("print-token", "print-token\nand then?"));
    assert.notEqual((await machine.run(["systemctl", "start", "freshkey"])).code, 0);
    await pause(2_000);
    const { ActiveState, ExecMainStatus, NRestarts } = await show(
      "freshkey",
      "ActiveState",
      "ExecMainStatus",
      "NRestarts",
    );
    assert.deepEqual(
      { ActiveState, ExecMainStatus, NRestarts },
      { ActiveState: "failed", ExecMainStatus: "78", NRestarts: "0" },
    );
    assert.match(await statusText(), /config\.toml/);
    assert.match(
      await machine.sh("journalctl --sync; journalctl -u freshkey -p err -o cat --no-pager"),
      /freshkey: .*config\.toml/,
    );
    await machine.write(CONFIG, `${good}\n`);
    await machine.sh("systemctl reset-failed freshkey");
  });

  it("renews by a timer, and the token outlives each run", async () => {
    await machine.write(CONFIG, COMMAND);
    await machine.write("/etc/freshkey/lifetime", "6\n");
    await dropIn("freshkey-renew.timer", "often", "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/2\nRandomizedDelaySec=0\n");
    await machine.sh(`rm -r ${RUN}/copilot; systemctl start freshkey-renew.timer`);
    const published = async () => (await machine.run(["cat", TOKEN])).stdout;
    const first = await until("a token", published);
    await until("another one", async () => {
      const now = await published();
      assert.notEqual(now, "", "no time is there none");
      return now !== first;
    });
    await machine.sh("systemctl stop freshkey-renew.timer");
    const over = async () => (await show("freshkey-renew.service", "ActiveState")).ActiveState === "inactive";
    await until("the last run is over", over);
    assert.match(await published(), /^token-\d+$/);
    assert.equal((await show("freshkey-renew.service", "Result")).Result, "success");
    assert.equal((await machine.run(["pgrep", "-u", "freshkey", "-l"])).stdout, "");
    await machine.sh("rm /etc/freshkey/lifetime");
  });

  it("runs as a service of somebody who has signed in", async () => {
    const uid = await machine.sh("id -u alice");
    const alice = { user: "alice", env: { XDG_RUNTIME_DIR: `/run/user/${uid}` } };
    const own = `/run/user/${uid}/freshkey/copilot/token`;
    await install(
      `${INSTALLED}/systemd`,
      ["freshkey.service", "freshkey-renew.service"],
      "/home/alice/.config/systemd/user",
    );
    await machine.write("/home/alice/.config/freshkey/config.toml", COMMAND);
    await machine.sh(`chown -R alice: /home/alice; systemctl start user@${uid}`);
    const begun = Date.now();
    await machine.sh("systemctl --user enable --now freshkey", alice);
    assert.ok(Date.now() - begun < 3_000, `it took ${Date.now() - begun} ms`);
    await until("the token", async () => (await machine.run(["test", "-s", own])).code === 0);
    assert.equal(await machine.sh(`stat -c '%U %a' ${own} /run/user/${uid}/freshkey`), "alice 600\nalice 700");
    const text = () => machine.sh("systemctl --user show freshkey -p StatusText --value", alice);
    await until("its status", async () => (await text()).startsWith("1 token fresh"));
    assert.match(await text(), /^1 token fresh, next renewal \d\d:\d\d \(copilot\)$/);
    assert.equal((await machine.run(["freshkey-token", "copilot"], alice)).code, 0);
    await machine.sh("systemctl --user stop freshkey", alice);
    assert.equal((await machine.run(["test", "-s", own])).code, 0, "the token stays");
    assert.equal(await machine.sh(`find /run/user/${uid}/freshkey -type s`), "");
    await machine.sh(`rm -r /run/user/${uid}/freshkey/copilot; systemctl --user start freshkey-renew`, alice);
    assert.equal((await machine.run(["test", "-s", own])).code, 0, "the token outlives the oneshot");
  });
});
