"""The rules for SQL against the one who decides what SQL means.

A statement is hidden behind white space, comments and pieces of them. Postgres is asked
to run it; whenever it does, and it was one that guests must not send, the rules must
have known.
"""

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux.sql_rules import find_refusal
from tests.postgres_server import PostgresServer

PIECES = st.sampled_from(
    [
        " ", "\t", "\n", "\r", "\f", "\v", "--", "-", "/*", "*/", "/", "*", ";", "(", ")", "x",
        "'", '"', "$$", "E'",
        "\\", "\ufeff", "\u00a0", "\u2028", "\u0085", "\x1c", "\x1f", "select 1", "commit",
    ]
)  # fmt: skip
STATEMENTS = st.sampled_from(
    [
        "commit",
        "COMMIT",
        "rollback",
        "end",
        "abort",
        "savepoint a",
        "set a.b = 'c'",
        "reset a.b",
        "discard plans",
    ]
)
REFUSED_TAGS = {"COMMIT", "ROLLBACK", "SAVEPOINT", "SET", "RESET", "DISCARD PLANS"}


class Backend:
    """The extended protocol, as little of it as takes one statement: independent of the driver."""

    def __init__(self, server: PostgresServer) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(f"{server.host}/.s.PGSQL.{server.port}")
        parameters = f"user\0{server.user}\0database\0postgres\0client_encoding\0UTF8\0\0".encode()
        self.socket.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
        self.stream = self.socket.makefile("rb")
        self.wait_ready()

    def wait_ready(self) -> list[tuple[bytes, bytes]]:
        messages = []
        while True:
            kind, length = struct.unpack("!ci", self.stream.read(5))
            messages.append((kind, self.stream.read(length - 4)))
            if kind == b"Z":
                return messages

    def run(self, sql: str) -> str:
        """Return the tag of what was run, empty when nothing was."""
        parse = b"\0" + sql.encode() + b"\0\0\0"
        bind, execute = b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0"
        data = b"".join(
            kind + struct.pack("!i", len(body) + 4) + body
            for kind, body in ((b"P", parse), (b"B", bind), (b"E", execute), (b"S", b""))
        )
        self.socket.sendall(data)
        tags = [body[:-1].decode() for kind, body in self.wait_ready() if kind == b"C"]
        return tags[0] if tags else ""

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture(scope="module")
def backend(postgres18: PostgresServer) -> Iterator[Backend]:
    backend = Backend(postgres18)
    yield backend
    backend.close()


@settings(
    max_examples=1500, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(before=st.lists(PIECES, max_size=8), statement=STATEMENTS, after=st.lists(PIECES, max_size=3))
def test_what_postgres_runs_in_spite_of_its_disguise_is_refused(
    backend: Backend, before: list[str], statement: str, after: list[str]
) -> None:
    sql = "".join(before) + statement + "".join(after)
    assert backend.run("begin") == "BEGIN"
    tag = backend.run(sql)
    if tag in REFUSED_TAGS:
        assert find_refusal(sql) is not None, sql
    backend.run("rollback")


@pytest.mark.parametrize(
    "disguise", ["-- x\rcommit", "; commit", "/* /* */ */ commit", "/**/commit", "\vcommit"]
)
def test_postgres_does_see_through_these_disguises(backend: Backend, disguise: str) -> None:
    """The test above would prove nothing if Postgres refused all that it draws."""
    assert backend.run("begin") == "BEGIN"
    assert backend.run(disguise) == "COMMIT"
    assert find_refusal(disguise) is not None


@pytest.mark.parametrize("sql", ["\ufeffcommit", "\u00a0commit", "(commit)", "/* commit", "explain commit"])
def test_postgres_runs_none_of_these(backend: Backend, sql: str) -> None:
    assert backend.run(sql) == ""
