"""A whole server runs out of something under a load of trades, gets it back, and the records and the tables agree.

    python -m tests.faults.exhaustion
    python -m tests.faults.exhaustion --only disk --trades 200 --serve

Clients post trades (`tests.faults.ledger`) to ``flux dev``, or to ``flux serve``, all the time, over HTTP. Then its
disk is full, or the database's; or it may open no more files, clients hold its connections, it gets no more memory,
functions eat theirs, its control group has no more processes or memory for it, the machine's clock is put back and
forward, or the database's or another host's line is open and nobody is at its end. Meanwhile what is refused is to be
refused by name. Then the want ends, nobody touches the server, trades have to be made again, and ``psql`` is asked
whether each that was answered is there and on record once.

A want is a context manager: in its block the server lacks something. What is full is a tmpfs in a mount namespace of
this program's own, and the clock is stepped below Python, for the server and all that it starts: nothing of the machine
is touched, and nothing is left when this program is killed, but for a control group without processes.
"""

import argparse
import collections
import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from flux.store.embedded import SUPERUSER
from flux.store.embedded_running import find_running_postgres
from flux.supervisor.project_database import DATABASE
from tests.conftest import Database, create_database
from tests.dev_process import (
    CountingStub,
    DevServer,
    counting_stub,
    database_url,
    start_server,
    wait_ready,
    write_project,
)
from tests.faults.control_group import NoGroupError, around
from tests.faults.ledger import PATH, SCHEMA, Findings, Told, check, make_statements
from tests.faults.stepped_clock import build_clock
from tests.postgres_server import PostgresServer, running_postgres, wheel_bin_dir

CLIENTS = 3
WAIT_S_MAX = 240.0
SETTLE_S_MAX = 120.0
ANSWER_S_MAX = 30.0
"""So long a client waits for an answer; one whose record finds no room anywhere is not answered."""
PAUSE_S = 0.05
"""After a trade that was not made."""
LARGE_BYTES = 7_500_000
"""Of a body that needs a mapping of its own. A function may be sent 8 MiB."""
GROUP_BYTES = 48 * 2**20
"""Of memory that the server and its workers may have more together, where a function alone may have 96 MiB."""
DISK_BYTES = 320 * 2**20
"""Of a small disk: a new database and what Flux keeps beside it have room on it."""
FUNCTIONS = """\
from flux_guest import Context, function


@function("POST /trades/{number}", timeout="8s")
async def trade(ctx: Context, input: dict) -> dict:
    for number, (sql, values) in enumerate(input["statements"]):
        if number == 4 and input["url"]:
            await ctx.http.post(input["url"], json={}, timeout=1.0)
        await ctx.db.execute(sql, *values)
    return {"is": "made"}


@function("POST /eater")
async def eater(ctx: Context, input: dict) -> dict:
    eaten = []
    while True:
        eaten.append(bytearray(1_000_000))
"""
TOML = '\n[limits]\nmemory = "96MiB"\n\n[database]\nisolation = "read committed"\n'


