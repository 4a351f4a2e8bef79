"""The wall between two tenants in PostgreSQL: a database each, and roles that can do nothing outside of it.

Three roles have to do with a tenant's database::

    flux_guest_acme   its functions' SQL
    flux_owner_acme   all that Flux does there, the migrations of the project included
    Flux's own        makes and removes the two and the database, and from then on sends nothing into it

The third is what the wall rests on. A migration is any SQL that the tenant likes, and whatever runs in a database may
have been replaced by it: a function of Flux's schema, a trigger, an operator. So no role that can do more than the
tenant may ever send a statement there: it would run the tenant's code with its own rights. What has to be done to the
guest's role from outside is done from the installation's own database, where no tenant has been.

PUBLIC may not connect to any of these databases, the installation's own included. What is per database in PostgreSQL
is then apart by itself: tables, functions, search paths, NOTIFY, large objects, advisory locks. Shared by the whole
server, and visible, stay the *names* of databases and roles; who is connected is hidden where Flux may hide it.
"""

import secrets
from typing import Any

import attrs
import trio

from flux.errors import OperatorError
from flux.store.ephemeral import describe_locale
from flux.store.postgres import Connection, ConnectOptions, DatabaseError, Pool, connect, quote_identifier
from flux.store.queries import QUERIES
from flux.tenant import Tenant

CONNECTIONS_MAX = 24
"""What a guest's role may have open at most: a tenant shall not take all of the server's connections."""
ISOLATING_VERSION_MIN = 160000
"""From PostgreSQL 16 on CREATEROLE reaches only roles that its holder has made."""
CLEANUP_S_MAX = 30.0

_HIDDEN = (
    "revoke select on pg_catalog.pg_stat_activity, pg_catalog.pg_stat_database, pg_catalog.pg_locks, "
    "pg_catalog.pg_stat_replication, pg_catalog.pg_stat_ssl, pg_catalog.pg_prepared_xacts from public; "
    "revoke execute on function pg_catalog.pg_stat_get_activity(int), pg_catalog.pg_lock_status(), "
    "pg_catalog.pg_prepared_xact() from public"
)
"""What shows other databases' sessions. The catalog belongs to each database, so this hides it in the tenant's alone.

The owner keeps the first one, to end sessions that a crash has left; of sessions of other roles it shows no statements.
"""


class TenantDatabaseError(OperatorError):
    """A tenant's database can't be made, or has a wall missing."""

    code = "FLX812"


def name_database(tenant: str) -> str:
    """Return the name of a database that Flux makes for a tenant."""
    return f"flux_tenant_{tenant}"


def name_owner(tenant: str) -> str:
    """Return the role that owns it."""
    return f"flux_owner_{tenant}"


async def make_database(pool: Pool, tenant: Tenant) -> ConnectOptions:
    """Make a tenant's database and roles beside the one of ``pool``; return how its owner connects."""
    async with pool.acquire() as connection:
        place = await connection.fetch_row(QUERIES.find_tenant_place)
        assert place is not None
        if not place["may_make"]:
            raise TenantDatabaseError(
                f'role "{place["role"]}" may not make databases and roles',
                remedy="give it CREATEDB and CREATEROLE, or make a database by hand and name it with --database-url",
            )
        mark = f"tenant {tenant.name} of {place['instance']}"
        found = await connection.fetch_value(QUERIES.find_tenant_database, name_database(tenant.name))
        try:
            if found == mark:
                return await _take_up(connection, pool.options, tenant)
            return await _make(connection, pool.options, tenant, dict(place.items()), mark)
        except DatabaseError as error:
            raise TenantDatabaseError(
                f'the database of tenant "{tenant.name}" can\'t be made: {error.report.message}',
                remedy=error.hint or "nothing of it was kept; see that no database and role of its name is left over",
            ) from error


async def close_own_database(pool: Pool, *, closes: bool) -> None:
    """See that of all guests only the installation's own can connect to its database, wherever tenants have theirs.

    Without ``closes`` it has to be so already: others than Flux may use that database.
    """
    async with pool.acquire() as connection:
        place = await connection.fetch_row(QUERIES.find_tenant_place)
        assert place is not None
        if not place["is_open"]:
            return
        quoted, guest = quote_identifier(place["database"]), quote_identifier(Tenant().role)
        statements = f"revoke connect on database {quoted} from public; grant connect on database {quoted} to {guest}"
        if not closes:
            raise TenantDatabaseError(
                f'everybody may connect to database "{place["database"]}", the roles of tenants too', remedy=statements
            )
        await connection.execute(statements)


async def _take_up(connection: Connection, options: ConnectOptions, tenant: Tenant) -> ConnectOptions:
    """Use the database that a tenant of this name had before it was removed."""
    owner, password = name_owner(tenant.name), secrets.token_urlsafe(24)
    await connection.execute(f"alter role {quote_identifier(owner)} password '{password}'")
    return attrs.evolve(
        options, user=owner, password=password, database=name_database(tenant.name), server_settings={}
    )


