"""Reading a project's folder, with real files and a real git."""

import os
import subprocess
from pathlib import Path

import pytest

from flux.config import UnreadableConfigError
from flux.git import GitFailedError, GitMissingError, run_git
from flux.project import (
    NoProjectError,
    Project,
    SourceVersion,
    UnnumberedMigrationError,
    UnreadableProjectError,
    find_project,
    hash_artifact,
    list_artifact_files,
    list_function_files,
    list_migrations,
    read_project,
    read_source_version,
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small project, outside of any repository."""
    write(tmp_path / "shop/flux.toml", '[project]\nname = "shop"\n')
    write(tmp_path / "shop/functions/signup.py", "def sign_up(): ...\n")
    return read_project(tmp_path / "shop")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(folder: Path, *arguments: str) -> str:
    """Git as a person runs it: the oracle for what `flux.project` says."""
    identity = ["-c", "user.name=Ana", "-c", "user.email=ana@shop.example"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit_all(folder: Path) -> str:
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a commit")
    return git(folder, "rev-parse", "HEAD")


def test_a_project_is_found_from_any_folder_inside_it(project: Project) -> None:
    write(project.root / "functions/deep/er/x.py", "")
    assert find_project(project.root / "functions/deep/er") == project.root
    assert find_project(project.root) == project.root


def test_outside_of_a_project_the_next_step_is_init(tmp_path: Path) -> None:
    with pytest.raises(NoProjectError) as caught:
        find_project(tmp_path)
    assert caught.value.code == "FLX505"
    assert str(tmp_path) in caught.value.message
    assert "flux init" in caught.value.remedy


def test_a_config_that_is_no_text_is_refused_with_its_line(project: Project) -> None:
    (project.root / "flux.toml").write_bytes(b'[project]\nname = "caf\xe9"\n')
    with pytest.raises(UnreadableConfigError, match=r"flux\.toml:2  is not UTF-8 text: byte 0xe9"):
        read_project(project.root)


def test_windows_ends_of_lines_are_read_and_counted(project: Project) -> None:
    (project.root / "flux.toml").write_bytes(b'[project]\r\nname = "shop"\r\n[dev]\r\nport = 4001\r\n')
    assert read_project(project.root).config.origins["dev.port"] == "flux.toml:4"


def test_function_files_are_those_that_a_runtime_loads(project: Project) -> None:
    for path in ["b.ts", "a/c.js", "a/w.wasm", "a/__init__.py", "types.d.ts", "notes.md", ".hidden.py",
                 "__pycache__/signup.cpython-311.py", "node_modules/x/index.js"]:  # fmt: skip
        write(project.root / "functions" / path, "x")
    assert [(file.path, file.module, file.runtime) for file in list_function_files(project)] == [
        ("functions/a/c.js", "functions.a.c", "javascript"),
        ("functions/a/w.wasm", "functions.a.w", "wasm"),
        ("functions/b.ts", "functions.b", "typescript"),
        ("functions/signup.py", "functions.signup", "python"),
    ]


def test_a_missing_functions_folder_is_an_error_and_not_an_empty_list(project: Project) -> None:
    (project.root / "functions/signup.py").unlink()
    (project.root / "functions").rmdir()
    with pytest.raises(UnreadableProjectError, match="there is no folder functions/"):
        list_function_files(project)


def test_migrations_are_ordered_by_number_and_not_by_name(project: Project) -> None:
    assert list_migrations(project) == ()
    for name in ["10_last.sql", "9_middle.sql", "001.sql", "README.md"]:
        write(project.root / "migrations" / name, f"-- {name}")
    migrations = list_migrations(project)
    assert [(migration.number, migration.path, migration.sql) for migration in migrations] == [
        (1, "migrations/001.sql", "-- 001.sql"),
        (9, "migrations/9_middle.sql", "-- 9_middle.sql"),
        (10, "migrations/10_last.sql", "-- 10_last.sql"),
    ]


@pytest.mark.parametrize(
    ("name", "said"), [("users.sql", "has no number"), ("1_more.sql", "the same number, 1")]
)
def test_migrations_without_an_order_are_refused(project: Project, name: str, said: str) -> None:
    write(project.root / "migrations/001.sql", "")
    write(project.root / "migrations" / name, "")
    with pytest.raises(UnnumberedMigrationError, match=said):
        list_migrations(project)


def test_the_artifact_is_the_config_and_all_files_of_the_functions_folder(project: Project) -> None:
    write(project.root / "functions/words.txt", "x")
    write(project.root / "README.md", "not deployed")
    assert list_artifact_files(project) == ("flux.toml", "functions/signup.py", "functions/words.txt")


def test_the_artifacts_hash_follows_content_and_names_and_nothing_else(project: Project) -> None:
    first = hash_artifact(project)
    os.utime(project.root / "flux.toml", (0, 0))
    write(project.root / "README.md", "not deployed")
    write(project.root / "functions/__pycache__/signup.cpython-311.pyc", "compiled")
    assert hash_artifact(project) == first
    seen = {first}
    write(project.root / "functions/signup.py", "def sign_up(): return 1\n")
    seen.add(hash_artifact(project))
    (project.root / "functions/signup.py").rename(project.root / "functions/sign_up.py")
    seen.add(hash_artifact(project))
    write(project.root / "flux.toml", '[project]\nname = "store"\n')
    seen.add(hash_artifact(project))
    assert len(seen) == 4


def test_without_a_repository_the_artifacts_hash_stands_in_for_a_commit(project: Project) -> None:
    assert read_source_version(project) == SourceVersion(sha=f"nogit-{hash_artifact(project)[:12]}")


def test_before_the_first_commit_the_hash_stands_in_and_the_branch_is_known(project: Project) -> None:
    git(project.root, "init", "--quiet", "--initial-branch=trunk")
    expected = SourceVersion(sha=f"nogit-{hash_artifact(project)[:12]}", branch="trunk")
    assert read_source_version(project) == expected


def test_the_commit_the_branch_and_the_changed_files_are_gits(project: Project) -> None:
    sha = commit_all(project.root)
    assert read_source_version(project) == SourceVersion(sha=sha, branch="main", changed_files=0)
    write(project.root / "functions/signup.py", "changed")
    write(project.root / "functions/new one.py", "untracked")
    version = read_source_version(project)
    assert (version.sha, version.changed_files, version.dirty) == (sha, 2, True)
    git(project.root, "checkout", "--quiet", "--detach")
    assert read_source_version(project).branch is None


def test_what_flux_itself_writes_does_not_make_the_tree_dirty(project: Project) -> None:
    commit_all(project.root)
    write(project.root / ".flux/dev.json", "{}")
    assert not read_source_version(project).dirty


def test_only_changes_below_the_project_count_in_a_larger_repository(project: Project) -> None:
    outer = project.root.parent
    sha = commit_all(outer)
    write(outer / "elsewhere.txt", "untracked")
    assert read_source_version(project) == SourceVersion(sha=sha, branch="main", changed_files=0)


def test_git_inside_a_hook_still_reads_the_projects_repository(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = commit_all(project.root)
    monkeypatch.setenv("GIT_DIR", str(project.root.parent / "nowhere"))
    assert read_source_version(project).sha == sha


def test_asking_git_starts_none_of_the_programs_that_a_repository_names(
    project: Project, tmp_path: Path
) -> None:
    commit_all(project.root)
    trace = tmp_path / "started"
    monitor = tmp_path / "monitor"
    write(monitor, f"#!/bin/sh\necho ran >> {trace}\n")
    monitor.chmod(0o755)
    git(project.root, "config", "core.fsmonitor", str(monitor))
    git(project.root, "config", "core.pager", str(monitor))
    read_source_version(project)
    assert not trace.exists()
    git(project.root, "status")
    assert trace.exists(), "the trap does not work, so this test proves nothing"


def test_a_repository_of_another_user_is_an_error_with_the_command_that_trusts_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_all(project.root)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("HOME", str(project.root.parent))
    with pytest.raises(GitFailedError) as caught:
        read_source_version(project)
    assert f"safe.directory {project.root}" in caught.value.remedy


def test_without_git_the_error_says_to_install_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_all(project.root)
    monkeypatch.setenv("PATH", str(project.root))
    with pytest.raises(GitMissingError) as caught:
        read_source_version(project)
    assert caught.value.code == "FLX506"
    assert "install" in caught.value.remedy


def test_what_git_says_when_it_refuses_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(GitFailedError, match=r"git rev-parse in .* exited with 128: .*not a git repository"):
        run_git(["rev-parse", "HEAD"], folder=tmp_path)


def test_a_link_out_of_the_project_is_refused_and_one_inside_is_followed(project: Project) -> None:
    functions = project.root / "functions"
    (functions / "b.py").symlink_to(functions / "signup.py")
    assert [file.path for file in list_function_files(project)] == ["functions/b.py", "functions/signup.py"]
    (functions / "c.py").symlink_to("/etc/hostname")
    with pytest.raises(UnreadableProjectError, match=r"functions/c\.py is a link that leads out of the project"):
        list_function_files(project)
