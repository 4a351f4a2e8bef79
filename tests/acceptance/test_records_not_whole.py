"""Records that a second psql has cut, aged or damaged: a replay is refused with the reason and exit code 6, or says
what it lacks. And stand-ins for redacted values, which are named.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from flux.errors import FluxError
from flux.execution import Interrupted, Returned
from flux.store.reading import ROWS_GONE
from flux.supervisor.replay import UnreplayableError, check_whole
from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.failing_executions import execution
from tests.guests.cases import ask
from tests.postgres_server import PostgresServer

PYTHON = """\
from flux_guest import HTTPError, function


@function("POST /keep")
async def keep(ctx, input):
    await ctx.db.execute("insert into notes (text) values ($1)", input["text"][:20])
    return {"length": len(input["text"])}


@function("POST /who")
async def tell_who(ctx, input):
    if len(ctx.request.headers["authorization"]) > 12:
        return {"known": True}
    raise KeyError("who is that")
"""
REFUSES = """\
    if ctx.request.headers["authorization"] != "Bearer me":
        raise HTTPError(401)
"""


@attrs.frozen
class Keeper:
    """A server and the database behind it."""

    server: DevServer
    database: Database

    def keep(self, text: str = "short") -> str:
        """Make an execution that changes a row; return its name."""
        answer = self.server.request("POST", "/keep", {"text": text})
        assert answer.status == 200
        # Asked for once, it is stored.
        assert ask(self.server, "GET", f"executions/{answer.flux_id}")[0] == 200
        return answer.flux_id

    def replay(self, name: str, on: str = "") -> tuple[int, Any]:
        """Return the status of the console's answer, and what it says."""
        status, body = ask(
            self.server, "POST", f"executions/{name}/replay" + (f"?on={on}" if on else ""), b"{}"
        )
        return status, json.loads(body)

    def refusal(self, name: str, on: str = "") -> tuple[str, int, str]:
        """Return code, exit code and words of a refused replay."""
        status, said = self.replay(name, on)
        assert status >= 400, said
        return said["code"], said["exit"], said["detail"]


@pytest.fixture(scope="module")
def keeper(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Keeper]:
    folder = tmp_path_factory.mktemp("keeper")
    folder.chmod(0o755)
    project = write_project(
        folder,
        {"keep.py": PYTHON},
        migrations={"001.sql": "create table notes (id serial primary key, text text);"},
    )
    database = make_database(postgres18)
    with running_dev(project, database) as server:
        yield Keeper(server, database)


def test_a_record_whose_large_body_was_removed_is_refused(keeper: Keeper) -> None:
    name = keeper.keep("x" * 100_000)
    assert keeper.replay(name)[1]["verdict"] == "identical"
    keeper.database.psql("delete from flux.blob")
    code, exit_code, words = keeper.refusal(name)
    assert (code, exit_code) == ("FLX312", 6) and "a payload is missing from the store" in words
    assert keeper.refusal(name, ".")[:2] == ("FLX312", 6)
    done = keeper.server.command("replay", name)
    assert (done.returncode, "FLX312" in done.stderr, done.stdout) == (6, True, "")
    status, body = ask(keeper.server, "GET", f"executions/{name}/case")
    assert (status, json.loads(body)["code"]) == (400, "FLX312")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("format = 0", "has format 0; this Flux reads 1"),
        ("format = 9", "has format 9; this Flux reads 1"),
        ("body = substr(body, 1, length(body) - 5)", "is damaged"),
        ("body = '\\x00'", "is damaged"),
    ],
)
def test_a_record_of_another_format_or_a_damaged_one_is_refused(
    keeper: Keeper, change: str, words: str
) -> None:
    name = keeper.keep()
    keeper.database.psql(f"update flux.execution set {change} where name = '{name}'")
    for on in ("", "."):
        code, exit_code, said = keeper.refusal(name, on)
        assert (code, exit_code) == ("FLX710", 6) and words in said


def test_without_the_log_of_its_rows_its_own_code_replays_and_other_code_has_no_database(
    keeper: Keeper,
) -> None:
    name = keeper.keep()
    keeper.database.psql(
        f"delete from flux.mutation where xid = (select xid from flux.execution where name = '{name}')"
    )
    said = keeper.replay(name)[1]
    assert (said["verdict"], said["answers"]["recorded"]) == ("identical", 1)
    path = keeper.server.project / "functions" / "keep.py"
    told = len(keeper.server.story)
    path.write_text(PYTHON + "\n# changed\n")
    keeper.server.wait_story("reload", after=told)
    said = keeper.replay(name, ".")[1]
    assert (said["verdict"], said["answers"]["world"], said["answers"]["recorded"]) == ("identical", 0, 1)
    assert f"the database could not be rebuilt: {ROWS_GONE}" in said["notes"]


def test_what_is_redacted_is_named_and_a_request_refused_for_it_has_not_passed(keeper: Keeper) -> None:
    name = keeper.server.request("POST", "/who", {}, {"authorization": "Bearer me"}).flux_id
    same = keeper.replay(name)[1]
    assert (same["verdict"], same["synthetic"]) == ("diverged", ["header authorization"])
    assert "it ends otherwise than it was recorded" in same["reason"] and "which may be why" in same["reason"]
    path = keeper.server.project / "functions" / "keep.py"
    told = len(keeper.server.story)
    path.write_text(PYTHON.replace("    if len(ctx", REFUSES + "    if len(ctx"))
    keeper.server.wait_story("reload", after=told)
    changed = keeper.replay(name, ".")[1]
    assert (changed["replayed"]["status"], changed["verdict"]) == (401, "diverged")
    assert "may have refused those; nothing is decided" in changed["reason"]
    shown = keeper.server.command("replay", name, "--on", ".")
    assert (shown.returncode, "synthetic: header authorization" in shown.stdout) == (1, True)


def test_a_record_that_was_cut_off_is_refused_for_what_nobody_knows() -> None:
    cut = execution(Interrupted("the server ended"))
    with pytest.raises(UnreplayableError, match=r"it was cut off, .* not on record: the server ended"):
        check_whole(cut)


def test_rows_that_are_gone_are_missed_only_by_what_needs_them() -> None:
    gone = attrs.evolve(execution(Returned(200)), completeness=(ROWS_GONE,))
    check_whole(gone, needs_rows=False)
    with pytest.raises(FluxError, match=ROWS_GONE):
        check_whole(gone)
    with pytest.raises(FluxError, match="log lines"):
        check_whole(attrs.evolve(gone, completeness=(ROWS_GONE, "log lines are missing")), needs_rows=False)
