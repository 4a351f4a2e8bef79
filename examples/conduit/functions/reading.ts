// The reading routes once more, in TypeScript: below /ts they answer what Python answers below /api.

import { defineFunction, defineMiddleware, HTTPError, type Context } from "@flux/guest";

const ARTICLE = `
select article.id, slug, title, description, article.body, created_at, updated_at,
    array(select tag from tagging where article_id = article.id order by tag) as tags,
    exists (select from favorite where article_id = article.id and account_id = $1) as favorited,
    (select count(*) from favorite where article_id = article.id) as favorites,
    username, bio, image,
    exists (select from follow where follower_id = $1 and followed_id = article.author_id) as following
from article join account on account.id = article.author_id
`;
const FILTERED = `
where ($2::text is null or exists (select from tagging where article_id = article.id and tag = $2))
    and ($3::text is null or username = $3)
    and ($4::text is null or exists (
        select from favorite join account reader on reader.id = favorite.account_id
        where favorite.article_id = article.id and reader.username = $4))
`;

interface Article {
  slug: string;
  title: string;
  description: string;
  body: string;
  tags: string[];
  created_at: Date;
  updated_at: Date;
  favorited: boolean;
  favorites: number;
  username: string;
  bio: string | null;
  image: string | null;
  following: boolean;
}

interface Filter {
  tag?: string;
  author?: string;
  favorited?: string;
  limit: number;
  offset: number;
}

// Errors as the RealWorld API has them, like those of Python's middleware of this name. All routes here only read.
export const errors = defineMiddleware(async ({ ctx, next }: { ctx: Context; next: () => Promise<unknown> }) => {
  try {
    return await next();
  } catch (error) {
    if (!(error instanceof HTTPError)) throw error;
    const violations: { path: string; message: string }[] | undefined = (error as any).violations;
    const lines = violations?.map((one) => `${one.path.replace(/^input\./, "")} ${one.message}`);
    return ctx.response({ errors: { body: lines ?? [error.message || error.code] } }, { status: lines ? 422 : error.status });
  }
});

export const list_tags_ts = defineFunction({
  route: "GET /ts/tags",
  handler: async ({ ctx }: { ctx: Context }) => {
    const rows = await ctx.db.query("select tag from tagging group by tag order by count(*) desc, tag");
    return { tags: rows.map((row: { tag: string }) => row.tag) };
  },
});

export const show_profile_ts = defineFunction({
  route: "GET /ts/profiles/{username}",
  handler: async ({ input, ctx }: { input: { username: string }; ctx: Context }) => {
    const profile = await ctx.db.queryOne(
      `select username, bio, image,
          exists (select from follow where follower_id = $2 and followed_id = account.id) as following
       from account where username = $1`,
      input.username,
      viewerId(ctx),
    );
    if (profile === null) throw new HTTPError(404, "NOT_FOUND", "there is no such profile");
    return { profile };
  },
});

export const list_articles_ts = defineFunction({
  route: "GET /ts/articles",
  input: {
    type: "object",
    properties: {
      tag: { type: "string" },
      author: { type: "string" },
      favorited: { type: "string" },
      limit: { type: "integer", minimum: 1, maximum: 100, default: 20 },
      offset: { type: "integer", minimum: 0, default: 0 },
    },
  },
  handler: async ({ input, ctx }: { input: Filter; ctx: Context }) => {
    const filters = [viewerId(ctx), input.tag ?? null, input.author ?? null, input.favorited ?? null];
    const rows = await ctx.db.query(
      `${ARTICLE} ${FILTERED} order by created_at desc, article.id desc limit $5 offset $6`,
      ...filters,
      input.limit,
      input.offset,
    );
    const count = await ctx.db.queryOne(`select count(*) as all from (${ARTICLE} ${FILTERED}) found`, ...filters);
    const articles = rows.map((row: Article) => {
      const { body, ...shown } = write(row);
      return shown;
    });
    return { articles, articlesCount: count.all };
  },
});

export const show_article_ts = defineFunction({
  route: "GET /ts/articles/{slug}",
  handler: async ({ input, ctx }: { input: { slug: string }; ctx: Context }) => {
    const row = await ctx.db.queryOne(`${ARTICLE} where slug = $2`, viewerId(ctx), input.slug);
    if (row === null) throw new HTTPError(404, "NOT_FOUND", "there is no such article");
    return { article: write(row) };
  },
});

function viewerId(ctx: Context): number | null {
  return ctx.request.auth === null ? null : Number(ctx.request.auth.subject);
}

function write(row: Article) {
  return {
    slug: row.slug,
    title: row.title,
    description: row.description,
    body: row.body,
    tagList: row.tags,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    favorited: row.favorited,
    favoritesCount: row.favorites,
    author: { username: row.username, bio: row.bio, image: row.image, following: row.following },
  };
}
