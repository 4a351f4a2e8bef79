"""``flux deploy --guard`` as typed, against a running server: what it lets pass, what it refuses, and what it shows.

The code that is served stands in the folder; candidates are commits that are made beside it, so nothing is saved and
nothing reloads. What was deployed is asked of the server's answers, what left of a stub's counter, what the tables
hold of psql.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.acceptance.test_isolation import list_descendants, wait_until
from tests.conftest import Database
from tests.dev_process import (
    CountingStub,
    DevServer,
    counting_stub,
    environment,
    running_dev,
    write_project,
)
from tests.histories.write import ALONE, git, list_untouched
from tests.postgres_server import PostgresServer

SCHEMA = (
    "create table orders (id bigint generated always as identity primary key, item text not null, cents int);"
)
PYTHON = """\
import os

from flux_guest import HTTPError, function

STUB = "http://127.0.0.1:PORT"
CENTS = {"mug": 900, "cap": 1400}


@function("POST /orders")
async def order(ctx, input):
    cents = CENTS[input["item"]] * input["count"]
    made = await ctx.db.query_one(
        "insert into orders (item, cents) values ($1, $2) returning id", input["item"], cents
    )
    await ctx.http.post(STUB + "/charges", json={"cents": cents})
    return {"order": made["id"], "cents": cents}


@function("GET /orders/{id}")
async def show(ctx, input):
    found = await ctx.db.query_one("select id, item, cents from orders where id = $1", int(input["id"]))
    if found is None:
        raise HTTPError(404, "NOT_FOUND", "no such order")
    return {"id": found["id"], "item": found["item"], "price": {"cents": found["cents"]}}


@function("GET /total")
async def total(ctx, input):
    return {"cents": (await ctx.db.query_one("select sum(cents)::int as cents from orders"))["cents"]}


@function("POST /moment")
def moment(ctx, input):
    # The kernel numbers the pipes of each worker anew, and no replay holds that.
    return {"descriptor": str(os.fstat(0).st_ino)}
"""
ORDERED, SHOWN, MISSED = 6, 5, 2


BUSY_TICKS = 50
"""Of the processor, hundredths of a second: no guest takes so much unless it goes on for ever."""


def count_ticks(pid: int) -> int:
    """What a process has had of the processor; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11]) + int(fields[12])


@attrs.define
class Shop:
    """A server, and those who see what happens behind it."""

    server: DevServer
    database: Database
    stub: CountingStub
    commits: int = 0

    def commit(self, *changes: tuple[str, str], files: dict[str, str] | None = None) -> str:
        """Make a commit of the code with ``changes`` and more files, beside the checkout; return its id."""
        text = PYTHON
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        project = self.server.project
        self.commits += 1
        index = {**ALONE, "GIT_INDEX_FILE": str(project / ".git" / f"beside-{self.commits}")}

        def run(*arguments: str, stdin: str = "") -> str:
            named = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
            done = subprocess.run(
                ["git", *named, *arguments], cwd=project, env=index, input=stdin, capture_output=True, text=True,
                check=True,
            )  # fmt: skip
            return done.stdout.strip()

        run("read-tree", "HEAD")
        found = {"functions/shop.py": text.replace("PORT", str(self.stub.port)), **(files or {})}
        for path, content in found.items():
            blob = run("hash-object", "-w", "--stdin", stdin=content)
            run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        return run("commit-tree", run("write-tree"), "-p", "HEAD", "-m", f"change {self.commits}")

    def deploy(self, sha: str, *options: str, exit_code: int) -> Any:
        """Deploy a commit, guarded, and roll back; assert that nobody outside notices the replays."""
        before = (len(self.stub.seen), self.checksum())
        answer = self.server.json("deploy", "--on", sha, "--guard", "50", *options, exit_code=exit_code)
        assert (len(self.stub.seen), self.checksum()) == before
        assert answer["deployed"] is (exit_code == 0) and answer["gate"]["passes"] is (exit_code == 0)
        served = {function["sha"] for function in self.server.json("function", "list")["functions"]}
        assert (served == {sha}) is answer["deployed"]
        if answer["deployed"]:
            self.server.json("rollback")
        return answer["gate"]

    def checksum(self) -> str:
        return self.database.psql("select md5(string_agg(orders::text, ',' order by id)) from orders")


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("guard")
    folder.chmod(0o755)
    with counting_stub() as stub:
        project = write_project(
            folder / "shop",
            {"shop.py": PYTHON.replace("PORT", str(stub.port))},
            toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n[recording]\nself_check_s = 0\n',
            migrations={"001.sql": SCHEMA},
        )
        (project / ".gitignore").write_text(".flux/\n")
        git(project, "init", "-q", "-b", "main")
        git(project, "add", ".")
        git(
            project,
            "-c",
            "user.name=Ann",
            "-c",
            "user.email=ann@example.com",
            "commit",
            "-q",
            "-m",
            "the shop",
        )
        database = make_database(postgres18)
        with running_dev(project, database) as server:
            for number in range(ORDERED):
                assert server.request("POST", "/orders", {"item": "mug", "count": number + 1}).status == 200
            for number in range(SHOWN):
                assert server.request("GET", f"/orders/{number + 1}").status == 200
            for _ in range(MISSED):
                assert server.request("GET", "/orders/999").status == 404
            assert server.request("POST", "/orders", {"item": "sock", "count": 1}).status == 500
            count = str(ORDERED + SHOWN + MISSED + 1)
            # Records of what wrote nothing are stored a moment later.
            wait_until(lambda: database.psql("select count(*) from flux.execution") == count, "some are not stored")
            yield Shop(server, database, stub)


