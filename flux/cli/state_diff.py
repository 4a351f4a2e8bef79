"""``flux state diff``: what became of a table's rows between two times."""

from typing import Any

import click

from flux.cli import moments, render
from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cut
from flux.cli.settings import settings
from flux.cli.state_blame import writer_pieces
from flux.cli.trace_list import canonical_since, tell_not_stored


@click.command()
@click.argument("table", metavar="TABLE")
@click.option(
    "--from",
    "since",
    metavar="T",
    required=True,
    help="The earlier time: 14:00, 15m (ago), a date, RFC 3339.",
)
@click.option("--to", "until", metavar="T", required=True, help="The later time, likewise.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="So many rows at most.",
)
def command(table: str, since: str, until: str, count: int) -> None:
    """What became of a table's rows between two times, and who changed them."""
    said = settings()
    query: dict[str, Any] = {"from": canonical_since(since), "to": canonical_since(until)}
    answer = open_client().get("state", "diff", table=table, n=count, **query)
    record = answer.record.of_schema("flux.state-diff/1")
    screen = Screen.stdout()
    stderr = Screen.stderr(colour=False if said.no_color else None)
    if said.json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(lines(table, record, screen.width, whole=said.verbose, quiet=said.quiet))
    for note in record.items("notes"):
        stderr.line(Piece(f"! {note}", "yellow"))
    if record.flag("more"):
        stderr.line(Piece(f"! more than {count} rows have changed: -n shows up to 10,000", "yellow"))
    tell_not_stored(record)
    if not record.items("changes") and not said.quiet and not said.json:
        undone = int(record.number("undone"))
        back = f"; {undone} row{'s' * (undone != 1)} changed and changed back" if undone else ""
        stderr.line(f"no row of {table} is another{back}")


def lines(table: str, record: Record, width: int, *, whole: bool, quiet: bool) -> list[Line]:
    """A block for each row that is another."""
    changes = record.records("changes")
    now = moments.local_now()
    result: list[Line] = []
    if changes and not quiet:
        counts = {
            op: sum(change.text("op") == op for change in changes) for op in ("insert", "update", "delete")
        }
        words = {"insert": "came", "update": "changed", "delete": "went"}
        told = " · ".join(f"{count} {words[op]}" for op, count in counts.items() if count)
        ends = [record.record(name).text("time") for name in ("from", "to")]
        times = [moments.clock(moments.read_moment(text, "time"), now) for text in ends]
        result += [[Piece(table, "bold"), f" · {times[0]} to {times[1]} · {told}"], []]
    known = [writer.maybe_text("execution") for change in changes for writer in change.records("writers")]
    prefixes = render.Prefixes(name for name in known if name)
    for change in changes:
        name = (
            f"{int(change.number('count'))} ×"
            if change.data.get("key") is None
            else render.row_name(table, change.get("key"))
        )
        result.append(
            [
                "  ",
                Piece(name, "bold"),
                Piece("  ? changed past the capture before", "yellow") if change.flag("gap") else "",
            ]
        )
        result += [
            ["    ", text if whole else cut(text, width - 4)] for text in render.changes(change, whole=whole)
        ]
        for writer in change.records("writers"):
            result.append(["      ", *writer_pieces(writer, prefixes, now)])
        unnamed = int(change.number("count")) - len(change.records("writers"))
        if change.data.get("key") is not None and unnamed > 0 and change.records("writers"):
            result.append(["      ", Piece(f"{int(change.number('count'))} changes in all", "dim")])
    return result
