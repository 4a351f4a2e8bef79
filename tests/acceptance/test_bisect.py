"""``flux bug bisect`` as typed, against running servers, over histories whose culprit is known.

Whether an answer is right the history says. Whether anything else was touched is asked of git, of the stub that counts
and of psql, around every bisect: see `tests.histories.bisect`. What the search makes of merges and skips is held
against ``git bisect run`` in ``tests/integration/test_history.py``.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.dev_process import DevServer, counting_stub, running_dev, write_project
from tests.histories.bisect import Shop, check, serving
from tests.histories.model import Plan, make_history
from tests.histories.shop import Kit
from tests.histories.write import git, list_untouched, write_history
from tests.postgres_server import PostgresServer

COMMITS = 60


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Shop]:
    """A history with all that the large one has: see `tests.histories.bisect`."""
    history = make_history(1, Plan(commits=COMMITS, reverts=True, at=0.4))
    with serving(history, tmp_path_factory.mktemp("bisect"), make_database(postgres18)) as shop:
        yield shop


@pytest.fixture(scope="module")
def failed(shop: Shop) -> str:
    """The name of an execution that failed at the head."""
    return shop.fail()


@pytest.fixture(scope="module")
def answered(shop: Shop, failed: str) -> Any:
    """Its bisect, the first that is made."""
    replays = shop.count_replays()
    answer = shop.bisect(failed)
    assert shop.count_replays() - replays == answer["runs"] - answer["skipped"]
    return answer


def find_log(shop: Shop, name: str) -> Path:
    return shop.server.project / ".flux" / "bisect" / f"{name}.log"


def test_the_commit_is_named_with_its_line_and_its_proof(shop: Shop, answered: Any) -> None:
    assert check(shop, answered, COMMITS) == "right"
    assert (answered["refused"], answered["candidates"]) == (None, [answered["first_bad"]])
    ends = [answered[end] for end in ("good", "bad")]
    assert [(end["sha"], end["runs"]) for end in ends] == [(shop.history.good, 2), (shop.history.bad, 1)]
    assert answered["bad"]["recorded"] and not answered["doubted"] and answered["runs"] <= answered["bound"]
    finding = answered["finding"]
    told = git(shop.server.project, "show", "-s", "--format=%an %s", answered["first_bad"])
    assert f"{finding['author']} {finding['subject']}" == told
    assert finding["hunks_were_run"] and any("COUNTRIES[" in line for line in finding["hunks"][0]["lines"])


def test_the_second_time_nothing_is_run_and_git_reads_the_log(
    shop: Shop, failed: str, answered: Any, tmp_path: Path
) -> None:
    replays = shop.count_replays()
    done = shop.server.command("bug", "bisect", failed)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"first bad commit  {answered['first_bad'][:12]}")
    text = "\n".join(rest)
    first_bad, good, bad = answered["first_bad"][:7], shop.history.good[:7], shop.history.bad[:7]
    assert "functions/pricing.py:" in text and "(parent) ✓ past it ×2" in text
    assert f"{first_bad} ✗ same failure ×{answered['proof'][1]['runs']}, through a line that it changed" in text
    assert f"good {good} ✓ past it ×2\n" in text and f"bad {bad} ✗ same failure ×1, and recorded\n" in text
    runs = answered["runs"]
    assert f"runs     {runs}, {runs} of them known from before" in text
    assert f"log      .flux/bisect/{failed}.log" in text and "0 left the sandbox" in text
    # What could not be built is known too, so nothing was built.
    assert shop.count_replays() == replays
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(shop.server.project), "clone")
    told = git(tmp_path / "clone", "bisect", "replay", str(find_log(shop, failed)))
    assert f"{answered['first_bad']} is the first bad commit" in told


def ask_page(shop: Shop, method: str, path: str, body: object = None) -> Any:
    """Ask the API what the console's page asks it."""
    token = json.loads((shop.server.project / ".flux" / "dev.json").read_text())["token"]
    answer = shop.server.request(method, f"/_flux/api/bisects{path}", body, {"authorization": f"Bearer {token}"})
    assert answer.status < 500, answer.body
    return answer.json


