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

export const stamped = defineMiddleware(async ({ ctx, next }) => {
  const response = ctx.response(await next(), { headers: { "x-stamp": "1" } });
  if (response.headers["set-cookie"]?.length !== 2) throw new Error("a header is lost");
  return ctx.response(response, { status: 202 });
});

export const closed = defineMiddleware(({ ctx }) => ctx.response({ closed: true }, { status: 403 }));
