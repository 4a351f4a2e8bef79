"""Everything that is drawn follows from the seed."""

import os
import random
import secrets
import tempfile
import uuid

from flux_guest import Context, function

MODULE = random.Random()
SEEDED = random.Random(4)


def _draw(ctx: Context) -> list:
    return [
        random.random(),
        random.sample(range(1000), 5),
        ctx.random.randint(0, 10**9),
        str(uuid.uuid4()),
        str(uuid.uuid1()),
        os.urandom(16),
        secrets.token_urlsafe(),
        secrets.randbelow(10**9),
        random.SystemRandom().random(),
        random.Random().random(),
        MODULE.random(),
        SEEDED.random(),
        next(tempfile._get_candidate_names()),
    ]


# Expect: returned 200
@function()
async def draw_everything(ctx: Context, input: dict) -> dict:
    return {"drawn": _draw(ctx)}


# Expect: returned 200
@function()
def draw_everything_again(ctx: Context, input: dict) -> dict:
    return {"drawn": _draw(ctx)}


# Expect: returned 200
@function()
def draws_may_be_put_under_another_seed(ctx: Context, input: dict) -> dict:
    ctx.random = random.Random(7)
    assert ctx.random.random() == random.Random(7).random()
    return {"drawn": ctx.random.getrandbits(64)}


# Expect: returned 200; db.query 1
@function()
async def what_was_drawn_reaches_the_world(ctx: Context, input: dict) -> dict:
    row = await ctx.db.query_one("select $1::uuid as id, $2::float8 as n", uuid.uuid4(), random.random())
    return {"id": row.id, "n": row.n}
