"""``flux trace diff`` as typed, against a running server: two executions, one on another commit, one on the folder."""

import subprocess
from collections.abc import Callable, Iterator

import attrs
import pytest

from flux.cli.record import Record
from flux.cli.screen import line_cells
from flux.cli.trace_diff import lines
from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

SCHEMA = """create table orders (
    id uuid default gen_random_uuid() primary key, at timestamptz default clock_timestamp(),
    code text default substr(md5(random()::text), 1, 7), cents int
);
create table users (
    id bigint generated always as identity (start with 41) primary key, email text not null, plan text, token text
);"""
PYTHON = """\
import uuid
from flux_guest import function

STUB = "http://127.0.0.1:PORT"
PRICES = {"free": 0, "pro": 900}


@function("POST /signup")
async def create_user(ctx, input):
    user = await ctx.db.query_one(
        "insert into users (email, plan, token) values ($1, 'free', $2) returning id, token",
        input["email"], str(uuid.uuid4()),
    )
    if "plan" in input:
        await ctx.db.execute("update users set plan = $1 where id = $2", input["plan"], user["id"])
    charge = await ctx.http.post(STUB + f"/users/{user['id']}/charges", json={"cents": amount(input.get("plan"))})
    ctx.log.info(f"made user {user['id']}", token=user["token"])
    return {"id": user["id"], "token": user["token"], "ok": charge.json()["ok"]}


@function("POST /orders")
async def order(ctx, input):
    made = await ctx.db.query_one("insert into orders (cents) values ($1) returning id, at, code", input["cents"])
    await ctx.http.post(STUB + "/orders/" + str(made["id"]), json={"code": made["code"], "at": str(made["at"])})
    return {"order": made["id"], "code": made["code"]}


def amount(plan):
    return PRICES[plan]
"""
"""Without a plan it fails in ``amount``."""
FIXED = PYTHON.replace("PRICES[plan]", 'PRICES[plan or "free"]')
CHEAPER = PYTHON.replace('"pro": 900', '"pro": 90')


@attrs.define
class Shop:
    """A server, and those who see what happens behind it."""

    server: DevServer
    database: Database
    stub: CountingStub
    first_commit: str

    def sign_up(self, email: str = "a@b.com", *, status: int = 200, **more: object) -> str:
        """Send a request; return the execution's name."""
        answer = self.server.request("POST", "/signup", {"email": email, **more})
        assert answer.status == status, answer.body
        return answer.flux_id

    def save(self, text: str) -> None:
        """Write the functions, and wait until they are served."""
        path = self.server.project / "functions" / "shop.py"
        content = text.replace("PORT", str(self.stub.port))
        if path.read_text() != content:
            told = len(self.server.story)
            path.write_text(content)
            self.server.wait_story("shop.py", after=told)