def test_a_bisect_that_was_begun_on_a_page_says_what_the_command_says(shop: Shop, failed: str, answered: Any) -> None:
    before = shop.look()
    ahead = ask_page(shop, "GET", f"/{failed}")
    assert (ahead["state"], ahead["plan"]["bad"]["sha"]) == ("none", shop.history.bad)
    assert ask_page(shop, "POST", f"/{failed}", {"good": "no-such-ref"})["state"] == "running"
    refused = wait_ended(shop, failed)
    assert (refused["state"], refused["answer"]) == ("failed", None) and "no-such-ref" in refused["problem"]["detail"]
    ask_page(shop, "POST", f"/{failed}", {"good": shop.history.good})
    run = wait_ended(shop, failed)
    assert (run["state"], run["problem"], run["execution"]["name"]) == ("done", None, failed)
    assert len(run["steps"]) == run["answer"]["runs"] and run["answer"]["said"]["proofs"]
    differs = {"log", "steps", "cached"}  # How long each took, and that it was run before.
    assert {key: run["answer"][key] for key in answered.keys() - differs} == {
        key: answered[key] for key in answered.keys() - differs
    }
    assert [step["sha"] for step in run["answer"]["steps"]] == [step["sha"] for step in answered["steps"]]
    (listed,) = ask_page(shop, "GET", "")["runs"]
    assert listed["answer"]["first_bad"] == answered["first_bad"]
    assert ask_page(shop, "POST", f"/{failed}/cancel", {})["state"] == "done"
    for body, said in (({"god": "x"}, "god"), ({"good": ""}, "names no commit"), ([], "can't be read")):
        wrong = ask_page(shop, "POST", f"/{failed}", body)
        assert wrong["code"] == "FLX621" and said in wrong["detail"], wrong
    assert ask_page(shop, "GET", "/nobody")["code"] == "FLX101"
    assert shop.look() == before


def wait_ended(shop: Shop, name: str) -> Any:
    deadline = time.monotonic() + 300
    while (run := ask_page(shop, "GET", f"/{name}"))["state"] == "running":
        assert time.monotonic() < deadline, run
        time.sleep(0.05)
    return run


