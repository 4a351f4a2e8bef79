// Jobs that are pushed and functions that are invoked.

import { defineFunction, HostCallError, InvokeError } from "@flux/guest";

// Expect: returned 200; queue.push 3, invoke 5
export const pushes_and_invokes = defineFunction(async ({ ctx }) => {
  const jobs = [
    await ctx.queue.push("work", { at: new Date(0), $bytes: "no tag" }, { delay: 60, idempotencyKey: "once" }),
    await ctx.queue.push("work"),
  ];
  let unknown;
  try {
    await ctx.queue.push("nobody", {});
  } catch (error) {
    if (!(error instanceof HostCallError)) throw error;
    unknown = error.code;
  }
  const prices = await Promise.all([1, 2].map((n) => ctx.invoke("price", { n })));
  let failed;
  try {
    await ctx.invoke("broken", {});
  } catch (error) {
    if (!(error instanceof InvokeError)) throw error;
    failed = [error.type, error.status, error.execution];
  }
  return { jobs, unknown, prices, failed, page: await ctx.invoke("page"), nothing: await ctx.invoke("nothing") };
});

// Expect: raised InvokeError; invoke 1
export const fails_with_it_too = defineFunction(({ ctx }) => ctx.invoke("broken", {}));
