"""Who performs host calls during a replay: nobody, the world for statements, and what was agreed to.

A driver asks its host to perform what the session says is to be performed. A replay's session says
so of statements where there is a world, and of requests to hosts that the caller named (``--live``).
So that a host here is asked for anything else is a mistake of Flux's, and ends the replay before anything is done.
"""

from collections import Counter

import attrs

from flux import calls
from flux.calls import find_host
from flux.errors import BrokenInvariantError
from flux.grants import DEFAULT_PORTS, Grants, Origin, parse_grant
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.hostcalls.base import CallContext
from flux.matching import make_key
from flux.streamed import WRITES
from flux.supervisor.drive import Host
from flux.supervisor.perform import HostTable
from flux.supervisor.streams import Digest, ExecutionStreams


class ReplayPerformedError(BrokenInvariantError):
    """A replay came to where something would have been performed."""

    code = "FLX912"


class RefusingHost:
    """Performs nothing."""

    def is_immediate(self, name: str) -> bool:  # noqa: ARG002 - the protocol's
        """See `flux.supervisor.drive.Host.is_immediate`."""
        return True

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Refuse."""
        raise ReplayPerformedError(f"call {request.seq}, {request.name}, was to be performed during a replay")

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:  # noqa: ARG002 - the protocol's
        """Refuse."""
        raise ReplayPerformedError(f"call {request.seq}, {request.name}, was being performed during a replay")


class AnswerHost:
    """Takes what a replay of changed code writes as its answer, digests it and sends it to nobody.

    Whatever else is to be performed is another host's to perform.
    """

    def __init__(self, inner: Host, context: CallContext, *, answers_http: bool) -> None:
        """``context`` is touched by nothing but what the function writes, and only to an HTTP request may it write."""
        streams = ExecutionStreams(Digest, context.limits, context.function) if answers_http else None
        self._table = HostTable(attrs.evolve(context, streams=streams))
        self._inner = inner

    def is_immediate(self, name: str) -> bool:
        """See `flux.supervisor.drive.Host.is_immediate`."""
        return name in WRITES or self._inner.is_immediate(name)

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Take a piece; hand on anything else."""
        performer: Host = self._table if request.name in WRITES else self._inner
        return await performer.perform(request)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        """See `flux.supervisor.drive.Host.cancelled`."""
        return self._inner.cancelled(request, elapsed_ns)


class LiveRequests:
    """Requests that a replay may send for real, and the answers that came.

    A replay may run several times, each in a world with one table more. What was sent is not sent again: the same
    question, for the same time, hears the answer of before.
    """

    def __init__(self, hosts: frozenset[str], grants: Grants) -> None:
        """``hosts`` as `flux.calls.find_host` names them; ``grants`` are the function's own, which stay in force."""
        self.hosts = hosts
        self.sent = 0
        """Requests that have left."""
        self._answers: dict[tuple[object, int], HostCallResult] = {}
        self._asked: Counter[object] = Counter()
        self.grants = _narrow(grants, hosts)
        """What of ``grants`` is within ``hosts``: a redirect leads nowhere else."""

    def start_over(self) -> None:
        """Take note that the replay begins again."""
        self._asked.clear()

    def is_allowed(self, request: HostCallRequest) -> bool:
        """Whether the request goes where it was agreed that it may."""
        http = calls.read_http(HostCall(request, None, 0))
        return request.name == "http.request" and http is not None and find_host(http.url) in self.hosts

    async def perform(self, request: HostCallRequest, table: HostTable) -> HostCallResult:
        """Send the request, unless it was sent before."""
        key = make_key(request).exact
        number = self._asked[key]
        self._asked[key] += 1
        if (key, number) not in self._answers:
            self.sent += 1
            self._answers[key, number] = await table.perform(request)
        return self._answers[key, number]


def _narrow(grants: Grants, hosts: frozenset[str]) -> Grants:
    kept = []
    for host in sorted(hosts):
        for scheme, port in DEFAULT_PORTS.items():
            grant = parse_grant(f"{scheme}://{host}")
            if grants.find(Origin(scheme, grant.host, grant.port or port)) is not None:
                kept.append(grant)
    return Grants(tuple(kept))


class OpenHost(RefusingHost):
    """Performs statements, where there is a world, and requests that were agreed to."""

    def __init__(self, context: CallContext, live: LiveRequests, *, has_world: bool) -> None:
        """``context`` has the world as its database, and the narrow grants of ``live``."""
        self._table = HostTable(context)
        self._live = live
        self._has_world = has_world

    def is_immediate(self, name: str) -> bool:
        """See `flux.supervisor.drive.Host.is_immediate`.

        Statements are performed in the order in which they are asked, one after the other: as tasks of their own, those
        that are asked together would run in any order, and a replay be another one each time. Time is simulated, so
        nobody waits longer for it.
        """
        return not name.startswith("http.")

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Perform a statement or an agreed request; refuse anything else."""
        if self._has_world and request.name.startswith("db."):
            return await self._table.perform(request)
        if self._live.is_allowed(request):
            return await self._live.perform(request, self._table)
        return await super().perform(request)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        """See `flux.supervisor.drive.Host.cancelled`."""
        return self._table.cancelled(request, elapsed_ns)
