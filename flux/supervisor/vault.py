"""A tenant's secrets: those that ``flux secrets set`` keeps, sealed, in its database, and those of ``.env.local``.

Functions see both. Where a name is in both, ``.env.local`` has the say: it is the file of this one machine, and whoever
writes into it means to differ. So that nobody wonders, the answer to setting such a name says so.

Values leave this module for `flux.hostcalls.secret.TenantSecrets` and for nobody else: what the console can ask for is
names. Executions in progress keep the secrets that they began with.
"""

import re
import secrets as randomness
from collections.abc import Callable, Mapping
from datetime import datetime

import attrs
import trio

from flux.errors import FluxError, OperatorError
from flux.hostcalls.secret import TenantSecrets
from flux.sealing import KEY_BYTES, NONCE_BYTES, open_sealed, open_with_any, seal
from flux.store import tenants
from flux.store import vault as store
from flux.store.postgres import Connection, Pool
from flux.supervisor.master_key import MasterKey
from flux.supervisor.tenant_seal import place_of_database
from flux.tenant import Tenant

FOLLOW_S = 5.0
"""How often a server looks whether another one has changed a secret."""
VALUE_BYTES_MAX = 64 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z", re.ASCII)


class NoSuchSecretError(OperatorError):
    """No secret of this name is kept."""

    code = "FLX802"
    exit_code = 3


class BadSecretError(OperatorError):
    """A secret's name or value can't be one."""

    code = "FLX803"


@attrs.frozen
class SecretSeen:
    """What may be told of a secret."""

    name: str
    is_local: bool
    """``.env.local`` on this machine has it."""
    changed_at: datetime | None
    """When it was set in the database; None: it is in ``.env.local`` alone."""


