"""``flux cron history``: what became of the times at which a function was to run."""

import click

from flux.cli.client import open_client
from flux.cli.cron_list import clock, tick_pieces
from flux.cli.screen import Line, Piece, Screen
from flux.cli.settings import settings


@click.command()
@click.argument("name", metavar="NAME")
@click.option("-n", "limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
def command(name: str, limit: int) -> None:
    """What became of the times at which a function was to run, the latest first: its run, or why it was left out.

    NAME is the function's.
    """
    answer = open_client().get("cron", name, "history", n=limit)
    ticks = answer.record.of_schema("flux.cron-history/1").records("ticks")
    screen = Screen.stdout()
    if settings().json:
        screen.write_raw_json(answer.text)
        return
    shown: list[Line] = [[Piece(clock(tick.text("tick")), "dim"), "  ", *tick_pieces(tick)] for tick in ticks]
    if not shown and not settings().quiet:
        Screen.stderr(colour=False if settings().no_color else None).line("it was not due yet")
    screen.page(shown)
