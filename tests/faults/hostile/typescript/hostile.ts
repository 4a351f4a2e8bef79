// The same, with types: whatever they say, it is the same code that runs.

import { defineFunction, type Context } from "@flux/guest";

type Nest = Nest[];
interface Given {
  ctx: Context;
}

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const spins = defineFunction(async (): Promise<never> => {
  for (;;);
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const matches_a_regex_for_ever = defineFunction(async (): Promise<boolean> => {
  const text: string = `${"a".repeat(40)}!`;
  return /^(a+)+$/.test(text);
});

// Expect: killed memory
export const eats_memory = defineFunction(async (): Promise<void> => {
  const eaten: Uint8Array[] = [];
  for (;;) eaten.push(new Uint8Array(1 << 20).fill(1) as Uint8Array);
});

// Expect: raised RangeError
export const calls_itself = defineFunction(async (): Promise<number> => {
  const call = (depth: number): number => call(depth + 1) + 1;
  return call(0);
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const answers_what_is_too_deep = defineFunction(async (): Promise<Nest> => {
  let nest: Nest = [];
  for (let depth = 0; depth < 100_000; depth++) nest = [nest] satisfies Nest;
  return nest;
});

// Expect: killed timeout
// Limits: {"timeout_s": 1, "log_bytes_max": 20000}
export const logs_and_logs = defineFunction(async ({ ctx }: Given): Promise<never> => {
  for (;;) ctx.log.info("x".repeat(500));
});

// Expect: killed host_calls
// Limits: {"host_calls_max": 100}
export const asks_and_asks = defineFunction(async ({ ctx }: Given): Promise<never> => {
  for (;;) await ctx.clock.fresh();
});

// Expect: killed response
// Limits: {"response_bytes_max": 100000}
export const answers_too_much = defineFunction(async (): Promise<string> => "x".repeat(200_000));

// Expect: raised DeadlockError
export const awaits_for_ever = defineFunction(async (): Promise<void> => new Promise<void>(() => {}));

// Expect: raised RangeError
export const throws_in_finally = defineFunction(async (): Promise<void> => {
  try {
    throw new TypeError("the first");
  } finally {
    throw new RangeError("the second" as string);
  }
});

// Expect: raised ReferenceError
export const exits_as_node_would = defineFunction(async (): Promise<void> => {
  (globalThis as any).process?.exit(0);
  // @ts-expect-error: there is no such thing
  Deno.exit(0);
});
