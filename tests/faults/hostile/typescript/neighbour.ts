// Who lives next door, and minds its own business.

import { defineFunction, type Context } from "@flux/guest";

interface Input {
  number: number;
}

export const neighbour = defineFunction(async ({ input, ctx }: { input: Input; ctx: Context }) => {
  const row = (await ctx.db.queryOne("select $1::int * 2 as doubled", input.number)) as { doubled: number };
  ctx.log.info("doubled", { number: input.number });
  return { doubled: row.doubled };
});
