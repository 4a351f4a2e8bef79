"""What tests of worlds share: who saw the tables as they were, and asking a world the same.

The oracle is the transaction that took the snapshot: it is kept open, so it still sees what it saw, and says so
through ``psql``'s driver and not through ours.
"""

import json
import subprocess
from datetime import UTC, datetime
from hashlib import sha256

from flux.store.migrate import ensure_guest
from flux.store.postgres import Pool, connect
from flux.store.queries import QUERIES
from flux.store.world import WorldPlan
from flux.supervisor.world import WorldDatabase
from tests.conftest import Database

TOKEN = b"token of the tests"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Watcher:
    """A ``psql`` with an open transaction, which sees what its snapshot saw."""

    def __init__(self, database: Database) -> None:
        server = database.server
        self._process = subprocess.Popen(
            [server.bin_dir / "psql", "-XqAt", "-h", server.host, "-p", str(server.port), "-U", server.user,
             database.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.say("begin isolation level repeatable read")
        self.snapshot = self.say("select pg_current_snapshot()")

    def say(self, sql: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{sql};\n\\echo --end--\n")
        self._process.stdin.flush()
        lines = []
        while (line := self._process.stdout.readline()) != "--end--\n":
            assert line, "psql has ended"
            lines.append(line.rstrip("\n"))
        return "\n".join(lines)

    def rows(self, question: str) -> object:
        return json.loads(
            self.say(f"select coalesce(json_agg(q), '[]') from ({question}) q").replace("\n", "")
        )

    def close(self) -> None:
        self._process.stdin and self._process.stdin.close()
        self._process.wait()
        self._process.stdout and self._process.stdout.close()


async def open_guests(database: Database) -> Pool:
    """A pool of the guests' connections, with a supervisor's token that is known."""
    owner = await connect(database.options())
    role = await ensure_guest(owner, "main", "public", "of no use on this socket")
    await owner.run(QUERIES.add_supervisor, [sha256(TOKEN).digest(), "tests"])
    await owner.aclose()
    return Pool(database.options(role), 2)


def plan(snapshot: str, *written: str, **more: object) -> WorldPlan:
    return WorldPlan("public", snapshot, NOW, frozenset(written), **more)  # type: ignore[arg-type]


async def ask(world: WorldDatabase, sql: str) -> object:
    """The answer as JSON makes it, so that it can be laid beside psql's."""
    answer = await world.run(f"select coalesce(json_agg(q), '[]')::text from ({sql}) q", [], 1)
    return json.loads(str(answer.rows[0][0]))
