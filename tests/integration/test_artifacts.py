"""An artifact's name is the hash of what is in it, whatever is saved meanwhile; and old ones don't pile up."""

import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest

from flux.project import Project, hash_artifact, read_project
from flux.supervisor import artifacts as artifacts_module
from flux.supervisor.artifacts import ArtifactError, Artifacts
from tests.dev_process import write_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return read_project(write_project(tmp_path / "shop", {"app.py": "one = 1\n"}))


def test_a_file_saved_between_the_look_and_the_copy_is_in_the_name(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def save_first(source: Path, target: Path) -> Any:
        if source.name == "app.py":
            source.write_text("two = 2\n")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", save_first)
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
