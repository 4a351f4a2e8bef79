"""``flux state blame``: who wrote each value of one row.

For each column the last change that was committed and gave it the value that it has. What was tried and rolled back is
listed apart, as it left nothing. Where the value is not what the last recorded change had left, nobody is named.
"""

from datetime import datetime

import click

from flux.cli import moments, render
from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, cut, line_cells, pad
from flux.cli.settings import settings
from flux.cli.trace_list import tell_not_stored


@click.command()
@click.argument("table", metavar="TABLE")
@click.argument("key", metavar="KEY")
def command(table: str, key: str) -> None:
    """Who wrote each value of one row.

    KEY is the primary key's value, or a=1,b=2 when it has several columns.
    """
    said = settings()
    answer = open_client().get("state", "blame", table=table, key=key)
    record = answer.record.of_schema("flux.state-blame/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.page(lines(table, key, record, screen.width, whole=said.verbose, quiet=said.quiet))
    tell_not_stored(record)


def lines(table: str, key: str, record: Record, width: int, *, whole: bool, quiet: bool) -> list[Line]:
    """A line for each column, then what was rolled back."""
    now = moments.local_now()
    columns = record.record("columns")
    names = list(columns.data)
    result: list[Line] = []
    if not quiet:
        result += [[Piece(f"{table}[{key}]", "bold"), _state(record)], []]
    writers = {name: columns.record(name) for name in names}
    known = (each.maybe_text("execution") for each in writers.values())
    prefixes = render.Prefixes(name for name in known if name)
    sources = {name: writer_pieces(writer, prefixes, now) for name, writer in writers.items()}
    name_cells = max(map(cells, names), default=0)
    room = max(12, width - name_cells - 6 - max(map(line_cells, sources.values()), default=0))
    values = {name: render.value_text(writer.get("value"), whole=whole) for name, writer in writers.items()}
    value_cells = min(room, max(map(cells, values.values()), default=0))
    for name in names:
        value = values[name] if whole else cut(values[name], value_cells)
        result.append(
            ["  ", Piece(pad(name, name_cells), "bold"), "  ", pad(value, value_cells), "  ", *sources[name]]
        )
    if (deleted := record.maybe_record("deleted")) is not None:
        result.append(["  ", "deleted by  ", *writer_pieces(deleted, render.Prefixes(), now)])
    undone = record.records("rolled_back")
    if undone:
        result += [[], [Piece("  tried and rolled back", "yellow")]]
    for version in undone:
        time = moments.clock(moments.read_moment(version.text("at"), version.path("at")), now)
        for index, text in enumerate(render.changes(version, whole=whole)):
            who = prefixes.pieces(version.maybe_text("execution") or "?")
            where: Line = [*who, " ", version.maybe_text("function") or ""] if index == 0 else []
            left = f"    {time if index == 0 else ' ' * cells(time)}  "
            result.append(
                [
                    left,
                    text if whole else cut(text, max(24, width - 40)),
                    "  ",
                    *where,
                ]
            )
    return result


def _state(record: Record) -> str:
    if record.flag("exists"):
        return " · as it is now"
    return (
        " · it is gone"
        if record.maybe_record("deleted") is not None
        else " · it is gone, and nobody saw it go"
    )


def writer_pieces(writer: Record, prefixes: render.Prefixes, now: datetime) -> list[Piece | str]:
    """Who wrote it and when, or why that is not known."""
    at = writer.maybe_text("at")
    ago = moments.ago(moments.read_moment(at, writer.path("at")), now) if at else ""
    if writer.flag("outside"):
        return [Piece("outside Flux", "yellow"), f"  {ago}"]
    if (migration := writer.maybe_text("migration")) is not None:
        return [Piece(cut(migration, 34), "cyan"), f"  {ago}"]
    execution = writer.maybe_text("execution")
    if execution is not None:
        path = writer.maybe_text("path")
        route = (
            f"{writer.maybe_text('method') or '?'} {path}" if path else writer.maybe_text("function") or "?"
        )
        sha = (writer.maybe_text("sha") or "").removeprefix("nogit-")[:7]
        return [*prefixes.pieces(execution), " ", cut(route, 24), f"  {ago}  ", Piece(sha, "dim")]
    if at is not None:
        return [Piece("its record is gone", "yellow"), f"  {ago}"]
    between = [
        moments.clock(moments.read_moment(text, writer.path(name)), now)
        for name in ("after", "before")
        if (text := writer.maybe_text(name)) is not None
    ]
    when = {0: "", 1: f", after {between[0]}" if between else "", 2: ", between " + " and ".join(between)}[
        len(between)
    ]
    return [Piece(f"not known: {writer.maybe_text('reason') or ''}{when}", "yellow")]
