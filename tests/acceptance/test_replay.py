"""``flux replay`` as typed, against a running server: the same code, repaired code, and code that asks for more.

What must not happen is asked of others: the stub counts what reaches it, psql sums the tables.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

SCHEMA = (
    "create table users (id bigint generated always as identity primary key, email text not null, plan text);"
)
PYTHON = """\
import asyncio
from flux_guest import function

STUB = "http://127.0.0.1:PORT"


@function("POST /signup")
async def create_user(ctx, input):
    user = await ctx.db.query_one("insert into users (email) values ($1) returning id", input["email"])
    charge = await ctx.http.post(STUB + "/charges", json={"user": user["id"], "cents": 900})
    return {"id": user["id"], "amount": charge.json()["amount"]}


@function("POST /many")
async def ask_many(ctx, input):
    async def ask(name):
        answer = await ctx.http.get(STUB + name)
        await ctx.db.execute("insert into users (email) values ($1)", name)
        return answer.json()

    answers = await asyncio.gather(ask("/slow/60"), ask("/slow/5"), ask("/slow/30"))
    return [answer["amount"] for answer in answers]


@function("POST /wait")
async def wait(ctx, input):
    answer = await ctx.http.get(STUB + "/hang", timeout=0.3)
    return {"status": answer.status}


@function("POST /quote")
async def quote(ctx, input):
    first = await ctx.http.get(STUB + "/status/503")
    rate = await ctx.http.get(STUB + "/rates/" + input["currency"]) if first.status == 200 else first
    await ctx.db.execute("insert into users (email, plan) values ($1, $2)", "quote", str(rate.status))
    if rate.status >= 500:
        raise RuntimeError("no rate")
    return {"rate": rate.json().get("rate")}


@function("POST /lend")
async def lend(ctx, input):
    return {"status": (await ctx.http.get(STUB + "/status/502")).status}


@function("POST /wordy")
async def say_much(ctx, input):
    for _ in range(200):
        ctx.log.info("x" * 10_000)
    raise ValueError("said too much")
"""
"""The stub's answers have no amount, so the first two raise."""
SCRIPT = """\
import { defineFunction } from "@flux/guest";

export default defineFunction({
  route: "POST /script",
  handler: async ({ input, ctx }) => {
    const paths = ["/slow/40", "/slow/5"];
    const answers = await Promise.all(paths.map((path) => ctx.http.get("http://127.0.0.1:PORT" + path)));
    await ctx.db.execute("insert into users (email) values ($1)", input.email);
    return { amount: answers[0].json().amount.toFixed(2) };
  },
});
"""


@attrs.define
class Shop:
    """A server, and those who see what happens behind it."""

    server: DevServer
    database: Database
    stub: CountingStub

    def fail(self, path: str, body: object, status: int = 500) -> str:
        """Send a request that fails; return the execution's name."""
        answer = self.server.request("POST", path, body)
        assert answer.status == status, answer.body
        return answer.flux_id

    def save(self, file: str, *changes: tuple[str, str]) -> None:
        """Write a file of the project as it was at first, but for ``changes``; wait until it is served."""
        text = {"shop.py": PYTHON, "script.js": SCRIPT}[file]
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = self.server.project / "functions" / file
        content = text.replace("PORT", str(self.stub.port))
        if path.read_text() != content:
            told = len(self.server.story)
            path.write_text(content)
            self.server.wait_story(file, after=told)

    def replay(self, name: str, *options: str, exit_code: int) -> Any:
        """Replay an execution; assert that nobody outside the sandbox noticed."""
        before = (len(self.stub.seen), self.checksum())
        answer = self.server.json("replay", name, *options, exit_code=exit_code)
        assert (len(self.stub.seen), self.checksum()) == before
        return answer

    def checksum(self) -> str:
        """Of all that the functions may have written."""
        return self.database.psql(
            "select coalesce(md5(string_agg(users::text, ',' order by id)), '') from users "
            "union all select last_value::text from users_id_seq"
        )


