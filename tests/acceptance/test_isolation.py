"""What a running ``flux dev`` keeps apart: workers from the server, secrets from records, one state from the next.

Everything is looked at from outside: ``/proc``, a second ``psql``, the bytes of the journal, the stub's own list.
"""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

PATIENCE_S = 180.0
IDLE_WORKERS = 4
SECRET = 'sk "live" 4242 ü'
SCHEMA = """
create table users (id bigint generated always as identity primary key, email text, ssn text, note text);
create table notes (id int primary key, text text);
"""
FUNCTIONS = {
    "app.py": """
import json
from urllib.parse import quote
from flux_guest import Context, HTTPError, function


@function("GET /hello")
async def hello(ctx: Context, input):
    return {"word": "one"}


@function("POST /leak")
async def leak(ctx: Context, input):
    value = await ctx.secrets.reveal("API_KEY")
    ssn, session = input["ssn"], ctx.request.headers["cookie"].partition("=")[2]
    await ctx.db.execute("insert into users (email, ssn, note) values ($1, $2, 'x')", "a@b.com", ssn)
    await ctx.db.query("select ssn from users where note = $1", session)
    await ctx.db.query("select $1::text, $2::bytea, $3::jsonb", value, value.encode(), {"k": [input["password"]]})
    ctx.log.info(f"password {input['password']} key {value}", session=session, ssn=ssn)
    print(value, json.dumps({"again": value}), input["password"])
    url = f"http://127.0.0.1:{input['port']}/echo/{session}?password=" + quote(input["password"])
    await ctx.http.post(url, json={"password": input["password"], "key": ctx.secrets["API_KEY"]},
                        headers={"authorization": f"Bearer {ctx.secrets['OTHER']}", "x-note": session})
    await ctx.http.post(url, body=b"\\xff" + value.encode())
    if input["how"] == "raise":
        raise ValueError(f"no {value} for {input['password']}")
    if input["how"] == "refuse":
        raise HTTPError(409, "CONFLICT", f"{session} is taken by {ssn}")
    return ctx.response({"you said": input["password"], "key": value}, headers={"set-cookie": f"session={session}"})


@function("POST /forward")
async def forward(ctx: Context, input):
    mine = ctx.secrets["OTHER"]
    await ctx.http.post(f"http://127.0.0.1:{input['port']}/forward", body=input["text"] + " and " + mine)
    return {"handle": mine}


@function("GET /wait")
async def wait(ctx: Context, input):
    await ctx.db.execute("insert into notes values (1, 'waiting')")
    await ctx.http.get(f"http://127.0.0.1:{input['port']}/hang", timeout=25)
    return {}


@function("GET /spoof")
async def spoof(ctx: Context, input):
    return ctx.response({}, headers={"X-Request-Id": "forged", "flux-id": "forged", "x-mine": "kept"})


@function("GET /status/{status}")
async def status(ctx: Context, input):
    body = b"" if input["status"] in ("204", "205", "304") else b"body"
    return ctx.response(body, status=int(input["status"]))


@function("GET /odd/{word}")
async def odd(ctx: Context, input):
    return {"word": input["word"]}
"""
}
TOML = """
[http]
allow = ["127.0.0.1:{port}"]
[recording]
redact = ["json:$.password", "column:users.ssn", "header:x-key"]
"""


@pytest.fixture(scope="module")
def stub() -> Iterator[CountingStub]:
    with counting_stub() as made:
        yield made


def make_project(folder: Path, stub: CountingStub) -> Path:
    project = write_project(
        folder, FUNCTIONS, toml=TOML.format(port=stub.port), migrations={"001_tables.sql": SCHEMA}
    )
    (project / ".env.local").write_text(f"API_KEY={SECRET}\nOTHER=other-secret-value\nDEBUG=on\n")
    return project


@pytest.fixture(scope="module")
def database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres18)


