"""An execution: one run of one function, and all it did.

The nouns here are what the rest of Flux is about. They are plain frozen values:
the supervisor fills them, the store keeps them (through `flux.codec`), ``why``,
replay and the command line read them.

`Outcome` is a union of small classes; ``kind`` tells them apart, in Python and
in the stored form alike.
"""

import uuid
from typing import Literal

import attrs

from flux import ids
from flux.hostcall import HostCall, Position
from flux.mutation import Mutation
from flux.streamed import StreamedBody


@attrs.frozen
class Trigger:
    """What made the function run."""

    kind: str
    """``http``, ``invoke``, ``queue``, ``cron`` or ``replay``."""
    method: str = ""
    """HTTP method; empty unless ``kind`` is ``http``."""
    path: str = ""
    """Path as the client sent it."""
    route: str = ""
    """The route's pattern that matched, e.g. ``/orders/{id}``."""
    params: tuple[tuple[str, str], ...] = ()
    """Path parameters."""
    query: tuple[tuple[str, str], ...] = ()
    """Query parameters, in order, repeated ones included."""
    headers: tuple[tuple[str, str], ...] = ()
    """Header fields in order, names in lower case."""
    body: bytes = b""
    """Body as it came; for an invoke the JSON of its data, for a job that of its payload."""
    correlation: tuple[tuple[str, str], ...] = ()
    """``x-request-id``, ``traceparent`` and ``tracestate`` of the client, or the latter two of the execution that
    caused this one: kept, never used as identity."""
    job: str = ""
    """Id of the job that this is an attempt at; empty unless ``kind`` is ``queue`` or ``cron``."""
    call: int | None = None
    """Seq of the host call of the parent that caused this: its push or its invoke; None without a parent."""
    auth: bytes = b""
    """Who asks, as the gateway has verified it, in JSON: ``kind`` ("jwt" or "api_key"), ``subject``, and ``claims`` or
    ``scopes``. Empty: nobody was verified."""
    user: bytes = b""
    """Of an invoke: what ``ctx.user`` was to the function that invoked it, in JSON; empty when it was nothing."""
    client: str = ""
    """Address of who made the request, through declared proxies; empty in older records and where there is none."""
    scheme: str = ""
    """``http`` or ``https``, as the client used it; empty as ``client`` is."""
    host: str = ""
    """Host, with its port if it was given, as the client wrote it; empty as ``client`` is."""
    streamed: StreamedBody | None = None
    """The body, where it was larger than what is held: ``body`` is empty then, and its bytes are on no record."""


@attrs.frozen
class Frame:
    """One line of a guest's stack."""

    file: str
    """Relative to the project when the file is the user's, else as the language names it."""
    line: int
    function: str
    user: bool
    """True for code of the project, False for libraries and the SDK."""
    source: str = ""
    """The line's text, stripped; empty when it can't be read."""


@attrs.frozen
class Returned:
    """The function answered."""

    status: int
    """HTTP status of the answer."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    streamed: StreamedBody | None = None
    """The body, where the function wrote it piece by piece: ``body`` is empty then, and its bytes are on no record."""
    kind: Literal["returned"] = "returned"


@attrs.frozen
class Raised:
    """The function raised and nothing caught it."""

    type: str
    """Name of the exception's class."""
    message: str
    frames: tuple[Frame, ...] = ()
    """From the outermost to the innermost."""
    status: int = 500
    """HTTP status of the answer; an `HTTPError` chooses its own."""
    code: str = "FUNCTION_ERROR"
    """Code in the error envelope."""
    violations: bytes = b"[]"
    """For a validation error: JSON list of {path, message}."""
    call: int | None = None
    """Seq of the host call whose error this is, when it is one."""
    cause: str = ""
    """``Type: message`` of the exception it was raised from, innermost; or empty."""
    kind: Literal["raised"] = "raised"


@attrs.frozen
class Killed:
    """A limit ended the function."""

    limit: str
    """``timeout``, ``memory``, ``host_calls``, ``log``, ``body``, ``response``, ``frame`` or ``protocol``; or
    ``neighbours``: what all functions of its process held together was too much, and it was the one to go."""
    allowed: str
    """The limit's value as people write it: ``10s``, ``256MiB``."""
    origin: str
    """Who set it: ``flux.toml:12``, ``@function(timeout=...)`` or ``Flux's default``."""
    detail: str = ""
    """What was seen, when that says more than the limit's name."""
    kind: Literal["killed"] = "killed"


@attrs.frozen
class Exited:
    """The worker process ended by itself, without an answer."""

    exit_code: int | None
    signal: int | None
    """Number of the signal that ended it."""
    detail: str = ""
    """The last lines it wrote, or what is known of why."""
    kind: Literal["exited"] = "exited"


@attrs.frozen
class Interrupted:
    """It was cut off from outside: the supervisor ended, or its worker was killed. What is recorded is what was
    written down until then."""

    reason: str
    status: int = 0
    """HTTP status of the answer; 0 when nobody was left to answer."""
    kind: Literal["interrupted"] = "interrupted"


Outcome = Returned | Raised | Killed | Exited | Interrupted


