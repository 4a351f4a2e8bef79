"""``flux incident replay``: would the executions that failed in a window fail on this code?

Each is replayed as by ``flux replay``, with nothing leaving; the answer is counted by failure
and by verdict, each verdict with its reason and an id to look at. Exit code 0 when none still
fails, 1 when one does, or when one could not be decided. The server replays them, and tells of each
as it ends; who gives up waiting stops it.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import click

from flux.cli import moments, render, together
from flux.cli.client import Client, open_client
from flux.cli.complete import filter_words
from flux.cli.failures import EXIT_FINDING, UsageError
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cut, wrap
from flux.cli.settings import settings
from flux.cli.together import replay_together
from flux.cli.trace_list import canonical_filter
from flux.cli.window import find_window
from flux.cli.work import follow_work
from flux.incident import (
    Replayed,
    count_codes,
    count_held,
    count_notes,
    count_verdicts,
    describe_failure,
    group,
)
from flux.verdict_marks import FINE, GRADE_WORDS, STRICTLY_FINE

PAGE = 500
EXECUTIONS_MAX = 10_000
"""More than this in one incident are refused: say which with a narrower window or -q."""
NAMES_SHOWN = 3
NOTES_SHOWN = 5
WORKERS = 2
"""A replay computes, so more than there are processors to spare gain little."""
PROGRESS_EVERY_S = 1.0


@attrs.frozen
class Answered:
    """One execution of the window and what its replay shows, as the server said it."""

    summary: Record
    replayed: Replayed
    text: str
    """The server's answer as it was sent, so that no number loses a digit; kept for --json alone."""


@click.command()
@click.argument("window", metavar="WINDOW")
@click.option("--on", metavar="CODE", default=".", show_default=True,
              help="The code to run: . is the project's folder as it is, anything else a commit.")  # fmt: skip
@click.option("-q", "--query", "query", metavar="FILTER", shell_complete=filter_words,
              help="Only those that match; without it, those with status 500 and up (--interleave: all).")  # fmt: skip
@click.option("--interleave", is_flag=True,
              help="All at once, in the recorded order of what they did to the database.")  # fmt: skip
@click.option("--check", metavar="SQL",
              help="With --interleave: a SELECT of what must not be; rows at the end are a finding.")  # fmt: skip
@click.option("--in-turn", is_flag=True,
              help="With --interleave: also one after another, where no race can be.")  # fmt: skip
@click.option("--strict", is_flag=True,
              help="Take nothing for fine but what was replayed to its end: past it is a finding too.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 32), default=WORKERS, show_default=True,
              help="How many are replayed at once.")  # fmt: skip
def command(
    window: str,
    on: str,
    query: str | None,
    interleave: bool,
    check: str | None,
    in_turn: bool,
    strict: bool,
    workers: int,
) -> int:
    """Replay the executions of a time window, with nothing leaving.

    WINDOW is A..B (14:00..14:05, dates, RFC 3339), last:15m, or the name of a pinned incident.
    """
    said = settings()
    if (check is not None or in_turn) and not interleave:
        raise UsageError("flux incident replay: --check and --in-turn are for --interleave", remedy="add --interleave")
    client, story = open_client(), Screen.stderr(colour=False if said.no_color else None)
    text = make_filter(client, window, query if query or not interleave else "-trigger:replay")
    if interleave:
        return _replay_together(client, text, on, check, story, in_turn=in_turn)
    answered = replay_window(client, text, on, workers, None if said.quiet else story, keeps_text=said.json)
    replayed = [one.replayed for one in answered]
    if not said.quiet:
        summaries = [one.summary for one in answered]
        if (overlap := together.overlapping_line(summaries)) is not None:
            story.line(Piece(overlap, "dim"))
    fine = STRICTLY_FINE if strict else FINE
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(make_document(window, on, answered))
    else:
        screen.page(lines(replayed, on, screen.width, fine))
    return 0 if all(one.verdict in fine for one in replayed) else EXIT_FINDING


def _replay_together(
    client: Client, text: str, on: str, check: str | None, story: Screen, *, in_turn: bool
) -> int:
    said = settings()
    summaries = list_executions(client, text)
    if not said.quiet:
        story.line(f"{len(summaries)} executions match {text}")
    answer = replay_together(client, summaries, on, check, in_turn=in_turn)
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(json.dumps(answer.data, ensure_ascii=False))
    else:
        screen.page(together.lines(answer, on, screen.width))
    return 0 if answer.text("verdict") in together.FINE else EXIT_FINDING


def make_filter(client: Client, window: str, query: str | None) -> str:
    """The window and the filter in one, with times as the server is to read them."""
    terms = find_window(client, window, "flux incident replay")
    # A replay is on record as an execution, and not a request of then.
    text = canonical_filter(f"{terms} {query if query and query.strip() else 'status:>=500 -trigger:replay'}")
    assert text is not None, "there is a window at least"
    return text


def replay_window(
    client: Client, text: str, on: str, workers: int, story: Screen | None, *, keeps_text: bool
) -> list[Answered]:
    """Have all that match replayed, and tell ``story`` how far it is; return them in the window's order."""
    order = {"q": text, "at_once": workers, "calls": keeps_text}
    answers = follow_work(client.stream_work("replays", body=json.dumps(order), on=on))
    first = next(answers).record.of_schema("flux.replays/1")
    total, missing = int(first.number("total")), first.number("not_stored")
    if story is not None:
        story.line(f"{total} executions match {text}")
    if story is not None and missing:
        story.line(Piece(f"  {missing:g} that have just ended are not stored yet, and are not among them", "yellow"))
    found: dict[int, Answered] = {}
    began = told = time.monotonic()
    for answer in answers:
        line = answer.record
        if "number" not in line.data:
            continue  # It lives.
        found[int(line.number("number"))] = _read(line, answer.text if keeps_text else "")
        now = time.monotonic()
        if story is not None and (len(found) == total or now - told > PROGRESS_EVERY_S):
            told, left_s = now, (now - began) / len(found) * (total - len(found))
            left = f", about {moments.duration(left_s * 1000)} left" if len(found) < total else ""
            story.line(Piece(f"  {len(found)} of {total} replayed{left}", "dim"))
    return [found[number] for number in sorted(found)]


