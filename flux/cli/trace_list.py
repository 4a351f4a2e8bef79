"""``flux trace list``: the latest executions, or those that a filter means."""

import click

from flux.cli import moments, render
from flux.cli.client import open_client
from flux.cli.complete import execution_ids, filter_words
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen
from flux.cli.settings import settings

DEFAULT_COUNT = 20


@click.command()
@click.option("-q", "--query", "query", metavar="FILTER", shell_complete=filter_words,
              help="Only those that match: 'status:>=500 route:/signup since:1h'.")  # fmt: skip
@click.option("-n", "count", type=click.IntRange(1, 1000), default=DEFAULT_COUNT, show_default=True,
              help="How many at most.")  # fmt: skip
@click.option("--before", metavar="ID", shell_complete=execution_ids, help="Only those before this one.")
def command(query: str | None, count: int, before: str | None) -> None:
    """The latest executions, newest first."""
    said = settings()
    text = canonical_filter(query)
    answer = open_client().get("executions", q=text, n=count, before=before)
    executions = answer.record.of_schema("flux.executions/1").records("executions")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    now = moments.local_now()
    prefixes = render.Prefixes(summary.text("name") for summary in executions)
    names = {summary.text("id"): summary.text("name") for summary in executions}
    # The date is shown where it is not today's, so the column is as wide as the widest.
    time_cells = max(
        (len(moments.clock(moments.read_moment(summary.text("started_at"), summary.path("started_at")), now,
                           milliseconds=True)) for summary in executions), default=12,
    )  # fmt: skip
    lines: list[Line] = []
    for summary in executions:
        lines.append(render.summary_line(summary, prefixes, screen.width, now, time_cells))
        lines += render.error_lines(summary, screen.width, whole=said.verbose)
        parent = render.parent_line(summary, names)
        lines += [] if parent is None else [parent]
    if lines and not said.quiet:
        lines.insert(0, render.table_head(screen.width, time_cells))
    screen.page(lines)
    tell_not_stored(answer.record)
    if not said.quiet:
        _tell(len(executions), count, text, executions[-1].text("name") if executions else "")


def _tell(found: int, count: int, text: str | None, last: str) -> None:
    story = Screen.stderr(colour=False if settings().no_color else None)
    if not found:
        story.line(
            f"no executions match {text}"
            if text
            else "no executions yet: send a request, or flux invoke NAME"
        )
    elif found >= count:
        query = f" -q '{text}'" if text else ""
        story.line(Piece(f"  … perhaps more: flux trace list{query} -n {count} --before {last}", "dim"))


def tell_not_stored(answer: Record) -> None:
    """Say on stderr what the answer can't have, also with -q: it must not look whole."""
    if (line := render.not_stored_line(answer)) is not None:
        Screen.stderr(colour=False if settings().no_color else None).line(*line)


def canonical_filter(query: str | None) -> str | None:
    """The filter as the server is to read it, with times made absolute; a bad one is refused here."""
    if not query or not query.strip():
        return None
    from flux.filter import parse

    return str(parse(query, moments.local_now()))


def canonical_since(since: str | None) -> str | None:
    """A time as the server is to read it."""
    if since is None:
        return None
    from flux.filter import parse_moment

    return moments.utc_text(parse_moment(since, moments.local_now()))
