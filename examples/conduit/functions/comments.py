"""What readers say below an article."""

from dataclasses import dataclass
from typing import Annotated, Any

from flux_guest import Context, HTTPError, function
from functions import articles
from functions.common import signed_in, viewer_id, write_time
from msgspec import Meta

COMMENT = """
select comment.id, comment.body, created_at, updated_at, username, bio, image,
    exists (select from follow where follower_id = $1 and followed_id = comment.author_id) as following
from comment join account on account.id = comment.author_id
"""


@dataclass
class Text:
    body: Annotated[str, Meta(min_length=1)]


@dataclass
class NewComment:
    slug: str
    comment: Text


@function("GET /api/articles/{slug}/comments")
async def list_comments(ctx: Context, input: dict) -> dict:
    """All comments on an article, the newest first."""
    article = await articles.find(ctx, input["slug"])
    rows = await ctx.db.query(f"{COMMENT} where article_id = $2 order by comment.id desc", viewer_id(ctx), article.id)
    return {"comments": [write(row) for row in rows]}


@function("POST /api/articles/{slug}/comments", input=NewComment)
async def create_comment(ctx: Context, input: NewComment) -> dict:
    """Say something."""
    author, article = signed_in(ctx), await articles.find(ctx, input.slug)
    now = ctx.clock.now()
    made = await ctx.db.comment.insert(
        article_id=article.id, author_id=author, body=input.comment.body, created_at=now, updated_at=now
    )
    row = await ctx.db.query_one(f"{COMMENT} where comment.id = $2", author, made.id)
    return {"comment": write(row)}


@function("DELETE /api/articles/{slug}/comments/{id}")
async def delete_comment(ctx: Context, input: dict) -> None:
    """Take back what one has said."""
    author, article = signed_in(ctx), await articles.find(ctx, input["slug"])
    comment = None
    if input["id"].isascii() and input["id"].isdigit() and len(input["id"]) < 19:
        comment = await ctx.db.comment.find_one(id=int(input["id"]), article_id=article.id)
    if comment is None:
        raise HTTPError(404, message="there is no such comment")
    if comment.author_id != author:
        raise HTTPError(403, message="this comment is another's")
    await ctx.db.comment.delete(id=comment.id)


def write(row: Any) -> dict:
    """A comment as the API has it."""
    return {
        "id": row.id,
        "createdAt": write_time(row.created_at),
        "updatedAt": write_time(row.updated_at),
        "body": row.body,
        "author": {"username": row.username, "bio": row.bio, "image": row.image, "following": row.following},
    }
