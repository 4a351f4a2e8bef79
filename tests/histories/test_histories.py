"""Histories are what they say: git has them, their code does what their states say, and git finds their culprit."""

import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tests.histories import alone
from tests.histories.model import FAULTS, History, Plan, Truth, make_history
from tests.histories.shop import BODY, Kit, list_files
from tests.histories.write import ALONE, git, list_untouched, write_history

SCRIPT = Path(alone.__file__)
EXIT = {Truth.GOOD: alone.GOOD, Truth.BAD: alone.BAD, Truth.SKIP: alone.SKIP}


def run_alone(folder: Path) -> int:
    return subprocess.run(
        [sys.executable, "-IS", SCRIPT, folder], check=False, stderr=subprocess.DEVNULL
    ).returncode


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "flaky"])
def test_the_code_of_a_commit_does_what_its_state_says(tmp_path: Path, fault: str) -> None:
    kit = Kit(wheels=fault == "dependency")
    history = make_history(7, Plan(commits=40, fault=fault, other=True))
    near = {number for culprit in history.culprits for number in (culprit, *history.commits[culprit].parents)}
    seen = set()
    for number in sorted(near | {0, history.skips[0], 39}):
        state = history.commits[number].state
        for path, content in list_files(state, kit).items():
            file = tmp_path / str(number) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        assert run_alone(tmp_path / str(number)) == EXIT[state.truth], (fault, number, state)
        seen.add(state.truth)
    assert seen == set(Truth)
    assert alone.BODY == BODY


def test_git_finds_the_culprit_with_the_script_that_somebody_would_write(tmp_path: Path) -> None:
    history = write_history(make_history(3, Plan(commits=80, on_branch=True)), tmp_path, Kit())
    git(tmp_path, "bisect", "start", history.bad, history.good)
    told = git(tmp_path, "bisect", "run", sys.executable, "-IS", str(SCRIPT))
    (culprit,) = history.culprits
    assert f"{history.shas[culprit]} is the first bad commit" in told
    assert history.check(history.shas[culprit], ()) == "right"
    assert history.check(history.shas[culprit + 1], ()) == "wrong"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_asked_for_the_head_is_bad_and_the_first_commit_is_good(fault: str, seed: int) -> None:
    reverts = seed % 2 == 1 and fault != "merge"
    plan = Plan(commits=40 + seed, fault=fault, reverts=reverts, on_branch=seed % 3 == 0 and fault != "merge")
    history = make_history(seed, plan)
    assert history == make_history(seed, plan)
    assert len(history.commits) == plan.commits
    assert [history.commits[place].state.truth for place in (0, -1)] == [Truth.GOOD, Truth.BAD]
    assert len(history.culprits) == 1 + reverts
    assert all(history.commits[culprit].state.truth is Truth.BAD for culprit in history.culprits)
    assert len(history.skips) >= 2
    if fault == "merge":
        assert all(len(history.commits[culprit].parents) == 2 for culprit in history.culprits)


def test_a_culprit_that_cannot_be_run_is_a_range_and_no_commit_of_it_alone_is_an_answer() -> None:
    history = make_history(5, Plan(commits=40, hides_culprit=True))
    (culprit,) = history.culprits
    assert history.commits[culprit].state.truth is Truth.SKIP
    named = attrs.evolve(history, shas=tuple(f"{number:040}" for number in range(40)))
    assert named.check(None, [named.shas[culprit], named.shas[culprit + 1]]) == "undecided"
    assert named.check(None, [named.shas[culprit + 1]]) == "wrong"


def test_a_thousand_commits_are_the_same_anywhere_and_are_written_at_once(tmp_path: Path) -> None:
    def write(folder: Path) -> History:
        return write_history(make_history(1, Plan(commits=1000, reverts=True)), folder, Kit())

    one, other = write(tmp_path / "one"), write(tmp_path / "other")
    assert one.shas == other.shas
    assert git(tmp_path / "one", "rev-list", "--count", "HEAD") == "1000"
    assert git(tmp_path / "one", "fsck", "--strict") == ""
    assert git(tmp_path / "one", "status", "--porcelain") == ""
    merges = git(tmp_path / "one", "rev-list", "--merges", "--count", "HEAD")
    assert int(merges) == sum(len(commit.parents) == 2 for commit in one.commits) > 20
    # Whoever must not touch a checkout is held against this, so it has to see everything.
    before = list_untouched(tmp_path / "one")
    assert before == list_untouched(tmp_path / "one")
    subprocess.run(["git", "stash"], cwd=tmp_path / "one", env=ALONE, check=True, capture_output=True)
    (tmp_path / "one" / "functions" / "new.py").write_text("")
    changed = list_untouched(tmp_path / "one")
    assert {name for name in before if before[name] != changed[name]} >= {"status", "files"}
