import assert from "node:assert/strict";
import { ask, presign, rawRequest, send, signedHeaders, testGateway } from "./testing_client.ts";

async function codeOf(response: Response): Promise<string> {
  return /<Code>([^<]*)</.exec(await response.text())?.[1] ?? String(response.status);
}

/** Signs a GET / and lets a change spoil it. */
async function spoiled(
  change: (headers: Record<string, string>) => void,
  target = "/",
): Promise<string> {
  const gateway = testGateway();
  const headers = signedHeaders(gateway, { method: "GET", target });
  change(headers);
  return await codeOf(
    await gateway.handler(rawRequest("GET", "localhost:9000", target, headers)),
  );
}

function replaced(headers: Record<string, string>, from: RegExp, to: string): void {
  headers.authorization = (headers.authorization ?? "").replace(from, to);
}

Deno.test("a request with a valid signature is served", async () => {
  assert.equal((await ask(testGateway(), "GET", "/")).status, 200);
});

Deno.test("a request without an identity is refused", async () => {
  assert.equal(await spoiled((h) => delete h.authorization), "AccessDenied");
});

Deno.test("every way to spoil the Authorization header has its code", async () => {
  const cases: readonly (readonly [string, (h: Record<string, string>) => void])[] = [
    ["SignatureDoesNotMatch", (h) => replaced(h, /Signature=../, "Signature=00")],
    ["SignatureDoesNotMatch", (h) => replaced(h, /Signature=.*/, "Signature=")],
    ["InvalidAccessKeyId", (h) => replaced(h, /Credential=[^/]*/, "Credential=AKIANOBODY")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /us-east-1/, "eu-west-9")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /\/s3\//, "/ec2/")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /aws4_request/, "aws3_request")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /\/\d{8}\//, "/20010101/")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /\/\d{8}\//, "/today/")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /Signature=.*/, "")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /Credential=[^,]*/, "Credential=a")],
    ["AuthorizationHeaderMalformed", (h) => replaced(h, /SignedHeaders=[^,]*,/, "")],
    ["AuthorizationHeaderMalformed", (h) => h.authorization = "AWS4-HMAC-SHA256"],
    ["InvalidRequest", (h) => h.authorization = "AWS AKIA:signature"],
    ["InvalidRequest", (h) => h.authorization = "Basic YTpi"],
    ["NotImplemented", (h) => h.authorization = "AWS4-ECDSA-P256-SHA256 Credential=x"],
    ["AccessDenied", (h) => delete h["x-amz-date"]],
    ["AccessDenied", (h) => h["x-amz-date"] = "yesterday"],
    ["MissingSecurityHeader", (h) => delete h["x-amz-content-sha256"]],
    ["InvalidArgument", (h) => h["x-amz-content-sha256"] = "abc"],
    [
      "NotImplemented",
      (h) => h["x-amz-content-sha256"] = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
    ],
    ["AccessDenied", (h) => h["x-amz-meta-new"] = "not signed"],
    ["AccessDenied", (h) => replaced(h, /SignedHeaders=host;/, "SignedHeaders=")],
    ["SignatureDoesNotMatch", (h) => h.host = "elsewhere:1"],
  ];
  for (const [code, change] of cases) assert.equal(await spoiled(change), code, String(change));
});

Deno.test("a signed security token is refused: there are no temporary credentials", async () => {
  const answer = await ask(testGateway(), "GET", "/", undefined, { "x-amz-security-token": "t" });
  assert.equal(answer.code, "InvalidToken");
});

Deno.test("two mechanisms at once are refused", async () => {
  assert.equal(
    await spoiled(() => {}, "/?X-Amz-Algorithm=AWS4-HMAC-SHA256"),
    "InvalidArgument",
  );
});

Deno.test("Signature Version 2 in the query is refused", async () => {
  assert.equal(
    await spoiled(
      (h) => delete h.authorization,
      "/?AWSAccessKeyId=a&Signature=b&Expires=1",
    ),
    "InvalidRequest",
  );
});

Deno.test("a clock 15 minutes off is accepted, beyond that refused, in both directions", async () => {
  for (
    const [offsetMs, status] of [[900_000, 200], [901_000, 403], [-900_000, 200], [-901_000, 403]]
  ) {
    const gateway = testGateway();
    const headers = signedHeaders(gateway, { method: "GET", target: "/" });
    const later = testGateway({}, gateway.clock.wallMs() + (offsetMs ?? 0));
    const response = await later.handler(rawRequest("GET", "localhost:9000", "/", headers));
    const text = await response.text();
    assert.equal(response.status, status, `${offsetMs}`);
    if (status === 403) assert.match(text, /RequestTimeTooSkewed.*MaxAllowedSkew/s);
  }
});

