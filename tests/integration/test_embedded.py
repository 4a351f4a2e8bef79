"""The embedded PostgreSQL, with real servers, real kills and a psql of its own to count rows.

Programs that play the supervisor run in processes of their own, because they
are killed, change who they are, or mount a disk that is too small.
"""

# Each test has trio's loop to itself, so that blocking it now and then delays nobody.
# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC240

import importlib.util
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from flux.store.embedded import (
    PostgresAddress,
    PostgresDirectoryError,
    PostgresInUseError,
    PostgresMajorError,
    PostgresMissingError,
    PostgresStartError,
    find_binaries,
    open_embedded_postgres,
)
from flux.store.embedded_binaries import SYSTEM_FOLDER, find_wheel_folder, search_binaries
from tests.repetitions import TIMES

INSTALLATIONS = [each.folder for each in search_binaries(find_wheel_folder(), SYSTEM_FOLDER, "")]
"""Every PostgreSQL on this machine: the wheel's, and what the system has."""

DEADLINE_S = 180.0
KILLS = 10 * TIMES

OPEN = """
import json, os, subprocess, sys
from pathlib import Path
import trio
from flux.errors import OperatorError
from flux.store.embedded import open_embedded_postgres

async def main(directory, options):
    try:
        async with open_embedded_postgres(Path(directory), **options) as server:
            answer = subprocess.run([server.binaries.psql, "-XAtc", "select 6 * 7"], check=True,
                                    env=server.address.to_environment(), capture_output=True, text=True)
            owner = os.stat(server.directory / "data").st_uid
            runs_as = os.stat(f"/proc/{server.pid}").st_uid
            print(json.dumps({"answer": answer.stdout.strip(), "how": server.identity.description,
                              "owner": owner, "runs_as": runs_as, "uid": os.geteuid()}))
    except OperatorError as error:
        print(json.dumps({"code": error.code, "text": str(error)}))

trio.run(main, sys.argv[1], json.loads(sys.argv[2]))
"""

WRITE = """
import subprocess, sys
from pathlib import Path
import trio
from flux.store.embedded import open_embedded_postgres

async def main(directory):
    print("imported", flush=True)
    async with open_embedded_postgres(Path(directory)) as server:
        table = "create table if not exists written (n bigint generated always as identity);\\n"
        insert = "insert into written default values returning n;\\n"
        psql = subprocess.Popen([server.binaries.psql, "-XqAt", "-f", "-"], stdin=subprocess.PIPE, text=True,
                                stderr=subprocess.DEVNULL, env=server.address.to_environment())
        psql.stdin.write("set client_min_messages = error;" + table)
        while True:
            psql.stdin.write(insert)
            psql.stdin.flush()

trio.run(main, sys.argv[1])
"""
"""Prints the number of each row once PostgreSQL has said that it is committed; runs until killed."""

CONFINE = """
import ctypes, os, sys

kind, directory, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def enter_user_namespace(count):
    uid, gid = os.geteuid(), os.getegid()
    entered, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        check(libc.unshare(0x10000000))
        os.write(entered[1], b"x")
        os.read(mapped[0], 1)
        return
    os.read(entered[0], 1)
    for name, line in (("setgroups", "allow" if uid == 0 else "deny"), ("gid_map", f"0 {gid} {count}"),
                       ("uid_map", f"0 {uid} {count}")):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write(line)
    os.write(mapped[1], b"x")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

if kind == "small disk":
    if os.geteuid() != 0:
        enter_user_namespace(1)
    check(libc.unshare(0x00020000))                                             # CLONE_NEWNS
    check(libc.mount(b"none", b"/", None, 16384 | (1 << 18), None))             # MS_REC | MS_PRIVATE
    check(libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, b"size=16m"))
else:  # root, but without leave to make another user namespace
    enter_user_namespace(1 if kind == "only root" else 65536)
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
os.execv(sys.executable, [sys.executable, *command])
"""