def test_ctrl_c_leaves_a_log_to_go_on_from_and_a_program_decides(
    shop: Shop, failed: str, answered: Any, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    asked.touch()
    program = tmp_path / "check.sh"
    # Both ends take four; of the search two are answered, and the third takes its time.
    program.write_text(
        f"printf . >> {asked}\n"
        f'while [ "$(wc -c < {asked})" = 7 ] && [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n'
        """! grep -q '"verdict": "same failure"'\n"""
    )
    arguments = ["bug", "bisect", failed, "--check", shlex.join(["/bin/sh", str(program)])]
    process = subprocess.Popen(
        [sys.executable, "-m", "flux", *arguments], cwd=shop.server.project,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while asked.stat().st_size < 7:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=180)
    assert process.returncode == 130
    marks = find_log(shop, failed).read_text().count("\ngit bisect ") - 3
    assert marks >= 2
    (tmp_path / "go").touch()
    before, replays = asked.stat().st_size, shop.count_replays()
    answer = shop.bisect(*arguments[2:], "--resume")
    assert (answer["first_bad"], shop.count_replays()) == (answered["first_bad"], replays)
    # Ends and proofs are asked again; what the log has is not, nor what could not be built.
    not_built = sum(step["verdict"] == "unreplayable" for step in answer["steps"])
    assert asked.stat().st_size - before == answer["runs"] - marks - not_built
    other = shop.server.command("bug", "bisect", failed, "--resume")
    assert other.returncode == 2 and "other ends or options" in other.stderr


def test_a_program_that_changes_its_mind_is_told_and_no_commit_is_named(
    shop: Shop, failed: str, tmp_path: Path
) -> None:
    turn = shlex.quote(str(tmp_path / "turn"))
    command = shlex.join(["/bin/sh", "-c", f"if rm {turn} 2>/dev/null; then exit 0; fi; touch {turn}; exit 1"])
    answer = shop.bisect(failed, "--check", command, exit_code=6)
    assert (answer["refused"], answer["first_bad"], answer["steps"]) == ("FLX555", None, [])
    assert answer["bad"]["runs"] == 2


def test_ends_that_are_none_are_refused_with_what_they_do(shop: Shop, failed: str) -> None:
    history = shop.history
    merge = next(commit for commit in reversed(history.commits) if len(commit.parents) == 2)
    ours, theirs = (history.shas[parent] for parent in merge.parents)
    base = git(shop.server.project, "merge-base", ours, theirs)
    for arguments, exit_code, said in (
        (("--bad", ours, "--good", theirs), 2, f"--good {base[:12]}"),
        (("--good", "nothing"), 3, "FLX525"),
        (("--check", "/nowhere/to/be/found"), 2, "FLX557"),
        (("--fail-if", "status = 1"), 2, "at column 8"),
    ):
        done = shop.server.command("bug", "bisect", failed, *arguments)
        assert done.returncode == exit_code and said in done.stderr, (arguments, done.stderr)
    answer = shop.bisect(failed, "--bad", history.shas[1], exit_code=6)
    assert (answer["refused"], answer["bad"]["mark"], answer["bad"]["verdict"]) == ("FLX550", "good", "past it")
    answer = shop.bisect(failed, "--good", history.shas[history.skips[0]], exit_code=6)
    assert answer["refused"] == "FLX552" and "FLX517" in answer["reason"]
    # What was stopped has no status, so an expression can't tell a good end.
    answer = shop.bisect(failed, "--fail-if", "status >= 500", exit_code=6)
    assert (answer["refused"], answer["first_bad"]) == ("FLX553", None)


def test_a_culprit_that_can_not_be_built_is_in_the_range(shop: Shop, failed: str) -> None:
    # What was recorded can be bisected in any history of the repository.
    history = make_history(5, Plan(commits=12, hides_culprit=True, merges=False))
    kit = Kit(stub_port=shop.stub.port)
    hidden = write_history(history, shop.server.project, kit, branch="hidden", check_out=False)
    answer = shop.bisect(failed, "--bad", "hidden", "--good", hidden.good, exit_code=1)
    assert hidden.check(answer["first_bad"], answer["candidates"]) == "undecided"
    assert answer["first_bad"] is None and len(answer["candidates"]) < 5
    assert any(step["mark"] == "skip" and "FLX517" in step["reason"] for step in answer["steps"])


# --- a project that grows while it is served -------------------------------------------------------

LIBRARY = "def amount(plan):\n    return {'free': 0, None: 0}[plan]\n"
BROKEN = LIBRARY.replace(", None: 0", "")
HANDLER = """\
from flux_guest import function

from functions.pricing import amount


@function("POST /quote")
async def quote(ctx, input):
    return {"amount": amount(input.get("plan"))}


@function("POST /wait")
async def wait(ctx, input):
    answer = await ctx.http.get("http://127.0.0.1:PORT/hang", timeout=0.3)
    return {"status": answer.status}
"""


def commit_all(project: Path, subject: str) -> str:
    git(project, "add", "--all")
    git(project, "-c", "user.name=Ana", "-c", "user.email=a@b", "commit", "--quiet", "-m", subject)
    return git(project, "rev-parse", "HEAD")


def commit_served(server: DevServer, text: str) -> str:
    """Save the library, wait until it is served, commit it, and serve it as that commit."""
    told = len(server.story)
    (server.project / "functions" / "pricing.py").write_text(text)
    server.wait_story("reload", after=told)
    sha = commit_all(server.project, "prices again")
    server.json("deploy")
    return sha


def test_a_library_is_bisected_from_before_its_handler_and_then_from_what_is_on_record(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    tmp_path.chmod(0o755)
    project = tmp_path / "shop"
    with counting_stub() as stub:
        (project / "functions").mkdir(parents=True)
        git(project, "init", "--quiet", "--template=", "--initial-branch=main")
        (project / ".gitignore").write_text(".flux/\n__pycache__/\n")
        shas = []
        for text in (LIBRARY, BROKEN, f"# In cents.\n{BROKEN}"):
            (project / "functions" / "pricing.py").write_text(text)
            shas.append(commit_all(project, "prices"))
        first, broke, _ = shas
        allow = f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n[recording]\nself_check_s = 0\n'
        write_project(project, {"shop.py": HANDLER.replace("PORT", str(stub.port))}, toml=allow)
        commit_all(project, "serve it with Flux")
        with running_dev(project, make_database(postgres18), "--port", "0") as server:
            failed = [server.request("POST", "/quote", {}).flux_id for _ in range(2)]
            untouched = list_untouched(project)
            # No commit before this one has the function: there is nothing to go back to.
            done = server.command("bug", "bisect", failed[0])
            assert done.returncode == 2 and "FLX559" in done.stderr
            # Both of them are asked, of each commit.
            answer = server.json("bug", "bisect", "last:1h", "--functions-from", "HEAD")
            assert (answer["first_bad"], answer["good"]["sha"]) == (broke, first)
            assert list_untouched(project) == untouched

            # The failing answer is in the record: no commit can have another.
            waited = server.request("POST", "/wait", {}).flux_id
            outside = server.json("bug", "bisect", waited, "--good", broke, exit_code=6)
            assert (outside["refused"], outside["bad"]["verdict"]) == ("FLX554", "outside")

            # It is mended, answers, and is broken again: the good end is the commit on which it answered.
            mended = commit_served(server, LIBRARY)
            passed = server.request("POST", "/quote", {})
            assert passed.status == 200
            done = server.command("bug", "bisect", passed.flux_id)
            assert done.returncode == 2 and "did not fail" in done.stderr
            wrong = commit_served(server, BROKEN.replace("}", ", 'team': 9}"))
            name = server.request("POST", "/quote", {}).flux_id
            answer = server.json("bug", "bisect", name)
            assert (answer["first_bad"], answer["good"]["sha"]) == (wrong, mended)
            assert answer["first_difference"]["part"] == "outcome"
            # An answer that is no failure, and yet is not as it should be.
            answer = server.json("bug", "bisect", passed.flux_id, "--fail-if", "body.amount == 0", "--good", "HEAD~2")
            assert answer["first_bad"] == mended and answer["proof"]
