import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Certificates {
  /** Path of the test CA's certificate: what `NODE_EXTRA_CA_CERTS` takes. */
  readonly caFile: string;
  /** The server's certificate and key, PEM, for `localhost` and `127.0.0.1`. */
  readonly cert: string;
  readonly key: string;
  remove(): void;
}

/** A certificate authority that lives for a day, and a server's certificate by it, made with openssl. */
export function makeCertificates(): Certificates {
  const directory = mkdtempSync(join(tmpdir(), "freshkey-ca-"));
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: directory, stdio: "pipe" });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  writeFileSync(join(directory, "server.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
  openssl(
    "req",
    "-x509",
    ...newKey,
    "-keyout",
    "ca.key",
    "-out",
    "ca.pem",
    "-days",
    "1",
    "-subj",
    "/CN=freshkey test CA",
  );
  openssl("req", "-new", ...newKey, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost");
  const signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "server.ext"];
  openssl("x509", "-req", "-in", "server.csr", ...signing, "-days", "1", "-out", "server.pem");
  return {
    caFile: join(directory, "ca.pem"),
    cert: readFileSync(join(directory, "server.pem"), "utf8"),
    key: readFileSync(join(directory, "server.key"), "utf8"),
    remove: () => rmSync(directory, { recursive: true }),
  };
}

export interface ClientCertificate {
  /** PEM, without the key: what is uploaded to the application. */
  readonly certificate: string;
  /** PEM, certificate and key: what the application signs in with. */
  readonly pem: string;
  /** The same with its key encrypted under `password`. */
  readonly encrypted: string;
  readonly password: string;
}

/** A self-signed certificate of an application, which lives for a day, with an RSA key: Entra takes no other. */
export function makeClientCertificate(): ClientCertificate {
  const directory = mkdtempSync(join(tmpdir(), "freshkey-client-"));
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: directory, stdio: "pipe" });
  const read = (name: string) => readFileSync(join(directory, name), "utf8");
  const password = `open-sesame-${randomBytes(12).toString("hex")}`;
  try {
    const subject = ["-subj", "/CN=freshkey test application", "-days", "1"];
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", ...subject);
    openssl("pkcs8", "-topk8", "-in", "key.pem", "-out", "locked.pem", "-passout", `pass:${password}`);
    const certificate = read("cert.pem");
    return { certificate, pem: certificate + read("key.pem"), encrypted: certificate + read("locked.pem"), password };
  } finally {
    rmSync(directory, { recursive: true });
  }
}
