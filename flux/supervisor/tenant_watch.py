"""What a tenant uses, measured while it is served, and what it may not have more of because of that.

Processor time is what the kernel counts of the tenant's processes (`flux.sandbox.processor`), looked at each second;
storage is what the database says of its size. Both are known only afterwards, so a quota can be passed by what is used
between two looks. Neither is kept over a restart of the server.
"""

import trio

from flux.errors import FluxError
from flux.sandbox.processor import ProcessorTime
from flux.store.postgres import Pool
from flux.store.queries import QUERIES
from flux.store.tenants import Quotas
from flux.supervisor.story import Story
from flux.supervisor.turns import Share

CPU_EVERY_S = 1.0
STORAGE_EVERY_S = 15.0
"""How often a tenant's database is measured."""


class TenantWatch:
    """Measures one tenant, and closes its share of the turns while its database is larger than it may be."""

    def __init__(self, processor: ProcessorTime, pool: Pool, share: Share, quotas: Quotas, story: Story) -> None:
        """``pool`` connects to the tenant's database."""
        self._processor = processor
        self._pool = pool
        self._share = share
        self._quotas = quotas
        self._story = story
        self._was_full = False
        self.cpu_s = 0.0
        """Processor time since the tenant's server has started."""
        self.storage_bytes: int | None = None
        """Size of the database; None: not measured yet."""

    def set_quotas(self, quotas: Quotas) -> None:
        """Change what it may have, from now on."""
        self._quotas = quotas
        self._share.set_quotas(quotas)
        self._apply_storage()

    async def run(self) -> None:
        """Measure until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_processor)
            nursery.start_soon(self._watch_storage)

    async def _watch_processor(self) -> None:
        while True:
            used_s = self._processor.read_s()
            self._share.charge_cpu(used_s - self.cpu_s)
            self.cpu_s = used_s
            await trio.sleep(CPU_EVERY_S)

    async def _watch_storage(self) -> None:
        while True:
            try:
                async with self._pool.acquire() as connection:
                    self.storage_bytes = int(await connection.fetch_value(QUERIES.get_database_bytes))
            except FluxError:
                pass  # A database that is away is told by whoever needs it; what was measured last holds until then.
            else:
                self._apply_storage()
            await trio.sleep(STORAGE_EVERY_S)

    def _apply_storage(self) -> None:
        size, most = self.storage_bytes, self._quotas.storage_bytes
        is_full = size is not None and most is not None and size > most
        if is_full:
            why = f"the storage quota is used up: {size:,} of {most:,} bytes"
            self._share.close("storage", why)
            if not self._was_full:
                self._story.note(f"{why}; nothing is run")
        else:
            self._share.open()
        self._was_full = is_full