@pytest.fixture(scope="module")
def dev(
    tmp_path_factory: pytest.TempPathFactory, database: Database, stub: CountingStub
) -> Iterator[DevServer]:
    with running_dev(make_project(tmp_path_factory.mktemp("shop"), stub), database) as server:
        yield server


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# Processes, as the kernel shows them.


def list_descendants(pid: int) -> list[int]:
    """All living processes below ``pid``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(after_name[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found += (below := children.get(todo.pop(), []))
        todo += below
    return found


def read_process(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / name).read_bytes()
    return b""


def list_guests(server: DevServer) -> list[int]:
    """Zygotes and workers: the database is another's, so the server has no other children."""
    return list_descendants(server.process.pid)


def count_zygotes(server: DevServer) -> int:
    """Zygotes are the server's own children; workers are theirs."""
    parents = [read_process(pid, "stat").rpartition(b")")[2].split()[1:2] for pid in list_guests(server)]
    return parents.count([str(server.process.pid).encode()])


def count_descriptors(server: DevServer) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def resident_bytes(server: DevServer) -> int:
    return int(read_process(server.process.pid, "statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_zombies(server: DevServer) -> int:
    stats = (
        read_process(pid, "stat").rpartition(b")")[2].split()[:1]
        for pid in list_descendants(server.process.pid)
    )
    return sum(state == [b"Z"] for state in stats)


def test_a_worker_has_nothing_of_the_servers(dev: DevServer, stub: CountingStub) -> None:
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(dev.request, "GET", f"/wait?port={stub.port}")
        wait_until(
            lambda: any(seen.path.startswith("/hang") for seen in stub.seen), "it never asked the stub"
        )
        guests = list_guests(dev)
        assert len(guests) >= 2
        for pid in guests:
            environment = dict(
                pair.split(b"=", 1) for pair in read_process(pid, "environ").split(b"\0") if pair
            )
            assert not environment.keys() - {
                b"PYTHONHASHSEED",
                b"PYTHONDONTWRITEBYTECODE",
                b"PYTHONUTF8",
                b"GLIBC_TUNABLES",
                b"LANG",
                b"TZ",
            }
            targets = []
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    targets.append(str(descriptor.readlink()))
            assert not [
                target
                for target in targets
                if ".journal" in target or "dev.json" in target or "lock" in target
            ]
            sockets = {target for target in targets if target.startswith("socket:")}
            # Unix socket pairs to the server; no connection to Postgres, no listener.
            inodes = {target[8:-1] for target in sockets}
            unix = {
                line.split()[6]: line.split()[7:]
                for line in Path(f"/proc/{dev.process.pid}/net/unix").read_text().splitlines()[1:]
            }
            assert inodes <= unix.keys() and not any(unix[inode] for inode in inodes)
        stub.release()
        answer.result(PATIENCE_S)


def test_what_is_private_is_private(dev: DevServer) -> None:
    token = json.loads((dev.project / ".flux" / "dev.json").read_text())["token"]
    everybody = [dev.process.pid, *list_descendants(dev.process.pid)]
    assert not [
        pid
        for pid in everybody
        if token.encode() in read_process(pid, "cmdline") + read_process(pid, "environ")
    ]
    folder = dev.project / ".flux"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes["dev.json"] == 0o600 and modes["journal"] == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "journal").iterdir()} == {0o600}
    assert "DEBUG" in "\n".join(dev.story) and "on" not in "\n".join(dev.story).split()


# Secrets and records.


def dump(database: Database) -> bytes:
    """Everything in the schema flux but for the rows' history, recordings unpacked."""
    parts = []
    for table in database.psql(
        "select c.oid::regclass from pg_class c where c.relnamespace = 'flux'::regnamespace "
        "and c.relkind in ('r', 'p') and c.relname !~ '^mutation' and not c.relispartition"
    ).splitlines():
        parts.append(database.psql(f"select row_to_json(t) from {table} t"))
    parts.append(database.psql("select row_to_json(m) from flux.mutation m where not m.committed"))
    text = "\n".join(parts)
    packed = re.findall(r'"body":"\\\\x([0-9a-f]*)"', text)
    assert packed
    unpacked = b"".join(
        zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if data[:4] == b"\x28\xb5\x2f\xfd"
        else data
        for data in map(bytes.fromhex, packed)
    )
    return text.encode() + unpacked


