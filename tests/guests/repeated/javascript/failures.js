// How functions end that do not end well.

import { defineFunction, HTTPError } from "@flux/guest";

class TooFew extends RangeError {
  constructor(n) {
    super(`${n} is too few`);
    this.name = "TooFew";
  }
}

export const throws = defineFunction(async ({ ctx, input }) => {
  const rows = await ctx.db.query("select 1").catch(() => []);
  try {
    if (rows.length < 6) throw new TooFew(rows.length);
  } finally {
    console.warn("leaving", Math.random());
  }
  return input;
});

export const fails_with_a_status = defineFunction(async ({ input }) => {
  throw new HTTPError(422, "ODD", `${input.n} is odd`, { cause: new Error("inside") });
});

export const recurses_to_the_end_of_the_stack = defineFunction(async ({ ctx }) => {
  let depth = 0;
  const f = (n) => {
    depth = n;
    return f(n + 1) + 1;
  };
  const seen = [];
  for (let i = 0; i < 2; i++) {
    try {
      f(0);
    } catch (error) {
      seen.push([error.name, error.message, depth]);
    }
    await ctx.clock.sleep(1);
  }
  return seen;
});

export const recurses_for_ever = defineFunction(async () => {
  const text = (n) => `${n}${text(n + 1)}`;
  return text(0);
});

export const runs_out_of_memory = defineFunction(async () => {
  const kept = [];
  for (;;) kept.push(new Uint8Array(1 << 21).fill(kept.length));
});

export const asks_too_often = defineFunction(async ({ ctx }) => {
  for (;;) await ctx.clock.fresh();
});

export const waits_for_nothing = defineFunction(async ({ ctx }) => {
  await ctx.clock.sleep(1);
  await new Promise(() => {});
});

export const computes_past_its_time = defineFunction({
  timeout: "120ms",
  handler: async ({ ctx, input }) => {
    const rows = await ctx.db.query("select 1").catch(() => []);
    console.log("rows", rows.length);
    ctx.db.query("select 2").catch(() => {});
    const seen = new Map();
    for (let i = 0; ; i++) seen.set(i % 501, Math.sin(i + input.n) + Math.random());
  },
});

export const asks_past_its_time = defineFunction({
  timeout: "150ms",
  handler: async ({ ctx }) => {
    for (let i = 0; i < 50; i++) {
      await Promise.allSettled([ctx.db.query("select $1", i), ctx.clock.sleep(4)]);
      console.log(i, Math.random());
    }
  },
});

export const is_caught_in_a_regex = defineFunction({
  timeout: "120ms",
  handler: async ({ input }) => /^(\w+\s?)*$/.test(`${input.text.repeat(4)}!`),
});
