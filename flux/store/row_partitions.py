"""Tables that are partitions, or may have been: the log has their rows under the name of the whole table.

A partition is a table with a name, and people use it. The row that they mean is one of the whole table's, so a key
leads there (`find_whole`). All rows of a partition alone can't be gone back for: which of the whole table's were in it
is in no log (`check_no_partition`).

A table that was detached goes on under its own name, and nothing of it is known from before. The log of `ALTER TABLE`
names the whole table alone, so what is told is that it may have been one of its: that one was altered, and has the same
columns.
"""

from collections.abc import Sequence

import attrs

from flux.errors import OperatorError
from flux.store.postgres import Connection
from flux.store.queries import QUERIES
from flux.store.row_history import Table, find_table

EVER = "1:1:"
"""As a snapshot: it saw nothing."""


class PartitionError(OperatorError):
    """Rows of a partition by itself are not known."""

    code = "FLX741"
    exit_code = 6


@attrs.frozen
class MaybeParted:
    """A table that another one may have been a partition of."""

    name: str
    at: str
    """When it was altered the last time, as text."""


async def find_row_table(connection: Connection, schema: str, text: str) -> Table:
    """Return the table that has the rows of the one that ``text`` names: of a partition, the whole."""
    table = await find_table(connection, schema, text)
    return await find_whole(connection, table) or table


async def find_whole(connection: Connection, table: Table) -> Table | None:
    """Return the table that ``table`` is a partition of; None when it is none."""
    row = await connection.fetch_row(QUERIES.find_partitioned, table.relid)
    return None if row is None else Table(row[0], row[1], row[2], tuple(row[3]))


async def check_no_partition(connection: Connection, table: Table) -> None:
    """Raise `PartitionError` if ``table`` is one."""
    whole = await find_whole(connection, table)
    if whole is not None:
        raise PartitionError(
            f"{table} is a partition: changes of its rows are recorded as those of {whole}, and which of them it had "
            "is not",
            remedy=f"ask for {whole}",
        )


async def list_maybe_parted(connection: Connection, table: Table, snapshot: str = EVER) -> Sequence[MaybeParted]:
    """Return the tables that ``table`` may have been a partition of at some time since a snapshot."""
    rows = await connection.fetch(QUERIES.list_maybe_partitioned, table.relid, snapshot)
    return [
        MaybeParted(f"{row['schema_name']}.{row['table_name']}", f"{row['at']:%Y-%m-%d %H:%M:%S} UTC")
        for row in rows
    ]
