"""``flux incident list``: the windows of time that have a name."""

import click

from flux.cli import moments
from flux.cli.client import open_client
from flux.cli.screen import Line, Piece, Screen, pad
from flux.cli.settings import settings


@click.command()
def command() -> None:
    """The time windows that have a name, the latest first, with how many executions in them failed."""
    said = settings()
    answer = open_client().get("incidents")
    incidents = answer.record.of_schema("flux.incidents/1").records("incidents")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    if not incidents and not said.quiet:
        Screen.stderr(colour=False if said.no_color else None).line(
            "no incident is pinned: flux incident pin NAME 14:00..14:05"
        )
    width = max((len(incident.text("name")) for incident in incidents), default=0)
    lines: list[Line] = []
    for incident in incidents:
        since, until = (moments.read_moment(incident.text(key), key) for key in ("since", "until"))
        last = f"{until:%H:%M:%S}" if since.date() == until.date() else f"{until:%Y-%m-%d %H:%M:%S}"
        lines.append(
            [
                Piece(pad(incident.text("name"), width), "bold"),
                f"  {since:%Y-%m-%d %H:%M:%S}..{last}  ",
                Piece(
                    f"{incident.number('failed'):g} of {incident.number('executions'):g} failed",
                    "bold red" if incident.number("failed") else "dim",
                ),
            ]
        )
    screen.page(lines)