@attrs.define
class Load:
    """Clients that post trades until they are stopped, and what they were told."""

    port: int
    url: str = ""
    """What a trade asks in its middle; "": nothing."""
    more: str = ""
    """What a trade's request has in it beside its statements."""
    told: Told = attrs.field(factory=Told)
    unanswered: set[int] = attrs.field(factory=set)
    """Trades that got no answer: nobody knows of them but the database."""
    answers: collections.Counter[str] = attrs.field(factory=collections.Counter)
    """How often each kind of answer came, with the reason that it gave."""
    number: int = 0
    _over: threading.Event = attrs.field(factory=threading.Event)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    def again(self) -> "Load":
        """Return clients that go on with the numbers, and have been told nothing yet."""
        return Load(self.port, number=self.number)

    def start(self) -> None:
        """Have the clients begin."""
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for the clients' last answers."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_done(self, more: int) -> None:
        """Wait until so many more trades are made."""
        wanted = len(self.told.done) + more
        wait_until(lambda: len(self.told.done) >= wanted, lambda: f"no trades are made: {dict(self.answers)}")

    def wait_others(self, more: int) -> None:
        """Wait until so many more trades are not made."""
        wanted = self._others() + more
        wait_until(lambda: self._others() >= wanted, lambda: f"all trades are made: {dict(self.answers)}")

    def post_until_refused(self, times: int) -> None:
        """Post trades until so many were not made, whatever the clients wait for."""
        deadline, missed = time.monotonic() + WAIT_S_MAX, 0
        while missed < times:
            missed += not self._post()
            if time.monotonic() > deadline:
                raise WantError(f"all trades are made: {dict(self.answers)}")

    def _others(self) -> int:
        told = self.told
        return len(told.failed) + len(told.refused) + len(told.unknown) + len(self.unanswered)

    def _run(self) -> None:
        while not self._over.is_set():
            if not self._post():
                time.sleep(PAUSE_S)

    def _post(self) -> bool:
        with self._lock:
            self.number += 1
            number = self.number
        return self._trade(number)

    def _trade(self, number: int) -> bool:
        told = self.told
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S_MAX)
        try:
            body = json.dumps({"statements": make_statements(number), "url": self.url, "more": self.more})
            connection.request("POST", f"{PATH}{number}", body, {"content-type": "application/json"})
            response = connection.getresponse()
            status, flux_id, content = response.status, response.getheader("flux-id"), response.read()
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self.unanswered.add(number)
                self.answers[type(error).__name__] += 1
            return False
        finally:
            connection.close()
        detail = "" if status == 200 else json.loads(content)["detail"]
        with self._lock:
            self.answers[f"{status} {detail[:100]}".strip()] += 1
            if status == 200:
                told.done.add(number)
            elif flux_id is None:
                told.refused.add(number)
            elif "CommitUnknown" in detail:
                told.unknown.add(number)
            else:
                told.failed.add(number)
        return status == 200


@attrs.define
class House:
    """A server under load, its database, and where things are that it may lack."""

    dev: DevServer
    database: Database
    load: Load
    folder: Path
    """The project's."""
    disk: Path | None = None
    """A small disk that something of it is on."""
    stub: CountingStub | None = None
    clock: Path | None = None
    """Where it is written by how many seconds the server's clock is wrong."""


