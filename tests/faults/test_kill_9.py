"""A thousand kill -9, of workers and of the supervisor, under a load of transfers.

Clients post transfers all the time. Meanwhile random workers are killed, and now and
then the supervisor with everything that hangs on it, which is then started again. At
the end a second psql is asked what is true: each committed transfer has exactly one
record, no record claims what did not commit, money is neither made nor lost, and no
process is left behind.
"""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Database
from tests.dev_process import DevServer, database_url, start_dev, wait_ready, write_project
from tests.postgres_server import PostgresServer, find_free_port
from tests.repetitions import TIMES
from tests.zygote_world import children_of

KILLS = 1000 * TIMES
SUPERVISOR_KILLS = 10 * TIMES
"""Of all; each costs a start."""
CLIENTS = 4
ACCOUNTS = 8
END_S_MAX = 180.0

TRANSFER = '''\
from flux_guest import Context, function


@function("POST /transfers")
async def transfer(ctx: Context, input: dict) -> dict:
    cents = await ctx.db.query_one("select cents from accounts where id = $1 for update", input["source"])
    ctx.log.info("transferring", cents=cents["cents"])
    await ctx.db.execute("update accounts set cents = cents - $1 where id = $2", input["cents"], input["source"])
    await ctx.clock.fresh()
    await ctx.db.execute("update accounts set cents = cents + $1 where id = $2", input["cents"], input["target"])
    await ctx.db.execute("insert into transfers (id, cents) values ($1, $2)", input["id"], input["cents"])
    return {"id": input["id"]}


@function("POST /broken")
async def broken(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into transfers (id, cents) values ($1, 0)", input["id"])
    raise RuntimeError("on purpose")
'''
SCHEMA = f"""
create table accounts (id int primary key, cents bigint not null);
create table transfers (id text primary key, cents bigint not null);
insert into accounts select n, 1000 from generate_series(1, {ACCOUNTS}) n;
"""


class Clients:
    """Threads that post transfers until they are told to stop; each transfer's id is used once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.confirmed: list[str] = []
        """Ids of transfers that were answered with 200."""
        self.refused = 0
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        draw = random.Random(number)
        count = 0
        while not self._stop.is_set():
            count += 1
            source, target = draw.sample(range(1, ACCOUNTS + 1), 2)
            transfer = {"id": f"{number}-{count}", "source": source, "target": target, "cents": draw.randint(1, 9)}
            path = "/broken" if count % 10 == 0 else "/transfers"
            if self._post(path, transfer) == 200:
                self.confirmed.append(transfer["id"])
            else:
                self.refused += 1

    def _post(self, path: str, body: object) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # The supervisor is gone; another one comes.
            return 0
        finally:
            connection.close()


def list_processes(root: int) -> dict[int, int]:
    """Every process below ``root``, with its parent."""
    found: dict[int, int] = {}
    for child in children_of(root):
        found |= {child: root, **list_processes(child)}
    return found


def list_workers(supervisor: int) -> list[int]:
    """Processes that nobody hangs on, three or more below the supervisor: those nearer keep the workers' jail."""
    parents = list_processes(supervisor)
    leaves = parents.keys() - set(parents.values())
    return [pid for pid in leaves if parents.get(parents.get(parents[pid], supervisor), supervisor) != supervisor]


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_after_a_thousand_kills_every_commit_has_one_record_and_no_record_lies(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres18)
    project = write_project(tmp_path, {"transfers.py": TRANSFER}, migrations={"001.sql": SCHEMA})
    port = find_free_port()
    draw = random.Random(20261125)

    def start() -> DevServer:
        server = start_dev(project, "--database-url", database_url(database), port=port)
        wait_ready(server)
        return server

    server = start()
    clients = Clients(port)
    seen: set[tuple[int, str]] = set()
    try:
        for round_number in range(SUPERVISOR_KILLS):
            for _ in range((KILLS - SUPERVISOR_KILLS) // SUPERVISOR_KILLS):
                killed = False
                while not killed:
                    workers = list_workers(server.process.pid)
                    killed = bool(workers) and kill(draw.choice(workers))
                    if not killed:
                        time.sleep(0.005)  # The next ones are on their way.
                time.sleep(draw.random() * 0.02)
            seen |= {(pid, started_at(pid)) for pid in list_processes(server.process.pid)}
            time.sleep(draw.random() * 0.1)
            server.kill()
            if round_number % 2:
                time.sleep(draw.random() * 0.2)
            server = start()
        time.sleep(0.5)
        clients.stop()
        assert server.request("POST", "/transfers", {"id": "last", "source": 1, "target": 2, "cents": 1}).status == 200
        seen |= {(pid, started_at(pid)) for pid in list_processes(server.process.pid)}
        assert server.stop() == 0, "\n".join(server.story[-20:])
    finally:
        clients.stop()
        server.kill()

    # Money.
    assert database.psql("select sum(cents) from accounts").strip() == str(1000 * ACCOUNTS)
    committed = set(database.psql("select id from transfers").split())
    assert set(clients.confirmed) | {"last"} <= committed, "a transfer was confirmed and is not there"
    # Every commit has exactly one record. (xmin is the low half of the transaction's id.)
    without_one = database.psql("""
        select t.id, count(e.id) from transfers t
        left join flux.execution e on e.xid::text::bigint % 4294967296 = t.xmin::text::bigint
        group by t.id having count(e.id) <> 1""")
    assert without_one.strip() == ""
    # No record claims what did not commit.
    phantoms = database.psql("""
        select e.name, e.outcome from flux.execution e
        left join transfers t on e.xid::text::bigint % 4294967296 = t.xmin::text::bigint
        where (e.outcome = 'returned') <> (t.id is not null) and e.function = 'transfer'""")
    assert phantoms.strip() == ""
    assert database.psql(
        "select count(*) from flux.execution where function = 'broken' and outcome = 'returned'"
    ).strip() == "0"
    # Nothing is recorded twice, nothing is left in a journal, and what was cut is called so.
    assert database.psql("select count(*) - count(distinct id) from flux.execution").strip() == "0"
    outcomes = dict(
        line.split("|") for line in database.psql("select outcome, count(*) from flux.execution group by 1").split()
    )
    assert int(outcomes["interrupted"]) > 0 and int(outcomes["raised"]) > 0, outcomes
    assert outcomes.keys() == {"interrupted", "raised", "returned"}, outcomes
    # A worker's kill was answered, the supervisor's was not.
    statuses = database.psql("select distinct coalesce(status, 0) from flux.execution where outcome = 'interrupted'")
    assert set(statuses.split()) == {"0", "500"}
    assert [path for path in (project / ".flux" / "journal").iterdir() if path.stat().st_size > 4096] == []
    # Nobody is left: neither a worker nor a zygote of any of the supervisors.
    deadline = time.monotonic() + END_S_MAX
    while (left := [pid for pid, start in seen if is_alive(pid, start)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def started_at(pid: int) -> str:
    """When a process began, in the kernel's ticks: numbers come again, one with the same start does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""  # It has ended since.


def is_alive(pid: int, start: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and started_at(pid) == start
    except (FileNotFoundError, ProcessLookupError):
        return False
