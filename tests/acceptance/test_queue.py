"""Jobs and invokes with a real ``flux dev``: run, linked, retried by hand, explained, and held in a replay.

What was pushed and done is asked of a second ``psql``; nothing here waits by the clock.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.postgres_server import PostgresServer

PYTHON = """\
from flux_guest import InvokeError, function


@function("POST /signup")
async def signup(ctx, input):
    await ctx.db.execute("insert into users (email) values ($1)", input["email"])
    job = await ctx.queue.push("welcome", {"email": input["email"], "fails": input.get("fails", False)})
    if input.get("price"):
        return {"job": job, "price": await ctx.invoke("price", {"plan": input["price"]})}
    return {"job": job}


@function()
def welcome(ctx, payload):
    ctx.db.execute("update users set welcomed = welcomed + 1 where email = $1", payload["email"])
    if payload["fails"]:
        raise RuntimeError("mail server away")


@function()
def price(ctx, input):
    return {"pro": 900}[input["plan"]]


@function("POST /ask")
def ask(ctx, input):
    try:
        ctx.invoke("price", {"plan": input["plan"]})
    except InvokeError as error:
        return {"type": error.type, "status": error.status, "execution": error.execution}
"""
SCRIPT = """\
import { defineFunction, InvokeError } from "@flux/guest";

