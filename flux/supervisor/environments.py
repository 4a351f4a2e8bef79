"""The packages of a project: found when they were installed before, else installed.

An *environment* is a folder of packages, named by a hash of all that decides what is in it:
what ``requirements.txt`` asks for, the Python that it is for, and the packages that the guest
SDK brings. The same text is the same environment, for every deployment and every commit; another
text is another one, beside the first. None is ever changed. So what was installed once is there
without a network, and code of an older commit finds what it had.

    .flux/environments/<key>/manifest.json     what it is, with a hash of each file
    .flux/environments/<key>/site-packages/    what guests read
    .flux/environments/<key>.lock              held while it is built
    .flux/environments/unfinished-<key>/       a build under way, or what was left of one

It appears under its name by a rename, when it is whole. What a build was cut short of is
taken away by the next one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sysconfig
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import attrs
import trio

from flux.errors import OperatorError
from flux.project import UnreadableProjectError, check_inside, find_requirements, read_inside
from flux.requirements import Requirements, RequirementsError
from flux.supervisor.environment_build import InstallFailedError, build_environment
from flux.supervisor.environment_installer import (
    check_sources,
    check_tenant,
    find_installer,
    list_sdk_pins,
    name_python,
)
from flux.supervisor.environment_tree import (
    BYTES_MAX,
    FORMAT,
    MANIFEST_NAME,
    PACKAGES_NAME,
    EnvironmentDamagedError,
    Manifest,
    Seals,
)

FOLDER_NAME = "environments"
KEY_DIGITS = 16
LOCK_PAUSE_S = 0.1
_UNFINISHED = "unfinished-"


class EnvironmentMissingError(OperatorError):
    """Packages are needed that are not installed, and nothing may be installed just now."""

    code = "FLX343"
    exit_code = 6


@attrs.frozen
class Environment:
    """Packages that are installed and as they were."""

    key: str
    """Hash of all that decides what is in it."""
    packages_folder: Path
    """What guests read."""
    source: str
    """The file that asks for them: ``requirements.txt``."""
    packages: tuple[tuple[str, str], ...]
    """Name and version of each, in order."""
    modules: frozenset[str]
    """What can be imported from it, at the top."""
    installer: str
    """What installed it: ``pip 26.3``."""
    ran_code: bool
    """Whether packages could run code of their own while it was built."""
    was_built: bool
    """It was just now; False when it had been before."""


class Environments:
    """The environments below one folder."""

    def __init__(
        self,
        folder: Path,
        tell: Callable[[str], None] = lambda _sentence: None,
        *,
        installs: bool = True,
        for_tenant: bool = False,
    ) -> None:
        """``tell`` hears what takes its time, in a sentence each. Without ``installs`` nothing is built: what is
        not there is refused. ``for_tenant``: whose project it is has no say over the server that installs."""
        self._folder = folder
        self._installs = installs
        self._for_tenant = for_tenant
        self._tell = tell
        self._seals = Seals()

    async def find(self, root: Path) -> Environment | None:
        """Return the environment of the project in ``root`` if it is there and needs one; else None."""
        requirements = await trio.to_thread.run_sync(find_requirements, root)
        if requirements is None:
            return None
        key = await trio.to_thread.run_sync(make_key, requirements, root)
        return await self._look(requirements, key)

    async def provide(
        self, root: Path, *, allow_sdist: bool = False, installer: str | None = None, mend: bool = False
    ) -> Environment | None:
        """Return the environment of the project in ``root``, built if it is not there; None when it needs none.

        ``allow_sdist``: packages may run code of their own while they are built. ``installer``: which one
        is to be used. ``mend``: one that is damaged is built anew. Raises what is wrong with the request, an
        `InstallFailedError` or an `EnvironmentDamagedError`.
        """
        requirements = await trio.to_thread.run_sync(find_requirements, root)
        if requirements is None:
            return None
        if self._for_tenant:
            check_tenant(requirements)
        key = await trio.to_thread.run_sync(make_key, requirements, root)
        try:
            if (found := await self._look(requirements, key)) is not None:
                return found
        except EnvironmentDamagedError as error:
            if not mend:
                raise
            self._tell(error.message)
        if not self._installs:
            raise EnvironmentMissingError(
                f"the packages that {requirements.source} asks for ({count_packages(requirements.packages)}) are not "
                f"installed in {self._folder}",
                remedy=f"run flux build in the project whose {requirements.source} is the same, and try again there",
            )
        check_sources(requirements, allow_sdist=allow_sdist)
        try:
            async with self._held(key):
                return await self._build(requirements, root, key, installer, allow_sdist=allow_sdist)
        except OSError as error:
            raise InstallFailedError(
                f"{error.filename or self._folder} can't be written: {error.strerror}",
                remedy=f"free space there, or make the folder yours: ls -ld {self._folder}",
            ) from error

    async def _look(
        self, requirements: Requirements, key: str, *, was_built: bool = False
    ) -> Environment | None:
        folder = self._folder / key[:KEY_DIGITS]
        if not folder.exists():
            return None
        manifest: Manifest = await trio.to_thread.run_sync(self._seals.check, folder)
        if manifest.key != key:
            raise EnvironmentDamagedError(
                f"the packages in {folder} are not as they were installed: {MANIFEST_NAME} is another one's",
                remedy="find out who writes there; flux build installs them anew",
            )
        return Environment(
            key,
            (folder / PACKAGES_NAME).absolute(),
            requirements.source,
            tuple(manifest.packages),
            manifest.modules,
            manifest.installer,
            manifest.ran_code,
            was_built,
        )

    async def _build(
        self, requirements: Requirements, root: Path, key: str, installer: str | None, *, allow_sdist: bool
    ) -> Environment:
        """Build it, while its lock is held; somebody else may have done so while we waited for that."""
        with contextlib.suppress(EnvironmentDamagedError):
            if (found := await self._look(requirements, key)) is not None:
                return found
        began = trio.current_time()
        chosen = await trio.to_thread.run_sync(find_installer, installer)
        self._tell(
            f"installing what {requirements.source} asks for ({count_packages(requirements.packages)}) with "
            f"{chosen.text}" + (", and running the code that builds them" if allow_sdist else "")
        )
        await trio.to_thread.run_sync(self._sweep)
        final = self._folder / key[:KEY_DIGITS]
        work = self._folder / f"{_UNFINISHED}{key[:KEY_DIGITS]}"
        # Ours, as the lock is: what is there was left by somebody who held it before.
        await trio.to_thread.run_sync(partial(shutil.rmtree, work, ignore_errors=True))
        work.mkdir(mode=0o700)
        try:
            built = await build_environment(
                requirements,
                root,
                work,
                key,
                chosen,
                allow_sdist=allow_sdist,
                for_tenant=self._for_tenant,
                final=final,
                bytes_max=BYTES_MAX,
            )
            if final.exists():
                final.rename(work / "damaged")
            built.rename(final)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(shutil.rmtree, work, ignore_errors=True))
        found = await self._look(requirements, key, was_built=True)
        assert found is not None, "it was renamed to this name"
        self._tell(f"installed {count_packages(found.packages)} in {trio.current_time() - began:.1f} s")
        return found

    @contextlib.asynccontextmanager
    async def _held(self, key: str) -> AsyncIterator[None]:
        """Be the only one who builds this environment for as long as the block lasts."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _open_lock(self._folder / f"{key[:KEY_DIGITS]}.lock") as lock:
            is_told = False
            while not _try_lock(lock):
                if not is_told:
                    self._tell("another process installs these packages: waiting for it")
                    is_told = True
                await trio.sleep(LOCK_PAUSE_S)
            yield

    def _sweep(self) -> None:
        """Take away what builds left that were cut short: theirs is a lock that nobody holds."""
        for left in sorted(self._folder.glob(f"{_UNFINISHED}*")):
            name = left.name.removeprefix(_UNFINISHED)
            with _open_lock(self._folder / f"{name}.lock") as lock:
                if _try_lock(lock):
                    shutil.rmtree(left, ignore_errors=True)


