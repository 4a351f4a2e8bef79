"""Secrets and tokens over a real database: what is kept, who may ask, and what a dump of the database holds."""

import base64
import contextlib
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
import trio

from flux.hostcalls.secret import TenantSecrets
from flux.message import HttpResponse
from flux.sealing import CannotOpenError
from flux.store import tokens
from flux.store.postgres import AnswerTooLarge, Pool
from flux.supervisor.console_door import Door
from flux.supervisor.master_key import FILE, VARIABLE, MasterKey, MasterKeyError
from flux.supervisor.vault import BadSecretError, NoSuchSecretError, Vault
from tests.conftest import Database
from tests.console_world import NOW, TOKEN, World, WorldHost, open_world, read

VALUE = "sk_live_51HqLyjWDarjtT1zdp7dc"
KEY = "ab" * 32
PATIENCE_S = 120.0


class VaultHost(WorldHost):
    def __init__(self, vault: Vault) -> None:
        super().__init__()
        self._vault = vault

    def vault(self) -> Vault:
        return self._vault


@contextlib.asynccontextmanager
async def opened(database: Database, folder: Path, tenant: str = "main", **local: str) -> AsyncIterator[Vault]:
    """The secrets of a tenant as a server has them."""
    pool = database.pool()
    try:
        vault = Vault(pool, tenant, MasterKey(folder), TenantSecrets({}, b"k"), local)
        await vault.load()
        yield vault
    finally:
        await pool.aclose()


def revealed(vault: Vault, name: str) -> str:
    return vault._secrets.of_execution(b"seed").reveal(name)


def dump(database: Database) -> str:
    """All that a thief of the database has."""
    return "".join(
        database.psql(f"select r.* from flux.{table} r")
        for table in database.psql("select relname from pg_class where relnamespace = 'flux'::regnamespace "
                                   "and relkind in ('r', 'p')").split()
    )  # fmt: skip


def hidden_forms(value: str) -> list[str]:
    data = value.encode()
    return [value, base64.b64encode(data)[:-4].decode(), data.hex()]


async def test_a_secret_is_kept_for_functions_and_nothing_in_the_database_tells_it(
    database: Database, tmp_path: Path
) -> None:
    async with opened(database, tmp_path, LOCAL="of this machine") as vault:
        seen = await vault.set("STRIPE_KEY", VALUE)
        assert (seen.name, seen.is_local) == ("STRIPE_KEY", False) and seen.changed_at is not None
        assert revealed(vault, "STRIPE_KEY") == VALUE and revealed(vault, "LOCAL") == "of this machine"
        assert [each.name for each in vault.list()] == ["LOCAL", "STRIPE_KEY"]
    kept = dump(database)
    assert "STRIPE_KEY" in kept
    key = (tmp_path / FILE).read_text().strip()
    for form in (*hidden_forms(VALUE), key, base64.b64encode(bytes.fromhex(key)).decode()):
        assert form not in kept
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    async with opened(database, tmp_path, STRIPE_KEY="mine") as again:
        assert revealed(again, "STRIPE_KEY") == "mine", ".env.local has the say"
        again.set_local({})
        assert revealed(again, "STRIPE_KEY") == VALUE
        await again.set("STRIPE_KEY", "new value")
        assert revealed(again, "STRIPE_KEY") == "new value"
        await again.delete("STRIPE_KEY")
        assert again.list() == []
        with pytest.raises(NoSuchSecretError, match="STRIPE_KEY"):
            await again.delete("STRIPE_KEY")
        for name, value in (("1A", "x"), ("A B", "x"), ("A" * 101, "x"), ("A", ""), ("A", "a\0b"), ("A", "x" * 65537)):
            with pytest.raises(BadSecretError):
                await again.set(name, value)