export default defineFunction({
  route: "POST /script",
  handler: async ({ input, ctx }) => {
    const job = await ctx.queue.push("welcome", { email: input.email, fails: false }, { idempotencyKey: input.email });
    const again = await ctx.queue.push("welcome", { email: "other" }, { idempotencyKey: input.email });
    try {
      await ctx.invoke("price", { plan: "none" });
    } catch (error) {
      if (!(error instanceof InvokeError)) throw error;
      const price = await ctx.invoke("price", { plan: "pro" });
      return { same: job === again, price, type: error.type, status: error.status };
    }
  },
});
"""
SCHEMA = "create table users (email text primary key, welcomed int not null default 0);"


@attrs.frozen
class Shop:
    """A server, and who sees what happens behind it."""

    server: DevServer
    database: Database

    def post(self, path: str, body: object, status: int = 200) -> Any:
        answer = self.server.request("POST", path, body)
        assert answer.status == status, answer.body
        return answer

    def wait_state(self, job: str, state: str) -> None:
        """Wait until a job is in this state."""
        while self.database.psql(f"select state from flux.job where id = '{job}'") != state:
            assert self.server.process.poll() is None, "\n".join(self.server.story)
            time.sleep(0.05)

    def wait_caused(self, job: str, count: int) -> None:
        """Wait until so many executions are on record that the one which pushed ``job`` has caused."""
        caused = f"select count(*) from flux.execution where parent = (select parent from flux.job where id = '{job}')"
        while self.database.psql(caused) != str(count):
            assert self.server.process.poll() is None, "\n".join(self.server.story)
            time.sleep(0.05)

    def save(self, *changes: tuple[str, str]) -> None:
        """Write the Python functions as they were at first, but for ``changes``; wait until they are served."""
        text = PYTHON
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = self.server.project / "functions" / "shop.py"
        if path.read_text() != text:
            told = len(self.server.story)
            path.write_text(text)
            self.server.wait_story("shop.py", after=told)

    def replay(self, name: str, *options: str, exit_code: int) -> Any:
        """Replay an execution; assert that nothing came into the queue, and nothing was run."""
        count = (
            "select count(*), sum(attempt), max(id::text) from flux.job "
            "union all select count(*), 0, '' from flux.execution where trigger <> 'replay'"
        )
        before = self.database.psql(count)
        answer = self.server.json("replay", name, *options, exit_code=exit_code)
        assert self.database.psql(count) == before
        return answer


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("queue")
    folder.chmod(0o755)
    project = write_project(
        folder / "shop", {"shop.py": PYTHON, "script.js": SCRIPT}, migrations={"001.sql": SCHEMA},
        toml="[recording]\nself_check_s = 0\n",
    )  # fmt: skip
    database = make_database(postgres18)
    with running_dev(project, database) as server:
        yield Shop(server, database)


def test_a_job_runs_once_its_push_is_committed_and_trace_goes_from_one_to_the_other(shop: Shop) -> None:
    answer = shop.post("/signup", {"email": "a@b.com"})
    shop.wait_state(answer.json["job"], "done")
    assert shop.database.psql("select welcomed from users where email = 'a@b.com'") == "1"
    pushed = shop.server.json("trace", answer.flux_id)
    ((child,), (job,)) = pushed["children"], pushed["jobs"]
    assert (child["trigger"], child["function"], child["attempt"]) == ("queue", "welcome", 1)
    assert (job["id"], job["state"], job["execution"]) == (answer.json["job"], "done", child["name"])
    ran = shop.server.json("trace", child["name"])
    (call,) = [call for call in pushed["calls"] if call["kind"] == "queue.push"]
    assert ran["cause"] == {"execution": answer.flux_id, "call": call["seq"], "job": answer.json["job"]}
    assert ran["parent"] == pushed["id"] and ran["input"]["email"] == "a@b.com"
    shown = shop.server.command("trace", child["name"]).stdout
    assert f"caused by {answer.flux_id}, call {call['seq']}" in shown and "attempt 1" in shown
    assert f"{child['name']}" in shop.server.command("trace", answer.flux_id).stdout
    assert [one["name"] for one in shop.server.json("trace", "list", "-q", "trigger:queue")["executions"]] == [
        child["name"]
    ]


def test_a_dead_job_is_listed_explained_and_run_again_by_hand(shop: Shop) -> None:
    job = shop.post("/signup", {"email": "dead@b.com", "fails": True}).json["job"]
    shop.wait_state(job, "dead")
    assert shop.database.psql("select welcomed from users where email = 'dead@b.com'") == "0", "rolled back"
    (listed,) = shop.server.json("queue", "dead-letter")["jobs"]
    assert (listed["id"], listed["error"]) == (job, "RuntimeError: mail server away")
    shown = shop.server.command("queue", "list")
    assert f"flux queue retry {job}" in shown.stdout and "1 dead" in shown.stderr
    assert job in shop.server.command("trace", listed["cause"]["execution"]).stdout
    shop.save(('raise RuntimeError("mail server away")', "pass"))
    assert shop.server.json("queue", "retry", job)["job"]["state"] in ("waiting", "running", "done")
    shop.wait_state(job, "done")
    assert shop.database.psql("select welcomed from users where email = 'dead@b.com'") == "1"
    for arguments, exit_code, code in (
        (("retry", job), 2, "FLX577"), (("retry", "zz"), 3, "FLX576"), (("list", "--state", "all", "-n", "0"), 2, ""),
    ):  # fmt: skip
        done = shop.server.command("queue", *arguments)
        assert (done.returncode, done.stdout) == (exit_code, "") and code in done.stderr
    shop.save()


def test_both_languages_push_and_invoke_and_see_typed_errors(shop: Shop) -> None:
    answer = shop.post("/ask", {"plan": "gold"}).json
    assert (answer["type"], answer["status"]) == ("KeyError", 500)
    assert shop.server.json("why", answer["execution"])["failure"]["type"] == "KeyError"
    shop.post("/signup", {"email": "js@b.com"})
    answer = shop.post("/script", {"email": "js@b.com"})
    assert answer.json == {"same": True, "price": 900, "type": "KeyError", "status": 500}
    invoked = shop.server.json("trace", answer.flux_id)["children"]
    assert sorted((one["trigger"], one["status"]) for one in invoked if one["trigger"] == "invoke") == [
        ("invoke", 200), ("invoke", 500),
    ]  # fmt: skip


def test_a_replay_pushes_nothing_and_shows_what_it_would_have_pushed(shop: Shop) -> None:
    answer = shop.post("/signup", {"email": "again@b.com", "price": "pro"})
    shop.wait_state(answer.json["job"], "done")
    shop.wait_caused(answer.json["job"], 2)  # Its attempt, and what was invoked, whose record comes behind the answer.
    name = answer.flux_id
    same = shop.replay(name, exit_code=0)
    assert (same["verdict"], [one["grade"] for one in same["held"]]) == ("identical", ["exact"])
    unchanged = shop.replay(name, "--on", ".", exit_code=0)
    assert (unchanged["verdict"], unchanged["answers"]["held"]) == ("identical", 0)

    shop.save(
        ('"welcome", {"email"', '"welcome", {"to"'),
        ("    if input.get(", '    await ctx.queue.push("price", {"plan": "pro"})\n    if input.get('),
    )  # fmt: skip
    changed = shop.replay(name, "--on", ".", exit_code=1)
    assert changed["verdict"] == "changed" and changed["replayed"]["status"] == 200
    held = [(one["arguments"]["function"], one["grade"]) for one in changed["held"]]
    assert held == [("welcome", "changed"), ("price", "new")]
    assert changed["answers"]["held"] == 2
    job = changed["replayed"]["output"]["body"]["job"]
    assert job.startswith("00000000-0000-8000-8000-"), "an id that no job has"
    shown = shop.server.command("replay", name, "--on", ".").stdout
    assert 'held: queue.push price {"plan":"pro"} (new)' in shown.replace('": "', '":"')
    window = shop.server.command("incident", "replay", "last:1h", "-q", f"name:{name}").stdout
    assert "held: queue.push welcome (changed) ×1" in window and "held: queue.push price (new) ×1" in window

    shop.save(('{"plan": input["price"]}', '{"plan": "gold"}'))
    stopped = shop.replay(name, "--on", ".", exit_code=1)
    assert (stopped["verdict"], stopped["stopped"], stopped["divergence"]["kind"]) == ("diverged", 1, "changed")
    assert stopped["divergence"]["replayed"]["arguments"]["function"] == "price"
    shop.save()
