"""Records leave whole, and leave out who was forgotten: the whole database is searched, and the rest is replayed."""

import base64
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from tests import documents
from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer
from tests.secrets.planted import read_records, wait_jobs

FUNCTIONS = '''\
import base64
import json
import subprocess
from urllib.parse import quote

from flux_guest import function


@function("POST /keep/{name}")
async def keep(ctx, input):
    what = ctx.request.body.decode("latin-1")
    await ctx.db.execute("insert into kept (name, what) values ($1, $2)", input["name"], what)
    ctx.log.info("kept", again=ctx.request.query.get("again"))
    return ctx.response(ctx.request.body, status=201, headers={"content-type": "text/plain"})


@function("POST /signup")
async def sign_up(ctx, input):
    ctx.log.info(f"signing up {input['email']}", name=input["name"])
    row = await ctx.db.query_one(
        "insert into people (email, name, town, plan, born) values ($1, $2, $3, $4, $5::text::date) returning *",
        input["email"], input["name"], input["town"], input["plan"], input["born"],
    )
    await ctx.db.execute(f"update people set note = '{input['email']}' where id = $1", row["id"])
    await ctx.http.post("http://127.0.0.1:PORT/mail?to=" + quote(input["email"]),
                        json={"to": input["email"], "auth": base64.b64encode(input["email"].encode()).decode()})
    await ctx.queue.push("welcome", {"id": row["id"], "email": input["email"]})
    return {"id": row["id"], "town": row["town"]}


@function()
async def welcome(ctx, input):
    row = await ctx.db.query_one("select id, name, plan from people where id = $1", input["id"])
    await ctx.db.execute("insert into letters (person, line) values ($1, $2)", row["id"], f"Dear {row['name']}!")
    return {"plan": row["plan"]}


@function("GET /people/{id}")
async def show(ctx, input):
    row = await ctx.db.query_one("select * from people where id = $1", int(input["id"]))
    return {"email": row["email"], "town": row["town"], "plan": row["plan"]}


@function("GET /towns/{town}")
async def count(ctx, input):
    return {"n": (await ctx.db.query_one("select count(*) n from people where town = $1", input["town"]))["n"]}


@function("POST /login")
async def log_in(ctx, input):
    row = await ctx.db.query_one("select 1 as one from people where email = $1", input["email"])
    if row is None:
        raise LookupError(f"nobody is called {input['email']}")
    return {"ok": True}


@function("POST /leave/{id}")
async def leave(ctx, input):
    await ctx.db.execute("delete from letters where person = $1", int(input["id"]))
    await ctx.db.execute("delete from people where id = $1", int(input["id"]))
'''
TABLES = """\
create table people (id int generated always as identity primary key, email text not null unique, name text not null,
                     town text not null, plan varchar(8) not null, born date not null, note text);
create table letters (id int generated always as identity primary key,
                      person int not null references people, line text);
create table kept (id int generated always as identity primary key, name text, what text);
"""
JSON_BODY = b'{"n": 1.10, "big": 12345678901234567890, "quote": "it\'s"}'
BODIES = (JSON_BODY, bytes(range(1, 256)))
ANA = {"email": "ana@forget.example", "name": "Ana Forgetta", "town": "Lissabon", "plan": "gold", "born": "1984-02-29"}
BO = {"email": "bo@keep.example", "name": "Bo Keeper", "town": "Lissabon", "plan": "pro", "born": "1990-01-01"}
DIGEST = """\
select md5(string_agg(t::text, '' order by t::text))
from (select e::text t from flux.execution e union all select m::text from flux.mutation m
      union all select b::text from flux.blob b union all select f::text from flux.forgotten f) t
"""
HERS = ("ana@forget.example", "Ana Forgetta", "1984-02-29")


def read_everything(database: Database) -> str:
    """Every table of the database by another client, and every record and payload as it reads."""
    tables = database.psql(
        "select format('select to_json(t)::text from only %s t', c.oid::regclass) from pg_class c "
        "where c.relkind = 'r' and c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"
    ).split("\n")
    assert any("people" in each for each in tables) and any("mutation_p" in each for each in tables)
    return database.psql(" union all ".join(tables)) + trio.run(read_records, database).decode()


def forms_of(value: str) -> list[str]:
    return [value, base64.b64encode(value.encode()).decode(), quote(value), value.encode().hex()]


def test_records_leave_whole_and_who_is_forgotten_is_nowhere_in_the_database(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres18)
    with counting_stub() as stub:
        toml = f'[functions.sign_up]\nhttp = ["127.0.0.1:{stub.port}"]\n'
        project = write_project(
            tmp_path, {"people.py": FUNCTIONS.replace("PORT", str(stub.port))}, toml=toml,
            migrations={"001_people.sql": TABLES},
        )  # fmt: skip
        with running_dev(project, database) as server:
            check_export(server, database)
            check_forgetting(server, database, stub)


def ask_console(server: DevServer, method: str, path: str, status: int = 200) -> Any:
    """What a command asks, without a process for it."""
    headers = {"authorization": f"Bearer {read_token(server)}"}
    answer = server.request(method, f"/_flux/api/{path}", {} if method == "POST" else None, headers)
    assert answer.status == status, answer.body
    return answer.json


def wait_stored(server: DevServer) -> None:
    """Wait until what has ended is on record: what wrote nothing is stored a moment later."""
    deadline = time.monotonic() + 120
    while (waiting := ask_console(server, "GET", "executions?n=1")["not_stored"]) != 0:
        assert time.monotonic() < deadline, f"{waiting} records are not stored"


