"""Postgres by its drivers, over connections of their own: not the project's database, any."""

import asyncio
import ssl

import asyncpg
import pg8000.dbapi
import pg8000.native
import sqlalchemy
from flux_guest import Context, function
from sqlalchemy.ext.asyncio import create_async_engine


# Expect: returned 200; net.open 1
@function()
def pg8000_native(ctx: Context, input: dict) -> dict:
    connection = pg8000.native.Connection(
        "app", host=input["host"], port=input["pg_port"], database=input["database"], password=input["password"],
        ssl_context=False,
    )  # fmt: skip
    connection.run("create temporary table t (id int, name text)")
    connection.run("insert into t values (1, 'a'), (2, :name)", name="b")
    rows = connection.run("select * from t order by id")
    moment = connection.run("select clock_timestamp()::text")
    connection.close()
    return {"rows": rows, "moment": moment}


# Expect: returned 200; net.open 1, net.tls 1
@function()
def pg8000_under_tls(ctx: Context, input: dict) -> dict:
    connection = pg8000.dbapi.connect(
        "app", host=input["host"], port=input["pg_tls_port"], database=input["database"], password=input["password"],
        ssl_context=ssl.create_default_context(),
    )  # fmt: skip
    cursor = connection.cursor()
    cursor.execute("select %s::int + 1, random()", (41,))
    row = cursor.fetchone()
    connection.rollback()
    connection.close()
    return {"row": row}


# Expect: returned 200; net.open 1
@function()
async def asyncpg_queries(ctx: Context, input: dict) -> dict:
    connection = await asyncpg.connect(
        host=input["host"], port=input["pg_port"], user="app", password=input["password"],
        database=input["database"], ssl=False,
    )  # fmt: skip
    async with connection.transaction():
        await connection.execute("create temporary table t (id int, amount numeric)")
        await connection.executemany("insert into t values ($1, $2)", [(n, n * 2) for n in range(5)])
    rows = await connection.fetch("select id, amount::text from t where id > $1 order by id", 2)
    moment = await connection.fetchval("select clock_timestamp()::text")
    await connection.close()
    return {"rows": [tuple(row) for row in rows], "moment": moment}


# Expect: returned 200; net.open 1, net.tls 1
@function()
async def asyncpg_under_tls(ctx: Context, input: dict) -> dict:
    connection = await asyncpg.connect(
        host=input["host"], port=input["pg_tls_port"], user="app", password=input["password"],
        database=input["database"], ssl=ssl.create_default_context(),
    )  # fmt: skip
    value = await connection.fetchval("select random()")
    await connection.close()
    return {"value": value}


# Expect: returned 200; net.open 2
@function()
async def asyncpg_pool(ctx: Context, input: dict) -> dict:
    pool = asyncpg.create_pool(
        host=input["host"], port=input["pg_port"], user="app", password=input["password"],
        database=input["database"], min_size=1, max_size=2,
    )  # fmt: skip
    async with pool:
        values = await asyncio.gather(*(pool.fetchval("select $1::int * 2", n) for n in range(4)))
    return {"values": values}


# Expect: returned 200; net.open 1
@function()
def sqlalchemy_over_pg8000(ctx: Context, input: dict) -> dict:
    engine = sqlalchemy.create_engine(
        f"postgresql+pg8000://app:{input['password']}@{input['host']}:{input['pg_port']}/{input['database']}"
    )
    metadata = sqlalchemy.MetaData()
    table = sqlalchemy.Table(
        "pets", metadata, sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("name", sqlalchemy.Text), prefixes=["temporary"],
    )  # fmt: skip
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [{"name": "rex"}, {"name": "tom"}])
        names = connection.execute(sqlalchemy.select(table.c.name).order_by(table.c.id)).scalars().all()
        moment = connection.execute(sqlalchemy.text("select clock_timestamp()::text")).scalar_one()
    engine.dispose()
    return {"names": names, "moment": moment}


# Expect: returned 200; net.open 1
@function()
async def sqlalchemy_over_asyncpg(ctx: Context, input: dict) -> dict:
    engine = create_async_engine(
        f"postgresql+asyncpg://app:{input['password']}@{input['host']}:{input['pg_tls_port']}/{input['database']}"
    )
    async with engine.begin() as connection:
        added = sqlalchemy.text("select cast(:a as int) + cast(:b as int)")
        value = (await connection.execute(added, {"a": 40, "b": 2})).scalar_one()
        moment = (await connection.execute(sqlalchemy.text("select clock_timestamp()::text"))).scalar_one()
    await engine.dispose()
    return {"value": value, "moment": moment}
