"""Transactions and savepoints."""

from flux_guest import Context, DatabaseError, function


# Expect: returned 200; db.query 1, db.execute 3, db.begin 2, db.commit 1, db.rollback 1
@function()
async def savepoints(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("update accounts set amount = amount - 10 where name = 'alice'")
    async with ctx.db.transaction():
        await ctx.db.execute("update accounts set amount = amount + 10 where name = 'bob'")
    try:
        async with ctx.db.transaction():
            await ctx.db.execute("update accounts set amount = amount - 1000 where name = 'alice'")
    except DatabaseError as error:
        assert error.code == "23514"
    return {"rows": await ctx.db.accounts.find_many(order_by="name")}


# Expect: returned 200; db.query 2, db.execute 1, db.begin 1, db.rollback 1
@function(atomic=False)
async def blocks_of_its_own(ctx: Context, input: dict) -> dict:
    try:
        async with ctx.db.transaction(isolation="serializable"):
            await ctx.db.execute("update accounts set amount = 0 where name = 'bob'")
            raise LookupError
    except LookupError:
        pass
    level = await ctx.db.query_one("select current_setting('transaction_isolation') as level")
    row = await ctx.db.accounts.find_one(name="bob")
    return {"level": level.level, "amount": row.amount}


# Expect: returned 200; db.query 1, db.execute 1, db.begin 1, db.commit 1
@function()
def in_a_def(ctx: Context, input: dict) -> dict:
    with ctx.db.transaction():
        ctx.db.execute("insert into users (email) values ('c@d.com')")
    return {"count": len(ctx.db.users.find_many(email="c@d.com"))}


# Expect: raised TypeError
@function()
async def the_wrong_kind_of_with(ctx: Context, input: dict) -> None:
    with ctx.db.transaction():
        await ctx.db.execute("delete from users")


# Expect: raised HostCallError; db.execute 1
@function()
async def its_own_commit(ctx: Context, input: dict) -> None:
    await ctx.db.execute("commit")
