"""``flux incident pin``: give a window of time a name, to come back to it."""

import json

import click

from flux.cli import moments
from flux.cli.client import open_client
from flux.cli.screen import Piece, Screen
from flux.cli.settings import settings
from flux.cli.window import window_terms


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("window", metavar="WINDOW")
def command(name: str, window: str) -> None:
    """Give a time window a name. `flux incident replay NAME` replays what failed in it.

    WINDOW is A..B (14:00..14:05, dates, RFC 3339) or last:15m. NAME has letters a to z, digits, - and _.
    """
    said = settings()
    terms = window_terms(window, "flux incident pin")
    answer = open_client().post("incidents", body=json.dumps({"name": name, "window": terms}))
    incident = answer.record.of_schema("flux.incident/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    since, until = (moments.read_moment(incident.text(key), key) for key in ("since", "until"))
    screen.line(
        Piece(incident.text("name"), "bold"), f" is {since:%Y-%m-%d %H:%M:%S} to {until:%Y-%m-%d %H:%M:%S}"
    )
    if (gone := incident.maybe_text("log_since")) is not None:
        # It was pinned, and still not all of it is there.
        begins = moments.read_moment(gone, "log_since")
        Screen.stderr().line(
            f"what changed before {begins:%Y-%m-%d %H:%M:%S} was taken out already (retention_days): replays of what "
            "ran before have no database"
        )