@pytest.fixture(scope="module")
def stub() -> Iterator[CountingStub]:
    with counting_stub() as stub:
        yield stub


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    stub: CountingStub,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("replay")
    folder.chmod(0o755)
    project = write_project(
        folder / "shop",
        {
            name: text.replace("PORT", str(stub.port))
            for name, text in (("shop.py", PYTHON), ("script.js", SCRIPT))
        },
        toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n',
        migrations={"001.sql": SCHEMA},
    )
    database = make_database(postgres18)
    with running_dev(project, database) as server:
        yield Shop(server, database, stub)


@pytest.fixture
def shop(served: Shop) -> Shop:
    served.save("shop.py")
    served.save("script.js")
    return served


def test_the_code_that_failed_fails_again_and_nobody_notices(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "a@b.com"})
    replay = shop.replay(name, exit_code=1)
    assert (replay["schema"], replay["verdict"], replay["divergence"]) == (
        "flux.replay/1",
        "same failure",
        None,
    )
    assert replay["original"] == {"status": 500, "outcome": "raised"}
    assert (replay["replayed"]["status"], replay["code"]["is_recorded"]) == (500, True)
    assert replay["grades"] == {"exact": 2, "reordered": 0, "changed": 0, "new": 0, "missing": 0}
    assert (replay["answers"]["recorded"], replay["stopped"]) == (2, 0)


def test_a_repaired_line_passes_on_the_folder_and_fails_on_the_code_of_then(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "b@b.com"})
    shop.save("shop.py", ('"amount": charge.json()["amount"]', '"amount": charge.json().get("amount", 900)'))
    assert shop.replay(name, "--on", ".", exit_code=0)["verdict"] == "passed"
    again = shop.replay(name, exit_code=1)
    assert (again["verdict"], again["code"]["is_recorded"]) == ("same failure", True)


def test_a_clock_a_log_line_and_other_white_space_are_no_change(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "c@b.com"})
    shop.save(
        "shop.py",
        ("    charge = await", '    ctx.log.info("at", at=await ctx.clock.fresh())\n    charge = await'),
        ("insert into users (email) values ($1) returning id", "INSERT INTO users(email)  VALUES ($1) RETURNING id"),
    )  # fmt: skip
    replay = shop.replay(name, "--on", ".", exit_code=1)
    assert (replay["verdict"], replay["divergence"]) == ("same failure", None)
    assert replay["grades"]["exact"] == 2


def test_a_fix_that_goes_on_to_send_something_new_is_stopped_there_and_past_it(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "d@b.com"})
    shop.save(
        "shop.py",
        ('    return {"id": user["id"], "amount": charge.json()["amount"]}',
         '    await ctx.http.post(STUB + "/mail", json={"to": input["email"]})\n    return {"id": user["id"]}'),
    )  # fmt: skip
    replay = shop.replay(name, "--on", ".", exit_code=0)
    assert (replay["verdict"], replay["stopped"]) == ("past it", 1)
    divergence = replay["divergence"]
    assert (divergence["kind"], divergence["seq"], divergence["recorded"]) == ("new", 3, None)
    assert divergence["replayed"]["arguments"]["url"].endswith("/mail")
    assert (divergence["location"]["file"], divergence["location"]["line"]) == ("functions/shop.py", 11)


def test_another_amount_is_changed_and_never_answered_as_if_it_were_the_old_one(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "e@b.com"})
    shop.save("shop.py", ('"cents": 900', '"cents": 90'), ('charge.json()["amount"]', "1"))
    replay = shop.replay(name, "--on", ".", exit_code=1)
    assert (replay["verdict"], replay["stopped"], replay["grades"]["changed"]) == ("diverged", 1, 1)
    divergence = replay["divergence"]
    assert divergence["kind"] == "changed"
    bodies = [json.loads(divergence[side]["arguments"]["body"]) for side in ("recorded", "replayed")]
    assert [body["cents"] for body in bodies] == [900, 90]