def _read(line: Record, text: str) -> Answered:
    code, summary = line.maybe_record("code"), line.record("execution")
    replayed = Replayed(
        summary.text("name"),
        summary.maybe_text("signature"),
        describe_failure(summary.data),
        line.text("verdict"),
        line.text("reason"),
        () if code is None else tuple(map(str, line.items("notes"))),
        () if code is None else tuple(_read_held(line)),
        None if code is None else code.text("deployment"),
    )
    return Answered(summary, replayed, text)


def _read_held(line: Record) -> Iterator[tuple[str, str]]:
    for held in line.records("held"):
        arguments, grade = held.get("arguments"), held.text("grade")
        named = arguments.get("function") if isinstance(arguments, dict) else None
        yield str(named), GRADE_WORDS.get(grade, grade)


def list_executions(client: Client, text: str) -> list[Record]:
    """All executions of the window, oldest first."""
    found: list[Record] = []
    before: str | None = None
    while True:
        answer = client.get("executions", q=text, n=PAGE, before=before)
        page = answer.record.of_schema("flux.executions/1").records("executions")
        found += page
        if len(found) > EXECUTIONS_MAX:
            raise UsageError(
                f"flux incident replay: more than {EXECUTIONS_MAX:,} executions match {text}",
                remedy="a narrower window, or -q",
            )
        if len(page) < PAGE:
            return found[::-1]
        before = page[-1].text("name")


def make_document(window: str, on: str, answered: Sequence[Answered]) -> str:
    """The whole answer as JSON."""
    replayed = [one.replayed for one in answered]
    counted: Mapping[str, Any] = {
        "schema": "flux.incident-replay/1",
        "window": window,
        "on": on,
        "total": len(replayed),
        "verdicts": count_verdicts(replayed),
        "groups": [
            {
                "failure": each.failure,
                "count": len(each.replayed),
                "verdicts": count_verdicts(each.replayed),
                "names": [one.name for one in each.replayed],
            }
            for each in group(replayed)
        ],
        "effects_left": 0,
    }
    text = json.dumps(counted, ensure_ascii=False)
    return f'{text[:-1]}, "executions": [{", ".join(one.text for one in answered)}]}}'


def lines(
    replayed: Sequence[Replayed], on: str, width: int, fine: frozenset[str] = FINE
) -> list[Line]:
    """The whole answer: failures, their verdicts, and the sum."""
    code = "the project's folder" if on == "." else f"commit {on}"
    result: list[Line] = [[Piece(f"replayed on {code} · nothing left the sandbox", "dim")]]
    for each in group(replayed):
        count = len(each.replayed)
        number = f"{count} execution{'s' * (count != 1)}"
        # What was raised may have said a great deal.
        said = cut(each.failure, max(20, width - len(number) - 5))
        result += [[], ["  ", Piece(said, "bold"), Piece(f"   {number}", "dim")]]
        for verdict, reasons in each.list_verdicts().items():
            mark, style = render.VERDICT_MARKS.get(verdict, ("?", "bold yellow"))
            count = sum(len(names) for names in reasons.values())
            result.append(["    ", Piece(f"{mark} {count:>4}  {verdict}", style)])
            for reason, names in reasons.items():
                shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
                result += [["            " + line] for line in wrap(f"{reason}  ({shown})", width - 12)]
    result += _note_lines(replayed, width)
    result += _held_lines(replayed, width)
    sums = " · ".join(f"{count} {verdict}" for verdict, count in count_verdicts(replayed).items())
    result += [[], [Piece(sums or "nothing to replay", "bold")], ["0 effects left the sandbox"]]
    unfinished = [one for one in replayed if one.verdict not in fine]
    if unfinished:
        result += render.next_lines(
            [(f"flux replay {unfinished[0].name} --on {on}", "the first of those")], width
        )
    return result


def _note_lines(replayed: Sequence[Replayed], width: int) -> list[Line]:
    """What was not as it was, each with how many it was so for, and that not all of them ran the same code."""
    notes = [f"{note}  ({count} of {len(replayed)})" for note, count in count_notes(replayed).items()]
    if len(notes) > NOTES_SHOWN:
        notes = [*notes[:NOTES_SHOWN], f"and {len(notes) - NOTES_SHOWN} other notes: --json has them"]
    if (codes := count_codes(replayed)) > 1:
        notes.insert(0, f"the code was saved meanwhile: they ran on {codes} versions of it")
    result: list[Line] = [[]] if notes else []
    for note in notes:
        first, *others = wrap(note, width - 4)
        result += [[Piece("  ! ", "yellow"), first], *[["    " + line] for line in others]]
    return result


def _held_lines(replayed: Sequence[Replayed], width: int) -> list[Line]:
    """What they would have pushed to the queue, by function."""
    held = count_held(replayed)
    lines: list[Line] = [[]] if held else []
    for named, grade, count in held:
        lines += [["  ", line] for line in wrap(f"held: queue.push {named} ({grade}) ×{count}", width - 2)]
    return lines
