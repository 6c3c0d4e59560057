// Does with openid-client, and jose for signatures, what lines of "verify TOKEN", "introspect TOKEN" and "revoke TOKEN"
// say; all that it knows it finds from the issuer's URL: node discover.mjs ISSUER AUDIENCE SECRET < lines
import { createInterface } from "node:readline";
import { createRemoteJWKSet, jwtVerify } from "jose";
import * as client from "openid-client";

const [issuer, audience, secret] = process.argv.slice(2);
const found = await client.discovery(new URL(issuer), audience, undefined, client.ClientSecretBasic(secret), {
  execute: [client.allowInsecureRequests],
});
const metadata = found.serverMetadata();
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));
const options = { issuer: metadata.issuer, audience, algorithms: metadata.id_token_signing_alg_values_supported };

const actions = {
  verify: async (token) => ({ claims: (await jwtVerify(token, keys, options)).payload }),
  introspect: async (token) => client.tokenIntrospection(found, token),
  revoke: async (token) => ({ revoked: (await client.tokenRevocation(found, token)) === undefined }),
};
for await (const line of createInterface({ input: process.stdin })) {
  const [action, token] = line.split(" ");
  let answer;
  try {
    answer = await actions[action](token);
  } catch (error) {
    answer = { refused: `${error.code}: ${error.message}` };
  }
  console.log(JSON.stringify(answer));
}
