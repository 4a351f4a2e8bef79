"""What machines ask of a server, without a token: is it alive, is it ready, what does it count.

*Live* is a process that answers at all: one that does not should be started again. *Ready* is one that requests should
be sent to: it serves code, its database is there, and it is not about to end. Not ready is 503 with ``Retry-After``,
and nothing else has to be done about it. The reasons are words and codes: who asks may be anybody.
"""

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from flux.errors import FluxError
from flux.message import HttpResponse, RequestHead
from flux.scopes import Scope
from flux.supervisor import metrics
from flux.supervisor.console_door import Door
from flux.supervisor.live import Live
from flux.supervisor.metrics import Metric, each, one
from flux.supervisor.present import encode

RETRY_AFTER_S = 1
Shared = Callable[[], Awaitable[Sequence[Metric]]]
"""Counts what has to be waited for."""
_JSON = (("content-type", "application/json"), ("cache-control", "no-store"))


async def no_metrics() -> Sequence[Metric]:
    """Count nothing."""
    await trio.lowlevel.checkpoint()
    return ()


@attrs.define
class Readiness:
    """What a server knows of itself, kept up to date by whoever learns of it."""

    is_draining: bool = False
    """It has been told to stop."""
    find_failure: Callable[[], FluxError | None] = lambda: None
    """Says why the database can't be used; None when it can."""


class MachineDesk:
    """Answers them."""

    def __init__(
        self,
        live: Live,
        door: Door,
        readiness: Readiness,
        *,
        serves: Callable[[], bool],
        counters: Callable[[], Sequence[Metric]] = list,
        shared: Shared,
        others: Shared | None = None,
        worker: str = "",
    ) -> None:
        """``serves``: whether there is code. ``counters`` counts in this process, ``shared`` what the database holds
        for all, ``others`` in the other processes of this server."""
        self._live = live
        self._door = door
        self._readiness = readiness
        self._serves = serves
        self._counters = counters
        self._shared = shared
        self._others = others
        self._worker = worker

    def live(self) -> HttpResponse:
        """Say that we live."""
        return HttpResponse(200, _JSON, encode({"schema": "flux.live/1", "live": True}))

    def health(self) -> HttpResponse:
        """Say whether requests should be sent here, and why not."""
        reasons = []
        if self._readiness.is_draining:
            reasons.append({"name": "draining", "code": None})
        if not self._serves():
            reasons.append({"name": "deployment", "code": None})
        if (failure := self._readiness.find_failure()) is not None:
            reasons.append({"name": "database", "code": failure.code})
        body = encode({"schema": "flux.health/1", "ready": not reasons, "reasons": reasons})
        if not reasons:
            return HttpResponse(200, _JSON, body)
        return HttpResponse(503, (*_JSON, ("retry-after", str(RETRY_AFTER_S))), body)

    async def metrics(self, head: RequestHead) -> HttpResponse:
        """Return what is counted, as text."""
        # Numbers only, so a scraper on this machine needs no token. From elsewhere it is as for all else.
        if not self._door.is_from_here(head) and (refusal := await self._door.refuse(head, Scope.READ)) is not None:
            return refusal
        found = [*self.count(), *await self._shared(), *(await self._others() if self._others is not None else ())]
        return HttpResponse(200, (("content-type", metrics.CONTENT_TYPE),), metrics.render(found))

    def count(self) -> Sequence[Metric]:
        """Return what this process counts."""
        live = self._live.counts
        found = [
            each("executions_total", "Executions that have ended, by outcome.", "outcome", live.ended),
            one("executions_not_stored", "Executions that have ended and are not stored yet.", live.not_stored),
            one("live_subscribers", "Readers of tail and logs.", live.subscribers),
            one("live_lines_lost_total", "Lines that such readers were too slow for.", live.lost),
            *self._counters(),
        ]
        return [attrs.evolve(metric, worker=self._worker) for metric in found]
