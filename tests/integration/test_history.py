"""Git's history as `flux.history` reads it, against git itself: the graph, the ends, the culprit, the diffs.

``git bisect run`` on a clone is the other oracle: over the same history, with the same answers, it names the commit
that `flux.bisect` names.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flux.bisect import Bisection, Found, Mark, Probe, Range, Step, WantCause, WantGraph
from flux.history import (
    TooManyCommitsError,
    find_first_commits,
    find_merge_base,
    get_tree,
    is_ancestor,
    list_changed_files,
    read_diff,
    read_graph,
    read_heads,
)
from tests.histories.model import History, Plan, Truth, make_history
from tests.histories.shop import Kit
from tests.histories.write import git, list_untouched, write_history

MARKS = {Truth.GOOD: Mark.GOOD, Truth.BAD: Mark.BAD, Truth.SKIP: Mark.SKIP}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    """A history with merges, and where it is."""
    folder = tmp_path_factory.mktemp("history")
    return folder, write_history(make_history(7, Plan(commits=80, on_branch=True)), folder, Kit())


def search(folder: Path, history: History, *, first_parent: bool = False) -> tuple[Step, int]:
    """Bisect with answers that follow from the history's states; return the end, and how many commits were asked."""
    truth = dict(zip(history.shas, (MARKS[commit.state.truth] for commit in history.commits), strict=True))
    bisection = Bisection(history.bad, [history.good], is_given=True, is_recorded=False)
    asked: set[str] = set()
    while True:
        match bisection.next_step():
            case Probe(commit=commit):
                asked.add(commit)
                bisection.tell(truth[commit])
            case WantGraph(good=good, bad=bad):
                bisection.take_graph(read_graph(folder, good, bad, first_parent=first_parent))
            case WantCause():
                bisection.take_cause(True)
            case end:
                return end, len(asked)


def test_the_graph_is_that_of_git_and_nothing_is_touched(written: tuple[Path, History]) -> None:
    folder, history = written
    before = list_untouched(folder)
    graph = read_graph(folder, history.shas[20], history.bad)
    wanted = git(folder, "rev-list", history.bad, f"^{history.shas[20]}").split()
    assert set(graph.parents) == set(wanted)
    for commit in (history.shas[25], history.bad):
        assert list(graph.parents[commit]) == git(folder, "rev-parse", f"{commit}^@").split()
    first = read_graph(folder, history.good, history.bad, first_parent=True)
    assert list(first.parents) == git(
        folder, "rev-list", "--first-parent", "--reverse", history.bad, f"^{history.good}"
    ).split()
    assert all(len(parents) == 1 for parents in first.parents.values())
    assert list_untouched(folder) == before


def test_ancestors_and_where_branches_part_are_those_of_git(written: tuple[Path, History]) -> None:
    folder, history = written
    merge = next(commit for commit in history.commits if len(commit.parents) == 2)
    ours, theirs = (history.shas[parent] for parent in merge.parents)
    base = find_merge_base(folder, ours, theirs)
    assert base == git(folder, "merge-base", ours, theirs)
    assert base is not None and is_ancestor(folder, base, ours) and is_ancestor(folder, ours, ours)
    assert not is_ancestor(folder, ours, theirs) and not is_ancestor(folder, ours, base)


@pytest.mark.parametrize(
    ("seed", "plan"),
    [
        (2, Plan(commits=60, on_branch=True)),
        (3, Plan(commits=60, fault="merge")),
        (4, Plan(commits=60, broken=4)),
    ],
)
def test_git_bisect_run_names_the_same_commit(tmp_path: Path, seed: int, plan: Plan) -> None:
    history = write_history(make_history(seed, plan), tmp_path / "shop", Kit())
    end, asked = search(tmp_path / "shop", history)
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", "shop", "clone")
    answers = {
        sha: {Truth.GOOD: 0, Truth.BAD: 1, Truth.SKIP: 125}[commit.state.truth]
        for sha, commit in zip(history.shas, history.commits, strict=True)
    }
    script = tmp_path / "answer.py"
    script.write_text(
        "import subprocess, sys\nsha = subprocess.run(['git', 'rev-parse', 'HEAD'], capture_output=True, text=True)\n"
        f"sys.exit({answers!r}[sha.stdout.strip()])\n"
    )
    git(tmp_path / "clone", "bisect", "start", history.bad, history.good)
    told = git(tmp_path / "clone", "bisect", "run", sys.executable, str(script))
    assert isinstance(end, Found), end
    assert f"{end.commit} is the first bad commit" in told
    assert history.check(end.commit, []) == "right"
    # Both of its ends and its merges' other parents are none that git asks.
    assert asked <= told.count("running") + 2 + 2 + plan.broken


