"""The peer of `jobs.py`: pgqueuer on asyncpg, as its own documentation sets it up.

    python benchmarks/peer_pgqueuer.py DSN CONCURRENCY

A job writes a row of the ledger, as Flux's does. It is pushed in a transaction, as Flux's is; but its row and its
own end are two transactions, so a job whose worker dies between them is done twice. Nothing is recorded.

It takes orders on stdin, a line each: ``push N`` pushes N jobs in one transaction and answers ``pushed``.
"""

import asyncio
import json
import sys

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


async def take_orders(pool: asyncpg.Pool) -> None:
    """Push as stdin says, until it ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        count = int(line.split()[1])
        async with pool.acquire() as connection, connection.transaction():
            at = await connection.fetchval("select clock_timestamp()::text")
            payload = json.dumps({"pushed": at}).encode()
            await Queries(AsyncpgDriver(connection)).enqueue(["work"] * count, [payload] * count, [0] * count)
        print("pushed", flush=True)


async def main() -> None:
    """Work until stdin ends."""
    dsn, concurrency = sys.argv[1], int(sys.argv[2])
    async with asyncpg.create_pool(dsn, min_size=concurrency + 2, max_size=concurrency + 4) as pool:
        driver = AsyncpgPoolDriver(pool)
        await Queries(driver).install()
        worker = PgQueuer(driver)

        @worker.entrypoint("work")
        async def work(job: Job) -> None:
            pushed = json.loads(job.payload or b"")["pushed"]
            await pool.execute(
                "insert into ledger (pushed, began) values ($1::text::timestamptz, clock_timestamp())", pushed
            )

        # It insists on room for twice what it takes at a time.
        working = asyncio.create_task(worker.run(batch_size=concurrency, max_concurrent_tasks=2 * concurrency))
        print("ready", flush=True)
        await take_orders(pool)
        working.cancel()


asyncio.run(main())