def count_packages(packages: Sequence[object]) -> str:
    """Say how many there are."""
    return f"{len(packages)} package{'s' * (len(packages) != 1)}"


def make_key(requirements: Requirements, root: Path) -> str:
    """Return the hash of all that decides what is in an environment; raise `RequirementsError`.

    The installer is not among it: the same lines are the same environment, whoever carried them out. Nor is
    Python's last number: packages are made for all of 3.13.
    """
    decides = {
        "format": FORMAT,
        "python": [name_python(), sysconfig.get_platform()],
        "sdk": list_sdk_pins(),
        "packages": [[package.text, *package.hashes] for package in requirements.packages],
        "constraints": [[package.text, *package.hashes] for package in requirements.constraints],
        "options": requirements.options,
        "wheels": _hash_wheels(requirements, root),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _hash_wheels(requirements: Requirements, root: Path) -> dict[str, str]:
    """Return the SHA-256 of each wheel that lies on this machine."""
    found = {}
    for package in requirements.packages:
        if package.wheel is not None:
            check_inside(root, package.wheel)
            try:
                found[package.wheel] = hashlib.sha256(read_inside(root, package.wheel)).hexdigest()
            except UnreadableProjectError as error:
                raise RequirementsError(
                    f"{package.origin}  {error.message.removeprefix(f'{root}/')}",
                    remedy="a path is relative to the file that names it",
                ) from error
    return found


@contextlib.contextmanager
def _open_lock(path: Path) -> Iterator[BinaryIO]:
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
        yield file


def _try_lock(file: BinaryIO) -> bool:
    """Take the lock unless somebody has it. It goes with the file, however its process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
