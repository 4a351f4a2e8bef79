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

from flux.brought import BroughtAnswer
from flux.case_file import Case, CaseFile
from flux.errors import OperatorError
from flux.execution import Level
from flux.project import find_requirements, read_project
from flux.supervisor.case_export import describe_python
from flux.supervisor.deployments import Deployments, with_isolation
from flux.supervisor.environments import FOLDER_NAME as ENVIRONMENTS
from flux.supervisor.environments import Environments, make_key
from flux.supervisor.isolation import Isolation
from flux.supervisor.replay import Replay, Replayer
from flux.supervisor.shelf import Shelf
from flux.tenant import Tenant

STRICT = "strict"


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
    with tempfile.TemporaryDirectory(prefix="flux-case-") as folder:
        artifacts = Path(folder) / "artifacts"
        artifacts.mkdir(mode=0o700)
        packages = Path(folder) if root is None else root / ".flux"
        async with trio.open_nursery() as nursery:
            walls = Isolation(Tenant())
            deployments = Deployments(
                nursery,
                artifacts,
                Environments(packages / ENVIRONMENTS, installs=False),
                Tenant(),
                idle_workers=1,
                isolation=isolation,
                on_output=on_output,
            )
            yield OfflineReplayer(deployments, artifacts, root, isolation, walls)
            nursery.cancel_scope.cancel()


class OfflineReplayer:
    """Replays cases, one after the other; made by `open_offline`."""

    def __init__(
        self,
        deployments: Deployments,
        artifacts: Path,
        root: Path | None,
        isolation: str | None,
        walls: Isolation,
    ) -> None:
        self._artifacts = artifacts
        self._root = root
        self._isolation = isolation
        self._walls = walls
        shelf = Shelf(deployments, artifacts if root is None else root)
        self._replayer = Replayer(shelf, None, Tenant().schema)

    async def replay(
        self, case: Case, on: str | None = None, answers: Mapping[int, BroughtAnswer] | None = None
    ) -> Replay:
        """Run the case again on its own code, or ``on`` the project's folder or a commit of it.

        Raises what keeps it from being run: `CaseNotForHereError`, `EnvironmentMissingError`,
        `IsolationUnavailableError` and their kin.
        """
        if on is None:
            return await self._replay_own(case, answers or {})
        if self._root is None:
            raise NoCodeHereError(
                "there is no project here to replay the case on", remedy="go into the project's folder"
            )
        await self._walls.probe(with_isolation(read_project(self._root), self._isolation))
        replay = await self._replayer.replay(case.execution, on, answers or {})
        return attrs.evolve(replay, notes=(*replay.notes, *_compare(case, replay)))

    async def _replay_own(self, case: Case, answers: Mapping[int, BroughtAnswer]) -> Replay:
        assert self._isolation is not None, "a case does not choose its own walls"
        _check_python(case)
        folder = self._artifacts / case.artifact
        if not folder.is_dir():
            await trio.to_thread.run_sync(unpack, case.files, folder)
        await trio.to_thread.run_sync(_check_packages, case, folder)
        await self._walls.probe(with_isolation(read_project(folder), self._isolation))
        # The files are those of the case, which may lack a password that the deployment's had.
        original = attrs.evolve(case.execution, deployment=case.artifact)
        replay = await self._replayer.replay(original, None, answers)
        recorded, here = case.execution.level, replay.replayed.execution.level
        if recorded.kind != here.kind or recorded.meter != here.meter:
            raise CaseNotForHereError(
                f"it ran in {_describe_engine(recorded)}, and here it would run in {_describe_engine(here)}",
                remedy=f"replay it with Flux {case.made.flux}, which recorded it",
            )
        notes = (*replay.notes, *case.hidden, *_compare(case, replay))
        # It ran on the deployment's own code all the same.
        deployment = attrs.evolve(replay.deployment, id=case.execution.deployment)
        return attrs.evolve(replay, original=case.execution, deployment=deployment, notes=notes)


def unpack(files: tuple[CaseFile, ...], folder: Path) -> None:
    """Write ``files``, whose names `flux.case_file` has checked, into a new folder that guests can read."""
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
