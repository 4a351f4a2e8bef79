"""``flux init`` as it is typed, and the projects that it makes."""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flux.config import parse_config
from flux.project import list_function_files, list_migrations, read_project, read_source_version
from flux.tutorial.history import BAD, COMMITS, GOOD, Commit, write_repository
from tests.dev_process import run_flux

NOW = datetime.datetime(2026, 11, 24, 14, 0, tzinfo=datetime.UTC)

SIGN_UP = """
import asyncio, importlib, json, sys, traceback
from types import SimpleNamespace

class Database:
    '''Enough of a database for one sign-up: a table with one row and a default.'''
    async def query_one(self, sql, *arguments):
        if sql.startswith("insert into users"):
            self.user = {"id": 1, "plan": "free"}
        elif sql.startswith("update users set plan = $1 where id = $2"):
            self.user = {"id": arguments[1], "plan": arguments[0]}
        else:
            raise AssertionError(sql)
        return self.user

signup = importlib.import_module("functions.signup")
context = SimpleNamespace(db=Database(), response=lambda body, status: {"status": status, **body})
try:
    print(json.dumps(asyncio.run(signup.create_user(context, json.loads(sys.argv[1])))))
except KeyError as error:
    print(json.dumps([repr(error), traceback.extract_tb(error.__traceback__)[-1].name]))
"""

LOAD = """
import importlib, json, sys
from flux_guest import _registry
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps(sorted(registered.route for registered in _registry.FUNCTIONS.values())))
"""


