"""What a server does for its store beside requests: marks of time in the log, and taking out what is old.

A mark says who had committed at a known time (`flux.as_of`). It is made each second where the server does not note the
times of commits itself, else each ten, and only where something has changed since the last. What is older than
``retention_days`` goes once a day, the first time a while after the start: a server that is started again and
again need not do it each time.

Whatever fails is told and tried again: requests need neither.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import trio

from flux.store.moments import add_mark
from flux.store.postgres import Pool
from flux.store.retention import PruningElsewhereError, Retention, prune

MARK_EVERY_S = 1.0
STAMPED_MARK_EVERY_S = 10.0
FIRST_PRUNE_S = 600.0
PRUNE_EVERY_S = 24 * 3600.0
FAILED_PAUSE_S = 30.0


class Upkeep:
    """Runs beside a server."""

    def __init__(
        self, pool: Pool, retention: Callable[[], Retention], report: Callable[[BaseException], None]
    ) -> None:
        """``pool`` is of Flux's own role; ``report`` is told of what failed."""
        self._pool = pool
        self._retention = retention
        self._report = report

    async def run(self) -> None:
        """Do both for as long as the server runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mark)
            nursery.start_soon(self._prune)

    async def _mark(self) -> None:
        is_failing = False
        while True:
            try:
                pause_s = STAMPED_MARK_EVERY_S if await add_mark(self._pool) else MARK_EVERY_S
                is_failing = False
            except Exception as error:  # Times between marks are then told less exactly, or not at all.
                if not is_failing:
                    self._report(error)
                is_failing, pause_s = True, FAILED_PAUSE_S
            await trio.sleep(pause_s)

    async def _prune(self) -> None:
        await trio.sleep(FIRST_PRUNE_S)
        while True:
            try:
                await prune(self._pool, self._retention(), datetime.now(UTC))
            except PruningElsewhereError:
                pass  # Another server of this database does it: it would do the same.
            except Exception as error:  # What is old stays a day longer.
                self._report(error)
            await trio.sleep(PRUNE_EVERY_S)
