"""The pages' own style sheet and scripts, which hold nothing of anybody and need no token.

Only names that lie in the folder are answered: what is asked for is looked up, never put into a path.
"""

from pathlib import Path

import trio

from flux.message import HttpResponse

STATIC = Path(__file__).parents[2] / "web" / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


async def find_file(name: str) -> HttpResponse | None:
    """Return a file; None when there is none of this name."""
    return await trio.to_thread.run_sync(_read, name)


def _read(name: str) -> HttpResponse | None:
    found = next((path for path in STATIC.iterdir() if path.name == name and path.suffix in _TYPES), None)
    if found is None:
        return None
    # Asked for again with each page: it may be another version of Flux that answers by then.
    headers = (("content-type", _TYPES[found.suffix]), ("cache-control", "no-cache"))
    return HttpResponse(200, headers, found.read_bytes())
