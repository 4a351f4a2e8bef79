"""Reading what a schema holds, and bringing it to what another one does.

Read with an empty ``search_path``: only then do definitions name everything that is not the system's, whoever asks.
A plan's steps (`flux.schema_diff`) are tried in whatever order works within their group, each behind a savepoint.
"""

from collections.abc import Sequence

from flux.schema_diff import CannotPushError, Schema, SchemaObject, Step, make_schema
from flux.store.postgres import Connection, DatabaseError
from flux.store.queries import QUERIES


async def read_schema(connection: Connection, schema: str) -> Schema:
    """Return what ``schema`` holds, in a transaction of its own or in the one that is open."""
    async with connection.transaction():
        path = await connection.fetch_value("select pg_catalog.current_setting('search_path')")
        await connection.execute("set local search_path = ''")
        rows = await connection.fetch(QUERIES.list_schema_objects, schema)
        await connection.fetch_value("select pg_catalog.set_config('search_path', $1, true)", path)
    return make_schema(
        SchemaObject(
            kind=row["kind"], name=row["name"], definition=row["definition"], creation=row["creation"],
            removal=row["removal"], table=row["table_name"], parts=row["parts"] or {},
        )
        for row in rows
    )  # fmt: skip


async def run_steps(connection: Connection, steps: Sequence[Step]) -> None:
    """Carry out a plan in the transaction that is open; raise what keeps a step from being done."""
    # Texts of functions are read when they are called; by then all is there.
    await connection.execute("set local check_function_bodies = off")
    for group in sorted({step.group for step in steps}):
        left = [step for step in steps if step.group == group]
        while left:
            failed: list[tuple[Step, DatabaseError]] = []
            for step in left:
                try:
                    async with connection.transaction():
                        await connection.execute(step.sql)
                except DatabaseError as error:
                    failed.append((step, error))
            if len(failed) == len(left):
                raise CannotPushError(
                    "\n".join(f"{step.sql}\n  {error.report.message}" for step, error in failed)
                    + "\nnothing was changed",
                    remedy="change the rows that are in the way, or write a migration that says how",
                ) from failed[0][1]
            left = [step for step, _ in failed]
