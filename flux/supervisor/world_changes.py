"""What a replay has changed in the copies of its world, as the world's triggers have noted it."""

import msgspec

from flux import values
from flux.mutation import OPERATION_OF_LETTER, Mutation
from flux.store.postgres import Connection, DatabaseError, Row
from flux.store.world import World
from flux.supervisor.world_waits import Location

TRANSACTION_FAILED = "25P02"
"""SQLSTATE of anything that is asked after a statement has failed, until that is rolled back."""
_CHANGES = (
    "select table_name, op, call, before::pg_catalog.text as before, after::pg_catalog.text as after "
    "from pg_temp.flux_changes"
)
_LIST_CHANGES = f"{_CHANGES} order by ctid"
_LIST_CHANGES_SINCE = f"{_CHANGES} where pg_catalog.int8(nullif(call, '')) >= $1"


class WorldChanges:
    """See the module. What a savepoint takes back is gone here too."""

    def __init__(self, connection: Connection, world: World) -> None:
        self._connection = connection
        self._world = world

    async def list_all(self) -> tuple[Mutation, ...] | None:
        """Return the rows that were changed and not taken back, as committed; None when they are beyond asking."""
        try:
            rows = await self._connection.fetch(_LIST_CHANGES)
        except DatabaseError as error:
            if error.sqlstate == TRANSACTION_FAILED:
                return None
            raise
        return tuple(self._make_mutation(row) for row in rows)

    async def list_rows(self, since: int) -> frozenset[Location]:
        """Return the rows with keys that were changed by the call ``since`` and all behind it."""
        rows = await self._connection.fetch(_LIST_CHANGES_SINCE, since)
        return frozenset(
            (row["table_name"], key)
            for row in rows
            for image in (row["before"], row["after"])
            if image is not None and (key := self.make_key(row["table_name"], image)) is not None
        )

    def make_key(self, table: str, image: str) -> str | None:
        """Return a row's key as the log of changes writes it; None where the table has none."""
        columns = self._world.keys.get(table)
        if columns is None:
            return None
        row = msgspec.json.decode(image, type=dict[str, msgspec.Raw])
        parts = (f"{values.encode(name).decode()}:{bytes(row[name]).decode()}" for name in columns)
        return "{" + ",".join(parts) + "}"

    def _make_mutation(self, row: Row) -> Mutation:
        return Mutation(
            schema=self._world.schema,
            table=row["table_name"],
            key=self.make_key(row["table_name"], row["after"] or row["before"]),
            op=OPERATION_OF_LETTER[row["op"]],
            before=row["before"],
            after=row["after"],
            committed=True,
            xid=0,
            call=int(row["call"]) if row["call"] else None,
        )
