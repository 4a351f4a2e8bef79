"""A database of its own for executions that run again at once, and nothing of production in it to be harmed.

A world (`flux.store.world`) is one transaction, and what meets in a race are several. So for
these there is an *ephemeral database* on the same server: the tenant's schema made anew, with
its constraints, triggers and rights, filled with the rows of a world. It holds no table of
production, a statement can name none of another database, and the role that runs there has
rights on nothing else.

Three parts, opened in this order and closed in the reverse::

    place      a name, two roles and a lock that says that somebody is using them
    original   the schema and its rows, as of one snapshot; made once
    copies     one for each run but the last, made by the server from the original and dropped after it

All in it belongs to a role that can't log in and has no other rights, not to Flux's own: a function
with SECURITY DEFINER must not get to do there what Flux may do.

What a crash leaves behind is found by its name. The lock is in production's database and is let go by the
server when its holder dies: so what can be locked is nobody's, and is dropped.

Columns whose values PostgreSQL makes up (numbers of sequences, times, random ids) are *given* the values
of the record, statement by statement, through a setting. Without one they make up their own.
"""

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from flux.errors import OperatorError
from flux.sql_world import WORLD_SCHEMA, rewrite
from flux.store.ephemeral_ddl import CHANCE, EPHEMERAL_SQL, find_needed_tables, turn_statement
from flux.store.migrate import UserMigration, run_migration
from flux.store.postgres import (
    CannotConnect,
    Connection,
    ConnectionLost,
    ConnectOptions,
    DatabaseError,
    Pool,
    connect,
    quote_identifier,
)
from flux.store.queries import QUERIES

PREFIX = "flux_rehearsal_"
ROWS_MAX = 1_000_000
"""Rows of one table that are copied at most."""
BATCH_ROWS = 500
MAKE_S_MAX = 120.0
"""How long making the original may take."""
DROP_S_MAX = 30.0


class EphemeralDatabaseError(OperatorError):
    """There can be no database for executions to run again at once."""

    code = "FLX315"
    exit_code = 6


@attrs.frozen
class Column:
    """A column of a table, as far as its values go."""

    name: str
    type: str
    is_generated: bool
    default: str | None
    """What gives its value where nobody does; None when that is null."""
    sequence: str | None
    """The sequence that belongs to it, qualified."""

    @property
    def is_given(self) -> bool:
        """Whether its default is another value each time, so that the record's are given to it."""
        return self.default is not None and (
            "(" in self.default or self.default.startswith(("CURRENT_", "LOCAL"))
        )


@attrs.frozen
class Original:
    """The database that copies are made of."""

    name: str
    """Of the database."""
    role: str
    """Who runs statements in the copies."""
    columns: Mapping[str, tuple[Column, ...]]
    """By table; partitions are no tables here."""
    filled: frozenset[str]
    """Tables that have their rows. The others are empty, and nothing may be asked of them."""
    notes: tuple[str, ...]
    """What is not as in production, a sentence each."""


