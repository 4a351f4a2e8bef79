"""An artifact's name is the hash of what is in it, whatever is saved meanwhile; and old ones don't pile up."""

import re
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

from flux.project import Project, hash_artifact, read_inside, read_project
from flux.supervisor import artifacts as artifacts_module
from flux.supervisor.artifacts import ArtifactChangedError, ArtifactError, Artifacts, CodeGoneError
from tests.dev_process import write_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return read_project(write_project(tmp_path / "shop", {"app.py": "one = 1\n"}))


def test_a_file_saved_between_the_look_and_the_copy_is_in_the_name(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_first(root: Path, name: str) -> bytes:
        if name == "functions/app.py":
            (root / name).write_text("two = 2\n")
        return read_inside(root, name)

    monkeypatch.setattr("flux.supervisor.artifacts.read_inside", save_first)
    artifacts = Artifacts(tmp_path / "artifacts")
    made = artifacts.make(project)
    name, folder = made.hash, made.folder
    assert (folder / "functions/app.py").read_text() == "two = 2\n"
    assert name == hash_artifact(attrs.evolve(project, root=folder)) == hash_artifact(project)
    monkeypatch.undo()
    (project.root / "functions/app.py").write_text("one = 1\n")
    first = artifacts.make(project)
    assert (first.folder / "functions/app.py").read_text() == "one = 1\n"
    assert first.folder.name == first.id == hash_artifact(project)[:16]
    assert artifacts.make(project) == first


def test_what_was_left_unfinished_and_what_is_old_is_deleted(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts_module, "ARTIFACTS_KEPT", 3)
    artifacts = tmp_path / "artifacts"
    (artifacts / "unfinished-of-a-crash" / "functions").mkdir(parents=True)
    made = []
    for number in range(6):
        (project.root / "functions/app.py").write_text(f"one = {number}\n")
        made.append(Artifacts(artifacts).make(project).folder)
    assert {path.name for path in artifacts.iterdir()} == {folder.name for folder in made[-3:]}


def test_files_that_vanish_are_an_error_with_a_next_step(project: Project, tmp_path: Path) -> None:
    (project.root / "functions/app.py").unlink()
    (project.root / "functions").rmdir()
    with pytest.raises(Exception) as caught:
        Artifacts(tmp_path / "artifacts").make(project)
    assert getattr(caught.value, "code", "").startswith("FLX")
    (tmp_path / "file").write_text("")
    (project.root / "functions").mkdir()
    with pytest.raises(ArtifactError, match="can't be written"):
        Artifacts(tmp_path / "file" / "artifacts").make(project)


def commit(root: Path) -> str:
    """Make ``root`` a repository, if it is none, and commit all of it."""
    for arguments in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("functions/app.py", b"one = 2\n", "its files have changed"),
        ("functions/more.py", b"", "its files have changed"),
        # The hash of a project leaves these out, and Python reads them.
        ("functions/__pycache__/app.cpython-311.pyc", b"", "functions/__pycache__/app.cpython-311.pyc was put there"),
        ("sitecustomize.py", b"", "sitecustomize.py was put there"),
        ("functions/.hidden", b"", "functions/.hidden was put there"),
        ("flux.toml", b"[project", "flux.toml"),
    ],
)
def test_code_that_was_changed_on_disk_is_refused_by_name(
    project: Project, tmp_path: Path, path: str, content: bytes, told: str
) -> None:
    made = Artifacts(tmp_path / "artifacts").make(project)
    (made.folder / path).parent.mkdir(exist_ok=True)
    (made.folder / path).write_bytes(content)
    with pytest.raises(ArtifactChangedError, match=re.escape(told)) as caught:
        Artifacts(tmp_path / "artifacts", project.root).find(made.id, "nogit-123456789012")
    assert made.id in caught.value.message and str(made.folder) in caught.value.remedy


