"""Replaying a case file: no server, no database, nothing of the machine's but its sandboxes.

The case's code is unpacked into a folder of its own, named by its hash as an artifact is, and run from there by the
same `Replayer` as a server's, without a backing: so only the case answers. On other code (the project's folder, a
commit) statements that were not recorded have no answer, and the replay stops at them.

A case comes from anywhere. Its code is run behind the walls that whoever replays it asks for, `strict` unless they
say otherwise, whatever its ``flux.toml`` says. Nothing is installed for it: packages are used when they are there.
And it is refused, with the reason, where a replay would compare two things: another Python, another engine.
"""

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import attrs
import trio

from flux import codec
from flux.brought import BroughtAnswer
from flux.case_file import Case, CaseFile
from flux.errors import OperatorError
from flux.execution import Execution, Level
from flux.project import find_requirements, read_project
from flux.supervisor.artifacts import Artifacts
from flux.supervisor.case_export import describe_python
from flux.supervisor.deployments import Deployments, with_isolation
from flux.supervisor.environments import FOLDER_NAME as ENVIRONMENTS
from flux.supervisor.environments import Environments, make_key
from flux.supervisor.isolation import Isolation
from flux.supervisor.replay import Replay, Replayer
from flux.supervisor.shelf import Shelf
from flux.tenant import Tenant

STRICT = "strict"
SUFFIX_MAX = 240
"""Part of a name; Linux allows 255 bytes."""


class CaseNotForHereError(OperatorError):
    """The case was made on something else than this machine has."""

    code = "FLX344"
    exit_code = 6


class NoCodeHereError(OperatorError):
    """A case is to be replayed on the project's code, and there is no project."""

    code = "FLX345"


@contextlib.asynccontextmanager
async def open_offline(
    root: Path | None,
    isolation: str | None,
    on_output: Callable[[str], None] = lambda _text: None,
) -> AsyncIterator["OfflineReplayer"]:
    """Give what replays cases for as long as the block lasts.

    ``root`` is the project's folder on this machine, if there is one: it has other code to replay on, and packages.
    ``isolation`` is the level of walls around all code; None: what the code's own ``flux.toml`` says, so never for
    a case's.
    """
    with contextlib.ExitStack() as folders:
        async with trio.open_nursery() as nursery:
            yield OfflineReplayer(nursery, folders, root, isolation, on_output)
            nursery.cancel_scope.cancel()


class OfflineReplayer:
    """Replays cases, one after the other; made by `open_offline`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        folders: contextlib.ExitStack,
        root: Path | None,
        isolation: str | None,
        on_output: Callable[[str], None],
    ) -> None:
        self._nursery = nursery
        self._folders = folders
        self._root = root
        self._isolation = isolation
        self._on_output = on_output
        self._walls = Isolation(Tenant())
        self._places: dict[int, tuple[Path, Replayer]] = {}
        """Folders for artifacts and what runs them, by the length of a deployment's path."""

    async def replay(
        self, case: Case, on: str | None = None, answers: Mapping[int, BroughtAnswer] | None = None
    ) -> Replay:
        """Run the case again on its own code, or ``on`` the project's folder or a commit of it.

        Raises what keeps it from being run: `CaseNotForHereError`, `EnvironmentMissingError`,
        `IsolationUnavailableError` and their kin.
        """
        artifacts, replayer = self._provide_place(case)
        if on is None:
            return await self._replay_own(case, artifacts / case.artifact, replayer, answers or {})
        if self._root is None:
            raise NoCodeHereError(
                "there is no project here to replay the case on", remedy="go into the project's folder"
            )
        await self._walls.probe(with_isolation(read_project(self._root), self._isolation))
        replay = await replayer.replay(case.execution, on, answers or {})
        return attrs.evolve(replay, notes=(*replay.notes, *_compare(case, replay)))

    def _provide_place(self, case: Case) -> tuple[Path, Replayer]:
        """Return a folder for artifacts whose names are as long as that of the case's deployment was, if possible."""
        length = len(case.made.folder)
        if length not in self._places:
            folder = self._folders.enter_context(_folder_of_length(length - len("/") - len(case.artifact)))
            packages = Path(folder) if self._root is None else self._root / ".flux"
            deployments = Deployments(
                self._nursery,
                Artifacts(Path(folder)),
                Environments(packages / ENVIRONMENTS, installs=False),
                Tenant(),
                idle_workers=1,
                isolation=self._isolation,
                on_output=self._on_output,
            )
            shelf = Shelf(deployments, Path(folder) if self._root is None else self._root)
            self._places[length] = (Path(folder), Replayer(shelf, None, Tenant().schema))
        return self._places[length]

    async def _replay_own(
        self, case: Case, folder: Path, replayer: Replayer, answers: Mapping[int, BroughtAnswer]
    ) -> Replay:
        assert self._isolation is not None, "a case does not choose its own walls"
        _check_python(case)
        await trio.to_thread.run_sync(unpack, case.files, folder)
        await trio.to_thread.run_sync(_check_packages, case, folder)
        await self._walls.probe(with_isolation(read_project(folder), self._isolation))
        there, here = case.made.folder, os.fsencode(folder)
        # The files are those of the case, which may lack a password that the deployment's had.
        original = attrs.evolve(_move(case.execution, there, here), deployment=case.artifact)
        replay = await replayer.replay(original, None, answers)
        recorded, level = case.execution.level, replay.replayed.execution.level
        if recorded.kind != level.kind or recorded.meter != level.meter:
            raise CaseNotForHereError(
                f"it ran in {_describe_engine(recorded)}, and here it would run in {_describe_engine(level)}",
                remedy=f"replay it with Flux {case.made.flux}, which recorded it",
            )
        # It ran on the deployment's own code all the same.
        deployment = attrs.evolve(replay.deployment, id=case.execution.deployment)
        return attrs.evolve(
            replay,
            original=case.execution,
            deployment=deployment,
            replayed=attrs.evolve(replay.replayed, execution=_move(replay.replayed.execution, here, there)),
            notes=(*replay.notes, *case.hidden, *_compare(case, replay)),
        )


