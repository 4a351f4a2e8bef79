"""What recovery asks of the database, over the owner's connections."""

import uuid
from collections.abc import Collection

import attrs
import trio

from flux.execution import Execution
from flux.store.postgres import Pool
from flux.store.queries import QUERIES
from flux.store.records import RecordStore, make_record, writing_s
from flux.store.restored import ran_elsewhere, without_ids

ASK_AGAIN_S = 0.05
"""Between two looks at a transaction that has not ended yet."""


@attrs.frozen
class DatabaseStore:
    """See `flux.supervisor.recovery.Store`."""

    pool: Pool

    async def exists(self, execution_id: uuid.UUID) -> bool:
        """See `flux.supervisor.recovery.Store.exists`."""
        return await RecordStore(self.pool).exists(execution_id)

    async def list_committed(self, execution_id: uuid.UUID, xids: Collection[int]) -> frozenset[int]:
        """See `flux.supervisor.recovery.Store.list_committed`."""
        # Ids of another cluster may be those of anybody's transactions here.
        texts = [] if await ran_elsewhere(self.pool, execution_id) else [str(xid) for xid in sorted(xids)]
        async with self.pool.acquire() as connection:
            if texts:
                # Its supervisor is dead, but a session learns of that only when its statement is over. Nobody
                # waits for that statement any more; a COMMIT that has begun is completed all the same.
                await connection.fetch_value(QUERIES.end_transactions, texts)
            while texts and await connection.fetch_value(QUERIES.count_running_transactions, texts):  # noqa: ASYNC110
                await trio.sleep(ASK_AGAIN_S)
            rows = await connection.fetch(QUERIES.list_marked_transactions, execution_id)
        return frozenset(row["xid"] for row in rows)

    async def add(self, execution: Execution) -> bool:
        """See `flux.supervisor.recovery.Store.add`."""
        if await ran_elsewhere(self.pool, execution.id):
            execution = without_ids(execution)
        record = make_record(execution)
        with trio.fail_after(writing_s(record.size_bytes)):
            inserted = await RecordStore(self.pool).insert(record)
        return inserted.is_new
