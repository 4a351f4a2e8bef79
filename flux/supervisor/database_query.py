"""``flux db query``: one statement of a person's, with the rights of the functions.

It runs under the guests' role, so it sees what functions see and may do what they may: nothing of Flux's own, no
DDL. Unless it is said that it writes, the transaction is READ ONLY, which holds for functions that it calls too.

The session stays that of Flux's own role, and that is meant: whoever logs in as a guest is taken for an execution
by the capture. So what a person writes is on record as what it is, a write from outside.
"""

from flux.errors import OperatorError
from flux.sql_rules import find_refusal
from flux.sql_script import split_script
from flux.store.postgres import Connection, DatabaseError, Result, quote_identifier
from flux.supervisor.database_migrate import is_installed
from flux.tenant import Tenant


class QueryRefusedError(OperatorError):
    """The statement is not one that is run here, or not in this way."""

    code = "FLX595"


class NeverPreparedError(OperatorError):
    """Flux has never been in this database, so there is nothing of a project's in it."""

    code = "FLX596"


async def run_query(connection: Connection, tenant: Tenant, sql: str, *, write: bool) -> Result:
    """Run one statement and return its whole answer; a ``write`` is committed."""
    if refusal := find_refusal(sql):
        raise QueryRefusedError(refusal, remedy="flux db shell has no such rules")
    if (count := len(split_script(sql))) != 1:
        raise QueryRefusedError(f"these are {count} statements", remedy="send one; flux db shell takes any number")
    await check_prepared(connection)
    try:
        async with connection.transaction(read_only=not write):
            await _become_guest(connection, tenant)
            return await connection.run(sql)
    except DatabaseError as error:
        if error.sqlstate == "25006":
            raise QueryRefusedError(
                f"the statement writes: {error.report.message}",
                remedy="if that is meant: flux db query --write SQL",
            ) from error
        if error.sqlstate == "42501":
            raise QueryRefusedError(
                f"functions may not do that: {error.report.message}",
                remedy="tables are changed by migrations; flux db shell has all rights of Flux's own role",
            ) from error
        raise


async def check_prepared(connection: Connection) -> None:
    """Raise unless Flux has been in this database."""
    if not await is_installed(connection):
        raise NeverPreparedError(
            "Flux has never been in this database",
            remedy="flux db migrate prepares it, and so does flux dev; or name another: --database-url URL",
        )


async def _become_guest(connection: Connection, tenant: Tenant) -> None:
    role = quote_identifier(tenant.role)
    try:
        await connection.execute(
            f"set local role {role}; set local search_path = {quote_identifier(tenant.schema)}"
        )
    except DatabaseError as error:
        if error.sqlstate != "42501":
            raise
        owner = await _find_owner(connection)
        raise QueryRefusedError(
            f'role "{owner}" may not act as {role}: {error.report.message}',
            remedy=f"as the database's owner: grant {role} to {quote_identifier(owner)}",
        ) from error


async def _find_owner(connection: Connection) -> str:
    await connection.settle()  # The transaction has failed, and answers nothing.
    return str(await connection.fetch_value("select current_user"))
