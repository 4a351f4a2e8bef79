"""Writing the files of ``flux deploy --target``: into the project's folder, and over nobody's work."""

import json
import sys
from pathlib import Path

from flux import __version__
from flux.cli.screen import Line, Piece, Screen
from flux.cli.settings import settings
from flux.errors import OperatorError


class TargetExistsError(OperatorError):
    """A file is there already, and is not what would be written."""

    code = "FLX634"


def write_files(target: str, workers: int, *, force: bool) -> None:
    """Write the files of ``target`` and say which, and what is next; raise `TargetExistsError`."""
    from flux.deploy_targets import Site, describe_next, write_target
    from flux.project import find_project, read_project

    root = find_project(Path()).resolve()
    config = read_project(root).config
    site = Site(
        name=config.project.name, root=str(root), user=_name_owner(root), python=sys.executable,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}", flux_version=__version__,
        port=config.dev.port or 4000, workers=workers, isolation=config.sandbox.isolation,
        database_url=config.database.url,
    )  # fmt: skip
    files = write_target(target, site)
    changed = [path for path, text in files.items() if (root / path).exists() and _read(root / path) != text]
    if changed and not force:
        raise TargetExistsError(
            f"{', '.join(changed)} is there and is not what would be written: nothing was written",
            remedy="compare, or write over it with --force",
        )
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    following = describe_next(target, site)
    said, screen = settings(), Screen.stdout()
    if said.json:
        document = {"schema": "flux.target/1", "target": target, "files": list(files), "next": following}
        screen.write_raw_json(json.dumps(document))
        return
    lines: list[Line] = [[Piece("✓ ", "green"), path] for path in files]
    if not said.quiet:
        lines += [[Piece(f"  {line}", "yellow" if line.startswith("!") else "dim")] for line in following]
    screen.page(lines)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _name_owner(root: Path) -> str:
    """Who owns the project's folder: as whom the server can write beside it."""
    try:
        return root.owner()
    except KeyError:
        return str(root.stat().st_uid)