def test_a_changed_statement_is_answered_by_the_database_of_then(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "f@b.com"})
    shop.save("shop.py", ('returning id", input["email"]', 'returning id", input["email"].upper()'))
    replay = shop.replay(name, "--on", ".", exit_code=1)
    assert (replay["verdict"], replay["stopped"], replay["divergence"]) == ("same failure", 0, None)
    assert (replay["grades"]["exact"], replay["grades"]["changed"]) == (
        1,
        1,
    )  # The id, and so the charge, is that of then.
    assert (replay["answers"]["world"], replay["answers"]["recorded"], replay["notes"]) == (1, 1, [])


def test_a_new_statement_sees_the_rows_as_they_were_and_its_own(shop: Shop) -> None:
    psql = shop.database.psql
    psql("insert into users (email, plan) values ('old@b.com', 'free'), ('gone@b.com', 'free')")
    name = shop.fail("/signup", {"email": "world@b.com"})
    then = int(psql("select count(*) from users"))
    psql(
        "update users set plan = 'team' where email = 'old@b.com'; delete from users where email = 'gone@b.com'"
    )
    psql("insert into users (email) select 'later' || n from generate_series(1, 7) n")
    shop.save(
        "shop.py",
        ('    return {"id": user["id"], "amount": charge.json()["amount"]}',
         '    return await ctx.db.query_one("""\n'
         '        select count(*) as count, min(plan) filter (where email = \'old@b.com\') as plan,\n'
         '            count(*) filter (where email = \'gone@b.com\') as gone from public.users""")'),
    )  # fmt: skip
    replay = shop.replay(name, "--on", ".", exit_code=0)
    assert (replay["verdict"], replay["fidelity"]) == ("passed", {"matched": 1, "equal": 1})
    assert replay["replayed"]["output"]["body"] == {"count": then + 1, "plan": "free", "gone": 1}


def test_a_write_to_what_is_not_the_worlds_is_refused_by_postgres(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "write@b.com"})
    shop.save(
        "shop.py",
        ('    return {"id": user["id"], "amount": charge.json()["amount"]}',
         '    return await ctx.db.execute("do $$ begin execute $q$delete from public.users$q$; end $$")'),
    )  # fmt: skip
    replay = shop.replay(name, "--on", ".", exit_code=0)
    assert replay["verdict"] == "past it"  # It went past the failure, to a statement that nothing can answer.
    assert "refused by PostgreSQL" in replay["notes"][0]


def test_a_database_whose_tables_have_changed_is_not_rebuilt_and_that_is_told(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "ddl@b.com"})
    shop.database.psql("alter table users alter column email type varchar(200)")
    shop.save("shop.py", ('returning id", input["email"]', 'returning id", input["email"].upper()'))
    replay = shop.replay(name, "--on", ".", exit_code=1)
    assert (replay["verdict"], replay["divergence"]["kind"]) == ("diverged", "changed")
    assert "FLX313" in replay["notes"][0] and "column email was text" in replay["notes"][0]


def test_a_database_that_was_changed_behind_the_log_is_unfaithful_whatever_the_code_makes_of_it(shop: Shop) -> None:
    counting = ('returning id", input["email"]', 'returning (select count(*) from users) as id", input["email"]')
    shop.save("shop.py", counting)
    name = shop.fail("/signup", {"email": "restored@b.com"})
    # As after a restore from elsewhere: rows are others, and the log of changes knows nothing of it.
    shop.database.psql(
        "set session_replication_role = replica; insert into users (email) select 'restored' from generate_series(1, 3)"
    )
    shop.save("shop.py", counting, ('"amount": charge.json()["amount"]', '"amount": 1'))
    replay = shop.replay(name, "--on", ".", exit_code=1)
    assert (replay["verdict"], replay["fidelity"]) == ("unfaithful", {"matched": 1, "equal": 0})
    # Its own code needs no database, and is not misled by one.
    assert shop.replay(name, exit_code=1)["verdict"] == "same failure"


