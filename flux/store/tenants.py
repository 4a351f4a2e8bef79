"""The list of tenants, in the database of whoever runs the installation. URLs of their databases stand there sealed."""

from collections.abc import Sequence
from datetime import datetime

import attrs

from flux.store.postgres import Connection, Pool
from flux.store.queries import QUERIES


@attrs.frozen
class Quotas:
    """How much of the installation a tenant may have."""

    weight: int = 100
    """Its share where several wait for their turn: one of 200 has two turns while one of 100 has one."""
    concurrency: int = 16
    """Executions that run at once."""
    memory_bytes: int = 2 * 2**30
    """What their memory limits may come to together."""
    requests_per_minute: int | None = None
    """HTTP requests, or None for any number."""
    storage_bytes: int | None = None
    """What its database may hold, records included, or None for any size."""
    cpu_ms_per_minute: int | None = None
    """Milliseconds of a processor that its code may use in a minute, or None for any."""


@attrs.frozen
class TenantRow:
    """A tenant as the list has it."""

    name: str
    folder: str
    """Of its project, on the machine that serves."""
    hosts: tuple[str, ...]
    """Host names whose requests are its own, in lower case."""
    database_sealed: bytes
    is_made: bool
    """Flux made its database and roles, and may remove them."""
    quotas: Quotas
    allow: tuple[str, ...]
    """Private addresses that its ``flux.toml`` may grant."""
    added_at: datetime | None = None


async def list_tenants(pool: Pool) -> list[TenantRow]:
    """Return all, by name."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_tenants)
    return [
        TenantRow(
            row["name"], row["folder"], tuple(row["hosts"]), row["database_sealed"], row["is_made"],
            Quotas(**{field.name: row[field.name] for field in attrs.fields(Quotas)}), tuple(row["allow"]),
            row["added_at"],
        )
        for row in rows
    ]  # fmt: skip


async def add_tenant(connection: Connection, row: TenantRow) -> bool:
    """Add one; False when its name is taken. In a `flux.store.vault.holding_keys` block."""
    added = await connection.fetch_value(
        QUERIES.add_tenant, row.name, row.folder, list(row.hosts), row.database_sealed, row.is_made,
        *_list_quotas(row.quotas), list(row.allow),
    )  # fmt: skip
    return added is not None


async def find_database(connection: Connection, name: str) -> bytes | None:
    """Return how a tenant's database is reached, sealed; None when there is no such tenant. In such a block too."""
    found: bytes | None = await connection.fetch_value(QUERIES.find_sealed_database, name)
    return found


async def list_databases(connection: Connection) -> list[tuple[str, bytes]]:
    """Return how each tenant's database is reached, sealed, by name. In such a block, or in a `changing_keys` one."""
    rows = await connection.fetch(QUERIES.list_sealed_databases)
    return [(row["name"], row["database_sealed"]) for row in rows]


async def reseal_database(connection: Connection, name: str, sealed: bytes) -> None:
    """Keep it as it is sealed now. In a `flux.store.vault.changing_keys` block."""
    await connection.execute(QUERIES.reseal_tenant_database, name, sealed)


async def set_tenant(pool: Pool, row: TenantRow) -> bool:
    """Change what it may use; False when there is none of this name."""
    async with pool.acquire() as connection:
        found = await connection.fetch_value(QUERIES.set_tenant, row.name, *_list_quotas(row.quotas))
    return found is not None


async def remove_tenant(pool: Pool, name: str) -> None:
    """Take one out. What is in its database stays."""
    async with pool.acquire() as connection:
        await connection.execute(QUERIES.remove_tenant, name)


def _list_quotas(quotas: Quotas) -> Sequence[int | None]:
    return [getattr(quotas, field.name) for field in attrs.fields(Quotas)]
