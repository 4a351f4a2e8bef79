"""The console's questions about who may do what: secrets, tokens, tenants. One place that says which path asks what."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import attrs

from flux.store.postgres import Pool
from flux.supervisor.console_query import Query
from flux.supervisor.console_secrets import SecretsDesk, SecretsHost
from flux.supervisor.console_tenants import TenantsDesk, TenantsHost
from flux.supervisor.console_tokens import TokensDesk
from flux.supervisor.present import Document

AREAS = ("secrets", "tokens", "tenants")
"""First words of their paths."""


@attrs.frozen
class AdminQuestion:
    """What a path asks."""

    method: str
    ask: Callable[[Query], Awaitable[Document]]


class AdminHost(SecretsHost, TenantsHost, Protocol):
    """Who has them."""


class AdminDesk:
    """Finds who answers."""

    def __init__(self, pool: Pool, host: AdminHost, tenant: str, now: Callable[[], datetime]) -> None:
        self._secrets = SecretsDesk(host)
        self._tokens = TokensDesk(pool, tenant, now)
        self._tenants = TenantsDesk(host)

    def find(self, method: str, path: list[str], body: bytes) -> AdminQuestion | None:
        """Return what is asked, or None when nothing is at this path."""
        match path:
            case ["secrets"]:
                return AdminQuestion("GET", self._secrets.list_secrets)
            case ["secrets", name]:
                return AdminQuestion("POST", _with(self._secrets.set, name, body))
            case ["secrets", name, "delete"]:
                return AdminQuestion("POST", _with(self._secrets.delete, name))
            case ["secrets", "master-key", "rotate"]:  # No secret's name has a hyphen.
                return AdminQuestion("POST", _with(self._secrets.rotate, body))
            case ["tokens"] if method == "POST":
                return AdminQuestion("POST", _with(self._tokens.create, body))
            case ["tokens"]:
                return AdminQuestion("GET", self._tokens.list_tokens)
            case ["tokens", "revoke"]:
                return AdminQuestion("POST", _with(self._tokens.revoke, body))
            case ["tokens", "rotate"]:
                return AdminQuestion("POST", _with(self._tokens.rotate, body))
            case ["tenants"] if method == "POST":
                return AdminQuestion("POST", _with(self._tenants.add, body))
            case ["tenants"]:
                return AdminQuestion("GET", self._tenants.list_tenants)
            case ["tenants", name]:
                return AdminQuestion("GET", _with(self._tenants.show, name))
            case ["tenants", name, "set"]:
                return AdminQuestion("POST", _with(self._tenants.set, name, body))
            case ["tenants", name, "remove"]:
                return AdminQuestion("POST", _with(self._tenants.remove, name, body))
            case _:
                return None


def _with(ask: Callable[..., Awaitable[Document]], *arguments: object) -> Callable[[Query], Awaitable[Document]]:
    async def asked(_query: Query) -> Document:
        return await ask(*arguments)

    return asked
