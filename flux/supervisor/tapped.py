"""A worker whose guest tells of each step: what it tells is taken out before anybody else hears the guest.

So the driver, which is the same for all executions, knows nothing of it.
"""

from flux.sandbox.base import Exit, Meter, Worker
from flux.travel import Tap


class TappedWorker:
    """See `flux.sandbox.base.Worker`."""

    def __init__(self, worker: Worker, tap: Tap) -> None:
        self._worker = worker
        self._tap = tap

    @property
    def pid(self) -> int:
        """See `Worker.pid`."""
        return self._worker.pid

    @property
    def served(self) -> int:
        """See `Worker.served`."""
        return self._worker.served

    @property
    def meter(self) -> Meter | None:
        """See `Worker.meter`."""
        return self._worker.meter

    async def start(self, document: bytes) -> None:
        """See `Worker.start`."""
        await self._worker.start(document)

    async def receive(self) -> bytes:
        """See `Worker.receive`: the wire alone."""
        while True:
            data = await self._worker.receive()
            kept = self._tap.take(data)
            if kept or not data:
                return kept

    async def send(self, data: bytes) -> None:
        """See `Worker.send`."""
        await self._worker.send(data)

    def send_nowait(self, data: bytes) -> int:
        """See `Worker.send_nowait`."""
        return self._worker.send_nowait(data)

    def take_output(self) -> str:
        """See `Worker.take_output`."""
        return self._worker.take_output()

    def kill(self) -> None:
        """See `Worker.kill`."""
        self._worker.kill()

    def has_ended(self) -> bool:
        """See `Worker.has_ended`."""
        return self._worker.has_ended()

    async def wait_exit(self) -> Exit:
        """See `Worker.wait_exit`."""
        return await self._worker.wait_exit()