def test_concurrent_questions_hear_their_own_answers_in_the_order_of_then(shop: Shop) -> None:
    name = shop.fail("/many", {})
    assert shop.replay(name, exit_code=1)["verdict"] == "same failure"
    shop.save("shop.py", ('[answer["amount"] for answer in answers]', "answers"))
    repaired = shop.replay(name, "--on", ".", exit_code=0)
    assert repaired["verdict"] == "passed"
    order = [
        call["replayed"]["arguments"].get("args")
        for call in repaired["calls"]
        if call["replayed"]["kind"] == "db.execute"
    ]
    calls = shop.server.json("trace", name)["calls"]
    then = [call["arguments"]["args"] for call in calls if call["kind"] == "db.execute"]
    assert (order, sorted(then)) == (then, [["/slow/30"], ["/slow/5"], ["/slow/60"]])


def test_javascript_is_replayed_on_its_own_code_and_on_repaired_code(shop: Shop) -> None:
    name = shop.fail("/script", {"email": "js@b.com"})
    assert shop.replay(name, exit_code=1)["verdict"] == "same failure"
    shop.save("script.js", ("answers[0].json().amount.toFixed(2)", "answers[0].json().amount ?? null"))
    repaired = shop.replay(name, "--on", ".", exit_code=0)
    assert (repaired["verdict"], repaired["grades"]["exact"]) == ("passed", 3)


def test_a_recorded_time_out_is_outside_until_the_code_copes_with_it(shop: Shop) -> None:
    name = shop.fail("/wait", {})
    assert shop.replay(name, exit_code=1)["verdict"] == "outside"
    shop.save("shop.py", ('    return {"status": answer.status}', '    return {"state": answer.status}'))
    assert shop.replay(name, "--on", ".", exit_code=1)["verdict"] == "outside"
    shop.save(
        "shop.py",
        ('    answer = await ctx.http.get(STUB + "/hang", timeout=0.3)\n    return {"status": answer.status}',
         '    try:\n        await ctx.http.get(STUB + "/hang", timeout=0.3)\n'
         '    except Exception:\n        return {"status": "later"}'),
    )  # fmt: skip
    assert shop.replay(name, "--on", ".", exit_code=0)["verdict"] == "passed"


def test_more_patience_with_who_never_answered_is_unknown(shop: Shop) -> None:
    name = shop.fail("/wait", {})
    shop.save("shop.py", ("timeout=0.3", "timeout=5"))
    replay = shop.replay(name, "--on", ".", exit_code=1)
    assert (replay["verdict"], replay["divergence"]["kind"], replay["stopped"]) == ("diverged", "changed", 1)


def test_what_did_not_fail_is_identical_or_changed(shop: Shop) -> None:
    shop.save("shop.py", ('charge.json()["amount"]', "1"))
    answer = shop.server.request("POST", "/signup", {"email": "g@b.com"})
    assert answer.status == 200
    assert shop.replay(answer.flux_id, exit_code=0)["verdict"] == "identical"
    shop.save("shop.py", ('charge.json()["amount"]', "2"))
    assert shop.replay(answer.flux_id, "--on", ".", exit_code=1)["verdict"] == "changed"


def test_what_can_not_be_replayed_is_refused_with_the_reason(shop: Shop) -> None:
    wordy = shop.fail("/wordy", {})
    refused = shop.server.command("replay", wordy)
    assert (refused.returncode, "FLX312" in refused.stderr, "log lines" in refused.stderr) == (6, True, True)
    shop.save("shop.py", ('"cents": 900', '"cents": 905'))  # Code that no other test has had replayed.
    name = shop.fail("/signup", {"email": "h@b.com"})
    deployment = shop.server.json("trace", name)["deployment"]
    shop.save("shop.py", ('"cents": 900', '"cents": 901'))
    kept = shop.server.project / ".flux" / "artifacts" / deployment
    changed = kept / "functions" / "shop.py"
    whole = changed.read_text()
    changed.write_text(whole + "\n# somebody was here\n")
    refused = shop.server.command("replay", name)
    assert (refused.returncode, "FLX540" in refused.stderr, "have changed" in refused.stderr) == (6, True, True)
    shutil.rmtree(kept)
    refused = shop.server.command("replay", name)
    assert (refused.returncode, "FLX524" in refused.stderr, "not kept" in refused.stderr) == (6, True, True)
    unreadable = shop.server.request("POST", "/signup", b"{", {"content-type": "application/json"})
    refused = shop.server.command("replay", unreadable.flux_id)
    assert (refused.returncode, "never ran" in refused.stderr) == (6, True)
    nowhere = shop.server.command("replay", name, "--on", "main")
    assert (nowhere.returncode, "FLX525" in nowhere.stderr) == (3, True)


