"""``def`` handlers: the same calls, answered directly."""

import asyncio
import time

from flux_guest import Context, function


# Expect: returned 200; db.query 2, db.execute 1, http.request 1, clock.sleep 1, secret.handle 1; 1 log lines
@function()
def plain_calls(ctx: Context, input: dict) -> dict:
    user = ctx.db.users.insert(email="sync@example.com")
    ctx.db.execute("update users set plan = 'pro' where id = $1", user.id)
    time.sleep(0.01)
    answer = ctx.http.post(
        f"http://127.0.0.1:{input['port']}/echo", json={"id": 1}, headers={"x-key": ctx.secrets["API_KEY"]}
    )
    print("user", user.plan)
    return {"plan": ctx.db.users.find_one(id=user.id).plan, "status": answer.status, "echo": answer.json()}


# Expect: returned 200; clock.sleep 1+, db.query 1
@function()
def runs_a_loop_of_its_own(ctx: Context, input: dict) -> dict:
    async def main():
        start = time.monotonic()
        await asyncio.gather(asyncio.sleep(0.02), asyncio.sleep(0.01))
        return time.monotonic() - start

    return {"slept": asyncio.run(main()), "one": ctx.db.query_one("select 1 as one").one}


# Expect: raised TypeError
@function()
def with_async_middleware(ctx: Context, input: dict) -> dict:
    async def answer() -> dict:
        return {}

    return answer()
