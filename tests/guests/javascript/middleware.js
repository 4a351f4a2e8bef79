import { defineMiddleware } from "@flux/guest";

export const auth = defineMiddleware(async ({ ctx, next }) => {
  ctx.user = { name: ctx.request.headers.authorization };
  return next();
});

export const twice = defineMiddleware(async ({ ctx, next }) => {
  ctx.log.info("before", { user: ctx.user });
  const answer = await next();
  return [answer, answer];
});
