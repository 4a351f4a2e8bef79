// Who lives next door, and minds its own business.

import { defineFunction } from "@flux/guest";

export const neighbour = defineFunction(async ({ input, ctx }) => {
  const { doubled } = await ctx.db.queryOne("select $1::int * 2 as doubled", input.number);
  ctx.log.info("doubled", { number: input.number });
  return { doubled };
});
