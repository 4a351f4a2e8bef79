"""Articles: lists of them, one of them, and what their authors and readers do with them."""

import re
import secrets
import unicodedata
from dataclasses import dataclass, field
from typing import Annotated, Any

from flux_guest import Context, HTTPError, Response, function
from functions.common import signed_in, viewer_id, write_time
from msgspec import Meta

ARTICLE = """
select article.id, article.author_id, slug, title, description, article.body, created_at, updated_at,
    array(select tag from tagging where article_id = article.id order by tag) as tags,
    exists (select from favorite where article_id = article.id and account_id = $1) as favorited,
    (select count(*) from favorite where article_id = article.id) as favorites,
    username, bio, image,
    exists (select from follow where follower_id = $1 and followed_id = article.author_id) as following
from article join account on account.id = article.author_id
"""
"""Articles as somebody ($1) sees them."""

FILTERED = """
where ($2::text is null or exists (select from tagging where article_id = article.id and tag = $2))
    and ($3::text is null or username = $3)
    and ($4::text is null or exists (
        select from favorite join account reader on reader.id = favorite.account_id
        where favorite.article_id = article.id and reader.username = $4))
"""
FOLLOWED = "where article.author_id in (select followed_id from follow where follower_id = $1)"
NEWEST = "order by created_at desc, article.id desc"


@dataclass
class Page:
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    offset: Annotated[int, Meta(ge=0)] = 0


@dataclass
class Filter(Page):
    tag: str | None = None
    author: str | None = None
    favorited: str | None = None


@dataclass
class Draft:
    title: Annotated[str, Meta(min_length=1, max_length=300)]
    description: str
    body: str
    tagList: list[Annotated[str, Meta(min_length=1, max_length=100)]] = field(default_factory=list)


@dataclass
class NewArticle:
    article: Draft


@function("GET /api/articles", input=Filter)
async def list_articles(ctx: Context, input: Filter) -> dict:
    """The newest articles, of those with a tag, by an author, or that somebody likes."""
    filters = (viewer_id(ctx), input.tag, input.author, input.favorited)
    rows = await ctx.db.query(f"{ARTICLE} {FILTERED} {NEWEST} limit $5 offset $6", *filters, input.limit, input.offset)
    count = await ctx.db.query_one(f"select count(*) as all from ({ARTICLE} {FILTERED}) found", *filters)
    return {"articles": [write(row, body=False) for row in rows], "articlesCount": count["all"]}


@function("GET /api/articles/feed", input=Page)
async def feed(ctx: Context, input: Page) -> dict:
    """The newest articles of those that one follows."""
    viewer = signed_in(ctx)
    rows = await ctx.db.query(f"{ARTICLE} {FOLLOWED} {NEWEST} limit $2 offset $3", viewer, input.limit, input.offset)
    count = await ctx.db.query_one(f"select count(*) as all from ({ARTICLE} {FOLLOWED}) found", viewer)
    return {"articles": [write(row, body=False) for row in rows], "articlesCount": count["all"]}


@function("GET /api/articles/{slug}")
async def show_article(ctx: Context, input: dict) -> dict:
    """One article."""
    return await show(ctx, input["slug"])


@function("POST /api/articles", input=NewArticle)
async def create_article(ctx: Context, input: NewArticle) -> Response:
    """Publish an article."""
    author, draft, now = signed_in(ctx), input.article, ctx.clock.now()
    slug = make_slug(draft.title, secrets.token_hex(4))
    made = await ctx.db.query_one(
        "insert into article (author_id, slug, title, description, body, created_at, updated_at)"
        " values ($1, $2, $3, $4, $5, $6, $6) returning id",
        author, slug, draft.title, draft.description, draft.body, now,
    )  # fmt: skip
    await ctx.db.execute(
        "insert into tagging (article_id, tag) select distinct $1::bigint, unnest($2::text[])", made.id, draft.tagList
    )
    return ctx.response(await show(ctx, slug), status=201)


@function("PUT /api/articles/{slug}")
async def update_article(ctx: Context, input: dict) -> dict:
    """Change what is given of one's own article; with another title it has another slug."""
    given = input.get("article")
    if not isinstance(given, dict):
        raise HTTPError(422, message="article is required")
    article = await find_own(ctx, input["slug"])
    changes: dict[str, Any] = {}
    for name in ("title", "description", "body"):
        if name in given:
            if not isinstance(given[name], str) or not given[name]:
                raise HTTPError(422, message=f"{name} can't be blank")
            changes[name] = given[name]
    if changes.get("title", article.title) != article.title:
        changes["slug"] = make_slug(changes["title"], secrets.token_hex(4))
    if changes:
        await ctx.db.article.update({"id": article.id}, **changes, updated_at=ctx.clock.now())
    return await show(ctx, changes.get("slug", article.slug))


@function("DELETE /api/articles/{slug}")
async def delete_article(ctx: Context, input: dict) -> None:
    """Take one's own article back."""
    article = await find_own(ctx, input["slug"])
    await ctx.db.article.delete(id=article.id)


@function("POST /api/articles/{slug}/favorite")
async def favorite(ctx: Context, input: dict) -> dict:
    """Like an article."""
    viewer = signed_in(ctx)
    article = await find(ctx, input["slug"])
    await ctx.db.execute("insert into favorite values ($1, $2) on conflict do nothing", viewer, article.id)
    return await show(ctx, input["slug"])


@function("DELETE /api/articles/{slug}/favorite")
async def unfavorite(ctx: Context, input: dict) -> dict:
    """Like it no more."""
    viewer = signed_in(ctx)
    article = await find(ctx, input["slug"])
    await ctx.db.execute("delete from favorite where account_id = $1 and article_id = $2", viewer, article.id)
    return await show(ctx, input["slug"])


async def find(ctx: Context, slug: str) -> Any:
    """The row of `ARTICLE`; 404 when there is no such article."""
    article = await ctx.db.query_one(f"{ARTICLE} where slug = $2", viewer_id(ctx), slug)
    if article is None:
        raise HTTPError(404, message="there is no such article")
    return article


async def find_own(ctx: Context, slug: str) -> Any:
    """An article that is of who asks; 403 when it is another's."""
    article = await find(ctx, slug)
    if article.author_id != signed_in(ctx):
        raise HTTPError(403, message="this article is another's")
    return article


async def show(ctx: Context, slug: str) -> dict:
    """One article as the API has it."""
    return {"article": write(await find(ctx, slug), body=True)}


def write(row: Any, *, body: bool) -> dict:
    """An article; lists of them leave the bodies out."""
    return {
        "slug": row.slug,
        "title": row.title,
        "description": row.description,
        **({"body": row.body} if body else {}),
        "tagList": row.tags,
        "createdAt": write_time(row.created_at),
        "updatedAt": write_time(row.updated_at),
        "favorited": row.favorited,
        "favoritesCount": row.favorites,
        "author": {"username": row.username, "bio": row.bio, "image": row.image, "following": row.following},
    }


def make_slug(title: str, suffix: str) -> str:
    """A title's letters and digits for a URL; ``suffix`` keeps those of one title apart."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return "-".join([*re.findall(r"[a-z0-9]+", plain)[:12], suffix])
