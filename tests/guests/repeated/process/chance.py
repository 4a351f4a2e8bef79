"""Whatever is drawn: by modules when they are imported, by functions, by C libraries."""

import random
import secrets
import sqlite3
import ssl
import string
import tempfile
import uuid
from typing import Any

from flux_guest import Context, function

MODULE = random.Random()
SEEDED = random.Random(4)
random.seed(17)
SystemChance = random.SystemRandom()


@function()
async def draws_from_everything(ctx: Context, input: dict[str, Any]) -> Any:
    drawn = [
        *(random.random(), random.sample(range(1000), 5), random.gauss(), random.choices("abc", k=9)),
        *(
            MODULE.random(),
            SEEDED.random(),
            SystemChance.random(),
            random.Random().random(),
            ctx.random.random(),
        ),
        *(str(uuid.uuid4()), str(uuid.uuid1()), str(uuid.uuid1())),
        *(secrets.token_hex(9), secrets.choice(string.ascii_letters), secrets.randbelow(10**12)),
        next(tempfile._get_candidate_names()),
    ]
    random.seed()
    drawn.append(random.random())
    random.seed(input["n"])
    drawn.append(random.random())
    await ctx.db.execute("insert into drawn values ($1)", str(drawn[-3:]))
    return [*drawn, random.random(), str(uuid.uuid4())]


@function()
async def draws_what_c_libraries_draw(ctx: Context, input: dict[str, Any]) -> Any:
    with sqlite3.connect(":memory:") as database:
        drawn = database.execute("select random(), hex(randomblob(9)), random()").fetchone()
    await ctx.db.execute("insert into drawn values ($1)", drawn[0])
    return [*drawn, ssl.RAND_bytes(9).hex(), uuid.uuid4().hex]


@function()
def decides_by_chance(ctx: Context, input: dict[str, Any]) -> Any:
    for attempt in range(5):
        if random.random() < 0.4:
            ctx.log.info("again", attempt=attempt, wait=random.uniform(0, 1))
            continue
        try:
            ctx.http.post("http://shop.test/orders", json={"id": str(uuid.uuid4()), "attempt": attempt})
        except Exception as error:
            ctx.log.error("failed", why=str(error))
    if secrets.randbelow(3) == 0:
        raise KeyError(secrets.token_hex(4))
    return {"n": MODULE.randrange(10**6)}
