"""``flux schema``: what the JSON that Flux answers with looks like, as JSON Schema.

A schema is printed as it is, with ``--json`` or without: it is JSON already.
"""

import json
from difflib import get_close_matches

import click
from click.shell_completion import CompletionItem

from flux.cli.failures import NoSuchSchema
from flux.cli.screen import Line, Piece, Screen, json_text
from flux.cli.settings import settings


def _names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    from flux.documents import list_kinds

    is_full = incomplete.startswith("flux.")
    offers = {(kind.tag if is_full else kind.name): kind.what for kind in list_kinds().values()}
    return [CompletionItem(name, help=what) for name, what in sorted(offers.items()) if name.startswith(incomplete)]


@click.command()
@click.argument("name", metavar="[NAME]", required=False, shell_complete=_names)
@click.option("--strict", is_flag=True, help="Allow no member and no word but those of this version.")
def command(name: str | None, *, strict: bool) -> None:
    """The JSON Schema of the documents that --json and the API answer with; without NAME, the list of all kinds.

    NAME is what a document's "schema" says: flux.trace/1, or trace for short.
    """
    from flux.documents import find_kind, list_kinds, render

    said, screen = settings(), Screen.stdout()
    if name is not None:
        kind = find_kind(name)
        if kind is None:
            raise _no_such(name, [each.name for each in list_kinds().values()])
        screen.write_raw_json(json.dumps(render(kind, is_strict=strict), ensure_ascii=False, indent=2))
        return
    kinds = sorted(list_kinds().values(), key=lambda kind: kind.name)
    if said.json:
        rows = [{"name": kind.tag, "what": kind.what, "sources": list(kind.sources)} for kind in kinds]
        screen.write_raw_json(json_text({"schema": "flux.schemas/1", "kinds": rows}))
        return
    width = max(len(kind.tag) for kind in kinds)
    lines: list[Line] = [["  ", Piece(f"{kind.tag:<{width}}", "bold"), f"  {kind.what}"] for kind in kinds]
    screen.page(lines)


def _no_such(name: str, names: list[str]) -> NoSuchSchema:
    near = get_close_matches(name.removeprefix("flux.").partition("/")[0], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return NoSuchSchema(f'no document is called "{name[:200]}"{hint}', remedy="flux schema    lists all kinds")
