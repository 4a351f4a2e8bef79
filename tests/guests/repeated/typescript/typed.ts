// The same in TypeScript: several modules, generics, classes, and calls at once.

import { defineFunction, HTTPError, type Context } from "@flux/guest";
import { Ledger, type Entry } from "./lib/ledger";

type Input = { n: number; text: string; list: number[] };
type Args = { input: Input; ctx: Context };

const pick = <T>(items: readonly T[], n: number): T => items[n % items.length]!;

export const books_entries = defineFunction({
  handler: async ({ input, ctx }: Args): Promise<unknown> => {
    const ledger = new Ledger<string>();
    const rows = (await ctx.db.query("select a, b from t").catch(() => [])) as Array<{ a: number; b: number }>;
    for (const row of rows) ledger.add(`${row.a % 7}`, row.b as number);
    for (let i = 0; i < 300; i++) ledger.add(pick(["x", "y", "z"] as const, i), Math.random() * input.n);
    return { totals: ledger.totals(), at: Date.now(), id: crypto.randomUUID() satisfies string };
  },
});

export const asks_five_at_once = defineFunction({
  handler: async ({ ctx }: Args): Promise<unknown> => {
    const order: number[] = [];
    const ask = async (n: number): Promise<string> => {
      const response = await ctx.http.get(`http://127.0.0.1:9/${n}`);
      order.push(n);
      return `${response.status} ${(response.json() as { n: number }).n}`;
    };
    const found = await Promise.all(Array.from({ length: 5 }, (_, n: number) => ask(n)));
    return { order, found };
  },
});

export const races = defineFunction({
  handler: async ({ ctx }: Args): Promise<unknown> => {
    const order: Array<string | number> = [];
    const after = (ms: number): Promise<number> =>
      new Promise<number>((ok: (value: number) => void) => setTimeout(() => ok(order.push(ms)), ms));
    const first = await Promise.race<string>([
      after(1).then(() => "timer"),
      ctx.db.query("select 1").then((): string => "rows", (): string => "refused"),
    ]);
    await after(2);
    return { first, order, now: performance.now() };
  },
});

export const reads_text = defineFunction({
  handler: async ({ input }: Args): Promise<unknown> => {
    const text: string = JSON.stringify({ ...input, deep: Array.from({ length: 60 }, (_, i) => ({ i, half: i / 2 })) });
    const seen = new Map<string, number>();
    for (const word of text.match(/[a-z]+|\d+/g) ?? []) seen.set(word, (seen.get(word) ?? 0) + 1);
    const sorted = [...seen].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
    return { sorted, back: (JSON.parse(text) as Input).list.map((n: number): number => n ** 0.5) };
  },
});

export const throws_its_own = defineFunction({
  handler: async ({ input, ctx }: Args): Promise<never> => {
    const entries: Entry[] = [{ key: "a", amount: input.n }];
    await ctx.clock.sleep(1);
    console.error("about to fail", Math.random());
    if (entries[0]!.amount >= 0) throw new HTTPError(409, "CONFLICT", `no ${entries[0]!.key}`);
    throw new Error("never");
  },
});

export const recurses_for_ever = defineFunction({
  handler: async ({ ctx }: Args): Promise<number> => {
    await ctx.clock.sleep(0);
    const count = (n: number): number => count(n + 1) + 1;
    return count(0);
  },
});

export const computes_past_its_time = defineFunction({
  timeout: "80ms",
  handler: async ({ input, ctx }: Args): Promise<void> => {
    await ctx.db.query("select 1").catch((): unknown[] => []);
    const ledger = new Ledger<number>();
    for (let i = 0; ; i++) ledger.add((i * input.n) % 301, Math.random());
  },
});