def check_export(server: DevServer, database: Database) -> None:
    path = server.project / "records.ndjson"
    names = [
        server.request("POST", f"/keep/a%2Fb{number}?again=a%26b&x=1&x=2", body, {"x-said": "it's; $HOME"}).flux_id
        for number, body in enumerate(BODIES)
    ]
    done = server.command("records", "export", "-o", str(path))
    assert done.returncode == 0 and "2 records" in done.stderr, done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    documents.check_text(path.read_text())
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["name"] for each in records] == names, "the oldest first"
    traced = ask_console(server, "GET", f"executions/{names[0]}")
    left_out = ("spans", "children", "jobs", "replays")
    assert records[0] == {key: traced[key] for key in traced if key not in left_out} | {"schema": "flux.record/1"}
    assert records[0]["mutations"][0]["after"]["name"] == "a/b0"
    otlp = json.loads(server.command("export", names[0], "--otlp").stdout)
    (scope,) = otlp["resourceSpans"][0]["scopeSpans"]
    assert scope["spans"] == traced["spans"] and scope["spans"][1]["parentSpanId"] == scope["spans"][0]["spanId"]
    for name, body in zip(names, BODIES, strict=True):
        text = server.command("export", name, "--curl").stdout
        assert text.isprintable() or text.rstrip("\n").isprintable(), "a terminal may see it"
        sent = subprocess.run(["sh", "-c", text], capture_output=True, check=True, timeout=120).stdout
        head, _, answer = sent.partition(b"\r\n\r\n")
        assert b" 201 " in head.splitlines()[0] and answer == body, sent
    rest = server.command("records", "export", "last:1h", "-q", "function:keep", "--after", names[1])
    again = [json.loads(line)["input"] for line in rest.stdout.splitlines()]
    for sent, first in zip(again, [record["input"] for record in records], strict=True):
        assert sent["headers"]["x-said"] == "it's; $HOME"
        del sent["headers"], first["headers"]
        assert sent == first


@contextlib.contextmanager
def replaying(server: DevServer, name: str, stub: CountingStub) -> Iterator[list[tuple[int, Any]]]:
    """Have a replay stand still for as long as the block lasts, in a call that its code makes now; give its answer."""
    path = server.project / "functions" / "people.py"
    first = '    ctx.log.info(f"signing up'
    hangs = f'    await ctx.http.get("{stub.url("/hang")}", timeout=100)\n'
    path.write_text(path.read_text().replace(first, hangs + first))
    answers: list[tuple[int, Any]] = []
    headers = {"authorization": f"Bearer {read_token(server)}"}

    def replay() -> None:
        live = {"live": [f"127.0.0.1:{stub.port}"]}
        answer = server.request("POST", f"/_flux/api/executions/{name}/replay?on=.", live, headers)
        answers.append((answer.status, answer.json))

    thread = threading.Thread(target=replay)
    thread.start()
    try:
        while not any(each.path == "/hang" for each in stub.seen) and thread.is_alive():
            time.sleep(0.01)
        yield answers
    finally:
        stub.release()
        thread.join()


def read_token(server: DevServer) -> str:
    return str(json.loads((server.project / ".flux" / "dev.json").read_text())["token"])


def check_forgetting(server: DevServer, database: Database, stub: CountingStub) -> None:
    def ask(method: str, path: str, body: object = None, status: int = 200) -> str:
        answer = server.request(method, path, body)
        assert answer.status == status, answer.body
        return answer.flux_id

    hers = [ask("POST", "/signup", ANA), ask("GET", "/people/1"), ask("POST", "/login", {"email": ANA["email"]})]
    others = [ask("POST", "/signup", BO), ask("GET", "/people/2"), ask("GET", "/towns/Lissabon")]
    wait_jobs(database)
    refused = server.command("records", "forget", "people", "1", "--yes")
    assert refused.returncode == 3 and "FLX604" in refused.stderr, "she has all that she ever had"
    ask("POST", "/leave/1", status=204)
    hers.append(ask("POST", "/login", {"email": ANA["email"]}, 500))
    wait_stored(server)
    before, digest = read_everything(database), database.psql(DIGEST)
    assert all(form in before for value in HERS[:2] for form in forms_of(value)[:1])
    would = ask_console(server, "POST", "records/forget?table=people&key=id%3D1&dry_run=1")
    assert database.psql(DIGEST) == digest, "a dry run changes nothing"
    with replaying(server, hers[0], stub) as answers:
        done = server.json("records", "forget", "people", "1", "--yes")
    ((status, said),) = answers
    assert (status, said["code"]) == (409, "FLX740"), "what it shows has all that was just taken out"
    assert done | {"dry_run": True} == would
    # Two attempts to log in, the sign-up, its job and the look. Of her leaving, the record holds her number alone.
    assert (done["executions"], done["changes"], done["exists"]) == (5, 3, False)
    assert done["elsewhere"] == {"public.letters": 2} and done["jobs_waiting"] == 0
    after = read_everything(database)
    found = [form for value in HERS for form in forms_of(value) if form in after]
    assert found == []
    assert after.count(BO["email"]) == before.count(BO["email"])
    assert after.count("Lissabon") < before.count("Lissabon"), "a town of others too, gone only where it was hers"
    history = ask_console(server, "GET", "state/history?table=people&key=1")["versions"]
    assert [each["op"] for each in history] == ["delete", "update", "insert"]
    assert history[0]["before"]["email"].startswith("forgotten:") and history[0]["before"]["born"] == "1970-01-01"
    assert ask_console(server, "POST", f"executions/{others[0]}/replay")["verdict"] == "identical"
    for name in (hers[0], hers[-1]):
        replayed = ask_console(server, "POST", f"executions/{name}/replay")
        assert replayed["divergence"] is None and replayed["synthetic"], name
    again = ask_console(server, "POST", "records/forget?table=people&key=1", 400)
    assert again["code"] == "FLX604" and "what is on record of it has nothing" in again["detail"]
