"""What a host call is to the host: a name, an effect, and how to perform it.

``perform`` gets the execution's `CallContext` and the decoded arguments, and
returns a value that `flux.values` can carry. It raises `HostCallFailed` for what
the guest shall see raised; any other exception is Flux's own fault and ends the
execution, not the supervisor.
"""

import enum
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

import attrs

from flux import values
from flux.grants import Grants
from flux.hostcall import Effect, HostCallError
from flux.limits import Limits
from flux.streamed import StreamedBody
from flux.trace_context import OWN_NETWORK, Propagation, Trace


class HostCallFailed(Exception):
    """What the guest is to see raised instead of an answer."""

    def __init__(
        self, name: str, message: str, *, code: str = "", details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.error = HostCallError(name, message, code, values.encode_canonical(dict(details or {})))


class Clock(Protocol):
    """The host's wall clock, or a test's."""

    def now_ns(self) -> int:
        """Return nanoseconds since the Unix epoch."""


class Entropy(Protocol):
    """The host's randomness, or a test's."""

    def take(self, size_bytes: int) -> bytes:
        """Return ``size_bytes`` unpredictable bytes."""


class Database(Protocol):
    """The execution's database: one connection, one transaction at a time."""

    async def run(self, sql: str, arguments: list[object], call_seq: int) -> "QueryResult":
        """Run one statement; raise `HostCallFailed` with name ``DatabaseError`` when it fails."""

    async def begin(self, isolation: str | None, call_seq: int) -> int:
        """Open a transaction, or a savepoint inside the one that is open; return its depth from 1."""

    async def commit(self, depth: int, call_seq: int) -> None:
        """End the transaction or savepoint of ``depth`` and keep what it did."""

    async def rollback(self, depth: int, call_seq: int) -> None:
        """End the transaction or savepoint of ``depth`` and undo what it did."""


@attrs.frozen
class QueryResult:
    """Rows and what they are."""

    columns: tuple[str, ...]
    """Names, in order; may repeat."""
    types: tuple[str, ...]
    """PostgreSQL's name of each column's type."""
    rows: list[list[object]]
    """Values in terms of `flux.values`."""
    tag: str
    """The command tag, e.g. ``INSERT 0 1``."""


class Secrets(Protocol):
    """The tenant's secrets that this function may use."""

    def handle(self, name: str) -> str:
        """Return a handle that the host replaces by the value in outbound requests."""

    def reveal(self, name: str) -> str:
        """Return the value itself."""

    def substitute(self, data: bytes) -> bytes:
        """Return ``data`` with every handle replaced by its value."""


class Closable(Protocol):
    """What an execution holds and its end lets go."""

    def close_nowait(self) -> None:
        """Let go, without waiting."""


class Functions(Protocol):
    """The other functions of the deployment, as one execution reaches them."""

    def names(self) -> Collection[str]:
        """Return what they are called, the execution's own included."""

    async def push(
        self, function: str, payload: bytes, delay_s: float, idempotency_key: str | None, call_seq: int
    ) -> str:
        """Push a job in the execution's transaction; return its id. ``payload`` is JSON."""

    async def invoke(self, function: str, value: bytes, user: bytes, call_seq: int) -> Mapping[str, object]:
        """Run ``function`` on ``value``, which is JSON, and return its answer; raise `HostCallFailed` if it fails.

        ``user`` is whom it runs for, in JSON; empty: nobody.
        """


class Streams(Protocol):
    """What an execution writes and reads piece by piece: its answer, and the body of its request."""

    async def write(self, piece: bytes) -> None:
        """Take the next piece of the answer; raise `HostCallFailed` where none is taken (any more)."""

    async def end(self) -> StreamedBody:
        """End the answer and return what it is; raise `HostCallFailed` where it has ended, or can't."""

    async def read(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes of the request's body from ``offset``; nothing behind its end.

        Raises `HostCallFailed` where the request has no body that is read by pieces.
        """


class LogLevel(enum.StrEnum):
    """Levels of log lines; ``stdout`` and ``stderr`` are what the function printed."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    STDOUT = "stdout"
    STDERR = "stderr"


@attrs.define
class CallContext:
    """Everything that performing the host calls of one execution may touch."""

    tenant: str
    """Whose code asks."""
    function: str
    """Name of the function."""
    grants: Grants
    """Hosts that the function may reach."""
    limits: Limits
    """Limits in force for this execution."""
    clock: Clock
    entropy: Entropy
    database: Database | None
    """None when the project has no database."""
    http: object
    """The supervisor's `flux.hostcalls.http.HttpClient`."""
    secrets: Secrets
    deadline_ns: int = 0
    """When the execution's time limit ends, on the host's clock."""
    connections: Closable | None = None
    """The `flux.hostcalls.net_connection.Connections` of the execution, once it has opened one."""
    functions: Functions | None = None
    """None where no other function can be run: during a replay."""
    trace: Trace | None = None
    """What is handed on with what leaves; None: nothing is, as during a replay."""
    propagation: Propagation = OWN_NETWORK
    """Which hosts it is told to."""
    streams: Streams | None = None
    """None where nobody takes an answer in pieces: what runs answers no request."""


Perform = Callable[[CallContext, list[object], int], Awaitable[object]]
"""Takes the context, the decoded arguments and the call's seq; returns the answer's value."""


@attrs.frozen
class HostCallKind:
    """One kind of host call."""

    name: str
    """Interface and operation, e.g. ``clock.now``."""
    effect: Effect
    perform: Perform
    immediate: bool = False
    """The driver performs it in place, without a task of its own: it never waits, or its order is what counts."""


def check_arguments(name: str, arguments: list[object], *types: type | tuple[type, ...]) -> None:
    """Raise `HostCallFailed` unless ``arguments`` are exactly of ``types``."""
    if len(arguments) != len(types) or not all(map(isinstance, arguments, types)):
        kinds = (kind if isinstance(kind, tuple) else (kind,) for kind in types)
        wanted = ", ".join(" or ".join(one.__name__ for one in kind) for kind in kinds)
        got = ", ".join(type(argument).__name__ for argument in arguments)
        raise HostCallFailed("InvalidArguments", f"{name} takes ({wanted}), not ({got})", code="FLX425")