async def test_another_server_of_the_database_learns_of_a_change(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    (here := tmp_path / "here").mkdir()
    (there := tmp_path / "there").mkdir()
    async with opened(database, here) as one:
        assert VARIABLE not in os.environ, "what the server starts does not inherit it"
        monkeypatch.setenv(VARIABLE, KEY)
        async with opened(database, there) as other:
            await one.set("A", "first")
            await other.load()
            assert revealed(other, "A") == "first"
    assert not (here / FILE).exists() and not (there / FILE).exists()


async def test_a_view_in_the_place_of_the_secrets_fills_no_memory(database: Database, tmp_path: Path) -> None:
    bytes_max = 2**20
    pool = Pool(attrs.evolve(database.options(), answer_bytes_max=bytes_max), 2)
    vault = Vault(pool, "main", MasterKey(tmp_path), TenantSecrets({}, b"k"), {})
    try:
        await vault.set("A", VALUE)
        database.psql("alter table flux.secret rename to was")
        for rows, sealed, expected in (
            (2_000, "repeat('x', 10000)::bytea", AnswerTooLarge),
            (1_000_000, "''::bytea", BadSecretError),
        ):
            database.psql(
                "drop view if exists flux.secret; create view flux.secret as select 'main' as tenant, 'A' as name, "
                f"{sealed} as sealed, now() as changed_at from generate_series(1, {rows})"
            )
            with trio.fail_after(PATIENCE_S), pytest.raises(expected):
                await vault.load()
            assert [each.name for each in vault.list()] == ["A"], "what is known stays"
    finally:
        await pool.aclose()


async def test_secrets_are_kept_up_to_a_number(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.store.vault.SECRETS_MAX", 2)
    async with opened(database, tmp_path) as vault:
        await vault.set("A", VALUE)
        await vault.set("B", VALUE)
        with pytest.raises(BadSecretError, match="2 secrets are kept"):
            await vault.set("C", VALUE)
        await vault.set("B", "another")
        await vault.delete("A")
        await vault.set("C", VALUE)


@pytest.mark.parametrize("change", ["lost", "another", "moved to another name", "moved to another tenant"])
async def test_secrets_that_do_not_open_keep_a_server_from_starting(
    database: Database, tmp_path: Path, change: str
) -> None:
    async with opened(database, tmp_path) as vault:
        await vault.set("A", VALUE)
    tenant, expected = "main", CannotOpenError
    match change:
        case "lost":
            (tmp_path / FILE).unlink()
            expected = MasterKeyError  # type: ignore[assignment]
        case "another":
            (tmp_path / FILE).write_text(KEY)
        case "moved to another name":
            database.psql("update flux.secret set name = 'B'")
        case _:
            tenant = "thief"
            database.psql("insert into flux.secret select 'thief', name, sealed from flux.secret;"
                          "insert into flux.tenant_key select 'thief', sealed from flux.tenant_key")  # fmt: skip
    with pytest.raises(expected) as failed:
        async with opened(database, tmp_path, tenant):
            pass
    assert VALUE not in str(failed.value)


@pytest.mark.parametrize("spoil", ["mode", "no key", "link"])
def test_a_master_key_that_others_may_have_is_refused(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / FILE
    match spoil:
        case "mode":
            path.write_text(KEY)
            path.chmod(0o640)
        case "no key":
            path.write_text(KEY[:-1])
            path.chmod(0o600)
        case _:
            (tmp_path / "elsewhere").write_text(KEY)
            path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MasterKeyError) as refused:
        MasterKey(tmp_path).get_all()
    assert KEY[:-1] not in str(refused.value)


def test_processes_that_make_the_master_key_at_once_make_one(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def make() -> bytes:
        start.wait()
        return MasterKey(tmp_path).get_or_make()

    with ThreadPoolExecutor(8) as pool:
        keys = {future.result() for future in [pool.submit(make) for _ in range(8)]}
    assert keys == {bytes.fromhex((tmp_path / FILE).read_text())}
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# --- over the console ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def console_world(database: Database, folder: Path) -> AsyncIterator[World]:
    async with opened(database, folder, LOCAL="l") as vault, open_world(database, host=VaultHost(vault)) as world:
        yield world


async def post(world: World, path: str, body: bytes = b"{}", token: str = TOKEN) -> HttpResponse:
    return await world.ask(path, method="POST", body=body, token=token)


async def test_the_console_tells_names_and_never_values(database: Database, tmp_path: Path) -> None:
    async with console_world(database, tmp_path) as world:
        answered = [await post(world, "secrets/STRIPE_KEY", b'{"value": "%s"}' % VALUE.encode())]
        answered += [await world.ask("secrets")]
        refused = [
            await post(world, "secrets/STRIPE_KEY", b'{"value": "%s"' % VALUE.encode()),
            await post(world, "secrets/STRIPE_KEY", b'{"value": "x", "more": "%s"}' % VALUE.encode()),
            await post(world, "secrets/1", b'{"value": "%s"}' % VALUE.encode()),
        ]
        assert [answer.status for answer in answered + refused] == [200, 200, 400, 400, 400]
        assert not any(VALUE.encode() in bytes(answer.body) for answer in answered + refused)  # type: ignore[arg-type]
        assert [(s["name"], s["stored"], s["local"]) for s in read(answered[1])["secrets"]] == [
            ("LOCAL", False, True), ("STRIPE_KEY", True, False),
        ]  # fmt: skip
        gone = await post(world, "secrets/NONE/delete")
        assert (gone.status, read(gone)["code"], read(gone)["exit"]) == (404, "FLX802", 3)


async def test_a_token_allows_what_its_scope_says_until_it_is_revoked_or_expires(
    database: Database, tmp_path: Path
) -> None:
    async with console_world(database, tmp_path) as world:
        now = [NOW]
        world.console._door = Door(
            TOKEN, {"shop.example"}, lambda digest, at: tokens.find_token(world.pool, "main", digest, at),
            now=lambda: now[0],
        )  # fmt: skip
        made = {}
        for scope in ("read", "write", "deploy", "admin"):
            body = f'{{"name": "{scope}", "scopes": ["{scope}"], "expires": "30d"}}'.encode()
            made[scope] = read(await post(world, "tokens", body))["token"]
        kept = dump(database)
        assert not any(token in kept or token.split("_", 2)[2] in kept for token in made.values())

        async def statuses(token: str) -> list[int]:
            return [
                (await world.ask("executions", token=token)).status,
                (await post(world, "invoke/create_user", b'{"data": {}}', token)).status,
                # Behind the door: what can't be a deploy's body is 400.
                (await post(world, "deploy", b'{"on": 1}', token)).status,
                (await post(world, "secrets/A", b'{"value": "x"}', token)).status,
                (await world.ask("tokens", token=token)).status,
            ]

        assert [await statuses(token) for token in made.values()] == [
            [200, 403, 403, 403, 403], [200, 200, 403, 403, 403], [200, 200, 400, 403, 403], [200, 200, 400, 200, 200],
        ]  # fmt: skip
        told = read(await world.ask("tokens"))["tokens"]
        assert {each["name"]: each["last_used_at"][:16] for each in told} == dict.fromkeys(made, "2025-11-25T14:03")
        again = await post(world, "tokens", b'{"name": "read"}')
        assert (again.status, read(again)["code"]) == (409, "FLX805")
        assert (await post(world, "tokens/revoke", b'{"name": "read"}', made["admin"])).status == 200
        assert (await statuses(made["read"]))[0] == 401
        assert read(await post(world, "tokens/revoke", b'{"name": "read"}'))["code"] == "FLX804"
        assert (await post(world, "tokens", b'{"name": "read"}')).status == 200, "its name is free again"
        now[0] = NOW + timedelta(days=30)
        expired = await world.ask("executions", token=made["admin"])
        assert (expired.status, read(expired)["detail"]) == (401, 'the token "admin" has expired')


async def test_a_token_that_is_rotated_has_another_value_and_the_old_one_ends_when_it_was_said(
    database: Database, tmp_path: Path
) -> None:
    async with console_world(database, tmp_path) as world:
        clock = [NOW]
        world.console._door = Door(
            TOKEN, {"shop.example"}, lambda digest, at: tokens.find_token(world.pool, "main", digest, at),
            now=lambda: clock[0],
        )  # fmt: skip

        async def rotate(**more: str) -> str:
            order = json.dumps({"name": "ci", **more}).encode()
            made = read(await post(world, "tokens/rotate", order))
            assert (made["scopes"], made["expires_at"][:10], made["good"]) == (["deploy"], "2025-12-25", True)
            return str(made["token"])

        async def statuses(*values: str) -> list[int]:
            return [(await world.ask("executions", token=value)).status for value in values]

        order = b'{"name": "ci", "scopes": ["deploy"], "expires": "30d"}'
        first = read(await post(world, "tokens", order))["token"]
        second = await rotate()
        assert await statuses(first, second) == [401, 200]
        third = await rotate(grace="1h")
        assert await statuses(first, second, third) == [401, 200, 200]
        told = read(await world.ask("tokens"))["tokens"]
        assert sorted(each["good"] for each in told) == [False, True, True]
        clock[0] = NOW + timedelta(hours=1)
        assert await statuses(second, third) == [401, 200]
        clock[0] = NOW
        assert (await post(world, "tokens/revoke", b'{"name": "ci"}')).status == 200
        assert await statuses(second, third) == [401, 401], "who revokes a token means its old value too"
        for wrong, code in (
            (b'{"name": "ci"}', "FLX804"), (b'{"name": "ci", "grace": "soon"}', "FLX806"),
            (b'{"name": "ci", "grace": "31d"}', "FLX806"), (b'{"grace": "1h"}', "FLX621"),
        ):  # fmt: skip
            assert read(await post(world, "tokens/rotate", wrong))["code"] == code


STRANGE_TOKENS = [
    "", "x", TOKEN[:-1], TOKEN + "x", "flux_console_", "flux_console_" + "A" * 43, "flux_" + "A" * 100_000,
]  # fmt: skip
STRANGE_ORDERS = [
    b"", b"[]", b'{"name": 1}', b'{"name": ""}', b'{"name": "a b"}', b'{"name": "a", "scopes": ["root"]}',
    b'{"name": "a", "scopes": ["read", "write"]}', b'{"name": "a", "expires": "soon"}',
    b'{"name": "a", "expires": "0s"}', b'{"name": "a", "expires": "4000d"}', b'{"name": "a", "kind": "root"}',
    b'{"name": "a", "scope": ["read"]}',
]  # fmt: skip


async def test_what_is_no_token_opens_nothing_and_is_not_made(database: Database, tmp_path: Path) -> None:
    async with console_world(database, tmp_path) as world:
        world.console._door = Door(TOKEN, (), lambda digest, at: tokens.find_token(world.pool, "main", digest, at))
        for body in STRANGE_ORDERS:
            assert (await post(world, "tokens", body)).status == 400, body
        assert database.psql("select count(*) from flux.token") == "0"
        key = read(await post(world, "tokens", b'{"name": "shop", "kind": "api", "scopes": ["admin", "orders:read"]}'))
        other = "flux_console_" + "B" * 43
        await tokens.add_token(
            world.pool, "acme", "console", "theirs", tokens.digest_token(other), ["admin"], datetime.now(UTC), None
        )
        # A key for routes is none for the console, and another tenant's is nobody's here.
        for token in (*STRANGE_TOKENS, key["token"], other):
            assert (await world.ask("executions", token=token)).status == 401, token[:60]
