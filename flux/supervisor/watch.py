"""Noticing that the project's files have changed.

Editors save in strange ways (a temporary file renamed over the old one, several
writes), so changes are collected until it has been quiet for a moment. A change says
"look again", never what is there now.
"""

from pathlib import Path

import trio
import watchfiles

QUIET_MS = 40
LONGEST_MS = 400
"""Under constant writing, changes are reported this often all the same."""

IGNORED_SUFFIXES = (".pyc", ".swp", ".swx", "~", ".tmp")


async def watch_project(root: Path, functions: str, changed: trio.MemorySendChannel[tuple[str, ...]]) -> None:
    """Send the paths that have changed, relative to ``root``, until cancelled.

    Watched are ``flux.toml``, ``.env.local``, the functions and the migrations; not ``.flux/``, where Postgres
    writes all the time.
    """
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_when_cancelled, stop)
        nursery.start_soon(_watch, root, root, False, stop, changed)
        for folder in (functions, "migrations"):
            if (root / folder).is_dir():
                nursery.start_soon(_watch, root, root / folder, True, stop, changed)


async def _stop_when_cancelled(stop: trio.Event) -> None:
    # watchfiles waits in a thread: told to stop it ends at once, only cancelled it ends seconds later.
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


async def _watch(
    root: Path, folder: Path, recursive: bool, stop: trio.Event, send: trio.MemorySendChannel[tuple[str, ...]]
) -> None:
    async for changes in watchfiles.awatch(
        folder, recursive=recursive, stop_event=stop, debounce=LONGEST_MS, step=QUIET_MS, rust_timeout=1000,
        watch_filter=None,
    ):  # fmt: skip
        paths = {Path(path) for _, path in changes}
        names = sorted(str(path.relative_to(root)) for path in paths if _matters(path, root, recursive))
        if names:
            await send.send(tuple(names))


def _matters(path: Path, root: Path, recursive: bool) -> bool:
    if path.name.endswith(IGNORED_SUFFIXES) or "__pycache__" in path.parts:
        return False
    return recursive or path in (root / "flux.toml", root / ".env.local")
