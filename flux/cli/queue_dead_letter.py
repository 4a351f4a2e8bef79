"""``flux queue dead-letter``: jobs that failed and are not tried again."""

import click

from flux.cli.queue_list import show


@click.command()
@click.option("--function", "function", metavar="NAME", help="Only jobs of this function.")
@click.option("-n", "limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
def command(function: str | None, limit: int) -> None:
    """Jobs that have no retries left, the latest first. They stay, with their payload, until `flux queue retry`."""
    show("dead", function, limit)