class Vault:
    """The secrets of one tenant."""

    def __init__(
        self,
        pool: Pool,
        tenant: str,
        master_key: MasterKey,
        secrets: TenantSecrets,
        local: Mapping[str, str],
        *,
        installation: Pool | None = None,
    ) -> None:
        self.pool = pool
        """To the database that has them."""
        self.tenant = tenant
        """Whose they are."""
        self.master_key = master_key
        """What opens the tenant's key, and seals those of others where this is the installation's own vault."""
        self.installation = installation
        """To the database of the installation that serves this tenant. None: this is the installation's own vault,
        where the master key can be changed."""
        self._secrets = secrets
        self._local = dict(local)
        self._stored: dict[str, str] = {}
        self._changed_at: dict[str, datetime] = {}
        self._version = 0

    async def load(self) -> None:
        """Take in what the database has; raise when it can't be opened: to go on without would fail later, unsaid."""
        async with self.pool.acquire() as connection:
            await self._load(connection)

    async def _load(self, connection: Connection) -> None:
        async with store.holding_keys(connection):
            await self._load_held(connection)

    async def _load_held(self, connection: Connection) -> None:
        version = await store.get_version(connection, self.tenant)
        found = await store.list_secrets(connection, self.tenant)
        if len(found) > store.SECRETS_READ_MAX:
            raise BadSecretError(
                f"table flux.secret has more than {store.SECRETS_READ_MAX:,} secrets, and they are read whole",
                remedy=f"see what fills it: flux secrets set adds none beyond {store.SECRETS_MAX:,}",
            )
        values = {}
        if found:
            sealed_key = await store.find_tenant_key(connection, self.tenant)
            assert sealed_key is not None  # A foreign key says so.
            key = open_with_any(self.master_key.get_all(), sealed_key, place_of_key(self.tenant))
            for each in found:
                values[each.name] = open_sealed(key, each.sealed, place_of_secret(self.tenant, each.name)).decode()
        self._version, self._stored = version, values
        self._changed_at = {each.name: each.changed_at for each in found}
        self._apply()

    def set_local(self, local: Mapping[str, str]) -> None:
        """Take in ``.env.local`` as it is now."""
        self._local = dict(local)
        self._apply()

    def _apply(self) -> None:
        self._secrets.replace({**self._stored, **self._local})

    def list(self) -> list[SecretSeen]:
        """Return what there is, by name."""
        names = sorted(self._stored.keys() | self._local.keys())
        return [SecretSeen(name, name in self._local, self._changed_at.get(name)) for name in names]

    async def set(self, name: str, value: str) -> SecretSeen:
        """Keep a secret, from the next execution on."""
        if not _NAME.match(name):
            raise BadSecretError(
                f'"{name[:200]}" can\'t be a secret\'s name',
                remedy="letters, digits and underscores, 100 at most, and no digit first: STRIPE_KEY",
            )
        data = value.encode()
        if not data or len(data) > VALUE_BYTES_MAX or "\0" in value:
            raise BadSecretError(
                f"the value of {name} is empty, holds a zero byte, or is longer than {VALUE_BYTES_MAX >> 10} KiB",
                remedy="flux secrets delete takes a secret out; a file that large is not one",
            )
        if name not in self._stored and len(self._stored) >= store.SECRETS_MAX:
            raise BadSecretError(
                f"{len(self._stored):,} secrets are kept, and there can't be more", remedy="flux secrets delete NAME"
            )
        async with self.pool.acquire() as connection:
            async with store.holding_keys(connection):
                sealed_key = await store.find_tenant_key(connection, self.tenant)
                if sealed_key is None:
                    await self._check_master_key(connection)
                    made = seal_key(self.tenant, self.master_key.get_or_make(), randomness.token_bytes(KEY_BYTES))
                    sealed_key = await store.keep_tenant_key(connection, self.tenant, made)
                key = open_with_any(self.master_key.get_all(), sealed_key, place_of_key(self.tenant))
                await store.put_secret(connection, self.tenant, name, seal_secret(self.tenant, key, name, data))
            await self._load(connection)
        return next(each for each in self.list() if each.name == name)

    async def _check_master_key(self, connection: Connection) -> None:
        if self.installation is None:
            await check_master_key(connection, self.master_key)
            return
        # While the tenant's table is held: a change that is not seen here now waits for it, and seals the key anew.
        async with self.installation.acquire() as other:
            await check_master_key(other, self.master_key)

    async def delete(self, name: str) -> None:
        """Take a secret out, from the next execution on."""
        async with self.pool.acquire() as connection:
            was_there = await store.delete_secret(connection, self.tenant, name)
            await self._load(connection)
        if not was_there:
            where = "it is in .env.local: take the line out there" if name in self._local else "flux secrets list"
            raise NoSuchSecretError(f'no secret "{name[:200]}" is kept', remedy=where)

    async def follow(self, report: Callable[[BaseException], None]) -> None:
        """Take in what other servers change, until cancelled."""
        told: str | None = None
        while True:
            await trio.sleep(FOLLOW_S)
            try:
                async with self.pool.acquire() as connection:
                    if await store.get_version(connection, self.tenant) != self._version:
                        await self._load(connection)
                told = None
            except FluxError as error:  # What is known goes on being used. Told once, not every five seconds.
                if told != error.message:
                    report(error)
                told = error.message


async def check_master_key(connection: Connection, master_key: MasterKey) -> None:
    """See that the key at hand is the one in force before something new is sealed with it; ``connection`` is to the
    installation's own database.

    A machine that was not given the newer key has one that opens nothing there. What it sealed would open for nobody
    else, and once it has the newer key, not for itself.
    """
    own = Tenant().name
    sealed, place = await store.find_tenant_key(connection, own), place_of_key(own)
    if sealed is None:
        name, sealed = next(iter(await tenants.list_databases(connection)), ("", None))
        place = place_of_database(name)
    if sealed is not None:  # Else nothing is sealed yet, and any key will do.
        open_with_any(master_key.get_all(), sealed, place)


def place_of_key(tenant: str) -> str:
    """Where a tenant's key is sealed for."""
    return f"key/{tenant}"


def place_of_secret(tenant: str, name: str) -> str:
    """Where a value is sealed for."""
    return f"secret/{tenant}/{name}"


def seal_key(tenant: str, master_key: bytes, key: bytes) -> bytes:
    """Return a tenant's key, sealed."""
    return seal(master_key, randomness.token_bytes(NONCE_BYTES), key, place_of_key(tenant))


def seal_secret(tenant: str, key: bytes, name: str, value: bytes) -> bytes:
    """Return a value, sealed with the tenant's key."""
    return seal(key, randomness.token_bytes(NONCE_BYTES), value, place_of_secret(tenant, name))
