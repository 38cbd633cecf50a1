/**
 * A credential helper as a company has one: asks the identity provider and prints the answer's token with its
 * lifetime, or says on stderr what is wrong and fails. `node mint.mjs URL`, with the secret in CHAOS_SECRET.
 */
const body = new URLSearchParams({
  grant_type: "client_credentials",
  client_id: "helper",
  client_secret: process.env.CHAOS_SECRET,
});
try {
  const response = await fetch(process.argv[2], { method: "POST", body });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const { access_token, expires_in } = await response.json();
  process.stdout.write(JSON.stringify({ access_token, expires_in }));
} catch (error) {
  process.stderr.write(`${error.cause?.code ?? error.message}\n`);
  process.exitCode = 1;
}
