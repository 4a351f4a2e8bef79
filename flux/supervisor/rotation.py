"""Another master key: everything that is sealed is sealed anew, in as many databases as there are tenants.

How to think about it: no transaction spans several databases and a file, so there are two keys while it lasts, and
either opens (`flux.supervisor.master_key`)::

    the other key is written down       .flux/master.key.new, on the disk before anything is sealed with it
    the installation's database         its secrets, with another key of their own, and how tenants' databases are
                                        reached; one transaction
    each tenant's database              its secrets, with another key of their own; one transaction each
    the other key takes the first's place

A run that ends anywhere in between leaves both keys, and the next one takes up the same other key: what is sealed with
it is sealed with it once more. Servers go on: they read the keys again whenever they open or seal, and while one of the
transactions lasts they wait for it (`flux.store.vault.changing_keys`). A secret that is set meanwhile is either in
before, and sealed anew, or after, and sealed with the newer key.

A tenant's database is a stranger's. One that does not answer, holds its tables shut, or has others in their place that
can't be read, keeps the first key from being given up, and is named; all others are done, whatever went wrong there.
What opens with neither key stays as it is, and is counted, and so are all secrets of a table that has more than Flux
keeps: it is not for a tenant to keep a key in force by writing something else into its own tables.
"""

import contextlib
from collections.abc import Sequence
from secrets import token_bytes

import attrs
import trio

from flux.errors import FluxError, OperatorError
from flux.sealing import KEY_BYTES, CannotOpenError, open_with_any
from flux.store import tenants, vault
from flux.store.postgres import Connection, ConnectOptions, connect
from flux.store.vault import SealedSecret
from flux.supervisor.master_key import MasterKeyChangeError
from flux.supervisor.tenant_seal import open_database, place_of_database, seal_database
from flux.supervisor.vault import BadSecretError, Vault, place_of_key, place_of_secret, seal_key, seal_secret

TENANT_S_MAX = 60.0
"""How long one tenant's database may take."""


class RotationUnfinishedError(OperatorError):
    """Some of what is sealed could not be reached, so both keys stay in force."""

    code = "FLX743"


@attrs.frozen
class Resealed:
    """What was done in one database."""

    secrets: int
    """Values that are sealed with the other key now."""
    closed: int
    """Values, and the tenant's key, that are as they were: they open with neither key, or are more than
    `flux.store.vault.SECRETS_READ_MAX`, of which one more than that is counted."""


@attrs.frozen
class Rotation:
    """What was done in all."""

    own: Resealed
    """In the installation's database."""
    of_tenants: Sequence[tuple[str, Resealed]]
    """In each tenant's, by name."""


async def rotate(own: Vault) -> Rotation:
    """Put another master key into force; raise `RotationUnfinishedError` where a tenant's database can't be done."""
    if own.installation is not None:
        raise MasterKeyChangeError(
            f'"{own.tenant}" is a tenant: its key is sealed with the master key of the installation that serves it',
            remedy="ask whoever runs the installation: flux secrets rotate, in its own folder",
        )
    with own.master_key.changing() as key:
        resealed = await _reseal_own(own, key)
        done: list[tuple[str, Resealed]] = []
        problems: list[tuple[str, str]] = []
        for row in await tenants.list_tenants(own.pool):
            try:
                options = open_database(row, own.master_key, own.pool.options)
                with trio.fail_after(TENANT_S_MAX):
                    done.append((row.name, await _reseal_tenant(options, own, row.name, key)))
            except FluxError as error:
                problems.append((row.name, error.message))
            except trio.TooSlowError:
                problems.append((row.name, f"it took longer than {TENANT_S_MAX:g} s"))
            except Exception as error:  # Its migrations can put anything in the place of a table. Not told: its words.
                problems.append((row.name, f"reading what its database answered failed with {type(error).__name__}"))
        if problems:
            first, why = problems[0]
            more = f" (and {len(problems) - 1} more: {', '.join(name for name, _ in problems[1:])})"
            raise RotationUnfinishedError(
                f'secrets of tenant "{first}"{more if len(problems) > 1 else ""} can\'t be sealed with another master '
                f"key yet: {why}",
                remedy="both keys stay in force; say it again once its database answers, or flux tenant remove it",
            )
    return Rotation(resealed, done)


async def _reseal_own(own: Vault, key: bytes) -> Resealed:
    async with own.pool.acquire() as connection, vault.changing_keys(connection):
        found = await vault.list_secrets(connection, own.tenant)
        if len(found) > vault.SECRETS_READ_MAX:
            raise BadSecretError(f"table flux.secret has more than {vault.SECRETS_READ_MAX:,} secrets")
        result = await _reseal(connection, own, own.tenant, key, found)
        if result.closed:  # No server would start with them; the first key may be all that a repair has.
            raise CannotOpenError(
                f"{result.closed} of the installation's own sealed values can't be opened",
                remedy="give this server the master key that they were sealed with: flux explain FLX801",
            )
        # Who is added while this lasts waits for it, and is sealed with the other key from the start.
        for name, sealed in await tenants.list_databases(connection):
            hidden = open_with_any(own.master_key.get_all(), sealed, place_of_database(name)).decode()
            await tenants.reseal_database(connection, name, seal_database(name, key, hidden))
    return result


async def _reseal_tenant(options: ConnectOptions, own: Vault, tenant: str, key: bytes) -> Resealed:
    connection = await connect(options)
    try:
        if not await vault.has_tables(connection):
            return Resealed(0, 0)
        async with vault.changing_keys(connection):
            found = await vault.list_secrets(connection, tenant)
            return await _reseal(connection, own, tenant, key, found)
    finally:
        await connection.aclose()


async def _reseal(
    connection: Connection, own: Vault, tenant: str, key: bytes, found: Sequence[SealedSecret]
) -> Resealed:
    """Seal a tenant's secrets with another key of its own, and that with ``key``."""
    sealed_key = await vault.find_tenant_key(connection, tenant)
    if sealed_key is None:
        return Resealed(0, len(found))
    old = _find_opened(own.master_key.get_all(), sealed_key, place_of_key(tenant))
    if old is None or len(found) > vault.SECRETS_READ_MAX:
        return Resealed(0, len(found) + 1)
    new = token_bytes(KEY_BYTES)  # Who has the first master key and a dump has the tenant's old one for good.
    resealed = []
    for each in found:
        value = _find_opened([old], each.sealed, place_of_secret(tenant, each.name))
        if value is not None:
            resealed.append(SealedSecret(each.name, seal_secret(tenant, new, each.name, value), each.changed_at))
    await vault.reseal(connection, tenant, seal_key(tenant, key, new), resealed)
    return Resealed(len(resealed), len(found) - len(resealed))


def _find_opened(keys: Sequence[bytes], sealed: object, place: str) -> bytes | None:
    """Return the value, or None where no key opens it. A tenant's migrations may have made nulls or text of it."""
    if isinstance(sealed, bytes):
        with contextlib.suppress(CannotOpenError):
            return open_with_any(keys, sealed, place)
    return None