def test_ctrl_c_ends_the_replays_and_leaves_nothing_behind(shop: Shop) -> None:
    """On the candidate, one route computes for ever: each of its replays lasts until its limit."""
    sha = shop.commit(("    found = await", "    while True:\n        pass\n    found = await"))
    root = shop.server.process.pid
    rows = "select count(*) from flux.execution union all select count(*) from flux.deploy"

    def look() -> tuple[object, ...]:
        written = []
        for path in Path(tempfile.gettempdir()).glob("flux-commit-*/functions/shop.py"):
            with contextlib.suppress(FileNotFoundError):  # Another test's, which has just removed it.
                written += [path] if str(shop.stub.port) in path.read_text() else []
        served = {function["sha"] for function in shop.server.json("function", "list")["functions"]}
        return (
            list_untouched(shop.server.project), written, served, shop.database.psql(rows),
            shop.checksum(), len(shop.stub.seen),
        )  # fmt: skip

    before, processes = look(), set(list_descendants(root))
    process = subprocess.Popen(
        [sys.executable, "-m", "flux", "deploy", "--on", sha, "--guard", "50"], cwd=shop.server.project,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    spinning: list[int] = []

    def find_spinning() -> bool:
        assert process.poll() is None, process.communicate()
        spinning[:] = [pid for pid in set(list_descendants(root)) - processes if count_ticks(pid) >= BUSY_TICKS]
        return bool(spinning)

    wait_until(find_spinning, "no replay computes")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)
    assert (process.returncode, said[0]) == (130, ""), said
    wait_until(lambda: not set(spinning) & set(list_descendants(root)), "a replay goes on")
    wait_until(lambda: len(list_descendants(root)) <= len(processes), "processes of the candidate stay")
    assert look() == before


def test_a_harmless_refactoring_passes_and_is_deployed(shop: Shop) -> None:
    price = 'CENTS[input["item"]] * input["count"]'
    sha = shop.commit(
        (price, "price_of(input)"),
        (
            '@function("POST /orders")',
            f'def price_of(input):\n    return {price}\n\n\n@function("POST /orders")',
        ),
        ("select id, item, cents from orders where id = $1", "select * from orders where orders.id = $1"),
        ("async def show(ctx, input):", 'async def show_order(ctx, input):\n    ctx.log.info("shown")'),
        ("/orders/{id}", "/orders/{number}"),
        ('input["id"]', 'input["number"]'),
    )
    gate = shop.deploy(sha, exit_code=0)
    assert gate["counts"]["same"] == gate["total"]
    assert gate["total"] == ORDERED + SHOWN + MISSED + 1
    assert (gate["refusals"], gate["undecided"], gate["not_seen"]) == ([], [], ["moment", "total"])


