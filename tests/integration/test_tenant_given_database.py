"""A database that is given for a tenant: whatever else its role could become or reach, and whoever is there already."""

from collections.abc import Callable, Iterator
from itertools import count

import attrs
import pytest

from flux.store.postgres import connect
from flux.store.tenant_database import TenantDatabaseError, check_given_database
from flux.tenant import Tenant
from tests.conftest import Database
from tests.postgres_server import PostgresServer

_numbers = count()
# Roles are the whole cluster's, and other tests have a tenant "acme" there.
ACME = Tenant("given_acme")
LAMB = Tenant("given_lamb")


@attrs.frozen
class Given:
    """A database that is as it should be, with its role."""

    database: Database
    role: str

    async def check(self) -> None:
        await check_given_database(self.database.options(self.role), ACME)

    async def is_refused(self, words: str) -> None:
        with pytest.raises(TenantDatabaseError, match=words):
            await self.check()


@pytest.fixture
def given(postgres18: PostgresServer) -> Iterator[Given]:
    role = f"given_{next(_numbers)}"
    database = Database(postgres18, f"{role}_db")
    postgres18.psql(f"create role {role} login createrole")
    postgres18.psql(f"create database {database.name} owner {role} template template0")
    postgres18.psql(f"revoke all on database {database.name} from public")
    yield Given(database, role)
    postgres18.psql(f"drop database {database.name} with (force)")
    postgres18.psql(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize(
    ("make", "reaches"),
    [
        ("create role other; grant other to {role}", "other"),
        ("create role other superuser; grant other to {role} with inherit false, set false, admin true", "other"),
        ("create role other; grant pg_execute_server_program to other; grant other to {role}",
         "other, pg_execute_server_program"),
        ("create role other; grant pg_read_all_data to {role}", "pg_read_all_data"),
        (f"create role other; create role {LAMB.role}; grant {LAMB.role} to {{role}}", LAMB.role),
    ],
)  # fmt: skip
async def test_a_role_that_could_become_another_is_refused(given: Given, make: str, reaches: str) -> None:
    server = given.database.server
    await given.check()
    server.psql(make.format(role=given.role))
    try:
        await given.is_refused(f"is a member of {reaches}, ")
    finally:
        server.psql(f"drop role if exists {LAMB.role}; drop role other")
        server.psql(f"revoke pg_read_all_data from {given.role}")
    await given.check()


async def test_the_role_of_the_tenant_s_own_functions_is_none_of_these(given: Given) -> None:
    connection = await connect(given.database.options(given.role))
    try:
        await connection.execute(f"create role {ACME.role}")
        try:
            members = "select count(*) from pg_auth_members m join pg_roles r on r.oid = m.member where r.rolname = "
            assert given.database.psql(f"{members} '{given.role}'") == "1"
            await given.check()
        finally:
            await connection.execute(f"drop role {ACME.role}")
    finally:
        await connection.aclose()


async def test_a_role_that_owns_another_database_is_refused(given: Given) -> None:
    server = given.database.server
    server.psql(f"create database {given.role}_two owner {given.role} template template0")
    try:
        await given.is_refused(f"owns other databases too: {given.role}_two")
    finally:
        server.psql(f"drop database {given.role}_two")


async def test_a_database_in_which_flux_works_for_somebody_else_is_refused(
    given: Given, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    own = make_database(postgres18)
    own.psql(f"revoke all on database {own.name} from public; grant connect on database {own.name} to {given.role}")
    postgres18.psql(f"alter database {given.database.name} owner to postgres")
    with pytest.raises(TenantDatabaseError, match='Flux works in it as role "postgres"'):
        await check_given_database(own.options(given.role), ACME)
    own.psql(f"revoke all on database {own.name} from {given.role}")
    postgres18.psql(f"alter database {given.database.name} owner to {given.role}")
    # One that this role keeps, as a tenant's server does, is the tenant's whose guest is written down there.
    given.database.psql(f"create schema flux authorization {given.role}; set role {given.role}; "
                        "create table flux.guest (tenant text)")  # fmt: skip
    given.database.psql(f"insert into flux.guest values ('{ACME.name}')")
    await given.check()
    given.database.psql("insert into flux.guest values ('lamb')")
    await given.is_refused('"lamb" has its rows and records there')