@attrs.define
class Row:
    """What came of one want."""

    want: str
    load: Load
    findings: Findings | None = None
    wrong: list[str] = attrs.field(factory=list)
    """What else was not as it has to be."""
    again_s: float = 0.0
    """From the end of the want, when all is given back, until so many trades were made again as before it."""
    took_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether all is as it has to be."""
        return self.findings is not None and not self.findings and not self.wrong


@attrs.define
class Tally:
    """All that came of it."""

    rows: list[Row] = attrs.field(factory=list)

    def report(self) -> str:
        """Return the table that a person reads."""
        heads = f"{'want':34} {'made':>5} {'refused':>7} {'failed':>6} {'unknown':>7} {'unanswered':>10}"
        lines = [f"{heads}  lost phantom doubled unrecorded  again in  took"]
        for row in self.rows:
            told, found, unanswered = row.load.told, row.findings, len(row.load.unanswered)
            line = f"{row.want:34} {len(told.done):5} {len(told.refused):7} {len(told.failed):6} {len(told.unknown):7}"
            counts = [
                "?" if found is None else len(getattr(found, name))
                for name in ("lost", "phantom", "doubled", "unrecorded")
            ]
            lines.append(
                f"{line} {unanswered:10} {counts[0]:>5} {counts[1]:>7} {counts[2]:>7} {counts[3]:>10} "
                f"{row.again_s:7.1f} s {row.took_s:4.0f} s"
            )
        for row in self.rows:
            lines += [f"{row.want}: {row.findings}"] if row.findings else []
            lines += [f"{row.want}: {sentence}" for sentence in row.wrong]
        return "\n".join(lines)


def wait_until(is_so: Callable[[], bool], why_not: Callable[[], str], s_max: float = WAIT_S_MAX) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + s_max
    while not is_so():
        if time.monotonic() > deadline:
            raise WantError(why_not())
        time.sleep(0.02)


class WantError(Exception):
    """It did not come to what had to come."""


# --- wants -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(house: House) -> Iterator[None]:
    """No byte is left on the small disk."""
    assert house.disk is not None
    filler = house.disk / "filler"
    over = threading.Event()

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            while not over.is_set():  # What others give back is taken as well.
                try:
                    file.write(bytes(4096) if file.tell() % 2**20 else bytes(2**20))
                except OSError:
                    with contextlib.suppress(OSError):
                        file.write(b"x")
                    time.sleep(0.005)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        # A client whose function had run when room ran out hears nothing until its record is somewhere; others do.
        house.load.post_until_refused(6)
        yield
    finally:
        over.set()
        thread.join()
        filler.unlink()


@contextlib.contextmanager
def no_descriptors(house: House) -> Iterator[None]:
    """The supervisor may open hardly any more files, while clients hold connections and send half a request."""
    pid = house.dev.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opened = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names, and as one call
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened + 8, before[1]))
    lines = []
    try:
        for _ in range(40):
            line = socket.create_connection(("127.0.0.1", house.load.port), timeout=5)
            line.sendall(b"POST /trades/1 HTTP/1.1\r\nHost: x\r\n")
            lines.append(line)
        house.dev.wait_story("FLX602")
        yield
    finally:
        for line in lines:
            line.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def no_memory(house: House) -> Iterator[None]:
    """The supervisor gets no more address space, and bodies are larger than what it may have free of its own."""
    pid = house.dev.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (0, before[1]))  # What it has it keeps.
    house.load.more = "x" * LARGE_BYTES
    try:
        house.load.wait_others(1)
        yield
    finally:
        house.load.more = ""
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, before)


@contextlib.contextmanager
def eaters(house: House) -> Iterator[None]:
    """Functions eat what memory they get, beside the trades."""
    statuses: list[int] = []

    def eat() -> None:
        for _ in range(3):
            statuses.append(house.dev.request("POST", "/eater", {}).status)

    threads = [threading.Thread(target=eat) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    if len(statuses) != 9 or not set(statuses) <= {500, 503} or 500 not in statuses:
        raise WantError(f"functions that eat memory were answered {statuses}")


@contextlib.contextmanager
def no_processes(house: House) -> Iterator[None]:
    """No process and no thread more can be started by the server and all that it has started."""
    with around(house.dev.process.pid, "pids") as group:
        group.limit(1)  # What there is stays, whatever the limit.
        try:
            house.load.wait_others(3)
            yield
        finally:
            group.limit(None)


@contextlib.contextmanager
def little_memory(house: House) -> Iterator[None]:
    """The kernel has little memory for the server and all that it has started together, and functions eat it."""
    with around(house.dev.process.pid, "memory") as group:
        group.limit(group.read_used() + GROUP_BYTES)
        try:
            with eaters(house):
                wait_until(lambda: group.count_kills() >= 3, lambda: "the kernel has ended no process")
            # Of those that it has ended there are records, too.
            wait_until(lambda: house.database.psql(KILLED) == "t", lambda: "no record is of a function that was killed")
            yield
        finally:
            group.limit(None)


KILLED = "select count(*) > 0 from flux.execution where path = '/eater' and outcome = 'interrupted'"


@contextlib.contextmanager
def stepped(house: House) -> Iterator[None]:
    """The clock is put back by an hour, on by two days, and to 1980; at last it is right again."""
    assert house.clock is not None
    try:
        for offset_s in (-3600, 2 * 86400, -round(time.time()) + 10 * 365 * 86400):
            house.clock.write_text(f"{offset_s}\n")
            house.load.wait_done(4)
        # That it was felt stands in the records.
        wait_until(lambda: house.database.psql(SPANS) == "t|t", lambda: "no record is of another time")
        yield
    finally:
        house.clock.write_text("0\n")


SPANS = (
    "select min(started_at) < '1981-01-01', max(started_at) > now() + interval '47 hours' from flux.execution"
)


@contextlib.contextmanager
def silent_host(house: House) -> Iterator[None]:
    """Each trade asks a host in its middle that takes the question and never answers."""
    assert house.stub is not None
    house.load.url = house.stub.url("/hang")
    try:
        house.load.wait_others(5)
        yield
    finally:
        house.load.url = ""
        house.stub.release()


@contextlib.contextmanager
def silent_database(house: House) -> Iterator[None]:
    """The database's processes are stopped: its lines stay open, and nobody is at their end."""
    server = house.database.server
    stopped: list[int] = []
    server.clients.close()
    for pid in [server.pid, *_children(server.pid)]:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
    try:
        house.load.wait_others(2)
        yield
    finally:
        for pid in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


