"""Who performs host calls during a replay: nobody, or the world for statements.

A driver asks its host to perform what the session says is to be performed. A replay's session says
so of statements alone, and of these only where there is a world. So that a host here is asked for
anything else is a mistake of Flux's, and ends the replay before anything is done.
"""

from flux.errors import BrokenInvariantError
from flux.hostcall import HostCallRequest, HostCallResult
from flux.hostcalls.base import CallContext
from flux.supervisor.perform import HostTable


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


class WorldHost(RefusingHost):
    """Performs statements in a world."""

    def __init__(self, context: CallContext) -> None:
        """``context`` has the world as its database."""
        self._table = HostTable(context)

    def is_immediate(self, name: str) -> bool:
        """See `flux.supervisor.drive.Host.is_immediate`."""
        return not name.startswith("db.")

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Perform a statement; refuse anything else."""
        if not request.name.startswith("db."):
            return await super().perform(request)
        return await self._table.perform(request)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        """See `flux.supervisor.drive.Host.cancelled`."""
        return self._table.cancelled(request, elapsed_ns)