def git(folder: object, *arguments: str) -> str:
    named = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    return subprocess.run(
        ["git", *named, *arguments], cwd=str(folder), check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("diff")
    folder.chmod(0o755)
    with counting_stub() as stub:
        project = write_project(
            folder / "shop",
            {"shop.py": PYTHON.replace("PORT", str(stub.port))},
            toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n',
            migrations={"001.sql": SCHEMA},
        )
        (project / ".gitignore").write_text(".flux/\n")
        git(project, "init", "-q", "-b", "main")
        git(project, "add", ".")
        git(project, "commit", "-q", "-m", "the shop")
        database = make_database(postgres18)
        with running_dev(project, database) as server:
            yield Shop(server, database, stub, git(project, "rev-parse", "HEAD"))


@pytest.fixture
def shop(served: Shop) -> Shop:
    served.save(PYTHON)
    return served


def test_two_runs_of_one_code_differ_in_noise_alone(shop: Shop) -> None:
    a, b = shop.sign_up(plan="pro"), shop.sign_up(plan="pro")
    diff = shop.server.json("trace", "diff", a, b)
    assert (diff["schema"], diff["verdict"], diff["first_difference"]) == (
        "flux.trace-diff/1",
        "IDENTICAL",
        None,
    )
    assert [call["mark"] for call in diff["calls"]] == ["=", "=", "="]
    assert [call["a"]["seq"] for call in diff["calls"]] == [call["b"]["seq"] for call in diff["calls"]]
    assert (diff["a"]["name"], diff["b"]["name"], diff["same_code"], diff["replay"]) == (a, b, True, None)
    assert (diff["left_out"]["ids"], diff["left_out_values"]) == (
        2,
        None,
    )  # The number, and the token, a UUID.
    told = shop.server.command("trace", "diff", a, b, "--all").stdout
    numbers = shop.database.psql(
        "select string_agg(id::text, ' → ' order by id) from (select id from users order by id desc limit 2) u"
    )
    assert numbers in told and "call 1: result.rows[0].id" in told


def test_a_failure_begins_where_the_passing_one_did_more(shop: Shop) -> None:
    a, b = shop.sign_up(plan="pro"), shop.sign_up(status=500)
    diff = shop.server.json("trace", "diff", a, b, exit_code=1)
    assert diff["verdict"] == "REGRESSED"
    assert diff["input"] == [{"where": "body.plan", "name": "plan", "a": "pro", "follows": False}]
    first = diff["first_difference"]
    assert (first["part"], first["mark"], first["b"]) == ("call", "−", None)
    assert (first["a"]["seq"], first["a"]["location"]["line"]) == (2, 15)
    assert diff["only_b"] == [
        {"file": "functions/shop.py", "function": "amount", "lines": [29], "whole": True}
    ]
    marks = [(pair["mark"], (pair["a"] or pair["b"])["committed"]) for pair in diff["state"]]
    assert ("≠", True) in marks, "the row was committed on one side and rolled back on the other"
    assert shop.server.json("trace", "diff", b, a)["verdict"] == "FIXED"


def test_the_folder_and_a_commit_are_compared_without_anything_leaving(shop: Shop) -> None:
    a = shop.sign_up(status=500)
    before = (len(shop.stub.seen), shop.database.psql("select count(*), max(id) from users"))
    same = shop.server.json("trace", "diff", a, ".")
    assert (same["verdict"], same["same_code"], same["replay"]["on"]) == ("IDENTICAL", True, ".")
    shop.save(
        FIXED.replace("+ f\"/users/{user['id']}/charges\"", '+ "/charges"').replace(
            "await ctx.http.post", "await skip"
        )
    )
    shop.save(FIXED)
    stopped = shop.server.json("trace", "diff", a, ".", exit_code=1)
    assert (stopped["verdict"], stopped["outcome"]) == ("BEHAVIOUR CHANGED", None)
    assert stopped["first_difference"]["b"]["arguments"]["url"].endswith("/charges")
    assert (stopped["first_difference"]["a"], stopped["replay"]["verdict"]) == (None, "past it")
    on_commit = shop.server.json("trace", "diff", a, f"{a[:5]}@{shop.first_commit[:8]}")
    assert (on_commit["verdict"], on_commit["replay"]["on"]) == ("IDENTICAL", shop.first_commit[:8])
    assert (len(shop.stub.seen), shop.database.psql("select count(*), max(id) from users")) == before


def test_a_changed_amount_is_the_first_difference_on_the_folder(shop: Shop) -> None:
    a = shop.sign_up(plan="pro")
    shop.save(CHEAPER)
    diff = shop.server.json("trace", "diff", a, ".", exit_code=1)
    first = diff["first_difference"]
    assert (diff["verdict"], first["mark"], first["a"]["seq"]) == ("BEHAVIOUR CHANGED", "≠", 3)
    changed = [one for one in first["differences"] if one["where"] == "arguments.body.cents"]
    assert [(one["a"], one["b"]) for one in changed] == [(900, 90)]
    # The replay's rows are those of its world.
    assert [(pair["mark"], pair["a"]["op"], pair["b"]["op"]) for pair in diff["state"]] == [
        ("=", "insert", "insert"),
        ("=", "update", "update"),
    ]
    assert diff["state"][1]["b"]["after"]["plan"] == "pro"


def test_what_the_database_makes_up_anew_for_a_replay_is_noise(shop: Shop) -> None:
    answer = shop.server.request("POST", "/orders", {"cents": 900})
    assert answer.status == 200, answer.body
    a = answer.flux_id
    shop.save(
        PYTHON.replace(
            '    await ctx.http.post(STUB + "/orders/"',
            '    ctx.log.info("made")\n    await ctx.http.post(STUB + "/orders/"',
        )
    )
    diff = shop.server.json("trace", "diff", a, ".", exit_code=1)
    first = diff["first_difference"]
    # Where the request carries an id that was never recorded, nobody answers it: that is not seen, and no difference.
    assert (diff["verdict"], [call["mark"] in "=?" for call in diff["calls"]]) == (
        "BEHAVIOUR CHANGED",
        [True, True],
    )
    assert (first["part"], first["a"], first["b"]["message"]) == ("log", None, "made")
    other = shop.server.request("POST", "/orders", {"cents": 900}).flux_id
    noise = shop.server.json("trace", "diff", a, other, exit_code=1)
    assert [call["mark"] for call in noise["calls"]] == ["≠", "≈"], "a code of seven letters may be anything"


def test_a_terminal_is_told_in_its_width_and_no_recorded_text_reaches_it(shop: Shop) -> None:
    a = shop.sign_up("\x1b]0;mine\x07@b.com", plan="pro")
    b = shop.sign_up("c@d.com", plan="\u202efree", status=500)
    done = shop.server.command("trace", "diff", a, b)
    assert (done.returncode, done.stderr) == (1, "")
    assert "REGRESSED" in done.stdout and "first call that differs: 3" in done.stdout
    assert not any(character in done.stdout for character in "\x1b\x07\u202e")
    assert "\\u001b" in done.stdout and "\\u202e" in done.stdout
    diff = Record(shop.server.json("trace", "diff", a, b, "--all", exit_code=1))
    for width in (60, 83, 84, 120):
        told = lines(diff, width, whole=False, quiet=False)
        assert [line for line in told if line_cells(line) > width] == [], width


def test_what_can_not_be_compared_is_said(shop: Shop) -> None:
    a, b = shop.sign_up(plan="pro"), shop.sign_up(plan="pro")
    for arguments, exit_code, code in (
        ((a, "zzzzzzzz"), 3, "FLX101"),
        ((a, f"{b}@HEAD"), 2, "FLX100"),
        ((a, f"{a}@nowhere"), 3, None),
    ):
        done = shop.server.command("trace", "diff", *arguments)
        assert (done.returncode, done.stdout) == (exit_code, ""), done.stderr
        assert code is None or code in done.stderr
