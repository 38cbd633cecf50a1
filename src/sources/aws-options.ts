/** The configuration's keys of `source = "aws"`: which there are, and which go together. */
import * as v from "valibot";
import { parseDuration } from "../core/duration.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

interface Kind {
  /** Which of the keys that not every kind has it must have, and which it may have. */
  readonly needs: readonly string[];
  readonly takes: readonly string[];
  /** What AWS accepts as `expires_in`, milliseconds; `form` says it in words. None: there is nothing to choose. */
  readonly lifetime?: { readonly least: number; readonly most: number; readonly form: string };
}

const KINDS = {
  "bedrock-api-key": {
    needs: [],
    takes: ["expires_in"],
    lifetime: { least: 1_000, most: 12 * HOUR, form: 'must be a duration up to 12h, such as "12h" or "90m"' },
  },
  "web-identity-token": {
    needs: ["audience"],
    takes: ["expires_in", "signing_algorithm"],
    lifetime: { least: MINUTE, most: HOUR, form: 'must be a duration from 1m to 1h, such as "1h" or "15m"' },
  },
  "session-token": { needs: [], takes: [] },
} as const satisfies Record<string, Kind>;

type KindName = keyof typeof KINDS;
const KIND_NAMES = Object.keys(KINDS) as KindName[];
const kindOf = (name: KindName): Kind => KINDS[name];

const KIND_KEYS = ["audience", "signing_algorithm", "expires_in"] as const;
const ROLE_KEYS = ["external_id", "session_name", "duration"] as const;

const DURATION = 'must be a duration, such as "1h" or "90m"';
const ROLE_DURATION = 'must be a duration from 15m to 12h, such as "1h"; more than 1h only where the role allows it';
const AUDIENCE = 'must be who the token is for, such as "https://gateway.example.com", or a list of up to ten';

/** In milliseconds; NaN is a text that is no duration, for the check that follows. */
const duration = (message: string) =>
  v.pipe(
    v.string(message),
    v.transform((text) => parseDuration(text) ?? Number.NaN),
  );

const audience = v.pipe(v.string(AUDIENCE), v.minLength(1, AUDIENCE), v.maxLength(1_000, AUDIENCE));

/** A text whose form is the one in the API reference of STS. */
const form = (pattern: RegExp, message: string) => v.optional(v.pipe(v.string(message), v.regex(pattern, message)));

/** The keys of a token with `source = "aws"`, beside those that every source has. Durations are milliseconds. */
export const awsOptions = v.pipe(
  v.strictObject({
    kind: v.picklist(KIND_NAMES, `must be one of ${KIND_NAMES.map((kind) => `"${kind}"`).join(", ")}`),
    region: form(/^[a-z]+(-[a-z]+)+-\d+$/, 'must be the name of a region, such as "us-west-2"'),
    profile: v.optional(v.pipe(v.string(), v.nonEmpty("must be the name of a profile"))),
    role_arn: form(
      /^arn:aws[a-z-]*:iam::\d{12}:role\/[\x21-\x7e]+$/,
      'must be the ARN of a role, such as "arn:aws:iam::123456789012:role/gateway"',
    ),
    external_id: form(/^[\w+=,.@:/-]{2,1224}$/, "must be the external ID that the role's trust policy asks for"),
    session_name: form(/^[\w+=,.@-]{2,64}$/, "must be 2 to 64 letters, digits or any of _+=,.@-"),
    duration: v.optional(
      v.pipe(
        duration(ROLE_DURATION),
        v.check((ms) => ms >= 15 * MINUTE && ms <= 12 * HOUR, ROLE_DURATION),
      ),
    ),
    audience: v.optional(
      v.union([audience, v.pipe(v.array(audience), v.minLength(1, AUDIENCE), v.maxLength(10, AUDIENCE))], AUDIENCE),
    ),
    signing_algorithm: v.optional(v.picklist(["RS256", "ES384"], 'must be "RS256" or "ES384"')),
    expires_in: v.optional(duration(DURATION)),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const input = dataset.value;
    const complain = (key: keyof typeof input, message: string) =>
      addIssue({ message, path: [{ type: "object", origin: "value", input, key, value: input[key] }] });
    const { needs, takes, lifetime } = kindOf(input.kind);
    for (const key of KIND_KEYS) {
      const given = input[key] !== undefined;
      if (needs.includes(key) && !given) complain(key, `is needed for kind = "${input.kind}"`);
      if (given && ![...needs, ...takes].includes(key)) complain(key, `has no meaning for kind = "${input.kind}"`);
    }
    for (const key of ROLE_KEYS) {
      if (input[key] !== undefined && input.role_arn === undefined) complain(key, "has no meaning without role_arn");
    }
    const { expires_in } = input;
    if (expires_in === undefined || lifetime === undefined) return;
    if (!(expires_in >= lifetime.least && expires_in <= lifetime.most)) complain("expires_in", lifetime.form);
  }),
  // As long as AWS allows: the longer a token lives, the longer an outage of AWS may last before anybody notices.
  v.transform((input) => ({ ...input, expires_in: input.expires_in ?? kindOf(input.kind).lifetime?.most ?? 0 })),
);

export type AwsOptions = v.InferOutput<typeof awsOptions>;
