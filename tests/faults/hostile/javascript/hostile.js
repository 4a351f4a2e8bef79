// Guests that want more than their share, and that do not mean to end.

import { defineFunction } from "@flux/guest";

// Computing

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const spins = defineFunction(async () => {
  for (;;);
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const spins_whatever_is_thrown_in_it = defineFunction(async () => {
  for (;;) {
    try {
      for (;;);
    } catch {
      continue;
    } finally {
      for (;;);
    }
  }
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const matches_a_regex_for_ever = defineFunction(async () => /^(a+)+$/.test(`${"a".repeat(40)}!`));

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const sorts_for_ever = defineFunction(async () => {
  const numbers = Array.from({ length: 1000 }, (_item, index) => index);
  for (;;) numbers.sort(() => Math.random() - 0.5);
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const multiplies_for_ever = defineFunction(async () => {
  let number = 3n;
  for (;;) number = (number * number) % (1n << 100000n) | 1n;
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const resolves_with_itself = defineFunction(async () => {
  const thenable = { then: (resolve) => resolve(thenable) };
  await thenable;
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const never_lets_an_answer_in = defineFunction(async ({ ctx }) => {
  ctx.clock.sleep(1).then(() => {});
  for (;;) await null;
});

// Expect: raised DeadlockError
export const awaits_for_ever = defineFunction(async () => new Promise(() => {}));

// Expect: raised DeadlockError
export const awaits_each_other = defineFunction(async () => {
  let second;
  const first = (async () => {
    await null;
    await second;
  })();
  second = (async () => first)();
  return first;
});

// Expect: raised RangeError
export const throws_in_finally = defineFunction(async () => {
  try {
    throw new TypeError("the first");
  } finally {
    throw new RangeError("the second");
  }
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const throws_what_will_not_be_read = defineFunction(async () => {
  const error = new Error("x");
  Object.defineProperty(error, "message", {
    get() {
      for (;;);
    },
  });
  throw error;
});

// Expect: raised Error or raised Thrown
export const throws_what_throws = defineFunction(async () => {
  throw new Proxy(new Error("x"), {
    get() {
      throw new Error("no");
    },
    getPrototypeOf() {
      throw new Error("no");
    },
  });
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const answers_what_will_not_be_written = defineFunction(async () => ({
  toJSON() {
    for (;;);
  },
}));

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const has_a_generator_that_will_not_close = defineFunction(async () => {
  function* stubborn() {
    try {
      yield 1;
    } finally {
      for (;;) yield 2;
    }
  }
  for (;;) {
    for (const _item of stubborn()) break;
  }
});

// Hoarding

// Expect: killed memory
export const eats_memory = defineFunction(async () => {
  const eaten = [];
  for (;;) eaten.push(new Uint8Array(1 << 20).fill(1));
});

// Expect: killed memory
// Limits: {"memory_bytes_max": 33554432}
export const eats_memory_in_small_bites = defineFunction(async () => {
  const eaten = [];
  for (;;) eaten.push({ eaten, number: eaten.length });
});

// Expect: killed memory
// Limits: {"memory_bytes_max": 33554432}
export const counts_to_infinity = defineFunction(async () => {
  function* count() {
    for (let number = 0; ; number++) yield number;
  }
  return [...count()];
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const doubles_its_tasks = defineFunction(async () => {
  const branch = async () => {
    await null;
    branch();
    branch();
  };
  await branch();
  await new Promise(() => {});
});

// Expect: killed timeout or killed memory
// Limits: {"timeout_s": 1}
export const eats_memory_and_goes_on = defineFunction(async () => {
  const eaten = [];
  for (;;) {
    try {
      for (;;) eaten.push(new Uint8Array(1 << 20).fill(1));
    } catch {
      continue;
    }
  }
});

// Expect: raised InternalError
export const doubles_a_string = defineFunction(async () => {
  let text = "x";
  for (;;) text += text;
});

// Expect: raised RangeError
export const calls_itself = defineFunction(async () => {
  const call = (depth) => call(depth + 1) + 1;
  return call(0);
});

// Expect: raised RangeError
export const calls_itself_through_the_interpreter = defineFunction(async () => {
  const nest = { toString: () => `${[nest]}` };
  return `${nest}`;
});

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const calls_itself_and_goes_on = defineFunction(async () => {
  const call = (depth) => {
    try {
      return call(depth + 1);
    } catch {
      return call(depth + 1);
    }
  };
  return call(0);
});

// Expect: raised RangeError or raised SyntaxError or killed memory
export const parses_a_tower = defineFunction(async () => JSON.parse("[".repeat(1_000_000) + "]".repeat(1_000_000)));

// Expect: raised RangeError or raised SyntaxError or raised EvalError or killed memory
export const evaluates_a_tower = defineFunction(async () => (0, eval)("(".repeat(100_000) + "1" + ")".repeat(100_000)));

// Expect: raised RangeError or raised SyntaxError or killed memory
export const compiles_a_regex_of_any_size = defineFunction(async () => new RegExp("(".repeat(100_000) + ")".repeat(100_000)));

// Expect: killed timeout
// Limits: {"timeout_s": 1}
export const answers_what_is_too_deep = defineFunction(async () => {
  let nest = [];
  for (let depth = 0; depth < 100_000; depth++) nest = [nest];
  return nest;
});

// Expect: raised TypeError
export const answers_what_bites_its_tail = defineFunction(async () => {
  const answer = {};
  answer.answer = answer;
  return answer;
});

// Flooding

// Expect: killed timeout
// Limits: {"timeout_s": 1, "log_bytes_max": 20000}
export const logs_and_logs = defineFunction(async ({ ctx }) => {
  for (;;) ctx.log.info("x".repeat(500));
});

// Expect: returned 200
// Limits: {"log_bytes_max": 20000}
// Answer: {"said": 2000}
export const prints_more_than_is_kept = defineFunction(async () => {
  for (let number = 0; number < 2000; number++) console.log(number, "x".repeat(100));
  return { said: 2000 };
});

// Expect: killed host_calls
// Limits: {"host_calls_max": 100}
export const asks_and_asks = defineFunction(async ({ ctx }) => {
  for (;;) await ctx.clock.fresh();
});

// Expect: raised Error
// Limits: {"host_calls_max": 100000}
export const asks_all_at_once = defineFunction(async ({ ctx }) =>
  Promise.all(Array.from({ length: 2000 }, () => ctx.clock.sleep(3_600_000))),
);

// Expect: killed response
// Limits: {"response_bytes_max": 100000}
export const answers_too_much = defineFunction(async () => "x".repeat(200_000));

// Expect: raised Error
export const throws_a_message_of_megabytes = defineFunction(async () => {
  throw new Error("x".repeat(5_000_000));
});

// Expect: raised Error
export const throws_from_itself = defineFunction(async () => {
  const [first, second] = [new Error("a"), new Error("b")];
  first.cause = second;
  second.cause = first;
  throw first;
});

// Leaving, and what is left

// Expect: raised ReferenceError
export const exits_as_node_would = defineFunction(async () => process.exit(0));

// Expect: raised ReferenceError
export const exits_as_quickjs_would = defineFunction(async () => std.exit(0));

// Expect: raised ReferenceError or raised TypeError or raised SyntaxError
export const asks_for_a_module_of_the_interpreter = defineFunction(async () => {
  const os = await import("os");
  os.kill(1, 9);
});

// Expect: raised TypeError or raised Error or raised InternalError
export const poisons_the_realm = defineFunction(async () => {
  JSON.stringify = () => {
    throw new Error("no");
  };
  Array.prototype[Symbol.iterator] = undefined;
  Array.prototype.map = undefined;
  Map.prototype.get = undefined;
  Object.prototype.toJSON = () => "poisoned";
  return { answered: [1, 2] };
});

// Expect: raised InternalError or raised TypeError
export const poisons_promises = defineFunction(async () => {
  Promise.prototype.then = () => {
    throw new TypeError("no");
  };
  return {};
});

// Expect: returned 200
// Answer: {}
export const leaves_what_was_never_taken = defineFunction(async () => {
  Promise.reject(new Error("nobody takes it")).catch(() => {});
  return {};
});
