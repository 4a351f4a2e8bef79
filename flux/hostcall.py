"""The host call: one question through the sandbox's only door, and its answer.

A guest can compute and it can ask. What it asks is a `HostCallRequest`, what it
hears is a `HostCallResult`; a `HostCall` is the pair with its times, as recorded.
Arguments and values are bytes in the canonical form of `flux.values`, so that a
replay compares and answers without parsing anything.
"""

import enum

import attrs


class Effect(enum.Enum):
    """What performing a host call does to the world. A replay decides by it what must never run."""

    OBSERVES = "observes"
    """Reads something that changes by itself: a clock, randomness, a secret."""
    EMITS = "emits"
    """Adds to the execution's own record and nothing else: a log line."""
    CHANGES = "changes"
    """May read and change the database, inside the execution's transaction."""
    LEAVES = "leaves"
    """Reaches out of the execution, and is not taken back with it: an HTTP request, another function."""


@attrs.frozen
class Position:
    """Where in the user's code something happened."""

    file: str
    """Path relative to the project, with forward slashes."""
    line: int
    """1-based line number."""
    function: str
    """Qualified name of the function, as the language gives it."""


@attrs.frozen
class HostCallError:
    """A host call that failed, as the guest sees it raised."""

    name: str
    """Class of failure, e.g. ``DatabaseError``, ``HttpTimeout``, ``GrantRefused``."""
    message: str
    """One sentence for the person who reads the function's traceback."""
    code: str = ""
    """A finer code: an SQLSTATE for the database, an ``FLX`` code for a refusal."""
    details: bytes = b"{}"
    """What is known beyond the message, as a canonical JSON object: host, limit, constraint ..."""


@attrs.frozen
class HostCallRequest:
    """A question."""

    seq: int
    """Number of the call in its execution, from 1; the guest counts."""
    name: str
    """Interface and operation: ``db.query``, ``http.request``."""
    arguments: bytes
    """A JSON array in canonical form."""
    task: int = 0
    """Which of the guest's concurrent tasks asks, numbered in the order of their creation; 0 is the first."""
    position: Position | None = None
    """The innermost line of the user's code on the stack, when the guest tells."""
    one_way: bool = False
    """The guest waits for no answer (log lines)."""
    fuel: int | None = None
    """How far the guest had come when it asked: what it had burnt since its start, by the count of its sandbox and
    never by its own word. None for kinds of sandbox that do not count."""


@attrs.frozen
class HostCallResult:
    """The host's answer."""

    value: bytes = b"null"
    """The answer as JSON; ``null`` when ``error`` is set."""
    error: HostCallError | None = None
    """What the guest sees raised, or None for success."""
    elapsed_ns: int = 0
    """From the question's arrival to the answer, in nanoseconds."""
    now_ns: int = 0
    """The guest's clock as of this answer, nanoseconds since the Unix epoch."""
    held_up_ns: int = 0
    """How much of ``elapsed_ns`` the question lay here, because we were held up. No limit of the call counts that."""

    @property
    def performed_ns(self) -> int:
        """How long the host took: what a limit of the call is compared with."""
        return self.elapsed_ns - self.held_up_ns


@attrs.frozen
class HostCall:
    """A question and, when it came, its answer."""

    request: HostCallRequest
    result: HostCallResult | None
    """None: the execution ended while the host was still at work."""
    started_ns: int
    """When the question arrived, in nanoseconds since the execution's start."""
    answered: int | None = None
    """Position among all answers in the order the guest received them, from 1; None when unanswered."""
