// Other servers, secrets, logs and what the web's own API is made of.

import { defineFunction, GrantRefusedError, HttpTimeoutError } from "@flux/guest";

// Expect: returned 200; http.request 3
export const asks_a_server = defineFunction(async ({ input, ctx }) => {
  const base = `http://127.0.0.1:${input.port}`;
  const answer = await ctx.http.post(`${base}/charge`, { json: { amount: 5, name: "ü" }, headers: { "idempotency-key": "1" } });
  const fetched = await fetch(new URL("/x?a=1", base), { method: "POST", body: new URLSearchParams({ a: "b c" }) });
  const failed = await ctx.http.get(`${base}/error`);
  return {
    json: answer.json(), ok: answer.ok, text: await fetched.text(), type: fetched.headers.get("content-type"),
    failed: [failed.status, failed.ok],
  };
});

// Expect: raised HttpTimeoutError; http.request 1
export const a_server_is_silent = defineFunction(async ({ input, ctx }) =>
  ctx.http.get(`http://127.0.0.1:${input.port}/silent`, { timeout: 0.05 }),
);

// Expect: returned 200; http.request 1
export const catches_a_timeout = defineFunction(async ({ input, ctx }) => {
  try {
    await ctx.http.get(`http://127.0.0.1:${input.port}/silent`, { timeout: 0.05 });
  } catch (error) {
    return { timeout: error instanceof HttpTimeoutError, kind: error.kind, limit: error.details.limit_s };
  }
});

// Expect: raised TypeError; http.request 1
export const fetch_fails_as_everywhere = defineFunction(async ({ input }) => fetch(`http://127.0.0.1:${input.port}/hangup`));

// Expect: returned 200; http.request 1
export const has_no_grant = defineFunction(async ({ ctx }) =>
  ctx.http.get("http://example.com/").catch((error) => error instanceof GrantRefusedError),
);

// Expect: returned 200; http.request 1, clock.sleep 1
export const gives_up = defineFunction(async ({ input }) => {
  const signal = AbortSignal.timeout(10);
  return fetch(`http://127.0.0.1:${input.port}/silent`, { signal }).catch((error) => error.name);
});

// Expect: returned 200; secret.handle 1, secret.reveal 1, http.request 1
export const uses_secrets = defineFunction(async ({ input, ctx }) => {
  const handle = ctx.secrets.API_KEY;
  const value = await ctx.secrets.reveal("PEPPER");
  await ctx.http.post(`http://127.0.0.1:${input.port}/`, { headers: { authorization: `Bearer ${handle}` } });
  return { handle, kind: typeof value };
});

// Expect: returned 200; 8 log lines
export const writes_logs = defineFunction(async ({ ctx }) => {
  ctx.log.info("plain");
  ctx.log.warning("with fields", { n: 1, list: [1, "x"], at: new Date(), big: 10n });
  ctx.log.error("with what can't travel", { f: () => 1, half: "\ud800", map: new Map() });
  ctx.log.debug("x".repeat(300000));
  console.log("console", { a: 1 }, [1, 2], null, undefined, 3n);
  console.error(new TypeError("an error"));
  console.warn("warned");
  console.debug("debugged");
  return true;
});

// Expect: returned 200; db.execute 1
export const forgets_to_await = defineFunction(async ({ ctx }) => {
  ctx.db.execute("insert into users (email) values ('forgotten@b.com')");
  return "done";
});

// Expect: returned 200; clock.sleep 2
export const leaves_timers_behind = defineFunction(async ({ ctx }) => {
  setTimeout(() => ctx.log.info("never"), 60000);
  ctx.clock.sleep(60000).catch((error) => ctx.db.query("select 1"));
  return "done";
});

// Expect: raised RangeError; db.query 1
export const fails_with_a_call_in_flight = defineFunction(async ({ ctx }) => {
  ctx.db.query("select pg_sleep(60)");
  throw new RangeError("does not wait");
});

// Expect: returned 200
export const has_what_the_web_has = defineFunction(async () => {
  const url = new URL("../c?x=1&y=ü#frag", "HTTPS://user:pw@Example.com:443/a/b/");
  url.searchParams.append("z", "a b");
  const parameters = new URLSearchParams("a=1&b=2&a=3");
  parameters.delete("b");
  const headers = new Headers({ Accept: "x", "X-A": "1" });
  headers.append("accept", "y");
  return {
    url: url.href, origin: url.origin, parameters: `${parameters}`, all: parameters.getAll("a"), headers: [...headers],
    bytes: [...new TextEncoder().encode("hé€😀")].join(), text: new TextDecoder().decode(new Uint8Array([104, 195, 169])),
    base64: btoa("hi"), clone: structuredClone({ d: new Date(0), m: new Map([[1, { x: 1 }]]) }).m.get(1).x,
    address: new URL("http://0x7f.1/").hostname, port: new URL("http://a:8080/").host,
    invalid: ["http://", "x", "http://a:99999/", "http://[::1"].map((text) => URL.canParse(text)),
  };
});
