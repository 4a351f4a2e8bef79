"""``flux cron list``: what runs on a schedule, when it is next, and how it went last."""

from collections.abc import Sequence

import click

from flux.cli import moments
from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, pad, wrap
from flux.cli.settings import settings


@click.command()
def command() -> None:
    """The schedules of the code that is served: when each is next, and what became of its last time."""
    said = settings()
    answer = open_client().get("cron")
    schedules = answer.record.of_schema("flux.cron/1").records("schedules")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    if not schedules and not said.quiet:
        story = Screen.stderr(colour=False if said.no_color else None)
        hint = 'nothing runs on a schedule: @function(cron="0 3 * * *"), or [[cron]] in flux.toml'
        for line in wrap(hint, story.width) if story.is_terminal else [hint]:
            story.line(line)
    screen.page(lines(schedules))


def lines(schedules: Sequence[Record]) -> list[Line]:
    """A line for each schedule."""
    names = max((cells(each.text("function")) for each in schedules), default=0)
    times = max((cells(_when(each)) for each in schedules), default=0)
    return [
        [Piece(pad(each.text("function"), names), "bold"), "  ", pad(_when(each), times), "  ", *_state(each)]
        for each in schedules
    ]


def tick_pieces(tick: Record) -> list[Piece | str]:
    """What became of a tick: ``ran qk3f81xa``, ``left out: ...``."""
    left_out = tick.number("left_out")
    more = f", and {left_out:g} before it left out" if left_out else ""
    match tick.text("fate"):
        case "overlap":
            return [Piece("left out", "yellow"), f": the run before it was not done{more}"]
        case "missed":
            return [Piece("left out", "yellow"), f": no server was there{more}"]
    state, name = tick.maybe_text("state") or "?", tick.maybe_text("execution")
    style = {"done": "green", "dead": "bold red"}.get(state, "blue")
    return [Piece(state, style), f" {name}" if name else "", more]


def _when(schedule: Record) -> str:
    zone = schedule.text("time_zone")
    return schedule.text("schedule") + (f" {zone}" if zone != "UTC" else "")


def _state(schedule: Record) -> list[Piece | str]:
    if (paused_at := schedule.maybe_text("paused_at")) is not None:
        state: list[Piece | str] = [Piece("paused", "yellow"), f" since {clock(paused_at)}"]
    else:
        due = schedule.maybe_text("next")
        state = [f"next {clock(due)}" if due is not None else "never again"]
    if (last := schedule.maybe_record("last")) is not None:
        state += [f"  last {clock(last.text('tick'))} ", *tick_pieces(last)]
    return state


def clock(text: str) -> str:
    """A moment of the answer as people read it."""
    return f"{moments.read_moment(text, 'time'):%Y-%m-%d %H:%M:%S}"
