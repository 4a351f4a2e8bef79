"""Artifacts: the code of deployments, each in a folder that is named by the hash of what is in it.

An artifact is a copy of all that a deployment consists of (`flux.project.list_artifact_files`), made under another
name and renamed when it is whole. So what runs can't change under its feet, and the same files are the same
deployment, whichever commit or folder they came from.

    .flux/artifacts/<16 digits>/        the files, and nothing else
    .flux/artifacts/unfinished-*/       a copy under way, or what was left of one

A name is a claim, and it is tried each time before code is run from there: all files are hashed again, and whatever
else lies in the folder is noticed too. What is not as it was is refused by name, unless it can be made again: from
the files that are being deployed, or from git's own store where the commit of the record gives the same hash.

Old ones are taken away, but for those that a deploy on record names and those that somebody runs just now.
"""

import os
import re
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from flux.commit import write_commit
from flux.errors import FluxError, OperatorError
from flux.project import Project, hash_artifact, list_artifact_files, read_inside, read_project

ARTIFACTS_KEPT = 200
"""A day of saving makes many, and records speak of some: of those that nobody deployed the latest are kept."""

ID_DIGITS = 16
_UNFINISHED = "unfinished-"
_ARTIFACT_ID = re.compile(rf"[0-9a-f]{{{ID_DIGITS}}}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


class ArtifactError(OperatorError):
    """The project's files can't be copied to where they run from."""

    code = "FLX519"


class CodeGoneError(OperatorError):
    """The code of an earlier deployment can't be run any more."""

    code = "FLX524"
    exit_code = 6


class ArtifactChangedError(CodeGoneError):
    """The kept code of a deployment is not what was deployed."""

    code = "FLX540"


@attrs.frozen
class Artifact:
    """Code in its own folder."""

    hash: str
    """SHA-256 of it, in hexadecimal."""
    folder: Path
    """Where it is."""

    @property
    def id(self) -> str:
        """The deployment's name."""
        return self.hash[:ID_DIGITS]


class Artifacts:
    """The artifacts below one folder. All of it blocks; it is meant for a thread."""

    def __init__(
        self,
        folder: Path,
        repository: Path | None = None,
        tell: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        """``repository`` is the project's folder, whose commits give code again that is gone; ``tell`` hears of it."""
        self._folder = folder
        self._repository = repository
        self._tell = tell
        self._on_record: set[str] = set()
        self._in_use: Counter[str] = Counter()
        self._served: deque[str] = deque(maxlen=ARTIFACTS_KEPT)
        self._copying: set[str] = set()
        """Names of copies under way: several threads may make some at once."""

    def keep(self, ids: Iterable[str]) -> None:
        """Never take these away: deploys on record name them."""
        self._on_record.update(ids)

    def note_served(self, id: str) -> None:
        """Keep it among the latest that were served: what is made for replays alone takes none of these away."""
        self._served.append(id)

    def enter(self, id: str) -> None:
        """Code begins to run from there; it is not taken away meanwhile."""
        self._in_use[id] += 1

    def leave(self, id: str) -> None:
        """What `enter` announced is over."""
        self._in_use[id] -= 1
        if not self._in_use[id]:
            del self._in_use[id]

    def make(self, project: Project) -> Artifact:
        """Copy what the project's deployment consists of, unless it is there, whole; raise `ArtifactError`."""
        try:
            artifact = self._name(hash_artifact(project))
            if artifact.folder.is_dir():
                if (change := find_change(artifact.folder, artifact.id)) is None:
                    os.utime(artifact.folder)  # It is of use again: see `prune`.
                    return artifact
                self._tell(f"{describe_change(artifact.folder, change)}; they are copied again")
                self._set_aside(artifact.folder)
        except OSError as error:
            raise describe_changing(project, error) from error
        try:
            return self._copy(project)
        except OSError as error:
            raise ArtifactError(
                f"{error.filename or self._folder} can't be written: {error.strerror}",
                remedy="free space there, or make the folder yours: ls -ld " + str(self._folder),
            ) from error

    def find(self, id: str, sha: str = "") -> Project:
        """Return the folder of code that was deployed before, as it was; raise `CodeGoneError`.

        ``sha`` is the commit that a record names beside it: where that gives the same files, what is gone or was
        changed is made again from there.
        """
        folder = self._folder / id
        if _ARTIFACT_ID.fullmatch(id) is None:
            raise self._gone(id)
        if folder.is_dir():
            change = find_change(folder, id)
            if change is None:
                os.utime(folder)
                return read_project(folder)
            refusal: CodeGoneError = ArtifactChangedError(
                f"the kept code of deployment {id} is not what was deployed: {change}",
                remedy=f"somebody has written to {folder}: find out who, and remove it",
            )
        else:
            change, refusal = "it was gone", self._gone(id)
        if (reason := self._make_again(id, sha)) is not None:
            raise type(refusal)(f"{refusal.message}{reason}", remedy=refusal.remedy)
        self._tell(f"the kept code of deployment {id} was made again from commit {sha[:7]}: {change}")
        return read_project(folder)

    def is_whole(self, id: str) -> bool:
        """Whether code of this name is there, and is what the name says."""
        folder = self._folder / id
        return _ARTIFACT_ID.fullmatch(id) is not None and folder.is_dir() and find_change(folder, id) is None

    def is_kept(self, id: str) -> bool:
        """Whether code of this name is there; what is in it is not looked at."""
        return (self._folder / id).is_dir()

    def _gone(self, id: str) -> CodeGoneError:
        return CodeGoneError(
            f'the code of deployment "{id[:80]}" is not kept here',
            remedy=f"what was deployed on purpose is kept, and of all other code the latest {ARTIFACTS_KEPT}",
        )

    def _make_again(self, id: str, sha: str) -> str | None:
        """Make an artifact from a commit, if that gives this one and no other; else say why not, to end a sentence."""
        if self._repository is None or _COMMIT.fullmatch(sha) is None:
            return ""
        with tempfile.TemporaryDirectory(prefix="flux-commit-") as written:
            try:
                write_commit(self._repository, sha, Path(written))
                project = read_project(Path(written))
                is_it = hash_artifact(project)[:ID_DIGITS] == id
            except FluxError as error:
                return f", and commit {sha[:7]} does not give it again: {error.message}"
            if not is_it:
                return f", and commit {sha[:7]} has other files"
            self.make(project)
        return None

    def _name(self, hash: str) -> Artifact:
        return Artifact(hash, self._folder / hash[:ID_DIGITS])

    def _copy(self, project: Project) -> Artifact:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = Path(tempfile.mkdtemp(dir=self._folder, prefix=_UNFINISHED))
        self._copying.add(unfinished.name)
        artifact: Artifact | None = None
        try:
            for path in list_artifact_files(project):
                target = unfinished / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(read_inside(project.root, path))
            _open_to_guests(unfinished)
            # Named by what has been copied: the files may have been saved anew since they were hashed.
            artifact = self._name(hash_artifact(attrs.evolve(project, root=unfinished)))
            # Renamed when whole, so that a folder of this name is always all of it.
            unfinished.rename(artifact.folder)
            self.prune()
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            if artifact is None or not artifact.folder.is_dir():  # Else somebody else has made it meanwhile.
                raise
        finally:
            self._copying.discard(unfinished.name)
        return artifact

    def _set_aside(self, folder: Path) -> None:
        aside = Path(tempfile.mkdtemp(dir=self._folder, prefix=_UNFINISHED))
        folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)

    def prune(self) -> None:
        """Delete what was never finished, and code that nobody deployed or runs but for the latest `ARTIFACTS_KEPT`."""
        folders = sorted(self._folder.iterdir(), key=_read_age)
        unfinished = [folder for folder in folders if folder.name.startswith(_UNFINISHED)]
        wanted = self._on_record.union(self._in_use, self._served)
        finished = [folder for folder in folders if folder not in unfinished and folder.name not in wanted]
        for folder in (*unfinished, *finished[ARTIFACTS_KEPT:]):
            if folder.name not in self._copying:
                shutil.rmtree(folder, ignore_errors=True)


def find_change(folder: Path, id: str) -> str | None:
    """Return what of an artifact is not as its name says, in words; None when it is whole."""
    try:
        project = read_project(folder)
        wanted = set(list_artifact_files(project))
        # What the hash leaves out (byte code, hidden files) would be read by Python all the same.
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_dir() or name in wanted):
                return f"{name} was put there"
        if hash_artifact(project)[:ID_DIGITS] != id:
            return "its files have changed"
    except FluxError as error:
        return error.message
    except OSError as error:
        return f"{error.filename} can't be read: {error.strerror}"
    return None


def describe_change(folder: Path, change: str) -> str:
    """Return the sentence that names an artifact that was changed."""
    return f"the files in {folder} are not what was deployed: {change}"


def describe_changing(project: Project, error: OSError) -> ArtifactError:
    """Return what to say when files move while they are read."""
    return ArtifactError(
        f"{error.filename or project.root} can't be read: {error.strerror}",
        remedy="if files are just being moved or saved, wait: the next change is noticed",
    )


def _read_age(folder: Path) -> float:
    """Return what grows with the age of a folder; one that another thread has just taken away is the oldest."""
    try:
        return -folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _open_to_guests(folder: Path) -> None:
    """Let every user read the artifact: its guests may be somebody else, and only they get past its parent."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