def test_a_seeded_regression_is_refused_and_shown(shop: Shop) -> None:
    sha = shop.commit(('"item": found["item"]', '"item": found["itme"]'))
    gate = shop.deploy(sha, exit_code=1)
    assert gate["counts"] == {
        "same": ORDERED + MISSED + 1,
        "fixed": 0,
        "changed": 0,
        "failing": SHOWN,
        "undecided": 0,
    }
    (group,) = gate["groups"]
    assert (group["finding"], group["function"], group["count"], group["entry"]) == (
        "failing",
        "show",
        SHOWN,
        None,
    )
    assert group["example"]["execution"]["status"] == 200
    assert group["example"]["replayed"]["error"]["message"] == "'itme'"
    told = shop.server.command("deploy", "--on", sha, "--guard", "50")
    name = group["example"]["execution"]["name"]
    assert told.returncode == 1
    assert "5 executions that had not failed now fail" in told.stdout and "not deployed" in told.stdout
    assert f"flux trace diff {name} {name}@{sha}" in told.stdout and "'itme'" in told.stdout
    assert "--accept" not in told.stdout
    assert shop.server.json("trace", "diff", name, f"{name}@{sha}", exit_code=1)["verdict"] == "REGRESSED"


def test_changed_answers_of_two_kinds_are_two_groups_that_can_be_accepted(shop: Shop) -> None:
    changes = (
        ('{"cents": found["cents"]}', '{"cents": found["cents"] + 1}'),
        ('json={"cents": cents}', 'json={"cents": cents, "currency": "eur"}'),
    )
    gate = shop.deploy(shop.commit(*changes), exit_code=1)
    host = f"127.0.0.1:{shop.stub.port}"
    assert [(group["function"], group["count"], group["effect"]) for group in gate["groups"]] == [
        ("order", ORDERED, f"POST {host}: arguments.body.currency: nothing → text"),
        ("show", SHOWN, "answer body.price.cents: another number"),
    ]  # fmt: skip
    first = gate["groups"][0]["example"]["first_difference"]
    assert (first["part"], first["a"]["kind"], first["b"]["kind"]) == ("call", "http.request", "http.request")

    entries = "\n".join(group["entry"] for group in gate["groups"])
    refused = shop.commit(*changes, files={"flux.accept.toml": entries})
    told = shop.server.command("deploy", "--on", refused, "--guard", "50")
    assert told.returncode == 2 and "FLX560" in told.stderr and "has no reason" in told.stderr

    meant = entries.replace('reason = ""', 'reason = "as the shop wants it"')
    gate = shop.deploy(shop.commit(*changes, files={"flux.accept.toml": meant}), exit_code=0)
    assert all(group["accepted"] for group in gate["groups"])
    late = meant.replace("until = 20", "until = 19")
    gate = shop.deploy(shop.commit(*changes, files={"flux.accept.toml": late}), exit_code=1)
    assert [group["acceptance"]["holds"] for group in gate["groups"]] == [False, False]
    assert shop.deploy(shop.commit(files={"flux.accept.toml": meant}), exit_code=0)["unused"]


def test_the_entries_are_printed_when_they_are_asked_for_and_nothing_is_written(shop: Shop) -> None:
    sha = shop.commit(('{"cents": found["cents"]}', '{"cents": str(found["cents"])}'))
    told = shop.server.command("deploy", "--on", sha, "--guard", "50", "--accept")
    assert told.returncode == 1 and "[[accept]]" in told.stdout and 'reason = ""' in told.stdout
    assert not (shop.server.project / "flux.accept.toml").exists()
    told = shop.server.command("deploy", "--on", sha, "--guard", "50")
    assert f"flux deploy --on {sha} --guard 50 --accept" in told.stdout and "[[accept]]" not in told.stdout


def test_a_row_that_is_not_written_any_more_and_a_route_that_is_gone_are_changes(shop: Shop) -> None:
    sha = shop.commit(
        (
            '"insert into orders (item, cents) values ($1, $2) returning id", input["item"], cents',
            '"select 1 as id"',
        ),
        ("GET /orders/{id}", "GET /order/{id}"),
    )
    groups = {group["effect"]: group for group in shop.deploy(sha, exit_code=1)["groups"]}
    assert groups["nothing answers it any more"]["count"] == SHOWN + MISSED
    changed = [group for group in groups.values() if group["function"] == "order"]
    assert sum(group["count"] for group in changed) == ORDERED