def spellings(value: str) -> set[bytes]:
    data = value.encode()
    coded = {base64.b64encode(b"\xff" + data)[2:-4], base64.b64encode(data)[:-4]}
    return {
        data,
        json.dumps(value)[1:-1].encode(),
        json.dumps(value, ensure_ascii=False)[1:-1].encode(),
        *coded,
    }


def test_what_is_planted_is_in_no_record(dev: DevServer, database: Database, stub: CountingStub) -> None:
    planted = {
        "password": "correct horse battery",
        "ssn": "123-45-6789",
        "session": "c00kie-jar-77",
        "header": "h3ader-key",
    }
    headers = {
        "cookie": f"sid={planted['session']}",
        "x-key": planted["header"],
        "authorization": "Bearer b3arer-token",
    }
    ids = []
    for how in ("return", "raise", "refuse"):
        body = {"password": planted["password"], "ssn": planted["ssn"], "port": stub.port, "how": how}
        answer = dev.request("POST", "/leak", body, headers)
        assert answer.status == {"return": 200, "raise": 500, "refuse": 409}[how], answer.body
        ids.append(answer.flux_id)
    # It was there, and it was used.
    sent = [seen for seen in stub.seen if seen.path.startswith("/echo")]
    assert len(sent) == 6 and SECRET.encode() in sent[1].body and SECRET in json.loads(sent[0].body)["key"]
    said = [json.dumps(dev.json("trace", one), ensure_ascii=False) for one in ids]
    said += [dev.command("why", one).stdout for one in ids]
    said += [dev.command("logs").stdout, dev.command("errors").stdout, dev.command("trace", "list").stdout]
    journal = b"".join(path.read_bytes() for path in (dev.project / ".flux" / "journal").glob("*.journal"))
    places = {"tables": dump(database), "journal": journal, "console": "\n".join(said).encode()}
    assert all(b"redacted:" in data and b"flux-secret:API_KEY" in data for data in places.values())
    for name, value in {**planted, "secret": SECRET, "bearer": "b3arer-token"}.items():
        if name == "ssn":
            continue
        for place, data in places.items():
            for spelling in spellings(value):
                assert spelling not in data, (
                    f"{name} is in the {place}: {data[max(0, data.find(spelling) - 200) :][:300]!r}"
                )
    # A body's field that no rule names is recorded; what goes to a redacted column is not.
    for place, data in places.items():
        assert data.count(b"123-45-6789") == data.count(b'\\"ssn\\": \\"123-45-6789') + data.count(
            b'"ssn": "123-45-6789'
        ), place


def test_a_handle_from_outside_conjures_no_secret(dev: DevServer, stub: CountingStub) -> None:
    before = len(stub.seen)
    handle = dev.request("POST", "/forward", {"text": "first", "port": stub.port}).json["handle"]
    assert handle.startswith("flux-secret:OTHER:")
    guesses = f"{handle} flux-secret:API_KEY:{handle.rpartition(':')[2]} flux-secret:API_KEY:{'0' * 32}"
    dev.request("POST", "/forward", {"text": guesses, "port": stub.port})
    first, second = (seen.body.decode() for seen in stub.seen[before:] if seen.path == "/forward")
    assert first == "first and other-secret-value"
    assert second.startswith(guesses) and second.endswith("and other-secret-value")
    assert SECRET not in second


