"""``flux state at``: one row, or a table, as it was at a time, before an execution, or as a snapshot saw it."""

import click

from flux.cli import complete, moments, render
from flux.cli.client import open_client
from flux.cli.failures import UsageError
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, cut, line_cells, pad
from flux.cli.settings import settings
from flux.cli.state_blame import writer_pieces
from flux.cli.trace_list import canonical_since, tell_not_stored

EXIT_NO_SUCH_ROW = 3


@click.command()
@click.argument("table", metavar="TABLE")
@click.argument("key", metavar="[KEY]", required=False)
@click.option("--time", metavar="T", help="As of then: 14:00, 15m (ago), a date, RFC 3339.")
@click.option(
    "--before", metavar="ID", help="As an execution found it.", shell_complete=complete.execution_ids
)
@click.option("--snapshot", metavar="XMIN:XMAX:LIST", help="As a snapshot of PostgreSQL's saw it.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="So many rows at most.",
)
@click.pass_context
def command(
    context: click.Context, table: str, key: str | None, time: str | None, before: str | None, snapshot: str | None,
    count: int,
) -> None:  # fmt: skip
    """One row, or a table, as it was.

    KEY is the primary key's value, or a=1,b=2 when it has several columns; without it all rows are shown.
    """
    if sum(each is not None for each in (time, before, snapshot)) != 1:
        raise UsageError(
            "say as of when, once", remedy="--time 14:00, --before ID, or --snapshot 712:715:713"
        )
    said = settings()
    answer = open_client().get(
        "state",
        "at",
        table=table,
        key=key,
        time=canonical_since(time),
        before=before,
        snapshot=snapshot,
        n=count,
    )
    record = answer.record.of_schema("flux.state-at/1")
    rows = record.records("rows")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(lines(table, key, record, screen.width, whole=said.verbose, quiet=said.quiet))
    stderr = Screen.stderr(colour=False if said.no_color else None)
    for text in _warnings(record, len(rows)):
        stderr.line(Piece(f"! {text}", "yellow"))
    tell_not_stored(record)
    if key is not None and not rows:
        if not said.quiet:
            stderr.line(f"there was no row {table}[{key}] then")
        context.exit(EXIT_NO_SUCH_ROW)


def lines(table: str, key: str | None, record: Record, width: int, *, whole: bool, quiet: bool) -> list[Line]:
    """A line for each column of one row, a line for each row of several."""
    rows = record.records("rows")
    result: list[Line] = []
    if not quiet:
        name = table if key is None else f"{table}[{key}]"
        count = "" if key is not None else f" · {len(rows)} row{'s' * (len(rows) != 1)}"
        result += [[Piece(name, "bold"), f" · {as_of_text(record.record('as_of'))}{count}"], []]
    if key is None:
        return result + _table(rows, set(record.items("gaps")), width, whole=whole)
    for row in rows:
        name_cells = max(map(cells, row.data), default=0)
        for name, value in row.data.items():
            text = render.value_text(value, whole=whole)
            result.append(["  ", Piece(pad(name, name_cells), "bold"), "  ", text])
    written = record.maybe_record("written")
    if written is not None and rows and not quiet:
        result += [
            [],
            ["  last written by  ", *writer_pieces(written, render.Prefixes(), moments.local_now())],
        ]
    return result


def as_of_text(as_of: Record) -> str:
    """``as of 14:02:00``, ``as qk3f81xa found it``."""
    now = moments.local_now()
    time = as_of.maybe_text("time")
    at = (
        moments.clock(moments.read_moment(time, as_of.path("time")), now, milliseconds=True) if time else None
    )
    if (execution := as_of.maybe_text("execution")) is not None:
        return f"as {execution} found it" + (f", at {at}" if at else "")
    return f"as of {at}" if at else f"as snapshot {as_of.text('snapshot')} saw it"


def _table(rows: list[Record], gaps: set[object], width: int, *, whole: bool) -> list[Line]:
    names = list(dict.fromkeys(name for row in rows for name in row.data))
    shown = [
        {
            name: render.value_text(row.data[name], whole=whole, width=32) if name in row.data else ""
            for name in names
        }
        for row in rows
    ]
    widths = {name: max([cells(name), *(cells(row[name]) for row in shown)]) for name in names}
    head: Line = ["  ", Piece("  ".join(pad(name, widths[name]) for name in names), "dim")]
    result: list[Line] = [head] if names else []
    for number, row in enumerate(shown):
        line: Line = [
            "? " if number in gaps else "  ",
            "  ".join(pad(row[name], widths[name]) for name in names),
        ]
        result.append(line if whole or line_cells(line) <= width else [cut(f"{line[0]}{line[1]}", width)])
    return result


def _warnings(record: Record, count: int) -> list[str]:
    found: list[str] = []
    gaps = record.items("gaps")
    if gaps:
        what = "the row is" if count == 1 else f"{len(gaps)} of the rows (marked ?) are"
        found.append(
            f"{what} not as the last recorded change had left it: something changed it past the capture"
        )
    for column, reason in record.record("lost").data.items():
        found.append(f"column {column} is not known: {reason}")
    found += [str(note) for note in record.items("notes")]
    if record.flag("more"):
        found.append(f"there are more rows than these {count}: -n shows up to 10,000")
    return found
