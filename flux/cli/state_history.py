"""``flux state history``: every version of one row, and what made it.

A change that was rolled back is listed too, without a number: it never was the
row's state. A change by a migration of the project's names it. A change from outside
Flux is said to be from outside; the history does not claim what it did not see.
"""

from typing import Any

import click

from flux.cli import moments, render
from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, cut, json_text, line_cells, pad, wrap
from flux.cli.settings import settings
from flux.cli.trace_list import tell_not_stored


@click.command()
@click.argument("table", metavar="TABLE")
@click.argument("key", metavar="KEY")
def command(table: str, key: str) -> None:
    """Every version of one row, newest first.

    KEY is the primary key's value, or a=1,b=2 when it has several columns.
    """
    said = settings()
    answer = open_client().get("state", "history", table=table, key=key)
    record = answer.record.of_schema("flux.state-history/1")
    versions = record.records("versions")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.page(lines(table, key, versions, screen.width, whole=said.verbose, quiet=said.quiet))
    for note in record.items("notes") if not said.quiet else ():
        Screen.stderr().line(Piece("! ", "yellow"), str(note))
    tell_not_stored(record)
    if not versions and not said.quiet:
        Screen.stderr().line(f"no change of {table}[{key}] is recorded")


def lines(
    table: str, key: str, versions: list[Record], width: int, *, whole: bool, quiet: bool
) -> list[Line]:
    """The whole history, newest first."""
    now = moments.local_now()
    dated = sorted(
        ((moments.read_moment(version.text("at"), version.path("at")), version) for version in versions),
        key=lambda pair: pair[0], reverse=True,
    )  # fmt: skip
    if not dated:
        return []
    result: list[Line] = (
        [] if quiet else [*_head(table, key, dated[-1][0].strftime("%Y-%m-%d"), versions, width), []]
    )
    executions = [_execution(version) for version in versions]
    prefixes = render.Prefixes(name for name in executions if name)
    times = [moments.clock(at, now) for at, _ in dated]
    time_cells = max(map(cells, times))
    sources = [_source(version, prefixes) for _, version in dated]
    room = max(24, width - (2 + 3 + 1) - time_cells - 2 - 2 - max(map(line_cells, sources)))
    for time, source, (_, version) in zip(times, sources, dated, strict=True):
        for index, text in enumerate(render.changes(version, whole=whole)):
            shown = text if whole else cut(text, room)
            if index:
                result.append([" " * (2 + 4 + time_cells + 2), shown])
                continue
            left: list[Piece | str] = [
                "  ", _number(version), " ", Piece(pad(time, time_cells), "dim"), "  ", pad(shown, room),
            ]  # fmt: skip
            if line_cells(left) + 2 + line_cells(source) <= max(width, 80) or not whole:
                result.append([*left, "  ", *source])
            else:
                result += [left, [" " * (2 + 4 + time_cells + 2), *source]]
    return result


def _head(table: str, key: str, since: str, versions: list[Record], width: int) -> list[Line]:
    numbered = sum(version.flag("committed") for version in versions)
    undone = len(versions) - numbered
    parts = [f"{numbered} version{'s' * (numbered != 1)}"] if numbered else ["no version was ever committed"]
    if undone:
        parts.append(f"{undone} change{'s' * (undone != 1)} rolled back")
    name = f"{table}[{key}]"
    first, *rest = wrap(f"{' · '.join(parts)} · since {since}", max(20, width - cells(name) - 3))
    return [[Piece(name, "bold"), f" · {first}"], *[["  " + line] for line in rest]]


def _number(version: Record) -> Piece:
    if version.flag("outside"):
        return Piece("?  ", "yellow")
    if not version.flag("committed"):
        return Piece("·  ", "dim")
    number = version.maybe_number("version")
    return Piece(pad(f"v{number:g}" if number is not None else "v", 3), "bold")


def _execution(version: Record) -> str | None:
    execution: Any = version.data.get("execution")
    if isinstance(execution, dict):
        return Record(execution, version.path("execution")).text("name")
    return execution if execution is None or isinstance(execution, str) else json_text(execution)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def _source(version: Record, prefixes: render.Prefixes) -> list[Piece | str]:
    execution = _execution(version)
    if version.flag("outside"):
        return [Piece("outside Flux", "yellow")]
    if migration := version.data.get("migration"):
        return [Piece(cut(_plain(migration), 34), "cyan")]
    if execution is None:
        return [Piece("its record is gone", "yellow")]
    pieces: list[Piece | str] = [
        *prefixes.pieces(execution),
        " ",
        cut(version.maybe_text("function") or "?", 14),
    ]
    if not version.flag("committed"):
        return [*pieces, "  ", Piece("rolled back", "yellow")]
    sha = (version.maybe_text("sha") or "").removeprefix("nogit-")[:7]
    return [*pieces, "  ", Piece(sha, "dim")]