def test_secrets_are_read_again_when_their_file_is_saved(dev: DevServer, stub: CountingStub) -> None:
    before, told = len(stub.seen), len(dev.story)
    (dev.project / ".env.local").write_text(f"API_KEY={SECRET}\nOTHER=another-value\n")
    dev.wait_story("read again", after=told)
    dev.request("POST", "/forward", {"text": "x", "port": stub.port})
    assert stub.seen[before].body.endswith(b"another-value")
    (dev.project / ".env.local").write_text("this is no secret\n")
    dev.wait_story("FLX515", after=told)
    assert dev.request("GET", "/hello").status == 200


# Answers.


def test_the_id_of_an_answer_is_not_the_functions_to_give(dev: DevServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", dev.port, timeout=PATIENCE_S)
    connection.request("GET", "/spoof", headers={"x-request-id": "from-the-client"})
    response = connection.getresponse()
    response.read()
    assert (
        len(response.headers.get_all("x-request-id", [])) == len(response.headers.get_all("flux-id", [])) == 1
    )
    assert (
        "forged" not in response.headers["x-request-id"]
        and response.headers["x-request-id"] != "from-the-client"
    )
    assert response.headers["x-mine"] == "kept"
    connection.close()


@pytest.mark.parametrize("status", [100, 101, 199, 204, 205, 304, 600, 99, 200, 599])
def test_any_status_a_function_chooses_leaves_a_connection_that_works(dev: DevServer, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", dev.port, timeout=PATIENCE_S)
    connection.request("GET", f"/status/{status}")
    response = connection.getresponse()
    body = response.read()
    assert response.status == (status if 200 <= status <= 599 else 500), body
    assert body == (b"" if status in (204, 205, 304) else body)
    connection.request("GET", "/hello")
    assert json.loads(connection.getresponse().read()) == {"word": "one"}
    connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /odd/%FF%FE HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /odd/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /odd/%ED%A0%80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /odd/a?q=%FF&q=%00&%FF=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /odd/a HTTP/1.1\r\nHost: x\r\nX-Odd: \xff\xfe\r\nCookie: a=\xff\r\nConnection: close\r\n\r\n",
        b"GET /odd/a HTTP/1.1\r\nHost: x\r\nCookie: " + b"c=1; " * 5000 + b"\r\nConnection: close\r\n\r\n",
        b"GET /odd/a?" + b"q=1&" * 3000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"HEAD /odd/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"OPTIONS /odd/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)  # fmt: skip
def test_odd_requests_are_answered_and_recorded_like_others(dev: DevServer, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", dev.port), PATIENCE_S) as client:
        client.sendall(head)
        data = b""
        while piece := client.recv(65536):
            data += piece
    status = int(data.split()[1])
    assert status in (200, 204, 400, 404, 405, 414, 431), data[:500]
    if status == 200:
        name = re.search(rb"flux-id: (\S+)", data)
        assert name is not None
        assert dev.json("trace", name[1].decode())["outcome"] == "returned"
    assert dev.request("GET", "/hello").status == 200


# Many, and over and over.


def test_a_thousand_requests_at_once_are_answered_and_leave_nothing_behind(dev: DevServer) -> None:
    def ask(count: int) -> int:
        with ThreadPoolExecutor(100) as threads:
            answers = list(threads.map(lambda _: dev.request("GET", "/hello").status, range(count)))
        return answers.count(200)

    assert ask(300) == 300
    idle = IDLE_WORKERS + 4  # With their zygote, what watches over it, and one more on its way in or out.
    wait_until(lambda: len(list_guests(dev)) <= idle, "workers stayed behind")
    descriptors, resident = count_descriptors(dev), resident_bytes(dev)
    assert ask(1000) == 1000
    wait_until(lambda: len(list_guests(dev)) <= idle and not count_zombies(dev), "workers stayed behind")
    wait_until(lambda: count_descriptors(dev) <= descriptors + 4, "descriptors stayed open")
    assert resident_bytes(dev) < resident + 40 * 2**20


def test_a_hundred_saves_drop_no_request_and_leave_one_deployment(dev: DevServer) -> None:
    path = dev.project / "functions" / "app.py"
    source, word = path.read_text(), dev.request("GET", "/hello").json["word"]
    answers: list[int] = []
    with ThreadPoolExecutor(5) as threads:
        ended = False

        def ask() -> None:
            while not ended:
                answers.append(dev.request("GET", "/hello").status)

        asking = [threads.submit(ask) for _ in range(4)]
        for number in range(100):
            broken = number % 10 == 5
            text = source.replace(f'"{word}"', f'"word {number}"') + ("\nthis is no python" if broken else "")
            temporary = path.with_suffix(".new")
            temporary.write_text(text)
            temporary.rename(path)
            if number % 25 == 0:
                (dev.project / "functions" / "more").mkdir()
                (dev.project / "functions" / "more" / "x.py").write_text("")
                (dev.project / "functions" / "more" / "x.py").unlink()
                (dev.project / "functions" / "more").rmdir()
            time.sleep(0.02)
        wait_until(
            lambda: dev.request("GET", "/hello").json == {"word": "word 99"}, "the last save is not served"
        )
        wait_until(lambda: len(answers) > 50, "hardly any request was answered")
        ended = True
        for one in asking:
            one.result(PATIENCE_S)
    assert set(answers) == {200}
    wait_until(lambda: count_zygotes(dev) == 1, "zygotes stayed behind")
    assert not list((dev.project / ".flux" / "artifacts").glob("unfinished-*"))


def test_code_that_the_database_could_not_take_down_is_not_served_and_leaves_no_process(
    dev: DevServer, database: Database
) -> None:
    path = dev.project / "functions" / "app.py"
    word = dev.request("GET", "/hello").json["word"]
    told, guests = len(dev.story), count_zygotes(dev)
    database.server.psql(f"alter database {database.name} allow_connections false")
    database.server.psql(
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database.name}'"
    )
    path.write_text(path.read_text().replace(f'"{word}"', '"other"'))
    dev.wait_story("FLX202", after=told)
    assert dev.request("GET", "/hello").json == {"word": word}
    wait_until(lambda: count_zygotes(dev) == guests, "its zygote stayed behind")
    database.server.psql(f"alter database {database.name} allow_connections true")
    path.write_text(path.read_text() + "\n")
    wait_until(lambda: dev.request("GET", "/hello").json == {"word": "other"}, "the new code is never served")


def test_a_client_that_goes_away_changes_nothing(
    dev: DevServer, database: Database, stub: CountingStub
) -> None:
    count = "select count(*) from flux.execution where function = 'forward' and outcome = 'returned'"
    before = int(database.psql(count))
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", dev.port), PATIENCE_S) as client:
            body = json.dumps({"text": "gone", "port": stub.port}).encode()
            client.sendall(
                b"POST /forward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
    wait_until(
        lambda: int(database.psql(count)) == before + 5,
        "whose clients went away are not recorded as they ended",
    )


def test_a_server_that_is_stopped_records_whom_it_cut_off(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database],
    stub: CountingStub,
) -> None:  # fmt: skip
    database = make_database(postgres18)
    with running_dev(make_project(tmp_path, stub), database) as dev:
        asked = sum(seen.path.startswith("/hang") for seen in stub.seen)
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(dev.request, "GET", f"/wait?port={stub.port}")
            wait_until(
                lambda: sum(seen.path.startswith("/hang") for seen in stub.seen) > asked,
                "it never asked the stub",
            )
            assert dev.stop() == 0
            assert isinstance(answer.exception(PATIENCE_S), OSError | http.client.HTTPException)
    assert (
        database.psql("select outcome, mutation_count from flux.execution where function = 'wait'")
        == "interrupted|1"
    )
    assert database.psql("select count(*) from notes") == "0"
    assert database.psql("select count(*) from flux.mutation where not committed") == "1"