class Place:
    """See the module; from `open_place`."""

    def __init__(
        self, owner: Pool, schema: str, guest_role: str, name: str, found: Mapping[str, Any]
    ) -> None:
        self._options = owner.options
        self._schema = schema
        self._guest_role = guest_role
        self._found = found
        self._copies = 0
        self._password = secrets.token_urlsafe(24)
        self.name = name
        self.role = name
        self._owner_role = f"{name}_owner"

    async def make(
        self,
        production: Connection,
        world: Connection,
        names: frozenset[str],
        migrations: Sequence[UserMigration] = (),
    ) -> Original:
        """Make the original of the rows that ``world`` shows; ``names`` are those that statements use.

        ``production`` is a connection of Flux's role to the tenant's database; ``world`` has a world's
        transaction open.
        ``migrations`` are the code's own that production has not had yet.
        """
        try:
            with trio.fail_after(MAKE_S_MAX):
                return await self._make(production, world, names, migrations)
        except trio.TooSlowError:
            raise EphemeralDatabaseError(
                f"it took longer than {MAKE_S_MAX:g} s to copy the tables",
                remedy="a narrower window touches fewer tables; or replay one execution at a time",
            ) from None
        except DatabaseError as error:
            raise EphemeralDatabaseError(
                f"the database server refused a part of it: {error.report.message}",
                remedy="replay without --interleave, one execution at a time",
            ) from error

    @contextlib.asynccontextmanager
    async def open_run(
        self, original: Original, connections: int, *, is_last: bool
    ) -> AsyncIterator[tuple[Pool, Pool]]:
        """Give a database for one run: connections of the run's role, and of Flux's own to look at it.

        The last run has the original itself, and leaves it changed.
        """
        name = original.name
        async with contextlib.AsyncExitStack() as stack:
            if not is_last:
                self._copies += 1
                name = f"{self.name}_{self._copies}"
                stack.push_async_callback(drop_databases, self._options, [name], [])
                await self._create(name, original.name)
            guests = Pool(
                attrs.evolve(self._options, user=self.role, password=self._password, database=name),
                connections,
            )
            owner = Pool(attrs.evolve(self._options, database=name), 2)
            stack.push_async_callback(owner.aclose)
            stack.push_async_callback(guests.aclose)
            yield guests, owner

    async def drop(self, original: Original) -> None:
        """Drop ``original``, so that another can be made in this place."""
        await drop_databases(self._options, [original.name], [])

    async def make_roles(self) -> None:
        """Make the role that runs there and the one that owns it all."""
        role, owner = quote_identifier(self.role), quote_identifier(self._owner_role)
        path = f"{WORLD_SCHEMA}, pg_catalog, {quote_identifier(self._schema)}"
        nothing = "nosuperuser nocreatedb nocreaterole noreplication nobypassrls noinherit"
        connection = await connect(self._options)
        try:
            await connection.execute(
                # As the owner of a database it owns "public" there: by inheritance, and of nothing else.
                f"create role {owner} nologin {nothing.removesuffix('noinherit')} inherit; "
                f"create role {role} login {nothing} password '{self._password}'; "
                f"alter role {role} set search_path = {path}"
            )
            if not self._found["is_superuser"]:
                # To make what is to be the owner's, and to end the sessions of the other.
                await connection.execute(f"grant {owner}, {role} to current_user")
        except DatabaseError as error:
            raise EphemeralDatabaseError(
                f"its roles can't be made: {error.report.message}", remedy="Flux's role needs CREATEROLE"
            ) from error
        finally:
            await connection.aclose()

    async def _create(self, name: str, template: str) -> None:
        """Create a database that nobody but the run's role may enter, beside those who may enter any."""
        properties = describe_locale(self._found["properties"]) if template == "template0" else ""
        connection = await connect(self._options)
        try:
            quoted, role = quote_identifier(name), quote_identifier(self.role)
            await connection.execute(
                f"create database {quoted} owner {quote_identifier(self._owner_role)} "
                f"template {quote_identifier(template)}{properties}"
            )
            await connection.execute(
                f"revoke all on database {quoted} from public; grant connect, temporary on database {quoted} to {role}"
            )
        except DatabaseError as error:
            raise EphemeralDatabaseError(
                f"the database {name} can't be made: {error.report.message}",
                remedy="see that the server has room and lets Flux's role create databases",
            ) from error
        finally:
            await connection.aclose()

    async def _make(
        self,
        production: Connection,
        world: Connection,
        names: frozenset[str],
        migrations: Sequence[UserMigration],
    ) -> Original:
        async with production.transaction(read_only=True):
            await production.execute("set local search_path = ''")
            ddl = await production.fetch(
                QUERIES.list_ephemeral_ddl, self._schema, self._guest_role, self.role
            )
            rows = await production.fetch(QUERIES.list_ephemeral_columns, self._schema)
            extensions = await production.fetch(QUERIES.list_ephemeral_extensions)
            neighbours = await production.fetch(QUERIES.list_ephemeral_neighbours, self._schema)
            texts = await production.fetch(QUERIES.list_ephemeral_texts, self._schema)
            chance = await production.fetch(QUERIES.list_ephemeral_chance, list(CHANCE))
        columns = _read_columns(rows)
        filled = find_needed_tables(
            names,
            frozenset(columns),
            [(row["table_name"], row["neighbour"], row["body"]) for row in neighbours],
            [(row["name"], row["body"]) for row in texts],
        )
        await self._create(self.name, "template0")
        connection = await connect(attrs.evolve(self._options, database=self.name))
        try:
            notes = await self._make_extensions(connection, extensions)
            schema = quote_identifier(self._schema)
            owner = quote_identifier(self._owner_role)
            role = quote_identifier(self.role)
            await connection.execute(f"set role {owner}")
            try:
                await connection.execute(
                    f"create schema if not exists {schema}; alter schema {schema} owner to {owner}; "
                    f"revoke all on schema {schema} from public; grant usage on schema {schema} to {role}"
                )
            except DatabaseError as error:
                if error.sqlstate != "42501":
                    raise
                # "public" of PostgreSQL 14 is the superuser's, and everybody may use it.
            await connection.execute(
                f"{EPHEMERAL_SQL}; grant usage on schema {WORLD_SCHEMA} to {role}; "
                # Texts of functions are read when they are called, by then all is there.
                f"set check_function_bodies = off; {'; '.join(row['statement'] for row in chance)}"
            )
            await connection.execute(f"set search_path = {WORLD_SCHEMA}, pg_catalog")
            phases: dict[int, list[tuple[str, str, str]]] = {}
            for row in ddl:
                statement = turn_statement(row["kind"], row["statement"], self._schema)
                phases.setdefault(row["phase"], []).append((row["kind"], row["name"], statement))
            notes += await _run_all(connection, phases.get(1, []))
            for table in sorted(filled):
                await _copy_rows(world, connection, self._schema, table, columns[table])
            await self._make_defaults(connection, rows)
            notes += await _run_all(connection, phases.get(2, []))
            notes += await _run_all(connection, phases.get(3, []))
            if migrations:
                made = await self._migrate(connection, migrations, columns)
                # What they make is empty as it would be, so it lacks nothing.
                columns, filled = made, filled | (made.keys() - columns.keys())
        finally:
            await connection.aclose()
        return Original(self.name, self.role, columns, filled, tuple(notes))

    async def _migrate(
        self,
        connection: Connection,
        migrations: Sequence[UserMigration],
        before: Mapping[str, Sequence[Column]],
    ) -> dict[str, tuple[Column, ...]]:
        schema, role = quote_identifier(self._schema), quote_identifier(self.role)
        await connection.execute(
            # What is made goes into the first; the time is that of then.
            f"set search_path = {schema}, {WORLD_SCHEMA}, pg_catalog; "
            f"alter default privileges in schema {schema} grant select, insert, update, delete on tables to {role}; "
            f"alter default privileges in schema {schema} grant usage, select on sequences to {role}"
        )
        for migration in migrations:
            async with connection.transaction():
                await run_migration(connection, migration)
        await connection.execute("set search_path = ''")
        rows = await connection.fetch(QUERIES.list_ephemeral_columns, self._schema)
        known = {(table, column.name) for table, columns in before.items() for column in columns}
        await connection.execute(f"set search_path = {WORLD_SCHEMA}, pg_catalog")
        await self._make_defaults(
            connection, [row for row in rows if (row["table_name"], row["column_name"]) not in known]
        )
        return _read_columns(rows)

    async def _make_extensions(
        self, connection: Connection, extensions: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        notes = []
        for row in extensions:
            name, place = quote_identifier(row["name"]), quote_identifier(row["schema_name"])
            if not row["trusted"]:
                # It may reach files or other servers, and that is what must not be here.
                notes.append(f"extension {row['name']} is not there: it may reach out of the database")
                continue
            await connection.execute(
                f"create schema if not exists {place}; create extension {name} schema {place} cascade; "
                f"grant usage on schema {place} to {quote_identifier(self._owner_role)}, {quote_identifier(self.role)}"
            )
        return notes

    async def _make_defaults(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let columns make up their values unless they are given one; let sequences stand behind all that is there."""
        for row in rows:
            table = f"{quote_identifier(self._schema)}.{quote_identifier(row['table_name'])}"
            name = quote_identifier(row["column_name"])
            column = _read_column(row)
            if column.is_generated:
                continue
            if row["sequence_name"] is not None and not row["is_partition"]:
                await connection.execute(f"alter sequence {row['sequence_name']} owned by {table}.{name}")
                # As far as is known: rows whose number came from it are given theirs.
                await connection.execute(
                    f"select pg_catalog.setval('{_escape(row['sequence_name'])}', "
                    f"greatest((select pg_catalog.max({name}) from {table}), "
                    "(select seqstart from pg_catalog.pg_sequence where seqrelid = "
                    f"'{_escape(row['sequence_name'])}'::pg_catalog.regclass)) + {GIVEN_ROOM})"
                )
            if column.default is None:
                continue
            default = rewrite(column.default, self._schema, frozenset())
            if column.is_given:
                key = _escape(f"{row['table_name']}.{row['column_name']}")
                default = f"coalesce({WORLD_SCHEMA}.given('{key}')::{column.type}, {default})"
            await connection.execute(f"alter table {table} alter column {name} set default {default}")


GIVEN_ROOM = 1000
"""Numbers of a sequence that are left to those which the record gives: what is made up meets none of them."""


@contextlib.asynccontextmanager
async def open_place(owner: Pool, schema: str, guest_role: str) -> AsyncIterator[Place]:
    """Give a place for ephemeral databases, and drop all that was made there at the end."""
    async with owner.acquire() as connection:
        found = await connection.fetch_row(QUERIES.find_ephemeral_place)
        assert found is not None, "a role is connected to a database"
        if not found["may_create"]:
            raise EphemeralDatabaseError(
                f'role "{found["role"]}" may not create databases, and executions do not run again in production\'s',
                remedy=f"alter role {quote_identifier(found['role'])} createdb",
            )
        name = f"{PREFIX}{found['instance']}_{secrets.token_hex(5)}"
        assert await connection.fetch_value(QUERIES.lock_ephemeral, name), "a name drawn at random is free"
        place = Place(owner, schema, guest_role, name, found)
        try:
            await place.make_roles()
            yield place
        finally:
            with trio.CancelScope(shield=True):
                await drop_databases(owner.options, [name], [place.role, place.role + "_owner"])
                if not connection.is_closed:
                    with contextlib.suppress(ConnectionLost):  # Then the server has let go of it.
                        await connection.fetch_value(QUERIES.unlock_ephemeral, name)


async def drop_leftovers(connection: Connection, options: ConnectOptions) -> list[str]:
    """Drop what a supervisor that died has left; return the names of its places.

    ``connection`` is Flux's own to the tenant's database. Those that somebody is using are left alone.
    """
    found = await connection.fetch_row(QUERIES.find_ephemeral_place)
    assert found is not None, "a role is connected to a database"
    prefix = f"{PREFIX}{found['instance']}_"
    rows = await connection.fetch(QUERIES.list_ephemeral, prefix)
    places: dict[str, list[tuple[str, bool]]] = {}
    for row in rows:
        place = prefix + row["name"].removeprefix(prefix).partition("_")[0]
        places.setdefault(place, []).append((row["name"], row["is_database"]))
    dropped = []
    for place, names in places.items():
        if not await connection.fetch_value(QUERIES.lock_ephemeral, place):
            continue
        try:
            is_gone = await drop_databases(
                options,
                [name for name, is_database in names if is_database],
                [name for name, is_database in names if not is_database],
            )
        finally:
            await connection.fetch_value(QUERIES.unlock_ephemeral, place)
        if is_gone:
            dropped.append(place)
    return dropped


async def drop_databases(options: ConnectOptions, databases: Sequence[str], roles: Sequence[str]) -> bool:
    """Drop databases, whoever is in them, and then roles that own nothing any more; say whether all are gone.

    What can't be dropped now, because the server is gone or is too busy, is found by `drop_leftovers`.
    """
    with trio.move_on_after(DROP_S_MAX, shield=True):
        with contextlib.suppress(CannotConnect, ConnectionLost, DatabaseError):
            connection = await connect(options)
            try:
                for name in databases:
                    await connection.execute(f"drop database if exists {quote_identifier(name)} with (force)")
                for name in roles:
                    await connection.execute(f"drop role if exists {quote_identifier(name)}")
                return True
            finally:
                await connection.aclose()
    return False


async def _run_all(connection: Connection, statements: Sequence[tuple[str, str, str]]) -> list[str]:
    """Run statements in whatever order works; return a note on each object that can't be made and can be missed.

    Whatever else can't be made is refused: a replay without it would prove nothing.
    """
    left, failed = list(statements), dict[tuple[str, str, str], DatabaseError]()
    async with connection.transaction():
        while left:
            failed = {}
            for statement in left:
                try:
                    async with connection.transaction():
                        await connection.execute(statement[2])
                except DatabaseError as error:
                    failed[statement] = error
            if len(failed) == len(left):
                break
            left = list(failed)
    notes = []
    for (kind, name, _), problem in failed.items():
        if kind not in ("function", "view"):
            raise EphemeralDatabaseError(
                f"{kind} {name} can't be made there: {problem.report.message}",
                remedy="replay without --interleave, one execution at a time",
            )
        notes.append(f"{kind} {name} is not there: {problem.report.message}")
    return notes


async def _copy_rows(
    world: Connection, connection: Connection, schema: str, table: str, columns: Sequence[Column]
) -> None:
    """Copy a table's rows as JSON, the form in which the log of changes has them too."""
    names = ", ".join(quote_identifier(column.name) for column in columns if not column.is_generated)
    place = f"{quote_identifier(schema)}.{quote_identifier(table)}"
    records = f"pg_catalog.json_populate_recordset(null::{place}, $1::text::json)"
    insert = f"insert into {place} ({names}) select {names} from {records}"
    await world.execute(
        f"declare flux_rows no scroll cursor for select pg_catalog.to_json(flux__r)::pg_catalog.text as image "
        f"from {quote_identifier(table)} flux__r"
    )
    count = 0
    while rows := await world.fetch(f"fetch {BATCH_ROWS} from flux_rows"):
        count += len(rows)
        if count > ROWS_MAX:
            raise EphemeralDatabaseError(
                f"{table} has more than {ROWS_MAX:,} rows, too many to copy",
                remedy="replay without --interleave, one execution at a time",
            )
        await connection.execute(insert, "[" + ",".join(row["image"] for row in rows) + "]")
    await world.execute("close flux_rows")


def _read_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Column, ...]]:
    found: dict[str, list[Column]] = {}
    for row in rows:
        if not row["is_partition"]:
            found.setdefault(row["table_name"], []).append(_read_column(row))
    return {table: tuple(columns) for table, columns in found.items()}


def _read_column(row: Mapping[str, Any]) -> Column:
    default, sequence = row["default_expression"], row["sequence_name"]
    if row["is_identity"] and sequence is not None:
        default = f"nextval('{_escape(sequence)}'::regclass)"
    return Column(row["column_name"], row["type_name"], row["is_generated"], default, sequence)


def describe_locale(properties: object) -> str:
    """Return what makes a new database sort and compare as the one with these ``properties`` of ``pg_database``."""
    known = properties if isinstance(properties, dict) else json.loads(str(properties))
    provider = {"i": "icu", "b": "builtin"}.get(str(known.get("datlocprovider", "c")), "libc")
    words = f" encoding 'UTF8' lc_collate '{_escape(known['datcollate'])}' lc_ctype '{_escape(known['datctype'])}'"
    locale = known.get("datlocale") or known.get("daticulocale")
    if provider != "libc" and locale:
        words += f" locale_provider {provider} {provider}_locale '{_escape(locale)}'"
        if known.get("daticurules"):
            words += f" icu_rules '{_escape(known['daticurules'])}'"
    return words


def _escape(text: str) -> str:
    return text.replace("'", "''")
