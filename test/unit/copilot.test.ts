import assert from "node:assert/strict";
import { test } from "node:test";
import { copilotEnvironment, extensionText } from "../../src/clients/copilot.ts";
import { modelsUrl } from "../../src/clients/probe.ts";

const READER = "/opt/freshkey/bin/freshkey-token";

test("the environment has the hook, the key file, and of the gateway what is known", () => {
  assert.deepEqual(copilotEnvironment({ tokenPath: "/run/t/token" }, READER), {
    COPILOT_PROVIDER_API_KEY_FILE: "/run/t/token",
    COPILOT_PROVIDER_API_KEY_COMMAND: `exec ${READER} /run/t/token`,
  });
  const provider = {
    tokenPath: "/run/t/token",
    baseUrl: "https://gw.example.com",
    type: "azure",
    wireApi: "responses",
    model: "gpt-5.1",
    minValidity: 90_500,
  } as const;
  assert.deepEqual(copilotEnvironment(provider, READER), {
    COPILOT_PROVIDER_BASE_URL: "https://gw.example.com",
    COPILOT_PROVIDER_TYPE: "azure",
    COPILOT_PROVIDER_WIRE_API: "responses",
    COPILOT_MODEL: "gpt-5.1",
    COPILOT_PROVIDER_API_KEY_FILE: "/run/t/token",
    // Whole seconds, rounded up: the shell script reads nothing else.
    COPILOT_PROVIDER_API_KEY_COMMAND: `exec ${READER} --min-validity 91s /run/t/token`,
  });
});

test("odd paths are one word for the shell", () => {
  const { COPILOT_PROVIDER_API_KEY_COMMAND: hook } = copilotEnvironment({ tokenPath: "/a b/it's" }, READER);
  assert.equal(hook, `exec ${READER} '/a b/it'\\''s'`);
});

test("an extension holds its settings as JSON in front of its bundle", () => {
  const settings = {
    provider: { type: "openai", baseUrl: "https://gw" },
    tokenPath: "/t",
    program: ["n", "p"],
  } as const;
  const [, line, ...rest] = extensionText("bundle", settings).split("\n");
  assert.deepEqual(JSON.parse(/^const settings = (.*);$/.exec(line!)![1]!), settings);
  assert.equal(rest.at(-1), "bundle");
});

test("models are listed where each type of gateway has them", () => {
  assert.equal(modelsUrl("openai", "https://gw/v1"), "https://gw/v1/models");
  assert.equal(modelsUrl("anthropic", "https://gw"), "https://gw/v1/models");
  assert.equal(modelsUrl("azure", "https://gw/"), "https://gw/openai/v1/models");
  assert.equal(modelsUrl("azure", "https://gw/openai/v1"), "https://gw/openai/v1/models");
});
