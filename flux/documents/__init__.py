"""What Flux says in JSON: each kind of document, as a JSON Schema.

What the command line prints with ``--json``, and what the console's API answers, says in its first member what it is:
``"schema": "flux.trace/1"``. This package describes each such kind, member by member, and the two whose documents
have no such member (`flux.documents.told`). It is no part of how documents are made; the tests hold each document that
they see to it, and a kind that is not described fails them (``tests/documents.py``). ``flux schema`` prints the
schemas, and ``docs/json-documents.md`` is made of them.

The number changes when a member is taken away or comes to mean something else. Members, and words of those that are
one of a few, may be added without it. So there are two forms of a schema, see `flux.documents.shape`.
"""

from collections.abc import Mapping
from functools import cache

from flux.documents import debugging, executions, operations, project, replays, state, told
from flux.documents.shape import Kind, render

__all__ = ["AREAS", "Kind", "find_kind", "list_kinds", "render"]

AREAS: Mapping[str, tuple[Kind, ...]] = {
    "Executions": executions.KINDS,
    "Run again": replays.KINDS,
    "Step by step": debugging.KINDS,
    "Rows": state.KINDS,
    "The server": operations.KINDS,
    "The project and Flux itself": project.KINDS,
    "Without the member schema": told.KINDS,
}
"""All kinds, by what they are about."""


@cache
def list_kinds() -> Mapping[str, Kind]:
    """Return all kinds by what their documents say that they are: ``flux.trace/1``."""
    return {kind.tag: kind for kinds in AREAS.values() for kind in kinds}


def find_kind(name: str) -> Kind | None:
    """Return the kind that ``trace``, ``flux.trace`` or ``flux.trace/1`` names, or None."""
    wanted = name if name.startswith("flux.") else f"flux.{name}"
    return next((kind for tag, kind in list_kinds().items() if wanted in (tag, tag.rpartition("/")[0])), None)
