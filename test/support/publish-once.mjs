/**
 * Publishes one token with the compiled modules of `DIST`: `publish-once.mjs DIST TOKENFILE EXPIRES` (epoch seconds).
 * The token says in its own text when it ends. What test/integration/publish-syscalls.test.ts runs under strace.
 */
import { pathToFileURL } from "node:url";

const [dist, path, expires] = process.argv.slice(2);
const { publish } = await import(pathToFileURL(`${dist}/agent/publish.js`).href);
const config = { name: "copilot", source: "command", options: {}, path, ownDirectory: true, baseUrls: [] };
const token = { value: `until-${expires}`, expires: Number(expires) * 1000 };
await publish(config, { token, minted: Date.now(), control: `${path}.sock` });
