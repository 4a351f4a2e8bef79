"""Code that computes with a secret's value does so again in a replay, with the servers gone; no value is stored.

A signature (HMAC), and a log-in with SCRAM over a connection of the driver's own. Once the secret has another value,
the replay says that this is why it can't do what it did.
"""

import contextlib
import hashlib
import hmac
import socket
from collections.abc import Callable, Iterator

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer, running_postgres

SOURCE = """\
import hashlib
import hmac

import pg8000.native
from flux_guest import HTTPError, function


@function("POST /sign")
async def sign(ctx, input):
    key = await ctx.secrets.reveal(input["key"])
    signature = hmac.new(key.encode(), b"9.00", hashlib.sha256).hexdigest()
    answer = await ctx.http.post("http://127.0.0.1:STUB/pay", json={"signature": signature})
    return {"signed": signature[:8], "amount": answer.json()["amount"]}


@function("POST /check")
def check(ctx, input):
    key = ctx.secrets.reveal("SIGNING_KEY")
    expected = hmac.new(key.encode(), input["text"].encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, input["signature"]):
        raise HTTPError(401, "that is not signed by us")
    return {"accepted": input["text"]}


@function("POST /stock")
def stock(ctx, input):
    connection = pg8000.native.Connection(
        "app", host="127.0.0.1", port=POSTGRES, database="postgres", password=ctx.secrets.reveal("PASSWORD"),
        ssl_context=False,
    )
    rows = connection.run("select 1 + :n", n=input["n"])
    connection.close()
    return {"rows": rows}
"""
KEY = "sk_live_signing_key"
SHORT = "k3y"
PASSWORD = "correct horse battery"
DIGITS = hmac.new(KEY.encode(), b"9.00", hashlib.sha256).hexdigest()


@attrs.frozen
class Shop:
    """A server, and the two that its functions ask."""

    server: DevServer
    database: Database
    stub: CountingStub
    ports: tuple[int, int]
    outside: contextlib.ExitStack
    """Ends those two."""

    def set_secrets(self, key: str | None, password: str = PASSWORD) -> None:
        lines = [] if key is None else [f"SIGNING_KEY={key}"]
        lines += [f"SHORT={SHORT}", f"PASSWORD={password}"]
        told = len(self.server.story)
        (self.server.project / ".env.local").write_text("\n".join(lines) + "\n")
        self.server.wait_story(".env.local is read again", after=told)


@pytest.fixture
def shop(
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    database = make_database(postgres18)
    folder = tmp_path_factory.mktemp("secrets")
    folder.chmod(0o755)
    hba = ["host all app 127.0.0.1/32 scram-sha-256"]
    with contextlib.ExitStack() as outside:
        stub = outside.enter_context(counting_stub())
        postgres = outside.enter_context(running_postgres(tcp=True, hba_lines=hba))
        postgres.psql(f"create role app login password '{PASSWORD}'")
        source = SOURCE.replace("STUB", str(stub.port)).replace("POSTGRES", str(postgres.port))
        allow = f'[http]\nallow = ["127.0.0.1:{stub.port}", "127.0.0.1:{postgres.port}"]\n'
        project = write_project(folder / "shop", {"shop.py": source}, toml=allow)
        (project / ".env.local").write_text(f"SIGNING_KEY={KEY}\nSHORT={SHORT}\nPASSWORD={PASSWORD}\n")
        with running_dev(project, database) as server:
            yield Shop(server, database, stub, (stub.port, postgres.port), outside)


def test_what_was_computed_with_a_secret_is_computed_again_until_the_secret_is_another(shop: Shop) -> None:
    server, stub = shop.server, shop.stub
    signed = server.request("POST", "/sign", {"key": "SIGNING_KEY"})
    assert signed.status == 500  # The stub's answer has no amount.
    briefly = server.request("POST", "/sign", {"key": "SHORT"})
    accepted = server.request("POST", "/check", {"text": "9.00", "signature": DIGITS})
    assert (accepted.status, accepted.json) == (200, {"accepted": "9.00"})
    stocked = server.request("POST", "/stock", {"n": 41})
    assert (stocked.status, stocked.json) == (200, {"rows": [[42]]}), stocked.body
    assert DIGITS.encode() in stub.seen[0].body

    seen = len(stub.seen)
    shop.outside.close()
    for port in shop.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0

    # On its own code, to the letter; on the folder, where calls find each other by content.
    for one in (signed, briefly):
        replay = server.json("replay", one.flux_id, exit_code=1)
        assert (replay["verdict"], replay["divergence"]) == ("same failure", None)
    for on in ([], ["--on", "."]):
        for one in (accepted, stocked):
            replay = server.json("replay", one.flux_id, *on)
            assert (replay["verdict"], replay["divergence"], replay["notes"]) == ("identical", None, [])
    assert len(stub.seen) == seen

    # It is nowhere but in the file: not in what a replay is recorded as, either.
    tables = shop.database.psql(
        "select c.oid::regclass from pg_class c where c.relnamespace = 'flux'::regnamespace and c.relkind = 'r'"
    ).splitlines()
    for table in tables:
        told = shop.database.psql(f"select row_to_json(t) from {table} t")
        assert KEY not in told and PASSWORD not in told, table
    assert KEY not in server.command("trace", signed.flux_id, "-v").stdout

    shop.set_secrets("sk_live_another_key", password="another password")
    for one, name in ((signed, "SIGNING_KEY"), (accepted, "SIGNING_KEY"), (stocked, "PASSWORD")):
        replay = server.json("replay", one.flux_id, exit_code=1)
        assert replay["verdict"] == "diverged"
        assert replay["reason"].startswith(
            f"the secret {name}, whose value it asked for, has another value now"
        )
        assert any("another value now" in note for note in replay["notes"])
    assert "another value now" in server.command("replay", signed.flux_id).stdout
    assert server.json("replay", briefly.flux_id, exit_code=1)["verdict"] == "same failure"

    shop.set_secrets(None)
    replay = server.json("replay", accepted.flux_id, exit_code=1)
    assert replay["reason"].startswith("the secret SIGNING_KEY, whose value it asked for, has none any more")
    shop.set_secrets(KEY)
    assert server.json("replay", accepted.flux_id)["verdict"] == "identical"