def test_the_answer_stands_in_the_first_lines(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "i@b.com"})
    told = shop.server.command("replay", name).stdout
    assert "✗ same failure   500 → 500" in "\n".join(told.splitlines()[:5])
    assert "0 effects left the sandbox" in told
    assert f"flux replay {name} --on ." in told


def test_a_commit_is_run_without_touching_the_checkout(shop: Shop) -> None:
    folder = shop.server.project
    name = shop.fail("/signup", {"email": "git@b.com"})

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "broken")
    shop.save("shop.py", ('"amount": charge.json()["amount"]', '"amount": charge.json().get("amount", 900)'))
    git("commit", "-qam", "repaired")
    shop.save("shop.py", ('"cents": 900', '"cents": 7'))
    before = (git("status", "--porcelain=v2", "--branch"), git("reflog"), git("stash", "list"), git("diff"))
    assert shop.replay(name, "--on", "main", exit_code=0)["verdict"] == "passed"
    first = shop.replay(name, "--on", "HEAD~1", exit_code=1)
    assert (first["verdict"], first["code"]["sha"]) == ("same failure", git("rev-parse", "HEAD~1").strip())
    assert shop.replay(name, "--on", ".", exit_code=1)["verdict"] == "diverged"
    assert before == (
        git("status", "--porcelain=v2", "--branch"),
        git("reflog"),
        git("stash", "list"),
        git("diff"),
    )
    for nothing in ("nowhere", "HEAD~9", "-h", "--all"):
        refused = shop.server.command("replay", name, f"--on={nothing}")
        assert (refused.returncode, "FLX525" in refused.stderr) == (3, True), refused.stderr


def test_an_answer_that_is_brought_is_given_and_shown_as_such(shop: Shop, tmp_path: Path) -> None:
    name = shop.fail("/quote", {"currency": "eur"})
    assert shop.replay(name, exit_code=1)["verdict"] == "same failure"
    rate = tmp_path / "rate.json"
    rate.write_text('{"rate": 1.25}')
    told = shop.replay(name, "--answer", "1=200", "--answer", f"2={rate}", exit_code=0)
    assert (told["verdict"], told["answers"]["fixture"]) == ("passed", 2)
    assert told["replayed"]["output"]["body"] == {"rate": 1.25}
    # The time-out of a request that was answered then: the code does not cope, and that is its own failure.
    late = shop.replay(name, "--answer", "1=timeout", exit_code=1)
    assert (late["verdict"], late["answers"]["fixture"]) == ("other failure", 1)
    # One that was not asked for is told, and one that is no answer at all is refused.
    assert "call 9 was never made" in shop.replay(name, "--answer", "9=503", exit_code=1)["notes"][0]
    passing = shop.server.request("POST", "/lend", {}).flux_id
    lent = shop.replay(name, "--answer", f"1=@{passing}", exit_code=1)
    assert (lent["verdict"], lent["answers"]["borrowed"]) == ("same failure", 1)
    for answer in ("1", "x=503", "1=/nowhere/at/all", "1=@nosuchid"):
        assert shop.server.command("replay", name, "--answer", answer).returncode in (2, 3)
    statement = shop.server.command("replay", name, "--answer", "2=503")
    assert (statement.returncode, "FLX314" in statement.stderr) == (2, True)


