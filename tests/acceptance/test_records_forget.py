"""A person is forgotten: a dump of the whole database does not have her any more, and the rest replays as before."""

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import trio

from tests.conftest import Database
from tests.dev_process import CountingStub, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer
from tests.secrets.planted import read_records, wait_jobs

FUNCTIONS = '''\
import base64
from urllib.parse import quote

from flux_guest import function


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
"""
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


def test_who_is_forgotten_is_nowhere_in_the_database_and_the_rest_replays_as_before(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres18)
    with counting_stub() as stub:
        run(tmp_path, database, stub)


def run(tmp_path: Path, database: Database, stub: CountingStub) -> None:
    toml = f'[functions.sign_up]\nhttp = ["127.0.0.1:{stub.port}"]\n'
    project = write_project(
        tmp_path, {"people.py": FUNCTIONS.replace("PORT", str(stub.port))}, toml=toml,
        migrations={"001_people.sql": TABLES},
    )  # fmt: skip
    with running_dev(project, database) as server:

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
        before, digest = read_everything(database), database.psql(DIGEST)
        assert all(form in before for value in HERS[:2] for form in forms_of(value)[:1])
        would = server.json("records", "forget", "people", "id=1", "--dry-run")
        assert database.psql(DIGEST) == digest, "a dry run changes nothing"
        assert server.command("records", "forget", "people", "1").returncode == 2, "there is nobody to ask"
        done = server.json("records", "forget", "people", "1", "--yes")
        assert done | {"dry_run": True} == would
        # Two attempts to log in, the sign-up, its job and the look. Of her leaving, the record holds her number alone.
        assert (done["executions"], done["changes"], done["exists"]) == (5, 3, False)
        assert done["elsewhere"] == {"public.letters": 2} and done["jobs_waiting"] == 0
        after = read_everything(database)
        found = [form for value in HERS for form in forms_of(value) if form in after]
        assert found == []
        assert after.count(BO["email"]) == before.count(BO["email"])
        assert after.count("Lissabon") < before.count("Lissabon"), "a town of others too, gone only where it was hers"
        history = server.json("state", "history", "people", "1")["versions"]
        assert [each["op"] for each in history] == ["delete", "update", "insert"]
        assert history[0]["before"]["email"].startswith("forgotten:") and history[0]["before"]["born"] == "1970-01-01"
        for name in others[:2]:
            assert server.json("replay", name)["verdict"] == "identical"
        for name in (hers[0], hers[-1]):
            replayed = server.json("replay", name, exit_code=1 if name == hers[-1] else 0)
            assert replayed["divergence"] is None and replayed["synthetic"], name
        again = server.command("records", "forget", "people", "1", "--yes")
        assert again.returncode == 3 and "FLX604" in again.stderr, "it is done already"