Want = Callable[[House], contextlib.AbstractContextManager[None]]


@attrs.frozen
class Case:
    """A want, and the house that it happens in."""

    name: str
    want: Want
    named: tuple[str, ...] = ()
    """One of these is to be told of it: in an answer, to the operator, or on record, where clients are not to know."""
    disk: str = ""
    """What is on a small disk: ``all``, ``database`` or ``journal``."""


CASES = (
    Case(
        "disk: journal and own database",
        full_disk,
        ("FLX702", "53100", "FLX722", "No space left"),
        disk="all",
    ),
    Case(
        "disk: the database's",
        full_disk,
        ("53100", "FLX722", "No space left", "FLX20", "FLX22"),
        disk="database",
    ),
    Case("disk: the journal's", full_disk, ("FLX702",), disk="journal"),
    Case("files: no descriptors, half requests", no_descriptors, ("FLX602",)),
    Case("memory: the supervisor's", no_memory, ("503 there is no memory for this request",)),
    Case("memory: functions that eat it", eaters),
    Case("processes: none more", no_processes, ("FLX421",)),
    Case("memory: of a control group", little_memory),
    Case("clock: back, on, and to 1980", stepped),
    Case("peer: a host that never answers", silent_host, ("HttpTimeoutError",)),
    Case("peer: a database that never answers", silent_database, ("504",)),
)


# --- running them ----------------------------------------------------------------------------------


@contextlib.contextmanager
def open_house(cases: Sequence[Case], scratch: Path, *, serves: bool) -> Iterator[House]:
    """Start a server in which all of ``cases`` can happen: ``flux serve`` where it ``serves``, else ``flux dev``."""
    (kind,) = {case.disk for case in cases if case.disk} or {""}
    project = scratch / "project"
    flux_folder, disk = project / ".flux", None
    project.mkdir()
    with contextlib.ExitStack() as stack:
        stub = stack.enter_context(counting_stub())
        toml = f'{TOML}\n[http]\nallow = ["127.0.0.1:{stub.port}"]\n'
        tables = {"001.sql": SCHEMA.rpartition("grant")[0]}  # They are the functions' own here.
        write_project(project, {"trades.py": FUNCTIONS}, toml=toml, migrations=tables)
        if kind:
            disk = scratch / "db" if kind == "database" else flux_folder
            stack.enter_context(small_disk(disk))
        options: tuple[str, ...] = ()
        if kind != "all":
            with _temporary_folder(disk if kind == "database" else None):
                server = stack.enter_context(running_postgres(on_disk=kind == "database"))
            database = create_database(server)
            options = ("--database-url", database_url(database))
        clock = scratch / "clock"
        if any(case.want is stepped for case in cases):
            clock.write_text("0\n")
            preloaded = [str(build_clock(scratch)), *os.environ.get("LD_PRELOAD", "").split()]
            stack.enter_context(_environment(LD_PRELOAD=" ".join(preloaded), STEPPED_CLOCK=str(clock)))
        command = ("serve", "--bind", "127.0.0.1:0") if serves else ("dev", "--port", "0")
        dev = start_server(project, *command, *options)
        stack.callback(dev.kill)
        wait_ready(dev)
        if kind == "all":
            database = stack.enter_context(_embedded(flux_folder / "pg"))
        yield House(dev, database, Load(dev.port), project, disk, stub, clock)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk at ``folder``, in this program's own namespace of mounts."""
    folder.mkdir(parents=True, exist_ok=True)
    _command("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "tmpfs", str(folder))
    try:
        yield
    finally:
        _command("umount", "--lazy", str(folder))


def _command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@contextlib.contextmanager
def _temporary_folder(folder: Path | None) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder) if folder else tempfile.tempdir
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _embedded(folder: Path) -> Iterator[Database]:
    """The server's own database, for a psql."""
    found = find_running_postgres(folder, user=SUPERUSER, database=DATABASE)
    assert found is not None, f"no Postgres runs in {folder}"
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    server = PostgresServer(wheel_bin_dir(), folder, folder / "log", found.host, found.port, found.user, pid)
    try:
        with _environment(PGPASSWORD=found.password):
            yield Database(server, DATABASE)
    finally:
        server.clients.close()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def suffer(
    cases: Sequence[Case], trades: int, scratch: Path, tell: Callable[[Row], None], *, serves: bool
) -> list[Row]:
    """Have wants come and go at one server, one after the other, and look after each what is true."""
    rows: list[Row] = []
    with open_house(cases, scratch, serves=serves) as house:
        for case in cases:
            began, told_before = time.monotonic(), len(house.dev.story)
            row = Row(case.name, house.load.again())
            house.load = row.load
            rows.append(row)
            _suffer(case, trades, house, row, told_before)
            row.took_s = time.monotonic() - began
            tell(row)
        dev = house.dev
        if dev.process.poll() is not None:
            rows[-1].wrong.append(f"the server has ended: {dev.story[-6:]}")
        elif (code := dev.stop()) != 0:
            rows[-1].wrong.append(f"the server ended with {code}: {dev.story[-6:]}")
    return rows


