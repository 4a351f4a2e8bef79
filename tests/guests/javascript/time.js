// Time, chance and order.

import { defineFunction } from "@flux/guest";

const loadedAt = Date.now();

// Expect: returned 200; clock.sleep 1
export const time_stands_between_calls = defineFunction(async ({ ctx }) => {
  const before = [Date.now(), performance.now(), new Date().toISOString(), ctx.clock.now().getTime()];
  let sum = 0;
  for (let i = 0; i < 10000; i++) sum += Math.sqrt(i);
  const still = Date.now() === before[0];
  await ctx.clock.sleep(20);
  const elapsed = Date.now() - before[0];
  if (!still || elapsed < 20) throw new Error(`${still} ${elapsed}`);
  return { before, after: [Date.now(), performance.now()], loadedAt, sum };
});

// Expect: returned 200
export const draws = defineFunction(async ({ ctx }) => ({
  random: [Math.random(), ctx.random.random()], uuid: [crypto.randomUUID(), ctx.random.uuid()],
  bytes: crypto.getRandomValues(new Uint32Array(4)).join(), dice: [1, 2, 3].map(() => ctx.random.integer(1, 6)),
  choice: ctx.random.choice(["a", "b", "c"]),
}));

// Expect: returned 200
export const draws_again = defineFunction(async ({ ctx }) => ({
  random: [Math.random(), ctx.random.random()], uuid: [crypto.randomUUID(), ctx.random.uuid()],
  bytes: crypto.getRandomValues(new Uint32Array(4)).join(), dice: [1, 2, 3].map(() => ctx.random.integer(1, 6)),
  choice: ctx.random.choice(["a", "b", "c"]),
}));

// Expect: returned 200; clock.sleep 4
export const timers_come_in_their_order = defineFunction(async () => {
  const order = [];
  await Promise.all([30, 10, 20].map((ms) => new Promise((ok) => setTimeout(() => ok(order.push(ms)), ms))));
  const cleared = setTimeout(() => order.push("never"), 1);
  clearTimeout(cleared);
  return order;
});

// Expect: returned 200; clock.sleep 3
export const an_interval_repeats = defineFunction(
  () =>
    new Promise((ok) => {
      let ticks = 0;
      const timer = setInterval(() => {
        ticks += 1;
        if (ticks === 2) {
          clearInterval(timer);
          ok(ticks);
        }
      }, 2);
    }),
);

// Expect: raised RangeError; clock.sleep 1
export const a_timer_throws = defineFunction(
  () =>
    new Promise(() => {
      setTimeout(() => {
        throw new RangeError("nobody waits here");
      }, 1);
    }),
);

// Expect: returned 200; db.query 3, clock.sleep 1
export const races = defineFunction(async ({ ctx }) => {
  const first = await Promise.race([1, 2, 3].map(async (n) => (await ctx.db.queryOne("select $1::int as n", n)).n));
  return { first, late: await Promise.race([ctx.clock.sleep(5).then(() => "slept")]) };
});

// Expect: returned 200
export const orders_are_fixed = defineFunction(async () => {
  const map = new Map();
  const set = new Set();
  let x = 0.1;
  for (let i = 0; i < 3000; i++) {
    x = Math.sin(x) * 1.3 + Math.cos(i) / 3 + Math.random();
    map.set(`k${i % 97}`, x);
    set.add(Math.floor(x * 1e6) % 1013);
  }
  const nan = new Float64Array([0 / 0, Math.sqrt(-1), Infinity - Infinity]);
  return { map: [...map].slice(0, 5), set: [...set].slice(0, 9), x, bits: [...new Uint8Array(nan.buffer)] };
});

// Expect: raised DeadlockError
export const waits_for_nothing = defineFunction(async () => new Promise(() => {}));
