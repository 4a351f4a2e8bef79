"""``flux errors``: failures by kind, the most frequent first."""

from typing import Any

import click

from flux.cli import moments, render
from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cut, json_text, wrap
from flux.cli.settings import settings
from flux.cli.trace_list import canonical_since, tell_not_stored


@click.command()
@click.option("--since", metavar="T", help="Only since then: 1h (ago), 14:00, a date, RFC 3339.")
def command(since: str | None) -> None:
    """Failures by kind, the most frequent first."""
    said = settings()
    answer = open_client().get("errors", since=canonical_since(since))
    groups = answer.record.of_schema("flux.errors/1").records("groups")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    total = sum(int(group.number("count")) for group in groups)
    lines: list[Line] = []
    period = f" since {since}" if since else ""
    if groups and not said.quiet:
        kinds = f"{len(groups)} kind{'s' * (len(groups) != 1)} of failure"
        lines += [[Piece(kinds, "bold"), f" · {total} execution{'s' * (total != 1)}{period}"], []]
    count_cells = len(str(max((int(group.number("count")) for group in groups), default=0)))
    for group in sorted(groups, key=lambda group: -group.number("count")):
        lines += _group(group, count_cells, screen.width, quiet=said.quiet)
    screen.page(lines)
    tell_not_stored(answer.record)
    if not groups and not said.quiet:
        Screen.stderr().line(f"no failures{period}")


def _group(group: Record, count_cells: int, width: int, *, quiet: bool) -> list[Line]:
    now = moments.local_now()
    # The signature is what they have in common; read as a sentence it is the last error and its place.
    text, where = render.error_parts(group.data.get("error") or group.get("signature"))
    indent = count_cells + 5
    if not settings().verbose:
        text = cut(text, 2 * (width - indent))
    first, *rest = wrap(f"{text}   {where}" if where else text, width - indent)
    result: list[Line] = [
        [Piece(f"  {group.number('count'):>{count_cells}g}×  ", "bold"), Piece(first, "red bold")]
    ]
    result += [[" " * indent, Piece(line, "red bold")] for line in rest]
    last = moments.read_moment(group.text("last"), group.path("last"))
    began = moments.read_moment(group.text("first"), group.path("first"))
    functions = ", ".join(
        item if isinstance(item, str) else json_text(item) for item in group.items("functions")
    )
    ago, since = moments.ago(last, now), moments.ago(began, now)
    story = f"{ago if ago == since else f'last {ago}, first {since}'} · {functions}"
    result += [[" " * indent, Piece(line, "dim")] for line in wrap(story, width - indent)]
    if not quiet:
        result.append([" " * indent, Piece(f"flux why {_sample(group.get('sample'))}", "cyan")])
    return result


def _sample(sample: Any) -> str:
    if isinstance(sample, dict):
        return Record(sample, "sample").text("name")
    return sample if isinstance(sample, str) else json_text(sample)
