/** What a gateway asks for with a 401: every form that RFC 9110 gives the header. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { claimsOf } from "../../src/reader/challenge.ts";
import { holds } from "../support/unit.ts";

const CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"1795459999"},"note":"??>>~~"}}';
const base64 = Buffer.from(CLAIMS).toString("base64");
const base64url = Buffer.from(CLAIMS).toString("base64url");
assert.notEqual(base64, base64url);
const asked = `error="insufficient_claims", claims="${base64}"`;

describe("claimsOf", () => {
  const given: Record<string, string> = {
    "as Entra ID has it": `Bearer realm="", authorization_uri="https://login.example/authorize", ${asked}`,
    "base64url, other order, odd spaces": `bearer claims = "${base64url}" ,error="insufficient_claims"`,
    "without quotes": `Bearer error=insufficient_claims, claims=${base64}`,
    "behind another scheme": `Basic realm="a, b", ${`Bearer ${asked}`}`,
    "behind one with a token68": `Negotiate YIIabc+/==, Bearer ${asked}`,
    "behind one without anything": `Negotiate, Bearer ${asked}`,
    "in front of another": `Bearer ${asked}, DPoP algs="ES256"`,
    "behind quotes within quotes": String.raw`Bearer realm="say \"Bearer, x=1\"", ${asked}`,
    "in the second of two Bearer challenges": `Bearer realm="x", error="invalid_token", Bearer ${asked}`,
    "names in capitals": `BEARER Error="insufficient_claims", Claims="${base64}"`,
  };
  for (const [what, header] of Object.entries(given)) test(what, () => assert.equal(claimsOf(header), CLAIMS));

  const none: Record<string, string | null> = {
    "no header": null,
    "an empty one": "",
    "no claims": 'Bearer error="insufficient_claims"',
    "another error": `Bearer error="invalid_token", claims="${base64}"`,
    "another scheme": `Basic ${asked}`,
    "error and claims of two challenges": `Bearer error="insufficient_claims", Bearer claims="${base64}"`,
    "a step-up without claims (RFC 9470)": 'Bearer error="insufficient_user_authentication", acr_values="gold"',
    "no JSON": `Bearer error="insufficient_claims", claims="${Buffer.from("hello").toString("base64")}"`,
    "no object": `Bearer error="insufficient_claims", claims="${Buffer.from("[1]").toString("base64")}"`,
    "a quote that does not end": `Bearer error="insufficient_claims", claims="${base64}`,
    "parameters of nobody": asked,
  };
  for (const [what, header] of Object.entries(none))
    test(`none: ${what}`, () => assert.equal(claimsOf(header), undefined));

  test("never throws, and ends", (t) => {
    const piece = fc.constantFrom(
      "Bearer",
      "Basic",
      " ",
      ",",
      "=",
      '"',
      "\\",
      "claims",
      "error",
      "x",
      base64,
      "==",
      "\t",
    );
    holds(
      t,
      fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => void claimsOf(pieces.join(""))),
      2_000,
    );
    assert.equal(claimsOf(`Bearer ${'a="'.repeat(20_000)}`), undefined);
  });
});
