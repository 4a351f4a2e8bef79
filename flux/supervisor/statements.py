"""What every database of a guest's has in common: the one that serves, a replay's world, one of a replay at once.

Which transaction a statement runs in, and what it is held up for, is each one's own. What the guest hears is not: how
values of the driver's look to it, how a failure is told, and what blocks of transactions may not do.
"""

import ipaddress

from flux import values
from flux.execution import Raised
from flux.hostcalls.base import HostCallFailed, QueryResult
from flux.store.postgres import (
    AnswerTooLarge,
    BadQueryArgument,
    CannotConnect,
    ConnectionLost,
    DatabaseError,
    Interval,
    PoolClosed,
    Range,
    Result,
    StatementRefused,
    UnreadableAnswer,
    is_away,
)

ANSWER_BYTES_MAX = 32 * 2**20
"""What one statement may answer, as it comes from the server. Beyond it, the statement is ended: the answer
must be held whole to be recorded, and the guest's door takes less."""


def make_answer(result: Result) -> QueryResult:
    """Return what the guest is answered."""
    return QueryResult(
        tuple(column.name for column in result.columns),
        tuple(column.type_name for column in result.columns),
        [[outward(value) for value in row] for row in result.rows],
        result.tag,
    )


def check_isolation(asked: str | None, current: str) -> None:
    """Refuse a block that asks for another isolation than the transaction that it is a part of has."""
    if asked is not None and asked != current:
        raise HostCallFailed(
            "InvalidArguments",
            f"the transaction is open already, with isolation {current!r}: a part of it can't have {asked!r}",
            code="FLX428",
        )


def check_depth(verb: str, depth: int, innermost: int) -> None:
    """Refuse to end a block that is not the innermost one; an atomic execution's own transaction is none."""
    if depth == 0 or depth != innermost:
        raise HostCallFailed(
            "TransactionOrder",
            f"can't {verb} transaction block {depth}: the innermost open one is {innermost}; "
            "blocks of concurrent tasks must not overlap",
            code="FLX428",
        )


def describe_failure(error: Exception) -> HostCallFailed:
    """Return what the guest sees raised for a failure of its database."""
    match error:
        case HostCallFailed():
            return error
        case DatabaseError(report=report):
            details: dict[str, object] = {
                name: value
                for name in ("severity", "detail", "hint", "schema", "table", "column", "data_type", "constraint",
                             "position", "where")
                if (value := getattr(report, name)) is not None
            }  # fmt: skip
            message = report.message
            if report.sqlstate == "25P02":
                message += (
                    "; an earlier statement failed. To go on after one, put it into ctx.db.transaction()"
                )
            return HostCallFailed("DatabaseError", message, code=report.sqlstate, details=details)
        case AnswerTooLarge():
            details = {"answer_bytes_max": ANSWER_BYTES_MAX}
            return HostCallFailed(
                "AnswerTooLarge", f"{error.message}; {error.remedy}", code="FLX427", details=details
            )
        case StatementRefused():
            return HostCallFailed("StatementRefused", error.message, code=error.code)
        case BadQueryArgument() | UnreadableAnswer() | ConnectionLost() | CannotConnect() | PoolClosed():
            return HostCallFailed("DatabaseError", error.message, code=error.code)
    raise error


def commit_failed(code: str, message: str) -> Raised:
    """Return the outcome of a function that returned and whose transaction did not come to its end."""
    text = f"ERROR {code}: {message}"
    if is_away(code):
        return Raised("CommitFailed", text, status=503, code="OVERLOADED")
    return Raised("CommitFailed", text)


def inward(value: object) -> object:
    """A value of the guest's as the driver takes it."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, list):
        return [inward(item) for item in value]
    if isinstance(value, values.Range):
        if value.empty:
            return Range(empty=True)
        return Range(
            inward(value.lower), inward(value.upper),
            lower_inc=value.bounds[0] == "[", upper_inc=value.bounds[1] == "]",
        )  # fmt: skip
    if isinstance(value, values.Interval):
        return Interval(value.months, value.days, value.microseconds)
    return value


def outward(value: object) -> object:
    """A value of the driver's in terms of `flux.values`."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, list | tuple):
        return [outward(item) for item in value]
    if isinstance(value, dict):
        return {key: outward(item) for key, item in value.items()}
    if isinstance(value, Range):
        if value.isempty:
            return values.Range(empty=True)
        bounds = ("[" if value.lower_inc else "(") + ("]" if value.upper_inc else ")")
        return values.Range(outward(value.lower), outward(value.upper), bounds)
    if isinstance(value, Interval):
        return values.Interval(value.months, value.days, value.microseconds)
    if isinstance(value, _ADDRESSES):
        return str(value)
    return value


_SCALARS = frozenset({str, int, bool, type(None), float, bytes})
_ADDRESSES = (
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface, ipaddress.IPv6Interface,
    ipaddress.IPv4Network, ipaddress.IPv6Network,
)  # fmt: skip
