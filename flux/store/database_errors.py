"""What can go wrong between Flux and a database, and what a database says by itself.

Postgres speaks in reports: an error ends a statement, a notice does not, and
both have the same fields. A `Notice` is such a report, frozen; a
`DatabaseError` carries the one that ended the statement. The other errors are
Flux's own: no connection, a connection that broke, an argument that fits no
parameter, an answer that cannot be read.

`DatabaseError`, `BadQueryArgument` and `UnreadableAnswer` belong to no branch:
whose move it is depends on whose statement it was, and only the caller knows.
"""

from collections.abc import Mapping

import attrs

from flux.errors import BrokenInvariantError, FluxError, OperatorError


@attrs.frozen(kw_only=True)
class Notice:
    """One report of the server's: https://www.postgresql.org/docs/current/protocol-error-fields.html."""

    severity: str
    """ERROR, FATAL, PANIC, WARNING, NOTICE, DEBUG, INFO or LOG, never translated."""

    sqlstate: str
    """Five characters that say what it is; ``23505`` is a unique violation."""

    message: str
    """What happened, in the server's language."""

    detail: str | None = None
    """More about it; Flux's own notices carry their payload here."""

    hint: str | None = None
    """What one might do."""

    position: int | None = None
    """Where in the statement, in characters from 1."""

    where: str | None = None
    """The functions it came through, innermost first, a line each."""

    schema: str | None = None
    """Schema of the object concerned."""

    table: str | None = None
    """Table concerned."""

    column: str | None = None
    """Column concerned."""

    data_type: str | None = None
    """Data type concerned."""

    constraint: str | None = None
    """Constraint concerned; indexes count as constraints here."""

    routine: str | None = None
    """Function in the server's own source that made the report."""


def notice_of(fields: Mapping[str, str]) -> Notice:
    """The report whose fields came over the wire under their one-letter codes."""
    get = fields.get
    position = get("P")
    return Notice(
        severity=get("V") or get("S") or "",
        sqlstate=get("C") or "",
        message=get("M") or "",
        detail=get("D"),
        hint=get("H"),
        position=int(position) if position else None,
        where=get("W"),
        schema=get("s"),
        table=get("t"),
        column=get("c"),
        data_type=get("d"),
        constraint=get("n"),
        routine=get("R"),
    )


class DatabaseError(FluxError):
    """The database refused a statement; ``report`` holds every field of what it said."""

    code = "FLX221"

    def __init__(self, report: Notice) -> None:
        lines = [f"{report.severity} {report.sqlstate}: {report.message}", report.detail or ""]
        super().__init__("\n        ".join(line for line in lines if line), remedy=report.hint or "")
        self.report = report
        """What the server said, whole."""

    @property
    def sqlstate(self) -> str:
        """The error's class and kind, five characters."""
        return self.report.sqlstate

    @property
    def detail(self) -> str | None:
        """More about it."""
        return self.report.detail

    @property
    def hint(self) -> str | None:
        """What one might do."""
        return self.report.hint

    @property
    def position(self) -> int | None:
        """Where in the statement, in characters from 1."""
        return self.report.position

    @property
    def schema(self) -> str | None:
        """Schema of the object concerned."""
        return self.report.schema

    @property
    def table(self) -> str | None:
        """Table concerned."""
        return self.report.table

    @property
    def column(self) -> str | None:
        """Column concerned."""
        return self.report.column

    @property
    def constraint(self) -> str | None:
        """Constraint concerned."""
        return self.report.constraint


class CannotConnect(OperatorError):
    """No connection to the database: not reached, not let in, or not the right server."""

    code = "FLX202"

    def __init__(self, message: str, *, remedy: str, sqlstate: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.sqlstate = sqlstate
        """What the server said, as ``57P03`` while it starts up; None if it said nothing."""


class ConnectionLost(OperatorError):
    """A connection broke, or was closed, before the answer came."""

    code = "FLX222"


class CommitUnknown(ConnectionLost):
    """A connection broke during COMMIT: the transaction may or may not have been committed."""

    code = "FLX223"


class BadQueryArgument(FluxError):
    """An argument does not fit its parameter, or there are too many or too few of them."""

    code = "FLX224"


class UnreadableAnswer(FluxError):
    """The statement ran, but its answer holds something that has no value in Python."""

    code = "FLX225"


class PoolClosed(FluxError):
    """A connection was asked of a pool that is closed."""

    code = "FLX226"


class StatementRefused(FluxError):
    """A statement that this door does not carry, COPY to or from the client for one."""

    code = "FLX227"


class AnswerTooLarge(FluxError):
    """An answer grew beyond what its connection may receive; the statement was ended."""

    code = "FLX228"


class DriverMismatch(OperatorError):
    """The installed asyncpg is not the one whose inner parts Flux uses."""

    code = "FLX220"


class ConnectionBusy(BrokenInvariantError):
    """Two tasks used one connection at the same time."""

    code = "FLX922"


_AWAY = frozenset({"FLX202", "FLX220", "FLX222", "FLX223"})
_AWAY_SQLSTATES = ("08", "53", "57P")
"""Of a server that can't just now: connections, resources, shutdown and start."""


def is_away(code: str) -> bool:
    """Whether this is the code, an SQLSTATE or one of ours, of a database that can't be used now and may be later."""
    return code in _AWAY or code.startswith(_AWAY_SQLSTATES)
