// The same in TypeScript.

import { defineFunction, type Context } from "@flux/guest";
import { makePair, type Pair } from "./lib/numbers";

type Input = { amount: number; note?: string };

abstract class Account {
  protected readonly balance: number = 100;
  constructor(balance?: number) {
    if (balance !== undefined) this.balance = balance;
  }
  abstract describe(): string;
  left(amount: number): number {
    return this.balance! - amount;
  }
}

class Savings extends Account {
  override describe(): string {
    return `${this.left(1)}`;
  }
}

// Expect: returned 200
// Input: {"amount": 5}
export const is_typed = defineFunction({
  handler: async ({ input }: { input: Input; ctx: Context }): Promise<unknown> => {
    const pair: Pair<string> = makePair<string>(new Savings().describe());
    const rest = [1, 2, 3].map((n): number => n * input.amount) as number[];
    return { pair, rest, note: input.note ?? null };
  },
});

// Expect: raised RangeError; db.query 1
export const fails_at_its_own_line = defineFunction({
  handler: async ({ ctx }: { ctx: Context }) => {
    const rows = (await ctx.db.query("select 1 as one")) as Array<{ one: number }>;
    const check = <T extends { one: number }>(items: T[]): T => {
      if (items.length < 2) throw new RangeError("too few");
      return items[1]!;
    };
    return check(rows);
  },
});
