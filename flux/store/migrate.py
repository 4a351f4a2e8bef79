"""Bringing a database to where Flux needs it: its own schema, the capture, the guests, the users' migrations.

`prepare` is what a supervisor runs at each start, and all of it can be run again:

1. Flux's own migrations, ``flux/store/migrations/NNN_name.sql``, in order;
   and where the database was restored from elsewhere, the numbers in it (`flux.store.restored`);
2. the event triggers that capture new tables by themselves, where this role may have them;
3. the capture's triggers on every table that lacks them;
4. the partitions of the coming days;
5. what is still not captured, and why: that is reported, not hidden.

Each migration, ours or the users', is one transaction: all of it is there or nothing. Two
programs that migrate at once take turns. A migration that was applied is known by its digest,
and one that was changed since is refused: two databases with the same history must be the same.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from flux.errors import BrokenInvariantError, OperatorError
from flux.migration_plan import MigrationFile, digest_migration
from flux.sql_script import SqlStatement, get_line, split_script
from flux.store.postgres import (
    BadQueryArgument,
    Connection,
    DatabaseError,
    StatementRefused,
    quote_identifier,
)
from flux.store.queries import QUERIES
from flux.store.restored import Adopted, adopt
from flux.store.rights import Rights, read_rights

SERVER_VERSION_MIN = 140000
"""PostgreSQL 14, as ``server_version_num`` says it."""

DAYS_AHEAD = 7
"""For so many days there are partitions before their first record comes."""

_FOLDER = Path(__file__).with_name("migrations")
_TRANSACTION_WORDS = frozenset(
    {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"}
)


class ServerTooOldError(OperatorError):
    """The database server is older than Flux can use."""

    code = "FLX230"


class WrongEncodingError(OperatorError):
    """The database does not hold Unicode."""

    code = "FLX231"


class SchemaNotInstalledError(OperatorError):
    """Flux's own schema can't be made here."""

    code = "FLX232"


class SchemaMismatchError(OperatorError):
    """The database's Flux schema is not one that this Flux made or knows."""

    code = "FLX233"


class MigrationFailedError(OperatorError):
    """A migration of the project failed; nothing of it stays."""

    code = "FLX234"


class MigrationChangedError(OperatorError):
    """A migration of the project was changed after it had been applied."""

    code = "FLX235"


class GuestRoleError(OperatorError):
    """The role that functions use in the database can't be made."""

    code = "FLX236"


UserMigration = MigrationFile
"""A project's migration; `flux.project.Migration` is one."""


@attrs.frozen
class SchemaMigration:
    """One of Flux's own migrations."""

    version: int
    """Version of the schema once it is applied, from 1."""
    name: str
    """The file's name without its number."""
    sql: str
    """What it does."""

    @property
    def sha256(self) -> str:
        """Digest of ``sql``, in hexadecimal."""
        return digest_migration(self.sql)


@attrs.frozen
class Prepared:
    """How a database stands after `prepare`."""

    installed_version: int
    """Version of Flux's schema."""
    rights: Rights
    """What the role may do there beyond what is needed."""
    coverage: tuple[tuple[str, str, str], ...]
    """(schema, table, reason) of tables whose changes are not wholly captured; empty is what one wants."""
    adopted: Adopted | None = None
    """What was made of a database that had been restored from elsewhere."""


async def prepare(connection: Connection) -> Prepared:
    """Bring the database to where Flux needs it, and say how it stands."""
    version = await migrate(connection)
    adopted = await adopt(connection)
    async with connection.transaction():
        # Two servers that start at once would both find that there are none.
        await connection.fetch_value(QUERIES.lock_migrations)
        await connection.fetch_value(QUERIES.install_event_triggers)
    await connection.fetch_value(QUERIES.track_all)
    await connection.fetch_value(QUERIES.ensure_partitions, DAYS_AHEAD)
    coverage = await connection.fetch(QUERIES.list_coverage)
    rights = await read_rights(connection)
    return Prepared(version, rights, tuple((row[0], row[1], row[2]) for row in coverage), adopted)


# --- Flux's own schema -----------------------------------------------------------------------------


def list_schema_migrations() -> tuple[SchemaMigration, ...]:
    """Return Flux's own migrations in order. A number may be missing: it was given to work that is not done."""
    migrations = []
    for path in sorted(_FOLDER.glob("*.sql")):
        number, _, name = path.stem.partition("_")
        migrations.append(SchemaMigration(int(number), name, path.read_text(encoding="utf-8")))
    versions = [migration.version for migration in migrations]
    assert versions == sorted(set(versions)), "two migrations have one number"
    return tuple(migrations)


