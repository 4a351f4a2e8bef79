"""``flux incident replay --interleave`` on a running server: races come out again, repairs are told from half ones.

What must not be is counted by the database itself, in the final rows; that nothing else has noticed is asked of the
stub's counter and of ``psql`` at every replay (`tests.races.Arena.interleave`).
"""

import subprocess
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.conftest import Database
from tests.dev_process import write_project
from tests.postgres_server import PostgresServer
from tests.races import (
    BUMP,
    CHECK_ALL,
    CLEAN,
    DOUBLE,
    HANDLERS,
    LOST,
    MOMENT,
    OVERSELL,
    RACES,
    UNIQUE,
    UNIQUE_FIX,
    Arena,
    Changes,
    is_reproduced,
    open_arena,
)

TIMES = 5
"""``python -m tests.races --times 100`` is the same at length."""


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Arena]:
    with open_arena(tmp_path_factory.mktemp("races"), make_database(postgres18)) as arena:
        yield arena


@pytest.fixture
def arena(served: Arena) -> Arena:
    served.save()
    served.database.psql(CLEAN)
    return served


def test_races_come_out_again_from_their_record_each_time(arena: Arena) -> None:
    names = arena.record(*RACES.values())
    told = [arena.interleave(names, CHECK_ALL) for _ in range(TIMES)]
    assert [is_reproduced(one) for one in told] == [True] * TIMES
    assert told[0]["check"]["recorded"] == [{"race": name} for name in sorted(RACES)]
    assert told[0]["total"] == 6


def test_one_after_another_the_races_are_not_there(arena: Arena) -> None:
    told = arena.interleave(arena.record(*RACES.values()), CHECK_ALL, in_turn=True)
    assert len(told["check"]["replayed"]) == len(RACES)
    assert (told["check"]["in_turn"], len(told["in_turn"]["executions"])) == ([], 6)


@pytest.mark.parametrize("number", range(2))
def test_half_fixes_still_fail(arena: Arena, number: int) -> None:
    names = arena.record(*RACES.values())
    arena.save(*(_take(race.half_fixes, number) for race in RACES.values()))
    told = arena.interleave(names, CHECK_ALL)
    assert (told["verdict"], told["code"]["is_recorded"]) == ("still wrong", False)
    assert (
        told["check"]["replayed"] == told["check"]["recorded"] == [{"race": name} for name in sorted(RACES)]
    )


@pytest.mark.parametrize("number", range(2))
def test_the_fixes_pass(arena: Arena, number: int) -> None:
    names = arena.record(*RACES.values())
    arena.save(*(_take(race.fixes, number) for race in RACES.values()))
    told = arena.interleave(names, CHECK_ALL)
    assert told["verdict"] == "fixed", told["reason"]
    assert (len(told["check"]["recorded"]), told["check"]["replayed"]) == (len(RACES), [])
    assert [one["replayed"]["status"] for one in told["together"]["executions"]] == [200] * 6


def _take(fixes: Mapping[str, Changes], number: int) -> Changes:
    return list(fixes.values())[number % len(fixes)]


def test_a_migration_that_comes_with_the_fix_holds_in_the_replay_and_nowhere_else(arena: Arena) -> None:
    names = arena.record(DOUBLE)
    project = arena.server.project

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments],
            cwd=project, check=True, capture_output=True,
        )  # fmt: skip

    # The fix is a commit that the folder has never had: made in a worktree beside it.
    beside = project.parent / "beside"
    (project / ".gitignore").write_text(".flux/\n")
    git("init", "-qb", "main")
    git("add", "-A")
    git("commit", "-qm", "as it is")
    git("worktree", "add", "-qb", "fix", str(beside))
    [(old, new)] = UNIQUE_FIX
    write_project(
        beside,
        {"race.py": HANDLERS.replace(old, new).replace("PORT", str(arena.stub.port))},
        toml=(project / "flux.toml").read_text().partition("\n")[2].partition("\n")[2],
        migrations={"002.sql": UNIQUE},
    )
    subprocess.run(["git", "-C", str(beside), "add", "-A"], check=True)
    subprocess.run(
        [
            "git",
            "-C",
            str(beside),
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.com",
            "commit",
            "-qm",
            "once",
        ],
        check=True,
    )
    told = arena.interleave(names, DOUBLE.check, on="fix")
    assert told["verdict"] == "fixed", told["reason"]
    assert arena.database.psql("select count(*) from pg_constraint where conname = 'once'") == "0"


def test_the_command_says_what_it_saw_and_ends_as_the_verdict_does(arena: Arena) -> None:
    since = arena.database.psql(MOMENT)
    arena.record(LOST)
    window = f"{since}..2100-01-01"
    wrong = arena.server.command(
        "incident", "replay", window, "--interleave", "--check", LOST.check, "--in-turn", timeout_s=120
    )
    assert wrong.returncode == 1, wrong.stderr
    for sentence in (
        "✗ still wrong",
        "the check finds 1 row",
        "one after another",
        "6 of 6 statements answered as then",
        "0 effects left the sandbox",
    ):
        assert sentence in wrong.stdout, wrong.stdout
    told = arena.server.json("incident", "replay", window, "--interleave", exit_code=1)
    assert (told["schema"], told["verdict"], told["check"]) == ("flux.interleave/1", "reproduced", None)
    arena.save(LOST.fixes["adds in place"])
    fixed = arena.server.json(
        "incident", "replay", window, "--interleave", "--check", LOST.check, exit_code=0
    )
    assert fixed["verdict"] == "fixed"
    alone = arena.server.command("incident", "replay", window, "-q", "status:200")
    assert "2 of these ran at the same time as another" in alone.stderr


def test_a_request_that_the_database_gave_up_and_that_was_run_again_does_so_again(arena: Arena) -> None:
    since = arena.database.psql(MOMENT)
    arena.record(BUMP)
    told = arena.server.json("incident", "replay", f"{since}..2100-01-01", "--interleave", exit_code=1)
    assert (told["verdict"], told["together"]["relaxed_gates"]) == ("reproduced", 0), told["reason"]
    attempts = [one["attempts"] for one in told["together"]["executions"]]
    assert sorted(one["recorded"] for one in attempts) == [1, 2]
    assert all(one["recorded"] == one["replayed"] for one in attempts)


def test_what_somebody_else_did_meanwhile_is_named_and_nothing_is_decided(arena: Arena) -> None:
    names = arena.record(LOST, meanwhile="update wallet set balance = 7 where id = 1000")
    told = arena.interleave(names, LOST.check)
    assert told["verdict"] == "unfaithful"
    assert told["notes"] == [
        "wallet was changed meanwhile by 1 transaction of others, which are not replayed"
    ]
    [wallet] = [table for table in told["together"]["tables"] if not table["same"]]
    assert wallet["only_recorded"] == [{"id": 1000, "balance": 7}]


def test_what_can_not_be_asked_is_refused_with_its_reason(arena: Arena) -> None:
    names = arena.record(OVERSELL)
    for check in ("select nonsense from product", "delete from product", "select 1; select 2"):
        refused = arena.ask(names, check)
        assert (refused.status, refused.json["code"]) == (400, "FLX316"), refused.body
    assert arena.ask([], None).json["code"] == "FLX312"
    for options in (("--check", "select 1"), ("--in-turn",)):
        assert arena.server.command("incident", "replay", "last:1m", *options).returncode == 2
