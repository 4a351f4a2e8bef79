"""Another master key over real databases: killed at each step, while secrets are set, with a tenant that hinders it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio

from flux.hostcalls.secret import TenantSecrets
from flux.sealing import CannotOpenError, open_sealed
from flux.store import tenants, vault
from flux.store.postgres import Connection, Pool
from flux.store.tenants import Quotas, TenantRow
from flux.supervisor.hosts import Hosts
from flux.supervisor.master_key import (
    FILE,
    NEW_FILE,
    VARIABLE,
    MasterKey,
    MasterKeyChangeError,
    MasterKeyError,
)
from flux.supervisor.rotation import Resealed, Rotation, RotationUnfinishedError, rotate
from flux.supervisor.tenant_order import read_order
from flux.supervisor.tenant_seal import open_database, seal_database
from flux.supervisor.tenants import Tenants
from flux.supervisor.vault import Vault
from tests.conftest import Database
from tests.console_world import TOKEN, World, WorldHost, open_world, read
from tests.postgres_server import PostgresServer

PATIENCE_S = 120.0
STEPS_MAX = 200
VALUES = {"A": "of the first", "B": "of the second"}


@attrs.frozen
class Installation:
    """An installation with a tenant, ``acme``, in a database of its own."""

    folder: Path
    own: Database
    acme: Database

    @property
    def key(self) -> bytes:
        return bytes.fromhex((self.folder / FILE).read_text())

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"master.key.lock"}

    @contextlib.asynccontextmanager
    async def opened(self, tenant: str = "main", **said: Pool) -> AsyncIterator[Vault]:
        """The secrets of either as a server has them that starts now."""
        pool = (self.own if tenant == "main" else self.acme).pool()
        try:
            opened = Vault(pool, tenant, MasterKey(self.folder), TenantSecrets({}, b"k"), {}, **said)
            await opened.load()
            yield opened
        finally:
            await pool.aclose()

    async def read(self, tenant: str) -> dict[str, str]:
        async with self.opened(tenant) as opened:
            return reveal(opened)

    async def check_all_opens(self) -> None:
        assert await self.read("acme") == VALUES
        async with self.opened() as own:
            assert reveal(own) == VALUES
            [row] = await tenants.list_tenants(own.pool)
            assert open_database(row, own.master_key, own.pool.options).database == self.acme.name

    def sealed(self) -> Iterator[tuple[bytes, str]]:
        """All that the master key has sealed, as a second client sees it, and where it belongs."""
        for database, tenant in ((self.own, "main"), (self.acme, "acme")):
            yield bytes.fromhex(database.psql("select encode(sealed, 'hex') from flux.tenant_key")), f"key/{tenant}"
        yield bytes.fromhex(self.own.psql("select encode(database_sealed, 'hex') from flux.tenant")), "database/acme"

    def secrets(self, tenant: str) -> Iterator[tuple[bytes, str]]:
        database = self.own if tenant == "main" else self.acme
        for line in database.psql("select name || ' ' || encode(sealed, 'hex') from flux.secret").splitlines():
            name, sealed = line.split()
            yield bytes.fromhex(sealed), f"secret/{tenant}/{name}"

    def check_opens_nothing(self, key: bytes, tenant_keys: dict[str, bytes]) -> None:
        """Try by hand what whoever has a master key and an old dump has."""
        for sealed, place in self.sealed():
            with pytest.raises(CannotOpenError):
                open_sealed(key, sealed, place)
        for tenant, old in tenant_keys.items():
            for sealed, place in self.secrets(tenant):
                with pytest.raises(CannotOpenError):
                    open_sealed(old, sealed, place)

    def open_tenant_keys(self) -> dict[str, bytes]:
        found = {place: sealed for sealed, place in self.sealed()}
        return {name: open_sealed(self.key, found[f"key/{name}"], f"key/{name}") for name in ("main", "acme")}


class CutOffError(Exception):
    """A change that goes no further."""


def reveal(opened: Vault) -> dict[str, str]:
    execution = opened._secrets.of_execution(b"seed")
    return {seen.name: execution.reveal(seen.name) for seen in opened.list()}


@pytest.fixture
def installation(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database], tmp_path: Path
) -> Installation:
    made = Installation(tmp_path, make_database(postgres18), make_database(postgres18))
    server = postgres18
    url = f"postgresql://{server.user}@/{made.acme.name}?host={server.host}&port={server.port}"

    async def fill() -> None:
        async with made.opened() as own, made.opened("acme") as acme:
            for name, value in VALUES.items():
                await own.set(name, value)
                await acme.set(name, value)
            sealed = seal_database("acme", own.master_key.get_or_make(), url)
            async with own.pool.acquire() as connection:
                row = TenantRow("acme", "/srv/acme", ("acme.localhost",), sealed, False, Quotas(), ())
                await tenants.add_tenant(connection, row)

    # In a trio of its own, which has ended when the test begins: one of them is not trio's.

    with ThreadPoolExecutor(1) as thread:
        thread.submit(trio.run, fill).result()
    return made


def test_a_change_that_is_killed_at_any_step_loses_nothing_and_the_next_one_ends_it(installation: Installation) -> None:
    server = installation.own.server
    words = [str(installation.folder), str(server.host), str(server.port), server.user, installation.own.name]
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.rotation_program", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, bufsize=1, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with program:
        assert program.stdin is not None and program.stdout is not None

        def run(steps: int) -> str:
            print(steps, file=program.stdin, flush=True)
            return program.stdout.readline().strip()

        before, keys, two = installation.key, installation.open_tenant_keys(), 0
        for steps in range(STEPS_MAX):
            said = run(steps)
            trio.run(installation.check_all_opens)
            if said == "done":
                break
            two += NEW_FILE in installation.files()
        else:
            raise AssertionError("it never ended")
        program.stdin.close()
    assert steps >= 18 and two >= 12, "each step was tried, most of them with two keys in force"
    assert installation.files() == {FILE}, "nothing that was a key is left lying about"
    assert installation.key != before
    installation.check_opens_nothing(before, keys)


async def test_a_secret_that_is_set_during_a_change_is_not_lost(installation: Installation) -> None:
    """Both in its middle, where the one who sets waits, and at any moment of it."""
    own = installation.own
    with trio.fail_after(PATIENCE_S):
        async with installation.opened() as one, installation.opened("acme") as other:
            own.psql("delete from flux.secret; delete from flux.tenant_key")
            waiting = f"select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = '{own.name}'"
            async with trio.open_nursery() as nursery:
                with contextlib.suppress(CutOffError), one.master_key.changing():
                    async with one.pool.acquire() as connection, vault.changing_keys(connection):
                        nursery.start_soon(one.set, "FIRST", "of a tenant that has no key yet")
                        while own.psql(waiting) == "0":  # noqa: ASYNC110 - another process is asked
                            await trio.sleep(0.01)
                    raise CutOffError
            await rotate(one)
            assert await installation.read("main") == {"FIRST": "of a tenant that has no key yet"}

            done, count = trio.Event(), 0

            async def change() -> None:
                for _ in range(5):
                    await rotate(one)
                done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(change)
                while not done.is_set():
                    count += 1
                    await one.set(f"S{count % 50}", str(count))
                    await other.set(f"S{count % 50}", str(count))
            last = {f"S{n % 50}": str(n) for n in range(1, count + 1)}
            assert count > 0
            assert await installation.read("main") == {"FIRST": "of a tenant that has no key yet", **last}
            assert await installation.read("acme") == {**VALUES, **last}


async def test_a_tenant_that_can_not_be_done_keeps_the_former_key_in_force_and_no_other_waits_for_it(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.store.vault.LOCK_TIMEOUT", "50ms")
    before, acme = installation.key, installation.acme
    async with installation.opened() as own, installation.opened("acme") as wolf, wolf.pool.acquire() as hostile:
        await hostile.begin()
        await hostile.execute("lock table flux.tenant_key in access share mode; lock table flux.secret")
        with pytest.raises(RotationUnfinishedError) as held:
            await rotate(own)
        assert 'tenant "acme"' in held.value.message and "both keys stay in force" in held.value.remedy
        await hostile.settle()
        assert installation.key == before and NEW_FILE in installation.files()
        found = {place: sealed for sealed, place in installation.sealed()}
        new = bytes.fromhex((installation.folder / NEW_FILE).read_text())
        open_sealed(new, found["key/main"], "key/main")
        open_sealed(before, found["key/acme"], "key/acme")
        await installation.check_all_opens()
        # What a tenant writes into its own tables keeps no key in force.
        acme.psql("update flux.secret set sealed = '\\x01' || sealed where name = 'A'")
        assert await rotate(own) == Rotation(Resealed(2, 0), [("acme", Resealed(1, 1))])
        assert installation.key == new and installation.files() == {FILE}
        acme.psql("update flux.tenant_key set sealed = 'mine'")
        assert await rotate(own) == Rotation(Resealed(2, 0), [("acme", Resealed(0, 3))])
        acme.psql("insert into flux.secret select 'acme', 'N' || n, '' from generate_series(1, 1999) n")
        assert await rotate(own) == Rotation(Resealed(2, 0), [("acme", Resealed(0, 2002))])
        acme.psql("drop table flux.secret, flux.tenant_key")
        assert await rotate(own) == Rotation(Resealed(2, 0), [("acme", Resealed(0, 0))])
        # The installation's own are another matter: what is wrong with them can be repaired while the key is there.
        last = installation.key
        installation.own.psql("update flux.secret set sealed = '\\x01' || sealed where name = 'A'")
        with pytest.raises(CannotOpenError, match="1 of the installation's own"):
            await rotate(own)
        assert installation.key == last


async def test_a_tenant_that_is_added_right_before_the_tables_are_locked_is_sealed_anew_too(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, first = vault.changing_keys, installation.key
    async with installation.opened() as own:
        [acme] = await tenants.list_tenants(own.pool)
        hidden = open_sealed(first, acme.database_sealed, "database/acme").decode()

        @contextlib.asynccontextmanager
        async def add_and_lock(connection: Connection) -> AsyncIterator[None]:
            async with own.pool.acquire() as other, vault.holding_keys(other):
                sealed = seal_database("late", first, hidden)
                await tenants.add_tenant(other, attrs.evolve(acme, name="late", hosts=(), database_sealed=sealed))
            monkeypatch.setattr(vault, "changing_keys", locked)
            async with locked(connection):
                yield

        monkeypatch.setattr(vault, "changing_keys", add_and_lock)
        await rotate(own)
        assert installation.files() == {FILE} and installation.key != first
        rows = await tenants.list_tenants(own.pool)
        assert [row.name for row in rows] == ["acme", "late"]
        for row in rows:
            assert open_database(row, own.master_key, own.pool.options).database == installation.acme.name


async def test_what_a_tenant_makes_of_its_tables_is_its_own_problem_and_the_next_one_is_done(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = installation.acme
    async with installation.opened() as own:
        acme.psql("alter table flux.secret alter sealed drop not null")
        acme.psql("update flux.secret set sealed = null where name = 'A'")
        assert await rotate(own) == Rotation(Resealed(2, 0), [("acme", Resealed(1, 1))])
        acme.psql("alter table flux.secret alter sealed type text using 'mine'")
        assert await rotate(own) == Rotation(Resealed(2, 0), [("acme", Resealed(0, 2))])
        # What nobody has thought of, of one; the next is in the same database, and has no secret yet.
        [row] = await tenants.list_tenants(own.pool)
        hidden = open_sealed(installation.key, row.database_sealed, "database/acme").decode()
        async with own.pool.acquire() as connection:
            sealed = seal_database("next", installation.key, hidden)
            await tenants.add_tenant(connection, attrs.evolve(row, name="next", hosts=(), database_sealed=sealed))
        found, asked = vault.find_tenant_key, []

        async def find_badly(connection: Connection, tenant: str) -> bytes | None:
            asked.append(tenant)
            if tenant == "acme":
                raise TypeError("of a tenant's own words")
            return await found(connection, tenant)

        monkeypatch.setattr(vault, "find_tenant_key", find_badly)
        with pytest.raises(RotationUnfinishedError) as held:
            await rotate(own)
        assert 'tenant "acme"' in held.value.message and "failed with TypeError" in held.value.message
        assert "own words" not in held.value.message
        assert asked == ["main", "acme", "next"]
        assert installation.files() == {FILE, NEW_FILE}


async def test_a_secret_that_is_deleted_during_a_change_waits_for_it(installation: Installation) -> None:
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with installation.opened() as own, installation.opened() as other, own.pool.acquire() as connection:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery, vault.changing_keys(connection):
                nursery.start_soon(other.delete, "A")
                while installation.own.psql(waiting) == "0":  # noqa: ASYNC110 - another process is asked
                    await trio.sleep(0.01)
                sealed_key = await vault.find_tenant_key(connection, "main")
                assert sealed_key is not None
                await vault.reseal(connection, "main", sealed_key, await vault.list_secrets(connection, "main"))
        assert await installation.read("main") == {"B": VALUES["B"]}


async def test_a_machine_that_has_the_former_key_seals_nothing_new_with_it(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (stale := tmp_path_factory.mktemp("stale") / FILE).write_text(installation.key.hex())
    stale.chmod(0o600)
    empty = tmp_path_factory.mktemp("empty")

    def there(opened: Vault, folder: Path) -> Vault:
        key = MasterKey(folder)
        return Vault(opened.pool, opened.tenant, key, TenantSecrets({}, b"k"), {}, installation=opened.installation)

    async with installation.opened() as own, installation.opened("acme", installation=own.pool) as acme:
        await rotate(own)
        installation.acme.psql("delete from flux.secret; delete from flux.tenant_key")
        with pytest.raises(CannotOpenError, match="key/main"):
            await there(acme, stale.parent).set("A", "of a tenant that has no key yet")
        installation.own.psql("delete from flux.secret; delete from flux.tenant_key")
        for opened in (own, acme):
            with pytest.raises(CannotOpenError, match="database/acme"):
                await there(opened, stale.parent).set("A", "of one that has no key yet")
            with pytest.raises(MasterKeyError):
                await there(opened, empty).set("A", "of one that has no key yet")
        assert not list(empty.iterdir())
        server: Any = SimpleNamespace(
            backing=SimpleNamespace(owner=own.pool), vault=there(own, stale.parent), hosts=Hosts(),
            root=installation.folder, console=None,
        )  # fmt: skip
        served = Tenants(server, cast(Any, None))
        served.attach(cast(Any, SimpleNamespace(address=SimpleNamespace(hosts=frozenset()))))
        (folder := tmp_path_factory.mktemp("next")).joinpath("flux.toml").touch()
        with pytest.raises(CannotOpenError, match="database/acme"):
            await served.add(read_order(json.dumps({"name": "next", "folder": str(folder)}).encode()))
        assert installation.own.psql("select count(*) from pg_database where datname = 'flux_tenant_next'") == "0"
        for opened, database in ((own, installation.own), (acme, installation.acme)):
            assert database.psql("select count(*) from flux.tenant_key") == "0"
            await opened.set("A", "with the key in force")
        assert (await rotate(own)).of_tenants == [("acme", Resealed(1, 0))]


async def test_there_is_another_master_key_only_where_it_can_be_true(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = installation.files()
    async with installation.opened() as own, installation.opened("acme", installation=own.pool) as acme:
        with pytest.raises(MasterKeyChangeError, match='"acme" is a tenant'):
            await rotate(acme)
        with own.master_key.changing(), pytest.raises(MasterKeyChangeError, match="is being changed already"):
            await rotate(own)
        monkeypatch.setenv(VARIABLE, installation.key.hex())
        said = Vault(own.pool, "main", MasterKey(installation.folder), TenantSecrets({}, b"k"), {})
        with pytest.raises(MasterKeyChangeError, match=VARIABLE):
            await rotate(said)
        empty = tmp_path_factory.mktemp("empty")
        with pytest.raises(MasterKeyChangeError, match="there is no master key"):
            await rotate(Vault(own.pool, "main", MasterKey(empty), TenantSecrets({}, b"k"), {}))
        assert not (empty / NEW_FILE).exists()
    assert installation.files() == before


class VaultHost(WorldHost):
    def __init__(self, opened: Vault) -> None:
        super().__init__()
        self._opened = opened

    def vault(self) -> Vault:
        return self._opened


async def test_the_console_changes_the_master_key_and_a_secret_may_be_named_rotate(installation: Installation) -> None:
    async def post(world: World, path: str, body: bytes = b"{}") -> dict[str, object]:
        answer = await world.ask(path, method="POST", body=body, token=TOKEN)
        return {"status": answer.status, **read(answer)}

    before = installation.key
    async with installation.opened() as own, open_world(installation.own, host=VaultHost(own)) as world:
        kept = await post(world, "secrets/rotate", b'{"value": "a value"}')
        assert kept["secrets"] and installation.key == before
        assert (await post(world, "secrets/master-key/rotate", b'{"now": 1}'))["status"] == 400
        assert await post(world, "secrets/master-key/rotate") == {
            "status": 200, "schema": "flux.master-key/1", "secrets": 3,
            "tenants": [{"name": "acme", "secrets": 2, "closed": 0}],
        }  # fmt: skip
        assert installation.key != before
        seen_before = own._version
        await own.load()
        assert own._version == seen_before + 1, "other servers learn that there is something to read"
        assert reveal(own) == {**VALUES, "rotate": "a value"}