Deno.test("a Date header stands in for x-amz-date", async () => {
  const gateway = testGateway({}, Date.UTC(2024, 0, 2, 3, 4, 5));
  const headers = signedHeaders(gateway, {
    method: "GET",
    target: "/",
    headers: { date: new Date(gateway.clock.wallMs()).toUTCString() },
  });
  // Signed with x-amz-date as well: without it the signature breaks, but the date is read.
  delete headers["x-amz-date"];
  const response = await gateway.handler(rawRequest("GET", "localhost:9000", "/", headers));
  assert.equal(await codeOf(response), "SignatureDoesNotMatch");
});

Deno.test("presigned requests hold until they expire", async () => {
  const gateway = testGateway();
  await ask(gateway, "PUT", "/bucket");
  await ask(gateway, "PUT", "/bucket/key", "text");
  const target = presign(gateway, "GET", "/bucket/key", 60);
  const get = async (url: string): Promise<string> => {
    const response = await gateway.handler(rawRequest("GET", "localhost:9000", url, {}));
    return response.status === 200 ? await response.text() : await codeOf(response);
  };
  assert.equal(await get(target), "text");
  assert.equal(await get(target + "0"), "SignatureDoesNotMatch");
  assert.equal(await get(target.replace("/key", "/kez")), "SignatureDoesNotMatch");
  gateway.clock.advance(60_000);
  assert.equal(await get(target), "text");
  gateway.clock.advance(1000);
  const response = await gateway.handler(rawRequest("GET", "localhost:9000", target, {}));
  assert.equal(response.status, 403);
  assert.match(await response.text(), /AccessDenied.*Request has expired.*X-Amz-Expires>60</s);
});

Deno.test("every way to spoil a presigned query has its code", async () => {
  const gateway = testGateway();
  const good = presign(gateway, "GET", "/", 60);
  const cases: readonly (readonly [string, string])[] = [
    ["AuthorizationQueryParametersError", good.replace("Expires=60", "Expires=604801")],
    ["AuthorizationQueryParametersError", good.replace("Expires=60", "Expires=-1")],
    ["AuthorizationQueryParametersError", good.replace("Expires=60", "Expires=soon")],
    ["AuthorizationQueryParametersError", good.replace(/&X-Amz-Expires=60/, "")],
    ["AuthorizationQueryParametersError", good.replace("HMAC-SHA256", "HMAC-SHA1")],
    ["AuthorizationQueryParametersError", good.replace(/X-Amz-Date=\d{8}/, "X-Amz-Date=2024")],
    ["AuthorizationQueryParametersError", good.replace("us-east-1", "us-west-1")],
    ["AuthorizationQueryParametersError", good.replace(/&X-Amz-Signature=.*/, "")],
    ["InvalidAccessKeyId", good.replace("AKIAIOSFODNN7EXAMPLE", "AKIANOBODY")],
    ["AccessDenied", good.replace("SignedHeaders=host", "SignedHeaders=range")],
    ["SignatureDoesNotMatch", good.replace(/Signature=.*/, "Signature=0")],
    ["InvalidToken", good + "&X-Amz-Security-Token=x"],
  ];
  for (const [code, target] of cases) {
    const response = await gateway.handler(rawRequest("GET", "localhost:9000", target, {}));
    assert.equal(await codeOf(response), code, target);
  }
});

Deno.test("a presigned request from the future is refused", async () => {
  const gateway = testGateway();
  const future = testGateway({}, gateway.clock.wallMs() + 1_000_000);
  const target = presign(future, "GET", "/", 60);
  const response = await gateway.handler(rawRequest("GET", "localhost:9000", target, {}));
  assert.equal(await codeOf(response), "AccessDenied");
});

Deno.test("a changed secret ends what was signed with the old one", async () => {
  let secret = "first";
  const base = testGateway();
  const gateway = testGateway({
    credentials: {
      resolve: () => Promise.resolve({ identity: base.identity, secretAccessKey: secret }),
    },
  });
  const call = { method: "GET", target: "/", secret: "first" };
  assert.equal((await send(gateway, call)).status, 200);
  secret = "second";
  assert.equal((await send(gateway, call)).status, 403);
  assert.equal((await send(gateway, { ...call, secret: "second" })).status, 200);
});