def _folder_of_length(length: int) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder whose path has ``length`` bytes, or as few as it can have."""
    shortest = len(os.fsencode(tempfile.gettempdir())) + len("/f12345678")  # What tempfile makes of a prefix.
    return tempfile.TemporaryDirectory(prefix="f", suffix="x" * min(max(0, length - shortest), SUFFIX_MAX))


def _move(execution: Execution, old: bytes, new: bytes) -> Execution:
    """Return the execution as if the code had been in another folder, whose name is as long.

    Python shows where code lies: in tracebacks that a function logs, in warnings, as ``__file__``. Where a case is
    unpacked is nobody's choice, and is not what a replay is about.
    """
    stored = codec.encode(execution)
    if len(old) != len(new) or old not in stored:
        return execution
    return codec.decode(Execution, stored.replace(old, new))


def unpack(files: tuple[CaseFile, ...], folder: Path) -> None:
    """Write ``files``, whose names `flux.case_file` has checked, into a folder that guests can read; once."""
    if folder.is_dir():
        return  # Named by what is in it, in a folder of ours.
    folder.mkdir(mode=0o755)
    for file in files:
        # surrogateescape, as names are bytes on this system.
        path = folder / os.fsdecode(file.path)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Exclusive: nothing that is there already, a link least of all, is written through.
        with path.open("xb") as written:
            written.write(file.content)
        path.chmod(0o644)


def _check_python(case: Case) -> None:
    """Refuse another Python: its own library, and the order in which it does things, are other ones."""
    if case.execution.level.kind == "process" and case.made.python != describe_python():
        raise CaseNotForHereError(
            f"it ran on {case.made.python}, and this is {describe_python()}",
            remedy=f"replay it with a Flux that runs on {case.made.python}",
        )


def _check_packages(case: Case, folder: Path) -> None:
    requirements = find_requirements(folder)
    if requirements is not None and case.made.environment != (key := make_key(requirements, folder)):
        raise CaseNotForHereError(
            f"its packages were those of environment {case.made.environment[:16] or 'none'}, made on "
            f"{case.made.machine}; the same list makes {key[:16]} here",
            remedy=f"replay it with Flux {case.made.flux} on {case.made.machine}",
        )


def _describe_engine(level: Level) -> str:
    return f"{level.kind} ({level.meter})" if level.meter else level.kind


def _compare(case: Case, replay: Replay) -> tuple[str, ...]:
    """Return what was otherwise when it was recorded, a sentence each."""
    recorded, here = case.execution.level, replay.replayed.execution.level
    sentences = []
    if recorded.kind == here.kind == "process" and case.made.python != describe_python():
        sentences.append(f"it was recorded on {case.made.python} and replayed on {describe_python()}")
    if recorded.kind == here.kind and recorded.clock != here.clock:
        sentences.append(f"the guest's clock was held by {recorded.clock}; here it is by {here.clock}")
    return tuple(sentences)