def _suffer(case: Case, trades: int, house: House, row: Row, told_before: int) -> None:
    load, number_before = house.load, house.load.number
    load.start()
    try:
        load.wait_done(trades)
        with case.want(house):
            pass  # Each lasts until it was felt.
        given_back = time.monotonic()
        load.wait_done(trades)
        row.again_s = time.monotonic() - given_back
    except (WantError, NoGroupError) as error:
        row.wrong.append(str(error))
    finally:
        load.stop()
    try:
        row.findings = settle(house)
    except WantError as error:
        row.wrong.append(str(error))
        return
    errors = house.database.psql(ERRORS.format(number_before)).splitlines()
    said = [*load.answers, *house.dev.story[told_before:], *errors]
    if case.named and not any(name in line for name in case.named for line in said):
        row.wrong.append(f"none of {case.named} was told: {dict(load.answers)}, {errors}")


ERRORS = """
select distinct error_type || ': ' || error_message from flux.execution
where error_type is not null and path like '/trades/%' and split_part(path, '/', 3)::int > {}
"""


def settle(house: House) -> Findings | None:
    """Ask a second client until nothing is wrong, or nothing changes any more: the last records are on their way."""
    found: Findings | None = None
    deadline = time.monotonic() + SETTLE_S_MAX
    while found is None or found:
        try:
            found = check(house.database, house.load.told)
        except subprocess.CalledProcessError as error:
            found = None
            if time.monotonic() > deadline:
                raise WantError(f"psql: {error.__notes__}") from error
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


def _tell(row: Row) -> None:
    answers = "; ".join(f"{count} × {answer}" for answer, count in row.load.answers.most_common())
    print(f"{row.want}: {answers}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, have each want come and go, and report; 0 when nothing was lost or made up."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.exhaustion", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--only", action="append", default=[], help="wants whose name holds this; may be said again"
    )
    parser.add_argument(
        "--together", action="store_true", help="at one server, one after the other; of disks only one"
    )
    parser.add_argument("--trades", type=int, default=40, help="to be made before each want, and after it")
    parser.add_argument("--serve", action="store_true", help="of flux serve, not of flux dev")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        rooted = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        again = [sys.executable, "-m", "tests.faults.exhaustion", *(arguments or sys.argv[1:]), "--inside"]
        return subprocess.run(
            ["unshare", *rooted, "--mount", "--propagation", "private", *again], check=False
        ).returncode
    tally = Tally()
    cases = [case for case in CASES if not options.only or any(name in case.name for name in options.only)]
    for group in [cases] if options.together else [[case] for case in cases]:
        with tempfile.TemporaryDirectory() as scratch:
            tally.rows += suffer(group, options.trades, Path(scratch), _tell, serves=options.serve)
    print(tally.report())
    return 0 if tally.rows and all(row.is_good for row in tally.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
