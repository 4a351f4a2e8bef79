// What a function gets, and what it may return.

import { defineFunction, HTTPError, ValidationError } from "@flux/guest";
import { double } from "./lib/numbers.ts";

// Expect: returned 200
// Input: {"n": 21, "text": "ü😀\u2028"}
export const takes_its_input = defineFunction(async ({ input }) => ({ n: double(input.n), text: input.text }));

// Expect: returned 204
export const returns_nothing = defineFunction(async () => {});

// Expect: returned 201
export const chooses_status_and_headers = defineFunction(async ({ ctx }) =>
  ctx.response({ id: 1 }, { status: 201, headers: { location: "/1", "set-cookie": ["a=1", "b=2"] } }),
);

// Expect: returned 200
export const returns_text = defineFunction(() => "plain text");

// Expect: returned 200
export const returns_bytes = defineFunction(() => new Uint8Array([0, 255, 10]));

// Expect: returned 418
export const returns_a_web_response = defineFunction(() => Response.json({ short: "stout" }, { status: 418 }));

// Expect: returned 200
// Input: {"n": 1}
export const sees_its_request = defineFunction(async ({ ctx }) => ({
  method: ctx.request.method, path: ctx.request.path, query: ctx.request.query, list: ctx.request.queryList,
  authorization: ctx.request.headers.authorization, n: ctx.request.json().n, bytes: ctx.request.body.length,
  text: ctx.request.text().length, execution: ctx.execution,
}));

// Expect: raised HTTPError
export const throws_an_http_error = defineFunction(async () => {
  throw new HTTPError(409, "CONFLICT", "taken");
});

// Expect: raised ValidationError
export const throws_violations = defineFunction(async () => {
  throw new ValidationError([{ path: "input.age", message: "must be a number" }]);
});

// Expect: raised TypeError
export const returns_what_is_no_json = defineFunction(async () => new Map([[1, 2]]));

// Expect: returned 200
export const has_big_numbers = defineFunction(async () => ({ big: 12345678901234567890n, small: 1n, float: 0.1 + 0.2 }));

// Expect: returned 200; 1 log lines
// Middleware: auth, twice
// Input: {"n": 4}
export const goes_through_middleware = defineFunction({
  middleware: ["auth", "twice"],
  handler: async ({ input, ctx }) => ({ user: ctx.user, n: input.n }),
});

// Expect: returned 202
// Middleware: stamped
export const is_stamped = defineFunction(async ({ ctx }) =>
  ctx.response({ id: 1 }, { headers: { "set-cookie": ["a=1", "b=2"] } }),
);

// Expect: returned 202
// Middleware: stamped
export const is_stamped_as_a_web_response = defineFunction(async () => {
  const response = new Response("text");
  for (const cookie of ["a=1", "b=2"]) response.headers.append("set-cookie", cookie);
  return response;
});

// Expect: returned 403
// Middleware: auth, closed
export const is_never_reached = defineFunction(async () => {
  throw new Error("the middleware answers");
});

// Expect: returned 200; invoke 2
export const runs_for_somebody = defineFunction(async ({ ctx }) => {
  const nobody = [ctx.user, ctx.request.auth];
  const before = await ctx.invoke("price", { n: 1 });
  ctx.user = { id: 7, since: new Date(0) };
  const after = await ctx.invoke("price", { n: 1 });
  const refused = [() => 1, "x".repeat(70_000)].map((odd) => {
    try {
      ctx.user = odd;
      return "taken";
    } catch (error) {
      return error.name;
    }
  });
  return { nobody, before, after, refused, still: ctx.user.id };
});