def test_a_link_in_the_place_of_a_file_is_refused(project: Project, tmp_path: Path) -> None:
    made = Artifacts(tmp_path / "artifacts").make(project)
    (made.folder / "functions/app.py").unlink()
    (made.folder / "functions/app.py").symlink_to(project.root / "functions/app.py")
    with pytest.raises(ArtifactChangedError):
        Artifacts(tmp_path / "artifacts").find(made.id)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_what_is_changed_or_gone_is_made_again_from_its_commit(
    project: Project, tmp_path: Path, damage: str
) -> None:
    sha, told = commit(project.root), []
    artifacts = Artifacts(tmp_path / "artifacts", project.root, told.append)
    made = artifacts.make(project)
    if damage == "gone":
        shutil.rmtree(made.folder)
    else:
        (made.folder / "functions/app.py").write_text("two = 2\n")
    (project.root / "functions/app.py").write_text("three = 3\n")  # The folder is elsewhere by now.
    found = artifacts.find(made.id, sha)
    assert (found.root / "functions/app.py").read_text() == "one = 1\n"
    assert made.id in told[-1] and sha[:7] in told[-1]
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [made.id]


def test_a_commit_that_gives_other_code_mends_nothing(project: Project, tmp_path: Path) -> None:
    sha = commit(project.root)
    (project.root / "functions/app.py").write_text("not = committed\n")
    artifacts = Artifacts(tmp_path / "artifacts", project.root)
    made = artifacts.make(project)
    shutil.rmtree(made.folder)
    for of_record, told in (
        (sha, f"not kept here, and commit {sha[:7]} has other files"),
        ("0" * 40, "commit 0000000 does not give it again: git"),
        ("--exec=touch /tmp/x", "not kept here"),
        ("", "not kept here"),
    ):
        with pytest.raises(CodeGoneError) as caught:
            artifacts.find(made.id, of_record)
        assert re.search(told, caught.value.message)
        assert told != "not kept here" or caught.value.message.endswith(told)


def test_a_damaged_copy_is_made_again_from_the_files_that_are_deployed(project: Project, tmp_path: Path) -> None:
    told: list[str] = []
    artifacts = Artifacts(tmp_path / "artifacts", None, told.append)
    made = artifacts.make(project)
    (made.folder / "functions/app.py").write_text("two = 2\n")
    assert artifacts.make(project) == made
    assert (made.folder / "functions/app.py").read_text() == "one = 1\n"
    assert len(told) == 1 and str(made.folder) in told[0]


@pytest.mark.parametrize("name", ["../artifacts", "", "x" * 16, "0" * 15, "/etc"])
def test_what_is_no_deployments_name_leads_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(CodeGoneError):
        Artifacts(tmp_path).find(name, "")


def test_what_is_on_record_or_running_is_kept_for_ever(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts_module, "ARTIFACTS_KEPT", 1)
    artifacts, made = Artifacts(tmp_path / "artifacts"), []
    for number in range(6):
        (project.root / "functions/app.py").write_text(f"one = {number}\n")
        made.append(artifacts.make(project))
        if number == 0:
            artifacts.keep([made[0].id])
        if number == 1:
            artifacts.enter(made[1].id)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {made[0].id, made[1].id, made[5].id}
    artifacts.leave(made[1].id)
    artifacts.prune()
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {made[0].id, made[5].id}


def test_what_is_made_for_replays_takes_away_nothing_that_was_served(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts_module, "ARTIFACTS_KEPT", 2)
    artifacts, made = Artifacts(tmp_path / "artifacts"), []
    for number in range(8):
        (project.root / "functions/app.py").write_text(f"one = {number}\n")
        made.append(artifacts.make(project).id)
        if number < 3:
            artifacts.note_served(made[-1])
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {*made[1:3], *made[6:]}


def test_who_copies_at_once_takes_nothing_of_the_other_away(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    other = read_project(write_project(tmp_path / "other", {"app.py": "other = 1\n"}))

    def make_another_meanwhile(root: Path, name: str) -> bytes:
        monkeypatch.setattr("flux.supervisor.artifacts.read_inside", read_inside)
        artifacts.make(other)
        return read_inside(root, name)

    monkeypatch.setattr("flux.supervisor.artifacts.read_inside", make_another_meanwhile)
    made = artifacts.make(project)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {made.id, artifacts.make(other).id}