@attrs.frozen
class LogLine:
    """What the function logged or printed."""

    at_ns: int
    """Nanoseconds since the execution's start."""
    level: str
    message: str
    fields: bytes = b"{}"
    """Canonical JSON object."""
    position: Position | None = None


@attrs.frozen
class StatementSnapshot:
    """What one statement could see, where that is not simply what its transaction saw at its start.

    Listed for each statement of a READ COMMITTED transaction, and for each of an execution that has
    several transactions: there it also says which one the statement was in.
    """

    call: int
    """Seq of the host call."""
    before: str = ""
    """``pg_current_snapshot()`` right before it; empty: the transaction's, or not known in READ COMMITTED."""
    after: str = ""
    """The same right after it, where it is another one: its own is one of those between. Empty also when it failed."""


@attrs.frozen
class Transaction:
    """One database transaction of an execution."""

    isolation: str
    snapshot: str
    """``pg_current_snapshot()`` at its start: what it could see."""
    xid: int | None
    """Its id (xid8), or None when it wrote nothing."""
    committed: bool
    begun_by: int
    """Seq of the host call that began it."""
    ended_ns: int = 0
    """Nanoseconds since the execution's start."""
    now: str = ""
    """What ``now()`` says in it, in UTC with microseconds; empty in older records."""
    statements: tuple[StatementSnapshot, ...] = ()
    """In the order in which they ran; empty where the transaction's own snapshot is all there is to say."""


@attrs.frozen
class Read:
    """Whose rows a statement returned: the rows themselves are in the call's answer.

    Known only for statements that return all columns of a table's primary key as they
    are; ``why`` follows them to the executions that wrote what was read.
    """

    call: int
    """Seq of the host call."""
    schema: str
    table: str
    key: tuple[tuple[str, int], ...]
    """The primary key: (column of the table, index in the answer's columns), sorted by column."""
    columns: tuple[tuple[str, int], ...]
    """The table's other columns that were returned, likewise."""


@attrs.frozen
class Level:
    """Which walls were up."""

    kind: str
    """Sandbox kind: ``process``."""
    isolation: str
    """``process`` (a process boundary and limits), ``core`` or ``strict``."""
    clock: str
    """How strongly the guest's clock is held: ``vdso`` (for C code too), ``python`` (for Python code) or ``wasm``."""
    meter: str = ""
    """By what fuel is counted: a name for the engine, the interpreter and its SDK. Fuel of two executions can be
    compared where it is the same; empty where nothing is counted."""


@attrs.frozen
class LimitInForce:
    """A limit's value for this execution and where it comes from."""

    name: str
    value: str
    """As people write it."""
    origin: str


@attrs.frozen
class Execution:
    """One run of one function, and all it did."""

    id: uuid.UUID
    tenant: str
    function: str
    deployment: str
    """Id of the deployment."""
    sha: str
    dirty: bool
    trigger: Trigger
    started_at_ns: int
    """Nanoseconds since the Unix epoch; the guest's clock at its start."""
    seed: bytes
    """32 bytes: the guest's randomness follows from it."""
    level: Level
    limits: tuple[LimitInForce, ...] = ()
    outcome: Outcome = Interrupted("it has not ended")
    elapsed_ns: int = 0
    calls: tuple[HostCall, ...] = ()
    mutations: tuple[Mutation, ...] = ()
    """Rows changed; in a stored record only those rolled back, as the store has the others."""
    mutation_count: int = 0
    """All rows changed, rolled back ones included."""
    logs: tuple[LogLine, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    ordinals: tuple[tuple[int, int, int], ...] = ()
    """(xid, ordinal, call): which host call made the mutations of that ordinal."""
    reads: tuple[Read, ...] = ()
    """Which rows its statements returned, where that is known."""
    completeness: tuple[str, ...] = ()
    """What is missing from this record, a sentence each; empty: whole."""
    parent: uuid.UUID | None = None
    """The execution that caused this one: it pushed or invoked it, or was the attempt before; a replay has none."""
    attempt: int = 1
    """Counts the runs of one request after serialisation failures, and all runs of one job."""
    fuel: int | None = None
    """How far the guest had come at its end, as `flux.hostcall.HostCallRequest.fuel` counts it: where it
    answered, died, or was stopped by a limit. None for kinds of sandbox that do not count."""
    served_before: int | None = None
    """How many executions its worker had served before it: what those left in module state was there, and is in no
    record. 0: a fresh worker. None where that is not known."""
    replay_of: uuid.UUID | None = None
    """The execution that this one replayed; None: it is no replay."""
    user: bytes = b""
    """What ``ctx.user`` was last set to, in JSON; empty when nobody has set it."""

    @property
    def name(self) -> str:
        """What people see and type."""
        return ids.make_name(self.id)

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        match self.outcome:
            case Returned(status=status) | Raised(status=status) | Interrupted(status=status):
                return status
            case Killed(limit="timeout"):
                return 504
            case Killed() | Exited():
                return 500


def get_user_frame(outcome: Outcome) -> Frame | None:
    """Return the innermost frame of the user's own code, or None when the outcome has none."""
    if isinstance(outcome, Raised):
        for frame in reversed(outcome.frames):
            if frame.user:
                return frame
    return None
