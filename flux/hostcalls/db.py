"""``db``: the project's Postgres, one statement a call, in a transaction that Flux holds.

The function's SQL runs under its tenant's own role. Transaction control goes
through ``db.begin``, ``db.commit`` and ``db.rollback``, never through SQL, so that
the record and the data always end together.
"""

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, Database, HostCallFailed, HostCallKind, check_arguments
from flux.sql_rules import find_refusal

ISOLATION_LEVELS = ("read committed", "repeatable read", "serializable")


def _database(context: CallContext) -> Database:
    if context.database is None:
        raise HostCallFailed("DatabaseError", "this project has no database", code="FLX423")
    return context.database


def _statement(name: str, arguments: list[object]) -> tuple[str, list[object]]:
    check_arguments(name, arguments, str, list)
    sql, parameters = arguments
    assert isinstance(sql, str) and isinstance(parameters, list)
    if refusal := find_refusal(sql):
        raise HostCallFailed("StatementRefused", refusal, code="FLX424")
    return sql, parameters


async def _query(context: CallContext, arguments: list[object], seq: int) -> object:
    sql, parameters = _statement("db.query", arguments)
    result = await _database(context).run(sql, parameters, seq)
    columns, types = list(result.columns), list(result.types)
    return {"columns": columns, "types": types, "rows": result.rows, "tag": result.tag}


async def _execute(context: CallContext, arguments: list[object], seq: int) -> object:
    sql, parameters = _statement("db.execute", arguments)
    result = await _database(context).run(sql, parameters, seq)
    last = result.tag.rpartition(" ")[2]
    return {"affected": int(last) if last.isdigit() else 0, "tag": result.tag}


async def _begin(context: CallContext, arguments: list[object], seq: int) -> object:
    check_arguments("db.begin", arguments, (str, type(None)))
    (isolation,) = arguments
    if isolation is not None and isolation not in ISOLATION_LEVELS:
        levels = ", ".join(ISOLATION_LEVELS)
        raise HostCallFailed(
            "InvalidArguments", f"isolation is one of {levels}, not {isolation!r}", code="FLX425"
        )
    return await _database(context).begin(None if isolation is None else str(isolation), seq)


async def _commit(context: CallContext, arguments: list[object], seq: int) -> object:
    check_arguments("db.commit", arguments, int)
    (depth,) = arguments
    assert isinstance(depth, int)
    await _database(context).commit(depth, seq)
    return None


async def _rollback(context: CallContext, arguments: list[object], seq: int) -> object:
    check_arguments("db.rollback", arguments, int)
    (depth,) = arguments
    assert isinstance(depth, int)
    await _database(context).rollback(depth, seq)
    return None


QUERY = HostCallKind(name="db.query", effect=Effect.CHANGES, perform=_query)
"""Runs one statement and returns its rows."""

EXECUTE = HostCallKind(name="db.execute", effect=Effect.CHANGES, perform=_execute)
"""Runs one statement and returns how many rows it affected."""

BEGIN = HostCallKind(name="db.begin", effect=Effect.CHANGES, perform=_begin)
"""Opens a transaction, or a savepoint in the one that is open; returns its depth."""

COMMIT = HostCallKind(name="db.commit", effect=Effect.CHANGES, perform=_commit)
"""Ends the transaction or savepoint of this depth and keeps its changes."""

ROLLBACK = HostCallKind(name="db.rollback", effect=Effect.CHANGES, perform=_rollback)
"""Ends the transaction or savepoint of this depth and undoes its changes."""