def test_an_incident_says_which_still_fail_and_why_and_the_whole_fix_passes(shop: Shop) -> None:
    shop.save("shop.py", ('"cents": 900', '"cents": 910'))  # So that the window's executions are this test's.
    since = shop.database.psql(
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    names = [shop.fail("/signup", {"email": f"incident{n}@b.com"}) for n in range(18)]
    names += [shop.fail("/signup", {"mail": "no address"}) for _ in range(3)]
    outside, wordy = shop.fail("/wait", {}), shop.fail("/wordy", {})
    shop.server.request("POST", "/lend", {})  # Healthy: no part of the incident.
    before = (len(shop.stub.seen), shop.checksum())

    def replay_incident(*options: str, exit_code: int) -> Any:
        return shop.server.json("incident", "replay", f"{since}..2100-01-01", *options, exit_code=exit_code)

    half = ('"cents": 900', '"cents": 910'), ('charge.json()["amount"]', 'charge.json().get("amount", 910)')
    shop.save("shop.py", *half)
    told = replay_incident(exit_code=1)
    assert (told["schema"], told["total"], told["effects_left"]) == ("flux.incident-replay/1", 23, 0)
    assert told["verdicts"] == {"passed": 18, "same failure": 3, "outside": 1, "unreplayable": 1}
    groups = {tuple(group["names"]): group["verdicts"] for group in told["groups"]}
    # Missing keys of one function are one kind of failure; what became of each is told all the same.
    assert groups[tuple(names)] == {"passed": 18, "same failure": 3}
    still = [one["execution"]["name"] for one in told["executions"] if one["verdict"] == "same failure"]
    assert still == names[18:]
    assert (groups[(outside,)], groups[(wordy,)]) == ({"outside": 1}, {"unreplayable": 1})

    shop.save(
        "shop.py", *half, ('input["email"])\n    charge', 'input.get("email") or input["mail"])\n    charge')
    )
    whole = replay_incident("-q", "status:500 route:/signup", exit_code=0)
    assert (whole["total"], set(whole["verdicts"])) <= (21, {"passed", "past it"})
    story = shop.server.command(
        "incident", "replay", f"{since}..2100-01-01", "-q", "status:500 route:/signup"
    )
    assert story.returncode == 0 and "0 effects left the sandbox" in story.stdout
    assert shop.server.command("incident", "replay", "yesterday").returncode == 3
    assert shop.server.command("incident", "replay", "14:00").returncode == 2
    assert (len(shop.stub.seen), shop.checksum()) == before


def test_a_replay_is_an_execution_that_is_shown_when_it_is_asked_for(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "again@b.com"})
    shop.save("shop.py", ('charge.json()["amount"]', "1"))
    replayed = shop.replay(name, "--on", ".", exit_code=0)["replayed"]["execution"]
    shop.replay(name, exit_code=1)
    trace = shop.server.json("trace", replayed)
    assert (trace["trigger"], trace["replay_of"], trace["status"]) == ("replay", name, 200)
    assert [call["kind"] for call in trace["calls"]] == ["db.query", "http.request"]
    assert trace["input"]["path"] == "/signup"
    found = [one["name"] for one in shop.server.json("trace", "list", "-n", "50")["executions"]]
    assert name in found and replayed not in found
    assert replayed in [
        one["name"] for one in shop.server.json("trace", "list", "-q", "trigger:replay")["executions"]
    ]
    # The server looks by itself, when it has the time, whether what failed can be replayed.
    shown = [one for one in shop.server.json("trace", name)["replays"] if not one["is_check"]]
    assert [(one["verdict"], one["on"]) for one in shown] == [("same failure", None), ("passed", ".")]
    assert shown[1]["execution"] == replayed
    assert f"replay of {name}" in shop.server.command("trace", replayed).stdout
    failures = shop.server.json("errors")["groups"]
    assert all(replayed != group["sample"] for group in failures)


def test_a_replay_of_a_replay_is_refused_and_says_which_one_to_replay(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "twice@b.com"})
    replayed = shop.replay(name, exit_code=1)["replayed"]["execution"]
    refused = shop.server.command("replay", replayed)
    assert (refused.returncode, "FLX312" in refused.stderr, name in refused.stderr) == (6, True, True)


