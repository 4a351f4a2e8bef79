"""The console's questions about secrets: names, never values."""

from typing import Protocol

import msgspec

from flux.supervisor.console_query import BadQueryError, Query
from flux.supervisor.present import Document, show_moment
from flux.supervisor.rotation import rotate
from flux.supervisor.vault import SecretSeen, Vault


class SecretsHost(Protocol):
    """Who has them."""

    def vault(self) -> Vault:
        """Return the tenant's secrets."""


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    value: str


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class SecretsDesk:
    """Answers them, for one tenant."""

    def __init__(self, host: SecretsHost) -> None:
        self._host = host

    async def list_secrets(self, _query: Query) -> Document:
        """Return what there is."""
        return self._document(self._host.vault().list())

    async def set(self, name: str, body: bytes) -> Document:
        """Keep a value."""
        try:
            value = msgspec.json.decode(body, type=_Body).value
        except (msgspec.DecodeError, UnicodeDecodeError):  # Its words might quote the value.
            raise BadQueryError('the body is not {"value": "..."}', remedy="send the value as a JSON string") from None
        return self._document([await self._host.vault().set(name, value)])

    async def delete(self, name: str) -> Document:
        """Take one out."""
        await self._host.vault().delete(name)
        return self._document(self._host.vault().list())

    async def rotate(self, body: bytes) -> Document:
        """Put another master key into force."""
        try:
            msgspec.json.decode(body, type=_Nothing)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadQueryError(f"the body is not what it should be: {error}", remedy="{}") from error
        done = await rotate(self._host.vault())
        return {
            "schema": "flux.master-key/1",
            "secrets": done.own.secrets,
            "tenants": [
                {"name": name, "secrets": resealed.secrets, "closed": resealed.closed}
                for name, resealed in done.of_tenants
            ],
        }

    def _document(self, found: list[SecretSeen]) -> Document:
        return {
            "schema": "flux.secrets/1",
            "secrets": [
                {
                    "name": each.name,
                    "stored": each.changed_at is not None,
                    "local": each.is_local,
                    "changed_at": None if each.changed_at is None else show_moment(each.changed_at),
                }
                for each in found
            ],
        }
