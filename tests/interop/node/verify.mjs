// Verifies access tokens with jose: node verify.mjs KEY-SET-URL ISSUER AUDIENCE ALGORITHM < tokens
import { createInterface } from "node:readline";
import { createRemoteJWKSet, jwtVerify } from "jose";

const [url, issuer, audience, algorithm] = process.argv.slice(2);
const keys = createRemoteJWKSet(new URL(url));

for await (const token of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const options = { issuer, audience, algorithms: [algorithm], typ: "at+jwt" };
    answer = { claims: (await jwtVerify(token, keys, options)).payload };
  } catch (error) {
    answer = { refused: `${error.code}: ${error.message}` };
  }
  console.log(JSON.stringify(answer));
}