async def _make(
    connection: Connection, options: ConnectOptions, tenant: Tenant, place: dict[str, Any], mark: str
) -> ConnectOptions:
    owner, guest, database = name_owner(tenant.name), tenant.role, name_database(tenant.name)
    password = secrets.token_urlsafe(24)
    bare = "login nosuperuser nocreatedb nocreaterole noreplication nobypassrls"
    owner_name, guest_name, database_name = (quote_identifier(name) for name in (owner, guest, database))
    made: list[str] = []
    try:
        # token_urlsafe has no quotes; the guest's password comes with the first start.
        await connection.execute(f"create role {owner_name} {bare} password '{password}'")
        made.append(f"drop role {owner_name}")
        await connection.execute(
            f"create role {guest_name} {bare} noinherit connection limit {CONNECTIONS_MAX} "
            f"password '{secrets.token_urlsafe(24)}'"
        )
        made.append(f"drop role {guest_name}")
        await connection.execute(f"select flux.watch_lines('{guest}')")
        # To end sessions of guests that a crash has left.
        await connection.execute(f"grant {guest_name} to {owner_name}")
        if not place["is_superuser"]:
            await connection.execute(f"grant {owner_name} to current_user")
        await connection.execute(
            f"create database {database_name} owner {owner_name} template template0"
            f"{describe_locale(place['properties'])}"
        )
        made.append(f"drop database {database_name} with (force)")
        await connection.execute(
            f"revoke all on database {database_name} from public; "
            f"grant connect, temporary on database {database_name} to {guest_name}; "
            # Names have been checked: neither has a quote.
            f"comment on database {database_name} is '{mark}'"
        )
        # The one time that Flux's own role is in there: nobody else has been yet.
        inside = await connect(attrs.evolve(options, database=database))
        try:
            await inside.execute(f"alter schema public owner to {owner_name}; revoke all on schema public from public")
            if place["is_superuser"]:
                await inside.execute(_HIDDEN)
                await inside.execute(
                    f"grant select on pg_catalog.pg_stat_activity to {owner_name}; "
                    f"grant execute on function pg_catalog.pg_stat_get_activity(int) to {owner_name}"
                )
        finally:
            await inside.aclose()
    except BaseException:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP_S_MAX):
            for statement in reversed(made):
                await connection.execute(statement)
        raise
    return attrs.evolve(options, user=owner, password=password, database=database, server_settings={})


async def drop_database(pool: Pool, tenant: Tenant) -> None:
    """Remove a database that was made, with its roles and all that is in it."""
    async with pool.acquire() as connection:
        await connection.execute(
            f"drop database if exists {quote_identifier(name_database(tenant.name))} with (force)"
        )
        for role in (tenant.role, name_owner(tenant.name)):
            await connection.execute(f"drop role if exists {quote_identifier(role)}")


async def repair_guest(pool: Pool, tenant: Tenant, password: str) -> None:
    """Give the guest's role its password, and take away what it has set for itself; ``pool`` is the installation's."""
    role = quote_identifier(tenant.role)
    assert password.isalnum(), "it is hexadecimal"
    async with pool.acquire() as connection:
        await connection.execute(
            f"alter role {role} login connection limit {CONNECTIONS_MAX} password '{password}'; "
            f"alter role {role} reset all; alter role {role} set search_path = {quote_identifier(tenant.schema)}"
        )


async def check_given_database(options: ConnectOptions, tenant: Tenant) -> None:
    """Raise unless a database that was given for a tenant, and its role, keep the tenant in there, and others out.

    The role is looked at first: what else is asked of the database runs what somebody may have put there.
    """
    connection = await connect(options)
    try:
        found = await connection.fetch_row(QUERIES.check_tenant_role, tenant.role)
        assert found is not None
        _check_role(dict(found.items()))
        if found["keeper"] not in (None, found["role"]):
            raise _not_free(found["database"], f'Flux works in it as role "{found["keeper"]}"')
        other = await connection.fetch_value(QUERIES.find_other_guest, tenant.name) if found["has_guests"] else None
        if other is not None:
            raise _not_free(found["database"], f'"{str(other)[:50]}" has its rows and records there')
    finally:
        await connection.aclose()


def _not_free(database: str, whose: str) -> TenantDatabaseError:
    return TenantDatabaseError(
        f'database "{database}" is not this tenant\'s alone: {whose}',
        remedy="make a database for the tenant, and name that: create database NAME owner ROLE",
    )


def _check_role(found: dict[str, Any]) -> None:
    role, database = quote_identifier(found["role"]), quote_identifier(found["database"])
    if found["is_superuser"] or found["may_more"]:
        raise TenantDatabaseError(
            f'role "{found["role"]}" could reach other databases of its server, and the tenant\'s migrations run as it',
            remedy=f"alter role {role} nosuperuser nocreatedb noreplication nobypassrls, or name another one",
        )
    if found["version"] < ISOLATING_VERSION_MIN:
        raise TenantDatabaseError(
            "the server is older than PostgreSQL 16: there a role that makes the one of the tenant's functions can "
            "change those of others too",
            remedy="name a database on PostgreSQL 16 or newer, or let Flux make one beside its own",
        )
    if found["memberships"]:
        raise TenantDatabaseError(
            f'role "{found["role"]}" is a member of {found["memberships"]}, and the tenant\'s migrations could act as '
            "these",
            remedy=f"name a role that is a member of none, or take these away: revoke ROLE from {role}",
        )
    if found["databases"]:
        raise TenantDatabaseError(
            f'role "{found["role"]}" owns other databases too: {found["databases"]}',
            remedy="name a role that owns this database alone: create role NAME login createrole",
        )
    if not found["makes_roles"]:
        raise TenantDatabaseError(
            f'role "{found["role"]}" may make no role for the tenant\'s functions',
            remedy=f"alter role {role} createrole",
        )
    if found["is_open"]:
        raise TenantDatabaseError(
            f'everybody may connect to database "{found["database"]}", the roles of other tenants too',
            remedy=f"revoke connect on database {database} from public",
        )
