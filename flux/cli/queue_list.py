"""``flux queue list``: jobs that wait, run or are dead.

A job that is done is an execution like any other (``flux trace list -q trigger:queue``), so it is listed only when
it is asked for.
"""

from collections.abc import Sequence
from datetime import datetime

import click

from flux.cli import moments, render
from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cut, pad, spread
from flux.cli.settings import settings

STATES = ("waiting", "running", "done", "dead", "all")
_NAMES = {None: "waiting, running or dead", "all": "in the queue"}
STYLES = {"waiting": "cyan", "running": "bold blue", "done": "green", "dead": "bold red"}


@click.command()
@click.option("--state", type=click.Choice(STATES), help="Only those; without it, all that are not done.")
@click.option("--function", "function", metavar="NAME", help="Only jobs of this function.")
@click.option("-n", "limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
def command(state: str | None, function: str | None, limit: int) -> None:
    """Jobs in the queue, the latest first. `flux queue dead-letter` lists those that are not tried again."""
    show(state, function, limit)


def show(state: str | None, function: str | None, limit: int) -> None:
    """Ask for jobs and show them."""
    said = settings()
    answer = open_client().get("queue", state=state, function=function, n=limit)
    queue = answer.record.of_schema("flux.queue/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    jobs = queue.records("jobs")
    if not said.quiet:
        counts = queue.record("counts")
        told = " · ".join(f"{counts.number(name):g} {name}" for name in STATES[:-1])
        if not jobs:
            of = f" of {function}" if function is not None else ""
            told += f"; no job{of} is {_NAMES.get(state, state)}"
        Screen.stderr(colour=False if said.no_color else None).line(told)
    screen.page(lines(jobs, screen.width, quiet=said.quiet))


def lines(jobs: Sequence[Record], width: int, *, quiet: bool) -> list[Line]:
    """Two lines a job: what it is and where it stands, and what it came from and came to."""
    result: list[Line] = []
    for job in jobs:
        state = job.text("state")
        left: Line = [
            Piece(job.text("id"), "bold"), "  ", Piece(pad(state, 8), STYLES.get(state, "")), " ", job.text("function"),
        ]  # fmt: skip
        result += spread(left, [Piece(_when(job), "dim")], width)
        result += spread(["      ", Piece(cut(_story(job), width - 6), "red" if state == "dead" else "dim")], [], width)
    dead = next((job.text("id") for job in jobs if job.text("state") == "dead"), None)
    if dead is not None and not quiet:
        result += render.next_lines([(f"flux queue retry {dead}", "have it run again")], width)
    return result


def _when(job: Record) -> str:
    match job.text("state"):
        case "waiting":
            return f"due {_clock(job, 'run_at')}"
        case "running":
            return f"since {_clock(job, 'claimed_at')}"
    return f"ended {_clock(job, 'ended_at')}"


def _clock(job: Record, key: str) -> str:
    text = job.maybe_text(key)
    if text is None:
        return "?"
    moment: datetime = moments.read_moment(text, key)
    return f"{moment:%m-%d %H:%M:%S}"


def _story(job: Record) -> str:
    parts = []
    if (cause := job.maybe_record("cause")) is not None:
        call = cause.maybe_number("call")
        named = cause.maybe_text("execution") or cause.text("id")
        parts.append(f"pushed by {named}" + (f" (call {call:g})" if call is not None else ""))
    attempt = job.number("attempt")
    if attempt:
        last = job.maybe_text("execution")
        parts.append(f"attempt {attempt:g}" + (f", last {last}" if last is not None else ""))
    if (error := job.maybe_text("error")) is not None:
        parts.append(error)
    return " · ".join(parts) or "pushed by nobody on record"
