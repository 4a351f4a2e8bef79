"""A commit's files come out of git's store as they were committed, and the checkout has no part in it."""

import subprocess
from pathlib import Path

import pytest

from flux.commit import NoSuchCommitError, UnusableCommitError, find_branch, find_commit, write_commit
from flux.project import hash_artifact, read_project


class Repository:
    """A repository made with git itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, files: dict[str, bytes]) -> str:
        """Commit these files besides what is there; return the commit."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.git("add", "-A")
        self.git("commit", "-qm", "x", "--allow-empty")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


NASTY = {
    "flux.toml": b"[project]\nname = 'shop'\n",
    "functions/a.py": b"one = 1\r\n",
    "functions/\u00fcn\u00efcode \u2603.py": b"\x00\xff\n\n",
    "functions/with space/tab\there.py": b"",
    'functions/quote"s.py': b"$Id$\n",
    "large.bin": bytes(range(256)) * 4000,
}


def test_each_file_comes_out_byte_by_byte_whatever_the_checkout_holds(
    repository: Repository, tmp_path: Path
) -> None:
    # What git would do to a checkout is not done: no line ends are changed, nothing is expanded or left out.
    attributes = b"* text eol=crlf ident\n*.bin export-ignore\n"
    sha = repository.commit({**NASTY, ".gitattributes": attributes})
    later = repository.commit({"flux.toml": b"[project]\nname = 'other'\n", "functions/b.py": b"two"})
    for path in repository.folder.glob("functions/*.py"):
        path.unlink()
    before = repository.git("status", "--porcelain")
    target = tmp_path / "target"
    target.mkdir()
    write_commit(repository.folder, find_commit(repository.folder, "HEAD~1"), target)
    committed = {name: repository.git("rev-parse", f"{sha}:{name}") for name in NASTY}
    assert read_all(target).keys() == NASTY.keys() | {".gitattributes"}
    for name, object_id in committed.items():
        hashed = repository.git("hash-object", "--no-filters", str(target / name))
        assert hashed == object_id, name
    assert (repository.git("rev-parse", "HEAD"), repository.git("status", "--porcelain")) == (later, before)


def test_a_project_in_a_folder_of_the_repository_comes_without_the_rest(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit({"apps/shop/flux.toml": b"x", "apps/shop/functions/a.py": b"y", "elsewhere.py": b"z"})
    target = tmp_path / "target"
    target.mkdir()
    write_commit(repository.folder / "apps" / "shop", "HEAD", target)
    assert read_all(target) == {"flux.toml": b"x", "functions/a.py": b"y"}


def test_links_that_lead_out_are_not_written(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "out").symlink_to("/etc")
    repository.commit({"flux.toml": b"x"})
    target = tmp_path / "target"
    target.mkdir()
    write_commit(repository.folder, "HEAD", target)
    assert read_all(target) == {"flux.toml": b"x"}
    assert not (target / "out").is_symlink()


@pytest.mark.parametrize("ref", ["nowhere", "HEAD~3", "-h", "--all", "", "HEAD:flux.toml", "a b", "\n"])
def test_what_names_no_commit_is_told(repository: Repository, ref: str) -> None:
    repository.commit({"flux.toml": b"x"})
    with pytest.raises(NoSuchCommitError):
        find_commit(repository.folder, ref)


def test_a_commit_from_before_the_project_is_told(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"README": b"x"})
    with pytest.raises(NoSuchCommitError, match=r"has no flux\.toml"):
        write_commit(repository.folder, "HEAD", tmp_path)
    with pytest.raises(NoSuchCommitError, match="no git repository"):
        find_commit(tmp_path, "HEAD")


def test_a_commit_whose_content_is_not_here_is_told(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"flux.toml": b"x", "functions/a.py": b"only here"})
    object_id = repository.git("rev-parse", "HEAD:functions/a.py")
    (repository.folder / ".git" / "objects" / object_id[:2] / object_id[2:]).unlink()
    with pytest.raises(UnusableCommitError, match=r"no content of 'functions/a\.py'"):
        write_commit(repository.folder, "HEAD", tmp_path / "target")


def test_links_that_stay_inside_are_what_they_are_in_the_folder(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "functions").mkdir()
    for name, leads_to in (("b.py", "../shared/b.py"), ("c.py", "../d"), ("e.py", "c.py")):
        (repository.folder / "functions" / name).symlink_to(leads_to)
    (repository.folder / "d").symlink_to("shared/b.py")
    sha = repository.commit({"flux.toml": NASTY["flux.toml"], "shared/b.py": b"two = 2\n", "functions/a.py": b""})
    write_commit(repository.folder, sha, tmp_path / "written")
    assert (tmp_path / "written/functions/e.py").read_bytes() == b"two = 2\n"
    assert hash_artifact(read_project(tmp_path / "written")) == hash_artifact(read_project(repository.folder))


def test_a_flux_toml_that_is_a_link_to_elsewhere_is_not_read(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "flux.toml").symlink_to("/etc/hostname")
    with pytest.raises(UnusableCommitError, match=r"flux\.toml"):
        write_commit(repository.folder, repository.commit({}), tmp_path)


def test_a_branch_is_known_by_its_name_and_a_commit_by_none(repository: Repository) -> None:
    sha = repository.commit(NASTY)
    repository.git("tag", "v1")
    repository.git("branch", "side/way")
    branches = {"main": "main", "side/way": "side/way", "HEAD": "main"}
    others = {"v1": None, sha: None, sha[:8]: None, "main~0": None}
    assert {ref: find_branch(repository.folder, ref) for ref in (*branches, *others)} == branches | others
