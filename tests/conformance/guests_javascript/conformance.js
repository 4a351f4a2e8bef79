// The functions of `flux.sandbox.conformance.GUESTS` that JavaScript can be; the others are wasm modules.

import { defineFunction } from "@flux/guest";

export const echo = defineFunction(async ({ input }) => input.text);

export const ask = defineFunction(async ({ input, ctx }) => {
  let answer = "";
  for (const item of input.items) answer = await ctx.call("test.echo", [item]);
  return answer;
});

export const ask_at_once = defineFunction(async ({ input, ctx }) => {
  const answers = [];
  await Promise.all(input.items.map(async (item) => answers.push(await ctx.call("test.echo", [item]))));
  return answers.join(",");
});

export const give_up = defineFunction(async ({ ctx }) => {
  const controller = new AbortController();
  const call = ctx.call("test.wait", [], { signal: controller.signal });
  controller.abort();
  return call.catch((error) => error.kind);
});

class ValueError extends Error {}

export const fail = defineFunction(async () => {
  throw new ValueError("no luck");
});
