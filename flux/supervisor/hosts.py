"""Whose a request is, when a server has tenants: its ``Host`` says so, before anything else of it is looked at.

`Hosts` is the gateway's handler. Names that a tenant has are its own for as long as it is in the list, from before the
first request is taken until after the last one is answered: while it can't be served they are answered with 503, never
by somebody else's functions. All other names are the installation's own project.

Whose a request is, is decided once, when its head is there. Its body may come much later, and by then the list may
have changed: what one project has admitted is never handed to another.

A client writes into ``Host`` what it likes, so this is no wall: it chooses whose functions, routes and console are
asked, and those ask for tokens of their own.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import attrs
import trio

from flux.message import Admission, HttpRequest, HttpResponse, RequestHead, problem
from flux.rate_limit import Buckets, RateLimit, retry_after
from flux.supervisor.console_door import without_port
from flux.supervisor.front_door import is_console
from flux.supervisor.gateway import Handler
from flux.supervisor.server_address import ServerAddress


class Served(Handler, Protocol):
    """Functions, and the console of them."""

    async def show(self, request: HttpRequest) -> HttpResponse:
        """Answer what came by the console's port."""


@attrs.define(eq=False)
class _Place:
    """Where the requests of some names go."""

    handler: Served | None = None
    rate: RateLimit | None = None
    """Requests that may come, from wherever; those to the console not counted."""
    buckets: Buckets = attrs.field(factory=Buckets)
    refused: int = 0
    """Requests that came too fast."""
    in_flight: int = 0
    idle: trio.Event = attrs.field(factory=trio.Event)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Count a request for as long as the block lasts."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self.idle.set()


@attrs.frozen
class _Held:
    """The ticket of a tenant's request: where it was admitted, and what it was given there."""

    place: _Place
    ticket: object


class Hosts:
    """See the module."""

    def __init__(self) -> None:
        self._own = _Place()
        self._of_name: dict[str, _Place] = {}

    def set_own(self, handler: Served) -> None:
        """Have ``handler`` answer for every name that no tenant has; 503 before."""
        self._own.handler = handler

    async def admit(self, head: RequestHead) -> Admission:
        """See `flux.supervisor.gateway.Handler.admit`."""
        place = self._find(head)
        if place.handler is None:
            await trio.lowlevel.checkpoint()
            return Admission(0, answer=_unavailable())
        rate = None if is_console(head.path) else place.rate
        if rate is not None and (wait_s := place.buckets.take(rate, None, trio.current_time())):
            place.refused += 1
            await trio.lowlevel.checkpoint()
            return Admission(0, answer=_refuse_rate(rate, wait_s))
        admission = await place.handler.admit(head)
        if place is self._own:
            return admission
        return attrs.evolve(admission, ticket=_Held(place, admission.ticket))

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """See `flux.supervisor.gateway.Handler.handle`."""
        if (admission := request.admission) is None:
            place = self._find(request.head)  # It came by no gateway.
        elif isinstance(held := admission.ticket, _Held):
            place = held.place
            request = attrs.evolve(request, admission=attrs.evolve(admission, ticket=held.ticket))
        else:
            place = self._own
        if place.handler is None:  # It has gone since the head was read.
            await trio.lowlevel.checkpoint()
            return _unavailable()
        with place.busy():
            return await place.handler.handle(request)

    async def show(self, request: HttpRequest) -> HttpResponse:
        """Answer what came by the console's port: a name's console is where its functions are."""
        place = self._find(request.head)
        if place.handler is None:
            await trio.lowlevel.checkpoint()
            return _unavailable()
        with place.busy():
            return await place.handler.show(request)

    def _find(self, head: RequestHead) -> _Place:
        if not self._of_name:
            return self._own
        return self._of_name.get(without_port(head.header("host") or ""), self._own)

    def find_taken(self, names: Iterable[str]) -> str | None:
        """Return the first of ``names`` that is a tenant's."""
        return next((name for name in names if name in self._of_name), None)

    def reserve(self, names: Iterable[str], url: str, requests_per_minute: int | None = None) -> "Share":
        """Make ``names`` a tenant's, until `release`; ``url`` is where this machine reaches it.

        A name that another one has stays that one's.
        """
        place, names = _Place(), frozenset(names)
        for name in names:
            self._of_name.setdefault(name, place)
        share = Share(place, ServerAddress(url, names, is_open=False))
        share.set_rate(requests_per_minute)
        return share

    def release(self, share: "Share") -> None:
        """Let the installation's own project answer for the names of ``share`` again."""
        for name in share.address.hosts:
            if self._of_name.get(name) is share.place:
                del self._of_name[name]


class Share:
    """The names of one tenant."""

    def __init__(self, place: _Place, address: ServerAddress) -> None:
        self.place = place
        self.address = address
        """How it is reached."""

    def set_rate(self, requests_per_minute: int | None) -> None:
        """Change how many requests may come in a minute, from now on; None: any number."""
        rate = None if requests_per_minute is None else RateLimit(requests_per_minute, 60.0)
        if rate != self.place.rate:
            self.place.rate, self.place.buckets = rate, Buckets()

    def find_requests_spent(self) -> float | None:
        """Return how much of the quota of requests is used; None without one."""
        place = self.place
        return None if place.rate is None else place.buckets.get_spent(place.rate, None, trio.current_time())

    @property
    def refused(self) -> int:
        """Requests that were refused because too many came."""
        return self.place.refused

    async def serve(
        self, handler: Served, drain: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Have ``handler`` answer until ``drain`` is set, then wait for requests in flight."""
        place = self.place
        place.handler = handler
        try:
            task_status.started()
            await drain.wait()
        finally:
            place.handler = None
        while place.in_flight:
            place.idle = trio.Event()
            await place.idle.wait()


def _refuse_rate(rate: RateLimit, wait_s: float) -> HttpResponse:
    refusal = problem(429, "RATE_LIMITED", f"this host has had its {rate.text} requests")
    return attrs.evolve(refusal, headers=(*refusal.headers, ("retry-after", retry_after(wait_s))))


def _unavailable() -> HttpResponse:
    refusal = problem(503, "OVERLOADED", "this host can't be served at present; its operator is told why")
    return attrs.evolve(refusal, headers=(*refusal.headers, ("retry-after", "5")))
