"""What `flux.why` explains from, and what an explanation is made of.

`Evidence` is everything that was looked up about one execution, and what could
not be: an explanation is only as good as what it was given, so a look-up that
failed is a part of the evidence and is said aloud. Whoever gathers it does the
waiting; these are plain values.
"""

import uuid

import attrs

from flux.execution import Execution

RECORDED = "●"
"""Mark of a fact that the record holds."""
INFERRED = "≈"
"""Mark of what a rule concludes from recorded facts; the rule's name stands beside it."""


@attrs.frozen
class Count:
    """How often executions of one function failed in the same way on one version of the code."""

    sha: str
    failures: int
    """Executions with the failure's signature."""
    total: int
    """All executions of the function."""


@attrs.frozen
class OtherFailure:
    """Another execution that the same host failed, at about the same time."""

    name: str
    started_at_ns: int
    """Nanoseconds since the Unix epoch."""
    function: str


@attrs.frozen
class RowWriter:
    """Who last wrote a row, or a column of it, before this execution met it."""

    call: int
    """Seq of this execution's call that read the row, or that failed on it (a unique violation)."""
    schema: str
    table: str
    key: str
    """The primary key as a JSON object, e.g. ``{"id":42}``."""
    column: str | None
    """The column that is meant; None for the row as a whole."""
    value: str | None
    """What was written, as JSON: the column's value, or the row when ``column`` is None."""
    before: str | None = None
    """What it was before that, likewise; None when there was no row."""
    execution: str | None = None
    """Name of the execution that wrote it; None when it is not known or was outside Flux."""
    function: str | None = None
    """Function of that execution."""
    sha: str | None = None
    """Code of that execution."""
    at_ns: int = 0
    """When, in nanoseconds since the Unix epoch; 0 when unknown."""
    outside: bool = False
    """It was written on a connection that was not Flux's."""
    migration: str | None = None
    """Path of the project's migration that wrote it."""
    execution_id: uuid.UUID | None = None
    """Id of that execution."""
    xid: int = 0
    """Transaction that wrote it; 0 when unknown."""
    ordinal: int = 0
    """Number of the statement within the transaction."""


@attrs.frozen
class OriginStep:
    """An execution that had a value in its hands, on the way from where the value came to where it was met."""

    execution: str | None
    """Name; None when it was no execution."""
    function: str | None
    call: int | None
    """Seq of its host call that wrote the value, or that handed it on; None when not known."""
    writer: RowWriter | None = None
    """What it wrote; None where it handed the value to another execution."""
    child: str | None = None
    """Name of the execution that it pushed or invoked."""
    read_call: int | None = None
    """Seq of its host call that read the value before; None where it had it from elsewhere."""


@attrs.frozen
class Origin:
    """The way that a value had come which this execution read."""

    met: RowWriter
    """Who wrote what was read here."""
    steps: tuple[OriginStep, ...]
    """Back in time; the first is that of ``met``."""
    end: str
    """Where the last of them had it from, as half a sentence."""
    is_known: bool = True
    """False where the way is lost there: ``end`` says why."""


@attrs.frozen
class Evidence:
    """Everything that is known about one execution, and what could not be looked up."""

    execution: Execution
    """With all its mutations, committed ones included."""
    count: Count | None = None
    """This failure on the code that ran; None when it was not counted."""
    previous_count: Count | None = None
    """This failure on the deployment before; None when there is none, or it was not counted."""
    host_failures: tuple[OtherFailure, ...] = ()
    """Other executions that a host of `flux.failure.list_failed_hosts` failed, from earliest to latest."""
    peers: tuple[Execution, ...] = ()
    """Executions of the same function and code that passed, the nearest in time first."""
    row_writers: tuple[RowWriter, ...] = ()
    """Who wrote the rows that this execution read or collided with."""
    retried_as: str | None = None
    """Name of the execution that was the next attempt of the same request, when there was one."""
    job_state: str | None = None
    """What has become of the job that this was an attempt at, as `flux.jobs.State` names it; None without one, or when
    it was done so long ago that it is gone."""
    unavailable: tuple[str, ...] = ()
    """What could not be looked up and why, each as half a sentence: ``the counts: FLX222 ...``."""
    origins: tuple[Origin, ...] = ()
    """Where values that were read here had come from, as far as they could be followed."""


@attrs.frozen
class Fact:
    """One line of an explanation."""

    mark: str
    """`RECORDED` or `INFERRED`."""
    rule: str
    """Name of the rule that says it: see ``docs/why.md``."""
    text: str
    """One line. Recorded text in it has passed the sanitiser."""
    call: int | None = None
    """Seq of the host call that shows it: ``flux trace ID --call N``."""
