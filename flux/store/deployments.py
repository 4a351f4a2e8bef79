"""Deploys on record: what ``flux deployments`` shows and ``flux rollback`` goes back to.

``flux.deployment`` has a row for each artifact that was ever served, ``flux.deploy`` one for each switch. A switch is
written down before it is made, in one transaction, so that an execution's deployment is always known; whoever dies
in between has the new code on record, and is given that at its next start.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from flux.deploy_history import Cause, Deploy, Deployed
from flux.deployment import Deployment
from flux.store.postgres import Pool
from flux.store.queries import QUERIES

HISTORY_MAX = 10_000
"""Switches to other code that a rollback looks back on."""


@attrs.frozen
class DeploymentSeen:
    """Code on record, and how it did."""

    deploy: Deploy
    """The latest switch to it."""
    deploys: int
    """Switches to it in all."""
    executions: int
    """Executions on it, replays aside."""
    failed: int
    """Of them, those that answered 500 and up."""


async def add_deploy(
    pool: Pool,
    tenant: str,
    deployment: Deployment,
    artifact_hash: str,
    cause: Cause,
    runtime: Mapping[str, str],
) -> None:
    """Write down that ``deployment`` is served from now on."""
    functions = [function.name for function in deployment.functions]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            QUERIES.add_deployment,
            deployment.id,
            tenant,
            deployment.sha,
            deployment.dirty,
            artifact_hash,
            functions,
        )
        await connection.execute(QUERIES.activate_deployment, deployment.id)
        await connection.execute(
            QUERIES.add_deploy,
            tenant,
            deployment.id,
            deployment.sha,
            deployment.dirty,
            deployment.branch,
            functions,
            cause.value,
            dict(runtime),
        )


async def list_deploys(pool: Pool, tenant: str) -> Sequence[Deploy]:
    """Return the switches to other code in order, the oldest first; what was served already is left out."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_deploys, tenant, HISTORY_MAX)
    return [_read(row) for row in reversed(rows)]


async def list_deploys_named(pool: Pool, tenant: str, beginning: str) -> Sequence[Deploy]:
    """Return the last switch to each code whose deployment or commit begins like this."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_deploys_named, tenant, beginning)
    return [_read(row) for row in rows]


async def find_last_deploy(pool: Pool, tenant: str) -> Deploy | None:
    """Return the last switch: to what is served, or was when the server ended; None when nothing is on record."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.find_last_deploy, tenant)
    return None if row is None else _read(row)


async def list_deployments(pool: Pool, tenant: str, limit: int) -> Sequence[DeploymentSeen]:
    """Return what was served, each code once, the latest first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_deployments, tenant, limit)
    return [DeploymentSeen(_read(row), row["deploys"], row["executions"], row["failed"]) for row in rows]


async def list_deployments_to_keep(pool: Pool, tenant: str, limit: int) -> Sequence[str]:
    """Return whose artifacts stay: all that was deployed or rolled back to, and the latest ``limit`` of the others."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_deployments_to_keep, tenant, limit)
    return [row["deployment"] for row in rows]


def _read(row: Any) -> Deploy:
    at: datetime = row["at"]
    return Deploy(
        code=Deployed(row["deployment"], row["sha"], row["dirty"]),
        branch=row["branch"],
        functions=tuple(json.loads(row["functions"])),
        cause=Cause(row["cause"]),
        runtime=tuple(json.loads(row["runtime"]).items()),
        at=at,
    )
