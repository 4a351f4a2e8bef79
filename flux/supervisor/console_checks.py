"""The console's question of how the server is: ``flux doctor`` asks it.

The database is asked now, since its rights and settings may have changed. The rest is what each part says of itself;
what only the other processes of the server know takes the place of what this one would say.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from flux.errors import FluxError
from flux.store.postgres import Pool
from flux.store.rights import Rights, read_rights
from flux.supervisor.console_query import Query
from flux.supervisor.present import Document

Checks = Sequence[Mapping[str, Any]]
"""Each with its ``name``, whether it is ``ok``, ``detail`` and ``remedy``."""


class ChecksDesk:
    """Answers it."""

    def __init__(
        self, pool: Pool, known: Callable[[], Checks], elsewhere: Callable[[], Awaitable[Checks]] | None
    ) -> None:
        """``known`` is known here; ``elsewhere`` by all processes together, None where there is one."""
        self._pool = pool
        self._known = known
        self._elsewhere = elsewhere

    async def tell(self, _query: Query) -> Document:
        """Say how the server is."""
        checks = [*await self._check_database(), *(dict(check) for check in self._known())]
        better = {} if self._elsewhere is None else {one["name"]: dict(one) for one in await self._elsewhere()}
        checks = [better.pop(check["name"], check) for check in checks]
        return {"schema": "flux.checks/1", "checks": [*checks, *better.values()]}

    async def _check_database(self) -> list[Document]:
        try:
            async with self._pool.acquire() as connection:
                version = await connection.fetch_value("select pg_catalog.version()")
                rights = await read_rights(connection)
        except FluxError as error:
            return [{"name": "database", "ok": False, "detail": error.message, "remedy": error.remedy}]
        detail = str(version).partition(" on ")[0]
        return [{"name": "database", "ok": True, "detail": detail, "remedy": ""}, _describe_rights(rights)]


def _describe_rights(rights: Rights) -> Document:
    """Return what goes without rights. No fault: whoever has a managed database can't give them to himself."""
    missing = rights.describe_missing()
    detail = "; ".join(missing) or f'role "{rights.role}" may do all that Flux uses'
    return {"name": "rights", "ok": True, "detail": detail, "remedy": rights.describe_remedy()}