def flux(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_flux(folder, *arguments, environ={**os.environ, **environment})


def run(folder: Path, *command: str) -> str:
    """Standard output of a command that succeeds, with Python writing no caches into the project."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr + finished.stdout
    return finished.stdout


def list_tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's repository. Tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("tutorial") / "shop"
    folder.mkdir()
    write_repository(folder, "shop", NOW)
    return folder


@pytest.fixture(scope="module")
def at_commit(tutorial: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The project's files as each commit, counted from 0, has them."""
    shas = run(tutorial, "git", "rev-list", "--reverse", "HEAD").split()
    folders: dict[int, Path] = {}

    def check_out(index: int) -> Path:
        if index not in folders:
            folders[index] = tmp_path_factory.mktemp("commit") / "shop"
            run(tutorial, "git", "worktree", "add", "--quiet", "--detach", str(folders[index]), shas[index])
        return folders[index]

    return check_out


def test_init_makes_a_project_and_says_what_is_next(tmp_path: Path) -> None:
    finished = flux("init", "shop", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert list_tree(tmp_path / "shop") == [
        ".gitignore", "README.md", "conftest.py", "flux.toml", "functions/orders.py", "functions/pricing.py",
        "functions/signup.py", "migrations/001.sql", "tests/test_pricing.py",
    ]  # fmt: skip
    lines = finished.stdout.splitlines()
    assert lines[0] == "Created shop/"
    assert lines[-1].split(maxsplit=1) == ["next", "cd shop && flux dev"]
    for path in ("flux.toml", "functions/signup.py", "functions/orders.py", "migrations/001.sql", "tests/"):
        assert f"  {path} " in finished.stdout
    assert "bug" not in finished.stdout
    here = tmp_path / "here"
    here.mkdir()
    lines = flux("init", ".", folder=here).stdout.splitlines()
    assert lines[0] == f"Created {here}/" and lines[-1].split(maxsplit=1) == ["next", "flux dev"]


def test_a_new_project_is_one_that_flux_can_read(tmp_path: Path) -> None:
    flux("init", "Läden 7", folder=tmp_path)
    assert read_project(tmp_path / "Läden 7").config.project.name == "laden-7"
    flux("init", "My Shop!", folder=tmp_path)
    project = read_project(tmp_path / "My Shop!")
    assert project.config.project.name == "my-shop"
    assert [file.module for file in list_function_files(project)] == [
        "functions.orders", "functions.pricing", "functions.signup",
    ]  # fmt: skip
    assert [migration.number for migration in list_migrations(project)] == [1]
    assert "{{" not in "".join(path.read_text() for path in project.root.rglob("*") if path.is_file())


def test_init_answers_in_json_when_asked(tmp_path: Path) -> None:
    finished = flux("init", "shop", "--json", folder=tmp_path)
    answer = json.loads(finished.stdout)
    assert answer == {
        "schema": "flux.init/1",
        "folder": str(tmp_path / "shop"),
        "files": list_tree(tmp_path / "shop"),
    }


def test_quiet_leaves_the_answer_only(tmp_path: Path) -> None:
    assert flux("init", "shop", "-q", folder=tmp_path).stdout == "Created shop/\n"


def test_the_tutorial_is_a_clean_repository_of_twelve_commits(tmp_path: Path) -> None:
    finished = flux("init", "shop", "--tutorial", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith("Created shop/ (git repository, 12 commits)\n")
    assert "functions/signup.py   POST /signup   ← has a bug, in one of the 12 commits" in finished.stdout
    shop = tmp_path / "shop"
    assert run(shop, "git", "rev-list", "--count", "HEAD").strip() == "12"
    assert run(shop, "git", "status", "--porcelain", "--ignored", "--branch") == "## main\n"
    version = read_source_version(read_project(shop))
    assert (version.sha, version.branch, version.dirty) == (
        run(shop, "git", "rev-parse", "HEAD").strip(), "main", False,
    )  # fmt: skip


def test_the_tutorials_commits_are_spread_over_the_two_weeks_before_it(tutorial: Path) -> None:
    seconds = [int(line) for line in run(tutorial, "git", "log", "--reverse", "--format=%at").split()]
    assert seconds == sorted(seconds)
    assert run(tutorial, "git", "log", "--reverse", "--format=%ct").split() == [str(at) for at in seconds]
    days_before = [(NOW.timestamp() - at) / 86400 for at in seconds]
    assert 13 < days_before[0] < 15
    assert 0 < days_before[-1] < 2
    assert len(set(run(tutorial, "git", "log", "--format=%an <%ae>").splitlines())) == 3


def test_the_same_moment_gives_the_same_commits(tutorial: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    write_repository(again, "shop", NOW)
    assert run(again, "git", "rev-parse", "HEAD") == run(tutorial, "git", "rev-parse", "HEAD")


def test_the_tutorial_ignores_the_users_own_git_configuration(tmp_path: Path) -> None:
    home = tmp_path / "home"
    template = tmp_path / "template/hooks"
    template.mkdir(parents=True)
    (template / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (template / "pre-commit").chmod(0o755)
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("*.toml\n")
    (home / ".gitconfig").write_text(
        f"[init]\n templateDir = {template.parent}\n defaultBranch = trunk\n"
        "[commit]\n gpgSign = true\n[gpg]\n program = false\n[user]\n name = Somebody Else\n"
    )
    theirs = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "GIT_DIR": str(tmp_path / "no")}
    finished = flux("init", "shop", "--tutorial", folder=tmp_path, **theirs)
    assert (finished.returncode, finished.stderr) == (0, "")
    shop = tmp_path / "shop"
    assert "Somebody Else" not in run(shop, "git", "log", "--format=%an %cn")
    assert run(shop, "git", "branch", "--show-current").strip() == "main"
    assert "flux.toml" in run(shop, "git", "ls-files").split()
    assert not (shop / ".git/hooks/pre-commit").exists()


@pytest.mark.parametrize("index", range(12))
def test_every_commit_of_the_tutorial_is_a_project_that_runs(
    at_commit: Callable[[int], Path], index: int
) -> None:
    project = read_project(at_commit(index))
    modules = [file.module for file in list_function_files(project)]
    routes = json.loads(run(project.root, sys.executable, "-c", LOAD, *modules))
    expected = ["GET /orders/{id}", "POST /orders", "POST /signup"]
    assert routes == {0: expected[2:], 1: expected[1:]}.get(index, expected)


@pytest.mark.parametrize("commit", [GOOD, BAD, COMMITS[-1]])
def test_the_tutorials_own_tests_pass_and_do_not_find_the_bug(
    at_commit: Callable[[int], Path], commit: Commit
) -> None:
    told = run(
        at_commit(COMMITS.index(commit)), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"
    )
    assert " passed" in told


@pytest.mark.parametrize("index", range(12))
def test_the_bug_is_in_every_commit_from_the_one_that_plants_it(
    at_commit: Callable[[int], Path], index: int
) -> None:
    folder = at_commit(index)
    answer = json.loads(run(folder, sys.executable, "-c", SIGN_UP, '{"email": "a@b.com"}'))
    if index < COMMITS.index(BAD):
        assert (answer["status"], answer["plan"]) == (201, "free")
    else:
        assert answer == ["KeyError(None)", "amount"]
    with_plan = '{"email": "a@b.com", "plan": "free"}'
    assert json.loads(run(folder, sys.executable, "-c", SIGN_UP, with_plan))["status"] == 201


def test_a_project_without_history_is_the_tutorial_just_before_the_bug(
    at_commit: Callable[[int], Path], tmp_path: Path
) -> None:
    flux("init", "shop", folder=tmp_path)
    good = at_commit(COMMITS.index(GOOD))
    assert COMMITS.index(GOOD) + 1 == COMMITS.index(BAD)
    for path in list_tree(tmp_path / "shop"):
        assert (tmp_path / "shop" / path).read_text() == (good / path).read_text()


def test_the_tutorial_reaches_for_no_other_machine(at_commit: Callable[[int], Path]) -> None:
    for path in at_commit(11).rglob("functions/*.py"):
        assert "ctx.http" not in path.read_text()
    assert read_project(at_commit(11)).config.http.allow == ()


def test_here_lists_what_it_writes_and_writes_only_that(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "README.md").write_text("mine")
    finished = flux("init", "--here", folder=tmp_path)
    assert finished.returncode == 0
    assert list_tree(tmp_path) == ["README.md", "flux.toml"]
    assert finished.stdout.index("Will write") < finished.stdout.index("Created flux.toml")
    assert finished.stdout.splitlines()[-1].split(maxsplit=1) == ["next", "flux dev"]
    assert parse_config((tmp_path / "flux.toml").read_text()).project.name


def test_here_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text("mine")
    finished = flux("init", "--here", folder=tmp_path)
    assert finished.returncode == 2
    assert "FLX513" in finished.stderr
    assert (tmp_path / "flux.toml").read_text() == "mine"


@pytest.mark.parametrize("flag", [[], ["--tutorial"]])
def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path, flag: list[str]) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/notes.txt").write_text("mine")
    finished = flux("init", "shop", *flag, folder=tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "FLX507  shop/ is not empty: it holds notes.txt" in finished.stderr
    assert "--here" in finished.stderr
    assert list_tree(tmp_path) == ["shop/notes.txt"]


def test_a_file_in_the_folders_place_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("mine")
    finished = flux("init", "shop", folder=tmp_path)
    assert finished.returncode == 2
    assert "FLX507  shop is a file" in finished.stderr
    assert (tmp_path / "shop").read_text() == "mine"


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    assert flux("init", "shop", folder=tmp_path).returncode == 0
    assert (tmp_path / "shop/flux.toml").is_file()


def test_without_git_the_tutorial_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    finished = flux("init", "shop", "--tutorial", folder=tmp_path, PATH=str(tmp_path / "bin"))
    assert finished.returncode == 2
    assert "FLX506  git is not on PATH" in finished.stderr
    assert "install" in finished.stderr
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "say where"), (["--here", "--tutorial"], "choose one"), (["a", "b"], "extra")],
)
def test_a_command_line_that_says_too_little_or_too_much_is_refused(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    finished = flux("init", *arguments, folder=tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert said in finished.stderr
    assert list_tree(tmp_path) == []
