// What is too much.

import { defineFunction } from "@flux/guest";

// Expect: killed timeout
// Limits: {"timeout_s": 0.7}
export const computes_for_ever = defineFunction(async () => {
  for (;;);
});

// Expect: killed timeout; clock.sleep 1
// Limits: {"timeout_s": 0.7}
export const sleeps_too_long = defineFunction(async ({ ctx }) => ctx.clock.sleep(60000));

// Expect: killed timeout
// Limits: {"timeout_s": 0.7}
export const a_regex_explodes = defineFunction(async () => /^(a+)+$/.test(`${"a".repeat(40)}!`));

// Expect: killed memory
// Limits: {"memory_bytes_max": 67108864}
export const eats_memory = defineFunction(async () => {
  const kept = [];
  for (;;) kept.push(new Uint8Array(1 << 20).fill(1));
});

// Expect: returned 200
// Limits: {"memory_bytes_max": 67108864}
export const survives_a_refusal_of_memory = defineFunction(async () => {
  try {
    return new Uint8Array(1 << 28).length;
  } catch (error) {
    return error.message;
  }
});

// Expect: raised RangeError
export const recurses_for_ever = defineFunction(async () => {
  const f = (n) => f(n + 1) + 1;
  return f(0);
});

// Expect: killed host_calls; clock.now 20
// Limits: {"host_calls_max": 20}
export const asks_too_often = defineFunction(async ({ ctx }) => {
  for (;;) await ctx.clock.fresh();
});

// Expect: killed response
// Limits: {"response_bytes_max": 1000}
export const answers_too_much = defineFunction(async () => "x".repeat(2000));

// Expect: raised TypeError
export const reads_of_nothing = defineFunction(async () => {
  const nothing = null;
  return nothing.name;
});

// Expect: raised Thrown
export const throws_what_is_no_error = defineFunction(async () => {
  throw { odd: true };
});

// Expect: raised SyntaxError
export const parses_what_is_no_json = defineFunction(async () => JSON.parse("{bad"));

// Expect: raised AggregateError
export const several_fail = defineFunction(async () =>
  Promise.any([1, 2].map(async (n) => {
    throw new Error(`no ${n}`);
  })),
);