async def migrate(connection: Connection) -> int:
    """Apply those of Flux's own migrations that are missing; return the schema's version."""
    migrations = list_schema_migrations()
    role, database = await _check_server(connection)
    while True:
        async with connection.transaction():
            await connection.fetch_value(QUERIES.lock_migrations)
            # Only now: the program that had the lock before us may have done the work.
            applied = await _list_applied(connection, database)
            _check_applied(applied, migrations, database)
            known = {version for version, _, _ in applied}
            missing = [migration for migration in migrations if migration.version not in known]
            if not missing:
                return len(applied)
            migration = missing[0]
            try:
                await connection.execute(migration.sql)
            except DatabaseError as error:
                if error.sqlstate == "42501":
                    raise SchemaNotInstalledError(
                        f'role "{role}" may not make Flux\'s schema in database "{database}": '
                        f"{error.report.message}",
                        remedy="as the database's owner: grant create on database "
                        f"{quote_identifier(database)} to {quote_identifier(role)}",
                    ) from error
                raise
            await connection.execute(
                QUERIES.add_schema_version, migration.version, migration.name, migration.sha256
            )


async def _check_server(connection: Connection) -> tuple[str, str]:
    """The role and the database that we have, once the server is found to do."""
    found = await connection.fetch_row(QUERIES.find_schema)
    assert found is not None  # It selects constants.
    if found["server_version_num"] < SERVER_VERSION_MIN:
        raise ServerTooOldError(
            f"the database runs PostgreSQL {found['server_version']}; Flux needs 14 or newer",
            remedy="upgrade the server, or let Flux run its own: leave database.url in flux.toml empty",
        )
    if found["server_encoding"] != "UTF8":
        raise WrongEncodingError(
            f'database "{found["database"]}" has encoding {found["server_encoding"]}; Flux needs UTF8',
            remedy="make one that has: createdb --encoding=UTF8 --template=template0 NAME",
        )
    if found["name_taken"] and not found["installed"]:
        raise SchemaNotInstalledError(
            f'database "{found["database"]}" has a schema "flux" that Flux did not make, or that role '
            f'"{found["role"]}" can\'t see',
            remedy="rename it (alter schema flux rename to ...), or give Flux another database",
        )
    return found["role"], found["database"]


async def _list_applied(connection: Connection, database: str) -> list[tuple[int, str, str]]:
    found = await connection.fetch_row(QUERIES.find_schema)
    if found is None or not found["installed"]:
        return []
    try:
        rows = await connection.fetch(QUERIES.list_schema_versions)
    except DatabaseError as error:
        if error.sqlstate == "42501":
            raise SchemaNotInstalledError(
                f'Flux\'s schema in database "{database}" belongs to another role: {error.report.message}',
                remedy="connect as the role that installed it",
            ) from error
        raise
    return [(row["version"], row["name"], row["sha256"]) for row in rows]


def _check_applied(
    applied: list[tuple[int, str, str]], known: tuple[SchemaMigration, ...], database: str
) -> None:
    latest, known_latest = max((version for version, _, _ in applied), default=0), known[-1].version
    if latest > known_latest:
        raise SchemaMismatchError(
            f'database "{database}" has version {latest} of Flux\'s schema; this Flux knows {known_latest}',
            remedy="a newer Flux was here: upgrade this one",
        )
    known_digests = {migration.version: migration.sha256 for migration in known}
    for version, name, sha256 in applied:
        if known_digests.get(version) != sha256:
            raise SchemaMismatchError(
                f'version {version} ({name}) of Flux\'s schema in database "{database}" is not the one that '
                "this Flux has",
                remedy="it was made by a version of Flux between releases: use that one, or another database",
            )


# --- guests ----------------------------------------------------------------------------------------


# Roles are the cluster's, and an advisory lock is a database's: a Flux that starts on another database of the same
# cluster alters the same role at the same moment, and Postgres refuses one of them.
ROLE_ATTEMPTS = 10
ROLE_PAUSE_S = 0.05
_ROLE_TAKEN_MEANWHILE = ("23505", "42710")
"""What is said where both make it: a duplicate key, or a role that exists."""
_UPDATED_MEANWHILE = re.compile("tuple concurrently (updated|deleted)")
"""What is said where both alter it. Its SQLSTATE is that of all internal errors, and it is not translated."""


async def ensure_guest(connection: Connection, tenant: str, schema: str, password: str) -> str:
    """Make or repair the login role and the schema of a tenant's functions; return the role's name."""
    attempt = 1
    while True:
        try:
            return str(await connection.fetch_value(QUERIES.ensure_guest_role, tenant, schema, password))
        except DatabaseError as error:
            if attempt == ROLE_ATTEMPTS or not _was_taken_meanwhile(error):
                raise GuestRoleError(
                    f'the database role of tenant "{tenant}" (schema "{schema}") can\'t be made: '
                    f"{error.report.message}",
                    remedy=error.hint or "Flux's role needs CREATEROLE, and CREATE on the database",
                ) from error
        # Whoever met once is not to meet again. Two sessions of a cluster have different numbers, which the golden
        # ratio spreads wide.
        await trio.sleep(ROLE_PAUSE_S * attempt * (0.5 + connection.backend_pid * 0.618034 % 1))
        attempt += 1