def test_a_request_leaves_only_to_the_host_that_was_agreed_to_and_is_counted(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "live@b.com"})
    shop.save(
        "shop.py",
        ('    return {"id": user["id"], "amount": charge.json()["amount"]}',
         '    rate = await ctx.http.get(STUB + "/slow/1")\n    return {"rate": rate.status}'),
    )  # fmt: skip
    assert shop.replay(name, "--on", ".", exit_code=0)["verdict"] == "past it"
    assert shop.replay(name, "--on", ".", "--strict", exit_code=1)["verdict"] == "past it"
    elsewhere = shop.replay(name, "--on", ".", "--live", "http:api.example.com", "--yes", exit_code=0)
    assert (elsewhere["verdict"], elsewhere["sent"]) == ("past it", 0)
    host = f"http:127.0.0.1:{shop.stub.port}"
    refused = shop.server.command("replay", name, "--on", ".", "--live", host)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    before, rows = len(shop.stub.seen), shop.checksum()
    sent = shop.server.json("replay", name, "--on", ".", "--live", host, "--yes")
    assert (sent["verdict"], sent["sent"], sent["answers"]["live"]) == ("passed", 1, 1)
    assert sent["replayed"]["output"]["body"] == {"rate": 200}
    assert [(seen.method, seen.path) for seen in shop.stub.seen[before:]] == [("GET", "/slow/1")]
    assert shop.checksum() == rows
    assert "1 request was sent for real" in shop.server.command(
        "replay", name, "--on", ".", "--live", host, "--yes"
    ).stdout
    assert shop.server.command("replay", name, "--strict", "--answer", "1=503").returncode == 2


def test_an_incident_has_a_name_and_is_replayed_by_it(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "pinned@b.com"})
    shop.save("shop.py", ('charge.json()["amount"]', "1"))
    pinned = shop.server.json("incident", "pin", "morning", "last:1h")
    assert pinned["name"] == "morning"
    again = shop.server.command("incident", "pin", "morning", "last:2h")
    assert (again.returncode, "FLX528" in again.stderr) == (2, True)
    found = shop.server.json("incident", "list")["incidents"]
    assert [one["name"] for one in found] == ["morning"] and found[0]["failed"] >= 1
    assert "morning" in shop.server.command("incident", "list").stdout
    answer = shop.server.json("incident", "replay", "morning", "-q", f"name:{name}")
    assert (answer["total"], answer["verdicts"]) == (1, {"passed": 1})
    unknown = shop.server.command("incident", "replay", "evening")
    assert (unknown.returncode, "FLX527" in unknown.stderr) == (3, True)


def test_a_replay_keeps_the_rows_that_it_changed_and_the_tables_know_nothing_of_them(shop: Shop) -> None:
    name = shop.fail("/signup", {"email": "rows@b.com"})
    shop.save(
        "shop.py",
        ('    return {"id": user["id"], "amount": charge.json()["amount"]}',
         '    await ctx.db.execute("update users set plan = \'team\' where id = $1", user["id"])\n'
         '    try:\n'
         '        async with ctx.db.transaction():\n'
         '            await ctx.db.execute("delete from users")\n'
         '            raise KeyError\n'
         '    except KeyError:\n'
         '        return {"id": user["id"]}'),
    )  # fmt: skip
    replayed = shop.replay(name, "--on", ".", exit_code=0)["replayed"]["execution"]
    rows = shop.server.json("trace", replayed)["mutations"]
    assert [(row["table"], row["op"], row["call"], row["committed"]) for row in rows] == [
        ("users", "insert", 1, True), ("users", "update", 3, True)
    ]  # fmt: skip
    assert rows[1]["after"] | {"email": "rows@b.com", "plan": "team"} == rows[1]["after"]
    number = rows[0]["after"]["id"]
    assert rows[0]["key"] == {"id": number}
    history = shop.server.json("state", "history", "users", str(number), exit_code=0)["versions"]
    assert [version["execution"] for version in history if version["execution"]] == [name]