def ask(address: PostgresAddress, sql: str) -> str:
    """What psql answers: the independent witness."""
    finished = subprocess.run(
        [str(find_binaries().psql), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql],
        env=address.to_environment(), capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def list_processes(directory: Path) -> list[str]:
    """Every process that works in the directory or names it; looks at /proc in its own way."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(directory) in words or place.startswith(str(directory)):
            found.append(f"{process.name} {words}")
    return found


def count_tcp_sockets(pid: int) -> int:
    """How many of its descriptors are TCP sockets, by what the kernel says."""
    process = Path(f"/proc/{pid}")
    held = {str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()}
    tables = (process / "net" / "tcp", process / "net" / "tcp6")
    rows = [row.split() for table in tables for row in table.read_text().splitlines()]
    return sum(f"socket:[{row[9]}]" in held for row in rows)


async def wait_no_process(directory: Path) -> None:
    with trio.move_on_after(DEADLINE_S):
        while list_processes(directory):
            await trio.sleep(0.01)
    assert list_processes(directory) == []


def run_open(directory: Path, *, confine: str = "", **options: object) -> dict[str, object]:
    """Open the cluster in a process of its own, and say what came of it."""
    command = ["-c", OPEN, str(directory), json.dumps(options)]
    if confine:
        command = ["-c", CONFINE, confine, str(directory), *command]
    finished = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, object] = json.loads(finished.stdout)
    return answer


@pytest.fixture(scope="session")
def made_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped cluster to copy: most tests are not about initdb."""
    directory = tmp_path_factory.mktemp("made") / "pg"
    assert run_open(directory)["answer"] == "42"
    return directory


@pytest.fixture
def cluster(made_cluster: Path, tmp_path: Path) -> Path:
    """A copy of its own for each test."""
    return Path(shutil.copytree(made_cluster, tmp_path / "pg"))


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed."""
    place = Path(tempfile.mkdtemp(prefix="flux-test-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


# -- making and opening ---------------------------------------------------------


@pytest.mark.parametrize("binaries", INSTALLATIONS, ids=str)
async def test_a_missing_directory_becomes_a_cluster_that_answers(tmp_path: Path, binaries: Path) -> None:
    directory = tmp_path / "project" / ".flux" / "pg"
    async with open_embedded_postgres(directory, binaries=binaries) as server:
        assert ask(server.address, "select current_database() || ' ' || current_user") == "flux flux"
        assert ask(server.address, "show server_version").split()[0] == server.version
        assert ask(server.address, "show server_encoding") == "UTF8"
        assert ask(server.address, "select upper('ärger')") == "ÄRGER"
        ordered = "select string_agg(x, '' order by x) from unnest('{b,A,a,B}'::text[]) x"
        assert ask(server.address, ordered) == "ABab"
        shown = {name: ask(server.address, f"show {name}") for name in (
            "fsync", "track_commit_timestamp", "listen_addresses", "max_connections", "timezone",
            "data_checksums", "unix_socket_permissions",
        )}  # fmt: skip
        assert shown == {
            "fsync": "on", "track_commit_timestamp": "on", "listen_addresses": "", "max_connections": "300",
            "timezone": "UTC", "data_checksums": "on", "unix_socket_permissions": "0700",
        }  # fmt: skip
        assert server.first_run and server.initdb_s > 0 and server.start_s > 0
        assert (directory / "password").stat().st_mode & 0o777 == 0o600
        assert directory.stat().st_mode & 0o077 == 0
        assert count_tcp_sockets(server.pid) == 0
    await wait_no_process(directory)


async def test_a_second_opening_finds_what_the_first_has_written(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server:
        ask(server.address, "create table kept as select generate_series(1, 1000) as n")
        first = server.address
    async with open_embedded_postgres(cluster) as server:
        assert ask(server.address, "select count(*) from kept") == "1000"
        assert server.address == first
        assert not server.first_run and server.initdb_s == 0


async def test_a_wrong_password_is_refused(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server:
        wrong = attrs.evolve(server.address, password="guess")
        with pytest.raises(AssertionError, match="password authentication failed"):
            ask(wrong, "select 1")
        assert server.address.password not in repr(server.address)


async def test_any_database_is_created_once_whatever_its_name(cluster: Path) -> None:
    name = 'Ein "Name"; drop table x --\''
    for _ in range(2):
        async with open_embedded_postgres(cluster, database=name) as server:
            assert ask(server.address, "select current_database()") == name


async def test_alter_system_outlives_the_next_start(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server:
        ask(server.address, "alter system set work_mem = '7MB'")
        ask(server.address, "alter system set jit = 'on'")
    async with open_embedded_postgres(cluster) as server:
        assert ask(server.address, "show work_mem") == "7MB"
        assert ask(server.address, "show jit") == "on"


@pytest.mark.parametrize(
    "name", ["x" * 120, "deep/" * 30 + "pg", "a, b", 'quo"te d', "leer zeichen ü"], ids=lambda name: name[:12]
)
async def test_the_directory_may_have_any_name_and_depth(cluster: Path, name: str) -> None:
    directory = cluster.parent / "odd" / name
    directory.parent.mkdir(parents=True)
    cluster.rename(directory)
    async with open_embedded_postgres(directory) as server:
        assert ask(server.address, "select 1") == "1"
        socket = Path(server.address.host)
        assert len(os.fsencode(socket)) + len("/.s.PGSQL.5432") < 108
        assert socket.stat().st_mode & 0o077 == 0
    assert socket == directory or not socket.exists()


async def test_a_socket_directory_that_is_not_ours_alone_is_refused(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ("x" * 120)
    cluster.rename(directory)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    async with open_embedded_postgres(directory) as server:
        socket = Path(server.address.host)
    try:
        socket.mkdir(mode=0o700)
        socket.chmod(0o777)
        with pytest.raises(PostgresDirectoryError, match="not private"):
            async with open_embedded_postgres(directory):
                pytest.fail("opened over a directory that others can write to")
        socket.rmdir()
        socket.symlink_to(tmp_path)
        with pytest.raises(PostgresDirectoryError, match="FLX209"):
            async with open_embedded_postgres(directory):
                pytest.fail("opened over a symbolic link")
    finally:
        socket.unlink()
    assert list_processes(directory) == []


async def test_a_large_log_is_put_aside_at_the_next_start(cluster: Path) -> None:
    log = cluster / "postgres.log"
    log.write_bytes(b"old\n" * (3 * 1024 * 1024))
    async with open_embedded_postgres(cluster):
        assert log.stat().st_size < 10_000
    assert (cluster / "postgres.log.1").read_bytes().startswith(b"old\n")


# -- what it refuses --------------------------------------------------------------


async def test_a_directory_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for clean in (False, True):
        with pytest.raises(PostgresDirectoryError, match=r"thesis\.txt"):
            async with open_embedded_postgres(tmp_path, clean=clean):
                pytest.fail("opened")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


async def test_clean_begins_anew(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server:
        ask(server.address, "create table gone ()")
        before = server.address.password
    async with open_embedded_postgres(cluster, clean=True) as server:
        assert server.first_run
        assert ask(server.address, "select to_regclass('gone') is null") == "t"
        assert server.address.password != before


async def test_two_supervisors_never_share_a_directory(cluster: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITE, str(cluster)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"imported\n"
            assert other.stdout.readline() == b"1\n"  # its first row: it is open
            with pytest.raises(PostgresInUseError, match=f"process {other.pid}, another supervisor"):
                async with open_embedded_postgres(cluster):
                    pytest.fail("opened beside a living supervisor")
            (cluster / "lock").unlink()  # somebody tidies up
            with pytest.raises(PostgresInUseError, match=f"living supervisor, process {other.pid}"):
                async with open_embedded_postgres(cluster):
                    pytest.fail("opened beside a living supervisor")
        finally:
            other.kill()
    await wait_no_process(cluster)


@pytest.mark.parametrize("found", ["13", "99"])
async def test_another_majors_cluster_is_refused_with_a_way_out(cluster: Path, found: str) -> None:
    (cluster / "data" / "PG_VERSION").write_text(found + "\n")
    with pytest.raises(PostgresMajorError, match=f"made by PostgreSQL {found}") as raised:
        async with open_embedded_postgres(cluster):
            pytest.fail("opened")
    assert "pg_dumpall" in str(raised.value)


async def test_a_start_that_fails_shows_what_the_server_said(cluster: Path) -> None:
    (cluster / "data" / "postgresql.auto.conf").write_text("shared_bufers = 1GB\n")
    with pytest.raises(PostgresStartError, match='unrecognized configuration parameter "shared_bufers"'):
        async with open_embedded_postgres(cluster):
            pytest.fail("opened")
    assert list_processes(cluster) == []


async def test_a_lost_password_is_told_and_not_replaced(cluster: Path) -> None:
    (cluster / "password").unlink()
    with pytest.raises(PostgresDirectoryError, match="password is gone"):
        async with open_embedded_postgres(cluster):
            pytest.fail("opened")
    assert not (cluster / "password").exists()


def test_a_full_disk_is_named_and_nothing_half_made_stays(tmp_path: Path) -> None:
    told = run_open(tmp_path, confine="small disk")
    assert told["code"] == "FLX206", told
    assert "No space left on device" in str(told["text"]) and "MiB are free" in str(told["text"])
    assert list(tmp_path.iterdir()) == []  # the small disk went with its process
    assert list_processes(tmp_path) == []


# -- the programs -------------------------------------------------------------------


def test_the_wheel_comes_before_the_newest_system_server_and_that_before_path(tmp_path: Path) -> None:
    def install(folder: Path, *programs: str) -> Path:
        folder.mkdir(parents=True)
        for program in programs:
            (folder / program).write_text("#!/bin/sh\n")
            (folder / program).chmod(0o755)
        return folder

    server = ("postgres", "initdb", "psql")
    wheel = install(tmp_path / "wheel", *server)
    newest = install(tmp_path / "system" / "17" / "bin", *server)
    older = install(tmp_path / "system" / "9.6" / "bin", *server)
    install(tmp_path / "system" / "18" / "bin", "psql")  # a client without a server
    on_path = install(tmp_path / "opt", *server)
    linked = tmp_path / "links"
    linked.mkdir()
    (linked / "postgres").symlink_to(on_path / "postgres")
    found = search_binaries(wheel, tmp_path / "system", f":{tmp_path / 'nothing'}:{linked}")
    assert [each.folder for each in found] == [wheel, newest, older, on_path]


def test_when_no_server_is_found_the_error_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "system" / "16" / "bin").mkdir(parents=True)
    with pytest.raises(PostgresMissingError) as raised:
        next(search_binaries(None, tmp_path / "system", f"{tmp_path}/a:{tmp_path}/b"))
    text = str(raised.value)
    for place in ("embedded_postgres", "system/16/bin", f"{tmp_path}/a", f"{tmp_path}/b"):
        assert place in text


async def test_a_bin_folder_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PostgresMissingError, match="FLX208"):
        async with open_embedded_postgres(tmp_path / "pg", binaries=tmp_path):
            pytest.fail("opened")
    assert not (tmp_path / "pg").exists()


# -- how it ends -------------------------------------------------------------------


async def test_an_orderly_end_interrupts_whoever_is_still_connected(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server:
        ask(server.address, "create table t as select 1 as n")
        busy = subprocess.Popen(
            [str(server.binaries.psql), "-Xc", "begin; update t set n = 2; select pg_sleep(600)"],
            env=server.address.to_environment(), stderr=subprocess.PIPE,
        )  # fmt: skip
        while (
            ask(server.address, "select count(*) from pg_stat_activity where query like '%sleep(600)'") == "0"
        ):
            await trio.sleep(0.01)
        log = server.log
    assert busy.communicate(timeout=DEADLINE_S)[1]
    assert busy.returncode != 0
    assert list_processes(cluster) == []
    assert "database system is shut down" in log.read_text()
    async with open_embedded_postgres(cluster) as server:
        assert ask(server.address, "select n from t") == "1"


async def test_an_error_in_the_block_comes_out_as_it_is_and_the_server_ends(cluster: Path) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with open_embedded_postgres(cluster):
            raise ValueError("mine")
    assert list_processes(cluster) == []


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4])
async def test_a_cancelled_opening_leaves_no_process_and_nothing_half_made(
    tmp_path: Path, after_s: float
) -> None:
    directory = tmp_path / "pg"
    with trio.move_on_after(after_s):
        async with open_embedded_postgres(directory):
            await trio.sleep_forever()
    assert list_processes(directory) == []
    async with open_embedded_postgres(directory) as server:
        assert ask(server.address, "select 1") == "1"
    assert list(directory.glob("data.new-*")) == []


async def test_the_death_of_the_server_is_told_and_a_restart_loses_nothing(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server, trio.open_nursery() as nursery:
        ask(server.address, "create table t as select generate_series(1, 100) as n")
        deaths = []

        async def watch() -> None:
            deaths.append(await server.wait_died())

        nursery.start_soon(watch)
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        first = server.pid
        os.kill(first, signal.SIGKILL)
        died = await server.wait_died()
        assert died.status == -signal.SIGKILL and not died.asked
        await server.restart()
        assert server.pid != first
        assert ask(server.address, "select count(*) from t") == "100"
        assert len(deaths) == 2
    assert list_processes(cluster) == []


async def test_a_restart_of_a_living_server_is_an_orderly_one(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.restart)
        died = await server.wait_died()
        assert died.status == 0 and died.asked
        assert "database system is shut down" in died.log_tail


# -- what a kill leaves behind --------------------------------------------------------


async def test_a_dead_supervisors_server_shuts_down_by_itself(cluster: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITE, str(cluster)], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        supervisor.stdout.readline()
        assert supervisor.stdout.readline() == b"1\n"
        supervisor.kill()
    await wait_no_process(cluster)
    last_words = (cluster / "postgres.log").read_text()
    assert "received fast shutdown request" in last_words
    assert last_words.rstrip().endswith("database system is shut down")


async def test_no_kill_of_the_supervisor_loses_a_row_or_leaves_a_server(tmp_path: Path) -> None:
    directory = tmp_path / "pg"
    dice = random.Random(20)
    acknowledged: list[int] = []
    attempt = 0
    while attempt < KILLS or len(acknowledged) <= 100:  # On a busy machine fewer rows are written before a kill.
        attempt += 1
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(directory)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"imported\n"
            lines = []
            if attempt % 2 == 0:  # while rows are written; else somewhere in initdb, recovery or start
                lines.append(process.stdout.readline().strip())
            await trio.sleep(dice.uniform(0, 0.4))
            process.kill()
            lines += process.stdout.read().split(b"\n")[:-1]  # the last line may be cut off
        acknowledged += [int(line) for line in lines]
    async with open_embedded_postgres(directory) as server:
        kept = {int(line) for line in ask(server.address, "select n from written").split()}
        assert set(acknowledged) - kept == set()
    await wait_no_process(directory)
    assert list(directory.glob("data.new-*")) == []


async def test_a_leftover_postmaster_that_heard_nothing_is_ended_and_not_adopted(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server:
        command = server._command()
        before = server.pid
        ask(server.address, "create table t as select 7 as n")
        identity = server.identity
    # As if the death signal had got lost: started by nobody who still lives, with nobody to signal it.
    if os.geteuid() == 0:
        command = [
            "unshare",
            "--user",
            f"--map-user={identity.uid}",
            f"--map-group={identity.gid}",
            *command,
        ]
    orphan = subprocess.run(
        ["sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", *command],
        capture_output=True, text=True, check=True, cwd=cluster,
    )  # fmt: skip
    pid_file = cluster / "data" / "postmaster.pid"
    with trio.fail_after(DEADLINE_S):
        while not (pid_file.exists() and "ready" in pid_file.read_text()):
            await trio.sleep(0.01)
    with trio.fail_after(DEADLINE_S):
        async with open_embedded_postgres(cluster) as server:
            assert server.pid not in (before, int(orphan.stdout))
            assert ask(server.address, "select n from t") == "7"
    assert list_processes(cluster) == []


async def test_a_pid_file_whose_id_now_belongs_to_something_else_is_no_obstacle(cluster: Path) -> None:
    async with open_embedded_postgres(cluster) as server:
        pid_file = cluster / "data" / "postmaster.pid"
        socket_lock = cluster / ".s.PGSQL.5432.lock"
        left = pid_file.read_text(), socket_lock.read_text()
        old = server.pid
    with subprocess.Popen(["sleep", "600"]) as something_else:
        try:
            for path, text in zip((pid_file, socket_lock), left, strict=True):
                path.write_text(text.replace(str(old), str(something_else.pid), 1))
            async with open_embedded_postgres(cluster) as server:
                assert ask(server.address, "select 1") == "1"
            assert something_else.poll() is None
        finally:
            something_else.kill()


@pytest.mark.parametrize("text", ["", "12"])
async def test_a_pid_file_that_was_cut_short_is_no_obstacle(cluster: Path, text: str) -> None:
    (cluster / "data" / "postmaster.pid").write_text(text)
    (cluster / ".s.PGSQL.5432.lock").write_text(text)
    async with open_embedded_postgres(cluster) as server:
        assert ask(server.address, "select 1") == "1"


async def test_what_a_killed_initdb_left_is_cleared_away(tmp_path: Path) -> None:
    directory = tmp_path / "pg"
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(directory)], stdout=subprocess.PIPE
    ) as supervisor:
        with trio.fail_after(DEADLINE_S):
            while not list(directory.glob("data.new-*/base")):
                await trio.sleep(0.005)
        supervisor.kill()
    assert not (directory / "data").exists()
    async with open_embedded_postgres(directory) as server:
        assert server.first_run
        assert ask(server.address, "select 1") == "1"
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == ["data"]


# -- who it runs as --------------------------------------------------------------------


def test_root_who_may_not_become_anybody_is_told_what_to_do(tmp_path: Path) -> None:
    told = run_open(tmp_path / "pg", confine="only root")
    assert told["code"] == "FLX204", told
    for word in ("unshare(CLONE_NEWUSER)", "--pg-user", "--database-url", "ordinary user"):
        assert word in str(told["text"])


def test_a_user_who_does_not_exist_is_refused(tmp_path: Path) -> None:
    told = run_open(tmp_path / "pg", user="nobody-of-this-name")
    assert told["code"] == "FLX204" and "no such user" in str(told["text"])


def test_only_root_may_choose_the_user(open_place: Path) -> None:
    other = "nobody"
    told = run_open(open_place / "pg", user=other)
    if os.geteuid() == 0:
        wanted = pwd.getpwnam(other).pw_uid
        assert (told["answer"], told["owner"], told["runs_as"]) == ("42", wanted, wanted), told
        again = run_open(open_place / "pg")  # and it stays theirs
        assert (again["answer"], again["owner"], again["runs_as"]) == ("42", wanted, wanted), again
    else:
        assert told["code"] == "FLX204" and "only root" in str(told["text"]), told


def test_without_user_namespaces_root_drops_to_an_ordinary_user(open_place: Path) -> None:
    if os.geteuid() == 0:
        told = run_open(open_place / "pg", confine="no namespaces")
        assert told["answer"] == "42" and told["owner"] != 0 and told["owner"] == told["runs_as"], told
    else:  # whoever is not root needs neither
        told = run_open(open_place / "pg")
        assert told["answer"] == "42" and told["owner"] == os.geteuid() == told["runs_as"], told


def test_as_root_the_files_stay_ours(tmp_path: Path) -> None:
    told = run_open(tmp_path / "pg")
    assert told["answer"] == "42" and told["owner"] == os.geteuid() == told["runs_as"], told


def test_an_ordinary_user_needs_no_help(open_place: Path) -> None:
    if os.geteuid() != 0:
        told = run_open(open_place / "pg")
        assert told["how"] == f"as user id {os.geteuid()}"
        return
    copy_python(open_place)
    for uid in (pwd.getpwnam("nobody").pw_uid, 54321):  # the second has no passwd entry, as in containers
        told = run_as(uid, open_place, open_place / f"home-{uid}" / "pg")
        assert (told["answer"], told["owner"], told["runs_as"], told["uid"]) == ("42", uid, uid, uid), told
    (open_place / "ours").mkdir(mode=0o700)
    told = run_as(54321, open_place, open_place / "ours" / "pg")
    assert told["code"] == "FLX209" and "belongs to user id 0" in str(told["text"]), told


def copy_python(place: Path) -> None:
    """Python, Flux and PostgreSQL where everybody can read them: ours may lie in root's closed home."""
    base, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    unneeded = ("test", "tests", "_tests", "site-packages", "idlelib", "ensurepip", "config-*", "__pycache__")
    left_out = shutil.ignore_patterns(*unneeded, "include", "libpg*.a", "pgxs")
    (place / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), place / "bin" / "python")
    shutil.copytree(base / "lib" / version, place / "lib" / version, ignore=left_out)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, place / "lib")
    for name in ("attr", "attrs", "flux", "idna", "outcome", "sniffio", "sortedcontainers", "trio"):
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None, name
        shutil.copytree(Path(found.origin).parent, place / "packages" / name, ignore=left_out)
    wheel = find_wheel_folder()
    if wheel is not None:
        package = wheel.parent.parent
        shutil.copytree(package, place / "packages" / package.name, ignore=left_out)
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(libraries, place / "packages" / libraries.name)


def run_as(uid: int, place: Path, directory: Path) -> dict[str, object]:
    """`OPEN` as ``uid``, with the Python that `copy_python` has put in ``place``."""
    if not directory.parent.exists():
        directory.parent.mkdir(mode=0o700)
        os.chown(directory.parent, uid, uid)
    environment = {
        "PYTHONPATH": str(place / "packages"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_LIBRARY_PATH": str(place / "lib"),
        "PATH": "/usr/bin:/bin",
    }
    finished = subprocess.run(
        [str(place / "bin" / "python"), "-c", OPEN, str(directory), "{}"],
        user=uid, group=uid, extra_groups=[], env=environment, cwd=place,
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    told: dict[str, object] = json.loads(finished.stdout)
    return told