def _was_taken_meanwhile(error: DatabaseError) -> bool:
    if error.sqlstate == "XX000":
        return _UPDATED_MEANWHILE.fullmatch(error.report.message) is not None
    return error.sqlstate in _ROLE_TAKEN_MEANWHILE


# --- the users' migrations -------------------------------------------------------------------------


async def apply_user_migrations(
    connection: Connection, tenant: str, migrations: Sequence[UserMigration]
) -> list[str]:
    """Apply those of a project's migrations that are missing, in order; return the paths of these.

    Each is one transaction. The first that fails raises, and nothing of it stays; those before it do. The
    tables of the tenant's schema need no qualification in them.
    """
    guest = await connection.fetch_row(QUERIES.find_guest, tenant)
    if guest is None:
        raise BrokenInvariantError(f'migrations of tenant "{tenant}" come before ensure_guest()')
    done = []
    for migration in sorted(migrations, key=lambda each: each.number):
        # What it sets for its session must not reach whoever gets the connection next.
        connection.is_dirty = True
        is_new = False
        async with connection.transaction():
            await connection.fetch_value(QUERIES.lock_migrations)
            applied = {
                row["name"]: row["sha256"]
                for row in await connection.fetch(QUERIES.list_migrations_applied, tenant)
            }
            if migration.path not in applied:
                await connection.execute(f"set local search_path to {quote_identifier(guest['schema_name'])}")
                await run_migration(connection, migration)
                # What it set for its session would decide what our own statements mean.
                await connection.execute(
                    "set local session authorization default; set local role none; "
                    "set local search_path to default"
                )
                await connection.execute(
                    QUERIES.add_migration_applied, tenant, migration.path, digest_migration(migration.sql)
                )
                is_new = True
            elif applied[migration.path] != digest_migration(migration.sql):
                raise MigrationChangedError(
                    f"{migration.path} was changed after it had been applied to this database",
                    remedy="restore the file, and write the change as a new migration; "
                    "a development database can be made anew with flux dev --clean",
                )
        if is_new:
            done.append(migration.path)
            await connection.reset()
    if done:
        # Where there are no event triggers, new tables are not captured yet.
        await connection.fetch_value(QUERIES.track_all)
    return done


async def run_migration(connection: Connection, migration: UserMigration) -> None:
    """Run a migration in the transaction that is open; raise `MigrationFailedError` where a statement fails."""
    script = migration.sql.removeprefix("\ufeff")
    statements = split_script(script)
    for statement in statements:
        if _ends_transaction(statement):
            place = f"{migration.path}:{get_line(script, statement.offset)}"
            raise MigrationFailedError(
                f"{place}  {statement.words[0].upper()} in a migration: each is one transaction, Flux's own",
                remedy="take the transaction's statements out; what must be apart goes into files of its own",
            )
    for statement in statements:
        try:
            await connection.execute(statement.sql)
        except (DatabaseError, StatementRefused, BadQueryArgument) as error:
            raise _failed(migration, script, statement, error) from error


def _ends_transaction(statement: SqlStatement) -> bool:
    match statement.words:
        case ["prepare", word, *_]:
            return word == "transaction"
        case [word, *_]:
            return word in _TRANSACTION_WORDS
        case _:
            return False


def _failed(
    migration: UserMigration,
    script: str,
    statement: SqlStatement,
    error: DatabaseError | StatementRefused | BadQueryArgument,
) -> MigrationFailedError:
    offset = statement.offset
    if not isinstance(error, DatabaseError):
        return MigrationFailedError(
            f"{migration.path}:{get_line(script, offset)}  {error.message}\n"
            "nothing of this migration was kept",
            remedy=error.remedy,
        )
    if error.position is not None:
        offset += error.position - 1
    lines = [f"{migration.path}:{get_line(script, offset)}  {error.report.severity} {error.sqlstate}: "
             f"{error.report.message}"]  # fmt: skip
    lines += [error.detail] if error.detail else []
    if error.report.where:
        lines.append(re.sub(r"\s*\n\s*", "; ", error.report.where))
    lines.append("nothing of this migration was kept")
    remedy = error.hint or ""
    if error.sqlstate == "25001":  # "cannot run inside a transaction block"
        remedy = "run that statement by hand, outside of Flux's migrations"
    return MigrationFailedError(
        "\n".join(lines), remedy=remedy or "correct the file: it is applied when it is saved, or at the next start"
    )
