"""Noticing that the project's files have changed.

Editors save in strange ways (a temporary file renamed over the old one, several
writes), so changes are collected until it has been quiet for a moment. A change says
"look again", never what is there now.
"""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import trio
import watchfiles

from flux.requirements import PYPROJECT_NAME

QUIET_MS = 40
LONGEST_MS = 400
"""Under constant writing, changes are reported this often all the same."""

IGNORED_SUFFIXES = (".pyc", ".swp", ".swx", "~", ".tmp")


async def watch_project(root: Path, functions: str, changed: trio.MemorySendChannel[tuple[str, ...]]) -> None:
    """Send the paths that have changed, relative to ``root``, until cancelled.

    Watched are ``flux.toml``, ``.env.local``, what says which packages there are to be, the functions and the
    migrations; not ``.flux/``, where Postgres writes all the time. A folder that is made later is watched from then on.
    """
    watcher = _Watcher(root, (functions, "migrations"), changed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_when_cancelled, watcher.stop)
        for folder in watcher.folders:
            watcher.watch_folder(nursery, folder)
        await watcher.watch_root(nursery)


async def _stop_when_cancelled(stop: trio.Event) -> None:
    # watchfiles waits in a thread: told to stop it ends at once, only cancelled it ends seconds later.
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


class _Watcher:
    """Watches a project's folder, and in it the folders with code and migrations."""

    def __init__(
        self, root: Path, folders: tuple[str, ...], changed: trio.MemorySendChannel[tuple[str, ...]]
    ) -> None:
        self._root = root
        self._changed = changed
        self._watched: dict[str, trio.CancelScope] = {}
        self.folders = folders
        """Folders that are watched with all that is in them, relative to the root."""
        self.stop = trio.Event()
        """Ends all of it."""

    def watch_folder(self, nursery: trio.Nursery, folder: str) -> None:
        """Watch a folder that exists; the watch of one that was there before it sees nothing any more."""
        if folder in self._watched:
            self._watched.pop(folder).cancel()
        if (self._root / folder).is_dir():
            self._watched[folder] = trio.CancelScope()
            nursery.start_soon(self._watch_folder, folder, self._watched[folder])

    async def _watch_folder(self, folder: str, scope: trio.CancelScope) -> None:
        stop = trio.Event()
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_when_cancelled, stop)
                async for paths in self._paths(self._root / folder, stop, recursive=True):
                    await self._tell(path for path in paths if not _is_noise(path))

    async def watch_root(self, nursery: trio.Nursery) -> None:
        """Watch the files beside the folders, and folders that are made."""
        watched = {self._root / name for name in ("flux.toml", ".env.local", PYPROJECT_NAME, *self.folders)}
        async for paths in self._paths(self._root, self.stop, recursive=False):
            for folder in self.folders:
                if self._root / folder in paths:
                    self.watch_folder(nursery, folder)
            await self._tell(path for path in paths if path in watched or _names_packages(path))

    async def _paths(self, folder: Path, stop: trio.Event, *, recursive: bool) -> AsyncIterator[set[Path]]:
        async for changes in watchfiles.awatch(
            folder, recursive=recursive, stop_event=stop, debounce=LONGEST_MS, step=QUIET_MS, rust_timeout=1000,
            watch_filter=None,
        ):  # fmt: skip
            yield {Path(path) for _, path in changes}

    async def _tell(self, paths: Iterable[Path]) -> None:
        if names := sorted(str(path.relative_to(self._root)) for path in paths):
            await self._changed.send(tuple(names))


def _names_packages(path: Path) -> bool:
    # requirements.txt may refer to others beside it: constraints.txt, requirements-base.txt ...
    return path.suffix == ".txt" and path.name.startswith(("requirements", "constraints"))


def _is_noise(path: Path) -> bool:
    return path.name.endswith(IGNORED_SUFFIXES) or "__pycache__" in path.parts
