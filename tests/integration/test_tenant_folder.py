"""What a tenant's folder may lead the server to, which has more rights than whoever writes there: nowhere else."""

import os
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from flux.errors import OperatorError
from flux.project import (
    Project,
    UnreadableProjectError,
    hash_artifact,
    list_migrations,
    read_inside,
    read_project,
)
from flux.supervisor.flux_folder import PlantedError, held_folder, prepare_flux_folder
from flux.supervisor.server_start import read_secrets

KEY = b"the installation's master key"


@attrs.frozen
class Folders:
    """Two tenants' folders, and the installation's."""

    acme: Path
    lamb: Path
    key: Path


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "acme", tmp_path / "lamb", tmp_path / "main/.flux/master.key")
    for root in (made.acme, made.lamb):
        for name, text in (
            ("flux.toml", f'[project]\nname = "{root.name}"\n'),
            ("functions/app.py", f"of = '{root.name}'\n"),
            ("migrations/001_first.sql", f"create table {root.name} ();\n"),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    (made.lamb / ".env.local").write_text("TOKEN=of-lamb-alone\n")
    made.key.parent.mkdir(parents=True)
    made.key.write_bytes(KEY)
    return made


def replace(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def test_a_tenant_s_env_local_is_a_file_of_its_own(folders: Folders) -> None:
    path = folders.acme / ".env.local"
    assert read_secrets(folders.acme, for_tenant=True) == {}
    path.symlink_to("../lamb/.env.local")
    with pytest.raises(UnreadableProjectError, match="leads out"):
        read_secrets(folders.acme, for_tenant=True)
    assert read_secrets(folders.acme) == {"TOKEN": "of-lamb-alone"}, "one's own may come from anywhere"
    for target in ("/dev/zero", "/dev/null", "nowhere"):
        replace(path, Path(target))
        with pytest.raises(UnreadableProjectError):
            read_secrets(folders.acme, for_tenant=True)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnreadableProjectError, match="no regular file"):
        read_secrets(folders.acme, for_tenant=True)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)  # It takes no room, and would take all memory.
    with pytest.raises(UnreadableProjectError, match="larger than 1 MiB"):
        read_secrets(folders.acme, for_tenant=True)
    path.unlink()
    path.write_text("TOKEN=of-acme\n")
    assert read_secrets(folders.acme, for_tenant=True) == {"TOKEN": "of-acme"}


READS: dict[str, tuple[str, Callable[[Project], object]]] = {
    "flux.toml": ("flux.toml", lambda project: read_project(project.root)),
    "a migration": ("migrations/001_first.sql", list_migrations),
    "a function's file": ("functions/app.py", hash_artifact),
    "the migrations": ("migrations", list_migrations),
    "the functions": ("functions", hash_artifact),
}


@pytest.mark.parametrize("kind", READS)
def test_no_part_of_a_project_is_read_through_a_link_that_leads_out(kind: str, folders: Folders) -> None:
    name, read = READS[kind]
    project = read_project(folders.acme)
    read(project)
    (folders.acme / name).rename(folders.acme / "before")
    (folders.acme / name).symlink_to(folders.lamb / name)
    with pytest.raises(UnreadableProjectError, match="leads out of the project"):
        read(project)
    replace(folders.acme / name, folders.acme / "before")
    read(project)


def test_what_gives_bytes_without_end_or_none_is_not_read(folders: Folders) -> None:
    path = folders.acme / "flux.toml"
    replace(path, Path("/dev/zero"))
    with pytest.raises(UnreadableProjectError, match="no regular file"):
        read_project(folders.acme)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnreadableProjectError, match="no regular file"):
        read_project(folders.acme)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableProjectError, match="larger than"):
        read_project(folders.acme)


def test_a_file_that_becomes_a_link_while_it_is_looked_at_is_not_read(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folders.acme / "flux.toml"
    open_before = os.open

    def open_later(name: str | Path, *flags: int, **options: int) -> int:
        if name == path:
            replace(path, folders.key)
        return open_before(name, *flags, **options)

    monkeypatch.setattr(os, "open", open_later)
    with pytest.raises(UnreadableProjectError, match="leads out"):
        read_inside(folders.acme, "flux.toml")


@pytest.mark.parametrize(
    "name", [".flux/.gitignore", ".flux/lock", ".flux/journal", ".flux/artifacts", ".flux/environments/0", ".flux"]
)
def test_nothing_is_written_through_a_link_in_a_tenant_s_folder(name: str, folders: Folders) -> None:
    theirs = folders.key if Path(name).name in (".gitignore", "lock") else folders.key.parent
    link = folders.acme / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(theirs)
    with pytest.raises(PlantedError, match=r"is a link|is no folder"):
        prepare_flux_folder(folders.acme, for_tenant=True)
    assert folders.key.read_bytes() == KEY and list(folders.key.parent.iterdir()) == [folders.key]


def test_a_link_for_a_file_of_flux_s_own_is_not_written_through_either(folders: Folders) -> None:
    for name in (".gitignore", "lock"):
        (folders.acme / ".flux").mkdir(exist_ok=True)
        (folders.acme / ".flux" / name).symlink_to(folders.key)
    folder = prepare_flux_folder(folders.acme)
    with pytest.raises(OperatorError, match="lock"), held_folder(folder):
        pass
    assert folders.key.read_bytes() == KEY


def test_a_folder_that_others_can_write_is_not_the_server_s(folders: Folders) -> None:
    folder = prepare_flux_folder(folders.acme, for_tenant=True)
    assert (folder / ".gitignore").read_text() == "*\n"
    assert prepare_flux_folder(folders.acme, for_tenant=True) == folder, "what it has made itself is good"
    folder.chmod(0o777)
    with pytest.raises(PlantedError, match="others"):
        prepare_flux_folder(folders.acme, for_tenant=True)