def test_a_migration_of_the_candidate_is_applied_in_the_rebuilt_database_alone(shop: Shop) -> None:
    changes = (
        ('"insert into orders (item, cents) values ($1, $2) returning id", input["item"], cents',
         '"insert into orders (item, cents, note) values ($1, $2, null) returning id", input["item"], cents'),
        ('"item": found["item"]', '"item": found["itme"]'),
    )  # fmt: skip
    files = {"migrations/002.sql": "alter table orders add column note text;"}
    gate = shop.deploy(shop.commit(*changes, files=files), exit_code=1)
    assert gate["counts"]["failing"] == SHOWN and gate["counts"]["undecided"] == 0
    assert (
        shop.database.psql(
            "select count(*) from pg_attribute where attrelid = 'orders'::regclass and attname = 'note'"
        )
        == "0"
    )


def test_executions_of_older_code_are_held_against_what_is_served_now(shop: Shop) -> None:
    served = ('{"cents": found["cents"]}', '{"cents": found["cents"] + 1}')
    shop.server.json("deploy", "--on", shop.commit(served))
    try:
        harmless = shop.commit(served, ("async def show", "async def show_one"))
        gate = shop.deploy(harmless, exit_code=0)
        assert gate["counts"]["same"] == gate["total"], (
            "the records are other than both, and both are the same"
        )
        back = shop.deploy(shop.commit(), exit_code=1)
        assert [(group["function"], group["count"]) for group in back["groups"]] == [("show", SHOWN)]
        first = back["groups"][0]["example"]["first_difference"]["differences"][0]
        assert first["a"] == first["b"] + 1
    finally:
        shop.server.json("deploy")


def test_a_database_that_was_changed_unseen_decides_nothing(shop: Shop) -> None:
    for _ in range(2):
        assert shop.server.request("GET", "/total").status == 200
    # As after a restore from elsewhere: rows are others, and the log of changes knows nothing of it.
    unseen = "set session_replication_role = replica;"
    shop.database.psql(f"{unseen} insert into orders (item, cents) values ('restored', 7)")
    try:
        gate = shop.deploy(shop.commit(("# The kernel", "# It")), exit_code=0)
        assert (gate["counts"]["undecided"], gate["counts"]["changed"]) == (2, 0)
        assert [each["reason"] for each in gate["undecided"]] == [
            "the rebuilt database answers otherwise than it answered then"
        ]
    finally:
        shop.database.psql(f"{unseen} delete from orders where item = 'restored'")


def test_what_does_not_repeat_itself_is_never_called_a_change(shop: Shop) -> None:
    for _ in range(4):
        assert shop.server.request("POST", "/moment", {}).status == 200
    sha = shop.commit(("# The kernel numbers", "# It numbers"))
    gate = shop.deploy(sha, "--max-undecided", "50", exit_code=0)
    assert (gate["counts"]["changed"], gate["counts"]["undecided"]) == (0, 4)
    (reason,) = gate["undecided"]
    assert "does not do the same again" in reason["reason"] and reason["count"] == 4
    # More than a fifth of what was replayed is more than may be so, unless it is said.
    shop.database.psql("delete from flux.execution where function <> 'moment'")
    told = shop.server.command("deploy", "--on", sha, "--guard", "50", "--max-undecided", "100")
    assert told.returncode == 1 and "none of 4 executions could be judged" in told.stdout
    shop.database.psql("delete from flux.execution")
    told = shop.server.command("deploy", "--on", sha, "--guard", "50")
    assert told.returncode == 1 and "nothing is known of this code" in told.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--accept",), "for --guard"),
        (("--max-undecided", "10"), "for --guard"),
        (("--guard", "0"), "0 is not in the range"),
        (("--guard", "3000"), "3000 is not in the range"),
        (("--guard", "x"), "'x' is not a valid integer"),
        (("--guard", "5", "--max-undecided", "101"), "101 is not in the range"),
        (("--guard", "5", "--on", "nowhere"), "FLX525"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_and_nothing_is_deployed(shop: Shop, options: tuple[str, ...], told: str) -> None:
    done = shop.server.command("deploy", *options)
    assert done.returncode in (2, 3) and told in done.stderr
