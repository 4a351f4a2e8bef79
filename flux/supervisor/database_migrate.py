"""``flux db migrate``: the project's migrations, applied by a person who has seen what they take away.

The database may be any, so two things are looked at before anything is done: whether folder and database are of one
history, and what would be lost (`flux.migration_plan`). Each migration is then one transaction, as everywhere. ``flux
deploy``, and ``flux dev`` on a database that is not its own, ask here what would be lost as well.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import attrs

from flux.errors import OperatorError
from flux.migration_plan import Drift, Loss, find_drift, find_losses, list_pending
from flux.project import Migration
from flux.store.migrate import MigrationChangedError, apply_user_migrations, ensure_guest, prepare
from flux.store.postgres import Connection
from flux.store.queries import QUERIES
from flux.supervisor.backing import derive_guest_password
from flux.tenant import Tenant


class MigrationDriftError(OperatorError):
    """The project's migrations and what was applied are not of one history."""

    code = "FLX590"


class DestructiveStepError(OperatorError):
    """What is to be done would take something away for good, and nobody said that it may."""

    code = "FLX591"


@attrs.frozen
class MigrationPlan:
    """What ``flux db migrate`` would do."""

    applied: int
    """How many migrations the database has had."""
    pending: tuple[Migration, ...]
    """Those to be applied, in order."""
    drift: tuple[Drift, ...]
    """Where folder and database cannot be of one history."""
    losses: tuple[Loss, ...]
    """What ``pending`` would take away."""


async def is_installed(connection: Connection) -> bool:
    """Whether Flux has been in this database."""
    found = await connection.fetch_row(QUERIES.find_schema)
    return found is not None and bool(found["installed"])


async def list_applied(connection: Connection, tenant: Tenant) -> dict[str, str]:
    """Return the digests of the migrations that the database has had, by name; none where Flux has never been."""
    if not await is_installed(connection):
        return {}
    rows = await connection.fetch(QUERIES.list_migrations_applied, tenant.name)
    return {row["name"]: row["sha256"] for row in rows}


async def list_applied_at(connection: Connection, tenant: Tenant) -> dict[str, datetime]:
    """Return when the database has had its migrations, by name: another answer each time that it is made anew."""
    rows = await connection.fetch(QUERIES.list_migrations_applied, tenant.name)
    return {row["name"]: row["applied_at"] for row in rows}


async def read_tables(connection: Connection, schema: str) -> dict[str, dict[str, str]]:
    """Return the types of the columns of each table of ``schema``."""
    tables: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(QUERIES.list_schema_columns, schema):
        columns = tables.setdefault(row["table_name"], {})
        if row["name"] is not None:  # A table may have no column at all.
            columns[row["name"]] = row["type"]
    return tables


async def plan_migrations(
    connection: Connection, tenant: Tenant, files: tuple[Migration, ...]
) -> MigrationPlan:
    """Say what would be done. Nothing is changed."""
    applied = await list_applied(connection, tenant)
    pending = list_pending(files, applied)
    losses = (
        find_losses(pending, await read_tables(connection, tenant.schema), tenant.schema) if pending else ()
    )
    return MigrationPlan(len(applied), pending, find_drift(files, applied), losses)


def check_plan(plan: MigrationPlan, *, allow_drift: bool, allow_destructive: bool) -> None:
    """Raise unless the plan may be carried out."""
    if changed := [drift for drift in plan.drift if drift.kind == "changed"]:
        raise MigrationChangedError(
            "\n".join(f"{drift.detail} to this database" for drift in changed),
            remedy="restore the file, and write the change as a new migration",
        )
    if plan.drift and not allow_drift:
        raise MigrationDriftError(
            "\n".join(drift.detail for drift in plan.drift),
            remedy="restore what is missing, and give what comes too early the next free number; "
            "where the order does not matter: flux db migrate --allow-drift",
        )
    if not allow_destructive:
        check_losses(plan.losses, "if that is meant: flux db migrate --allow-destructive")


def check_losses(losses: Sequence[Loss], remedy: str) -> None:
    """Raise if anything would be lost, with what to do if that is meant."""
    if losses:
        raise DestructiveStepError(
            "\n".join(str(loss) for loss in losses) + "\nnothing was applied", remedy=remedy
        )


async def carry_out(
    connection: Connection, tenant: Tenant, plan: MigrationPlan, tell: Callable[[str], None]
) -> tuple[str, ...]:
    """Apply what the plan says, ``tell`` the path of each, and return them."""
    await install(connection, tenant)
    done = []
    for migration in plan.pending:
        # Another program may have been faster; then there is nothing left to tell.
        for path in await apply_user_migrations(connection, tenant.name, [migration]):
            tell(path)
            done.append(path)
    return tuple(done)


async def install(connection: Connection, tenant: Tenant) -> None:
    """Make what Flux itself needs in the database: its schema, the capture, the role of the functions."""
    await prepare(connection)
    secret = str(await connection.fetch_value(QUERIES.get_notice_secret))
    await ensure_guest(connection, tenant.name, tenant.schema, derive_guest_password(secret, tenant))


def show_plan(plan: MigrationPlan) -> Mapping[str, object]:
    """The plan as JSON has it."""
    return {
        "applied": plan.applied,
        "pending": [migration.path for migration in plan.pending],
        "drift": [{"kind": drift.kind, "path": drift.path, "detail": drift.detail} for drift in plan.drift],
        "destructive": list_losses(plan.losses),
    }


def list_losses(losses: Sequence[Loss]) -> list[Mapping[str, object]]:
    """What is lost, as JSON has it."""
    return [{"path": loss.path, "line": loss.line, "what": loss.what} for loss in losses]
