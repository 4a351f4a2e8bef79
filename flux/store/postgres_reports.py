"""asyncpg's exceptions as Flux's errors, each with its place and the next step.

asyncpg uses one tree of classes for three things: what the server reported,
what it refuses by itself about arguments, and what went wrong inside. Who
catches an error of ours has to know which, so here they become
`DatabaseError`, `BadQueryArgument` and the rest of `flux.store.database_errors`.
"""

from flux.errors import FluxError
from flux.store.asyncpg_seam import (
    ConnectionDoesNotExistError,
    DataError,
    InterfaceError,
    PostgresError,
)
from flux.store.database_errors import (
    BadQueryArgument,
    ConnectionLost,
    DatabaseError,
    Notice,
    UnreadableAnswer,
)


def lost_connection(place: str, cause: BaseException | None, *, is_mid_statement: bool) -> ConnectionLost:
    """The error for a connection to ``place`` that is over, because of ``cause`` if that is known."""
    what = "broke before the answer came" if is_mid_statement else "is closed"
    return ConnectionLost(
        f"the connection to {place} {what}" + (f": {cause}" if cause else ""),
        remedy="see whether the server runs, and look into its log",
    )


def translate(error: Exception, place: str, lost_because: BaseException | None) -> Exception:
    """``error``, which asyncpg raised on a connection to ``place``, as one of ours."""
    match error:
        case FluxError():  # Ours already: a bound of the connection was met while asyncpg waited.
            return error
        case ConnectionDoesNotExistError():
            return lost_connection(place, error.__cause__ or lost_because, is_mid_statement=True)
        case InterfaceError() | DataError() if is_about_arguments(error):
            return BadQueryArgument(str(error.args[0]), remedy="flux explain FLX224 lists what fits what")
        case PostgresError():
            return DatabaseError(report_of(error))
        case UnicodeDecodeError():  # It may be the text of an error.
            return UnreadableAnswer(
                f"the answer cannot be read, so whether the statement ran is not known: {error}",
                remedy="let client_encoding be UTF8, and cast columns that hold other bytes to bytea",
            )
    return UnreadableAnswer(
        f"the statement ran, but its answer cannot be read: {error}",
        remedy="cast the column to text in the statement",
    )


def check_committed(tag: str | None) -> None:
    """Raise unless the server has answered COMMIT with its name."""
    if tag != "COMMIT":
        # It answers ROLLBACK, and no error, when an earlier statement had failed.
        raise DatabaseError(
            Notice(
                severity="ERROR",
                sqlstate="25P02",
                message="the transaction was rolled back at COMMIT",
                detail="A statement in it had failed before.",
            )
        )


def is_about_arguments(error: Exception) -> bool:
    """Whether asyncpg, and not the server, refused the arguments: it uses one class for both."""
    return isinstance(error, InterfaceError) or getattr(error, "severity", None) is None


def report_of(error: PostgresError) -> Notice:
    position = getattr(error, "position", None)
    return Notice(
        severity=getattr(error, "severity_en", None) or getattr(error, "severity", None) or "ERROR",
        sqlstate=error.sqlstate or "",
        message=str(error.args[0]),
        detail=error.detail,
        hint=error.hint,
        position=int(position) if position else None,
        where=error.context,
        schema=error.schema_name,
        table=error.table_name,
        column=error.column_name,
        data_type=error.data_type_name,
        constraint=error.constraint_name,
        routine=error.server_source_function,
    )
