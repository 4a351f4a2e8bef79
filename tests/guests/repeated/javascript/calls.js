// Calls of the host: several at once, races, and what is given up.

import { defineFunction } from "@flux/guest";

export const asks_five_at_once = defineFunction(async ({ ctx }) => {
  const order = [];
  const found = await Promise.allSettled(
    [1, 2, 3, 4, 5].map(async (n) => {
      const rows = await ctx.db.query("select a, b, c from t where n = $1", n);
      order.push(n);
      return rows.map((row) => [row.a, row.b, row.c]);
    }),
  );
  return { order, found: found.map((one) => one.value ?? `${one.reason.name}: ${one.reason.message}`) };
});

export const asks_one_after_the_other = defineFunction(async ({ ctx, input }) => {
  let sum = 0;
  for (let i = 0; i < 4; i++) {
    const response = await ctx.http.post(`http://127.0.0.1:9/${i}`, { json: { sum, text: input.text } });
    sum += response.status + response.json().n;
    ctx.log.info("asked", { i, status: response.status });
  }
  return { sum, at: Date.now() };
});

export const races_timers = defineFunction(async ({ ctx }) => {
  const order = [];
  const timer = (ms) => new Promise((ok) => setTimeout(() => ok(order.push(ms)), ms));
  const first = await Promise.race([
    timer(2).then(() => "two"),
    timer(1).then(() => "one"),
    ctx.db.query("select 1").then(() => "rows", () => "refused"),
  ]);
  const cleared = setTimeout(() => order.push("never"), 3);
  await timer(1);
  clearTimeout(cleared);
  const any = await Promise.any([timer(3), timer(2), Promise.reject(new Error("no"))]);
  return { first, order, any, now: Date.now() };
});

export const answers_before_its_calls = defineFunction(async ({ ctx }) => {
  ctx.db.query("select pg_sleep(0.1)").catch(() => {});
  setTimeout(() => console.log("not heard"), 5);
  return { at: performance.now(), one: await Promise.race([ctx.db.query("select 1").catch(() => "refused"), "at once"]) };
});

export const collects_garbage = defineFunction(async ({ ctx }) => {
  const ended = [];
  const registry = new FinalizationRegistry((what) => ended.push(what));
  for (let i = 0; i < 20; i++) registry.register({ big: new Array(500).fill(i) }, i);
  const ring = () => {
    const a = { list: new Array(300).fill(1) };
    a.self = { a };
  };
  for (let i = 0; i < 200; i++) ring();
  await ctx.clock.sleep(1);
  return { ended };
});