def test_a_culprit_that_can_not_be_built_is_a_range_that_has_it(tmp_path: Path) -> None:
    history = write_history(make_history(5, Plan(commits=60, hides_culprit=True)), tmp_path, Kit())
    end, _ = search(tmp_path, history)
    assert isinstance(end, Range) and len(end.candidates) < 5
    assert history.check(None, end.candidates) == "undecided"


def test_with_first_parents_a_branch_is_one_step(tmp_path: Path) -> None:
    history = write_history(make_history(2, Plan(commits=60, on_branch=True)), tmp_path, Kit())
    end, _ = search(tmp_path, history, first_parent=True)
    assert isinstance(end, Found)
    number = history.shas.index(end.commit)
    assert len(history.commits[number].parents) == 2
    assert is_ancestor(tmp_path, history.shas[history.culprits[0]], end.commit)


def test_what_a_commit_says_of_itself_is_read_as_it_was_written(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--template=", "--initial-branch=main")
    texts = (
        b"subject of the first\n\nand more", "\u00e4\u00f6 \u65e5\u672c".encode(), b"\xff\xfe in no encoding", b"",
    )  # fmt: skip
    zones = (b"+0530", b"-0800", b"+0000", b"+9999")
    tree = git(tmp_path, "mktree").encode()
    head = b"tree %s\nauthor A. N. \xc3\x96 <a@b.example> 1700000000 %s\ncommitter C <c@d> 1700000000 +0000\n\n%s"
    # Literally: git itself writes no such dates, and reads them.
    write = ("hash-object", "-t", "commit", "-w", "--stdin", "--literally")
    shas = [
        git(tmp_path, *write, stdin=head % (tree, zone, text)) for text, zone in zip(texts, zones, strict=True)
    ]
    heads = read_heads(tmp_path, shas)
    assert [heads[sha].subject for sha in shas[:2]] == ["subject of the first", "\u00e4\u00f6 \u65e5\u672c"]
    assert heads[shas[2]].subject.endswith("in no encoding") and heads[shas[3]].subject == ""
    assert {head.author for head in heads.values()} == {"A. N. \u00d6"}
    assert all(head.authored_at == datetime.fromtimestamp(1_700_000_000, UTC) for head in heads.values())


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Callable[[str, str], str]]:
    """A repository with the project in a folder of it, and how to commit a file there."""
    git(tmp_path, "init", "--quiet", "--template=", "--initial-branch=main")
    (tmp_path / "shop").mkdir()

    def commit(path: str, text: str) -> str:
        (tmp_path / path).write_text(text)
        git(tmp_path, "add", "--all")
        git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "-m", path)
        return git(tmp_path, "rev-parse", "HEAD")

    return tmp_path, commit


def test_changes_are_told_as_the_projects_folder_sees_them(small: tuple[Path, Callable[[str, str], str]]) -> None:
    root, commit = small
    first = commit("shop/a b.py", "one = 1\n")
    elsewhere = commit("other.txt", "x\n")
    second = commit("shop/a b.py", "one = 1\ntwo = 2\n")
    project = root / "shop"
    assert get_tree(project, first) == get_tree(project, elsewhere) != get_tree(project, second)
    (changed,) = list_changed_files(project, elsewhere, second)
    assert (changed.path, changed.added, changed.removed) == ("a b.py", 1, 0)
    diff = read_diff(project, elsewhere, second, ["a b.py"])
    assert diff is not None and "+two = 2" in diff and "+++ b/a b.py" in diff
    # A path is no pattern.
    assert read_diff(project, elsewhere, second, ["*"]) == ""
    assert list_changed_files(project, first, elsewhere) == ()


def test_a_diff_that_is_too_long_is_none(
    small: tuple[Path, Callable[[str, str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, commit = small
    monkeypatch.setattr("flux.history.DIFF_BYTES_MAX", 1000)
    first = commit("shop/a.py", "one = 1\n")
    second = commit("shop/a.py", "x\n" * 1000)
    assert read_diff(root / "shop", first, second, ["a.py"]) is None


def test_the_first_commit_that_has_a_function_is_found(small: tuple[Path, Callable[[str, str], str]]) -> None:
    root, commit = small
    commit("shop/a.py", "def helper(): ...\n")
    second = commit("shop/a.py", "def helper(): ...\ndef order(): ...\n")
    commit("shop/b.py", "from a import order\n")
    bad = commit("shop/a.py", "def helper(): ...\n\ndef order(): return 1\n")
    assert find_first_commits(root / "shop", bad, "order", "a.py")[0] == second
    assert find_first_commits(root / "shop", bad, "nothing", "a.py") == []
    assert find_first_commits(root / "shop", bad) == git(root, "rev-list", "--max-parents=0", bad).split()


def test_more_commits_than_can_be_searched_are_refused(
    written: tuple[Path, History], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, history = written
    monkeypatch.setattr("flux.history.COMMITS_MAX", 10)
    with pytest.raises(TooManyCommitsError, match="10 are the most"):
        read_graph(folder, history.good, history.bad)
