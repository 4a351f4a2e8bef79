"""``flux why``: why did this execution end as it did?

The answer stands in the first lines, then the recorded facts that carry it,
then state and timeline, last what to type next. Exit code 0 means that the
question was answered, also when the answer is that the execution failed or that Flux
cannot tell.
"""

import json

import click

from flux.cli import render
from flux.cli.client import Client, open_client
from flux.cli.complete import execution_ids
from flux.cli.failures import MalformedAnswer
from flux.cli.proof import add_proof, run_lines, run_proof
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, spread, wrap
from flux.cli.settings import settings
from flux.errors import FluxError

MARKS = {"●": "green", "↻": "cyan", "≈": "yellow"}
"""Recorded fact, fact from a replay, inferred by a named rule."""

_MARK_WORDS = {"recorded": "●", "fact": "●", "replayed": "↻", "replay": "↻", "inferred": "≈", "rule": "≈"}


@click.command()
@click.argument("id", metavar="ID", shell_complete=execution_ids)
@click.option(
    "--prove",
    is_flag=True,
    help="Make an experiment: run it again with one thing that it heard flipped, and then another, and say which "
    "make it pass.",
)
def command(id: str, prove: bool) -> None:
    """Why did this execution end as it did?

    ID is a name, a UUID, the beginning of either, @last-error or @-1 (the latest).
    """
    said = settings()
    client = open_client()
    answer = client.get("executions", id, "why")
    why = answer.record.of_schema("flux.why/1")
    # Asked for first: a stream that has told its end leaves the connection unfinished.
    trace = None if said.json else _trace(client, why)
    text = answer.text
    runs: list[Record] = []
    if prove:
        # By its name: @-1 would be one of the runs by the time that it is asked for again.
        name = why.record("execution").text("name")
        proof, runs = run_proof(client, name, None if said.quiet else Screen.stderr())
        why = Record(add_proof(why.data, proof))
        text = json.dumps(why.data, ensure_ascii=False)
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(text)
        return
    shown = lines(why, trace, screen.width, whole=said.verbose, quiet=said.quiet)
    screen.page([*shown, *(run_lines(runs, screen.width) if runs and said.verbose else [])])


def _trace(client: Client, why: Record) -> Record | None:
    """The calls, for timeline and places. Without them the answer stands, and that is told."""
    try:
        return client.get("executions", why.record("execution").text("id")).record.of_schema("flux.trace/1")
    except FluxError as error:
        Screen.stderr().line(Piece(f"  ! no timeline: {error.code} {error.message}", "yellow"))
        return None


def lines(why: Record, trace: Record | None, width: int, *, whole: bool, quiet: bool) -> list[Line]:
    """The whole answer."""
    summary = why.record("execution")
    places = render.places_of_calls(trace) if trace is not None else {}
    result = [*render.header(summary, width), [], *_answer(why, width)]
    if (warning := render.completeness_line(summary)) is not None:
        result.append(warning)
    facts = why.records("facts")
    if facts:
        result.append([])
    for fact in facts:
        result += _fact(fact, places, width)
    result += render.mutation_lines(why.records("mutations"), places, width, whole=whole)
    if trace is not None and trace.records("calls"):
        result += render.timeline(trace, width, whole=whole)
    commands = [_with_purpose(render.next_command(item, why.path("next"))) for item in why.items("next")]
    if commands and not quiet:
        result += render.next_lines(commands, width)
    return result


_PURPOSES = (
    ("flux replay ", "would the code here still fail?"),
    ("flux bug bisect ", "which commit broke it?"),
    ("flux trace diff ", "beside one that passed"),
    ("flux trace debug ", "which line was it at?"),
    ("flux trace ", "everything it did"),
    ("flux state history ", "the row's versions, and by whom"),
    ("flux errors", "failures by kind"),
    ("flux explain ", "what the code means"),
)


def _with_purpose(command: str | tuple[str, str]) -> str | tuple[str, str]:
    """The command with what it is for, where the server did not say."""
    if not isinstance(command, str):
        return command
    if command.startswith("flux trace ") and " --call " in command:
        return command, "that call whole"
    return next(((command, purpose) for start, purpose in _PURPOSES if command.startswith(start)), command)


def _answer(why: Record, width: int) -> list[Line]:
    failure = why.maybe_record("failure")
    verdict = why.data.get("verdict_text")
    texts = verdict.split("\n") if isinstance(verdict, str) else verdict or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise MalformedAnswer("the server's answer has no lines of text at verdict_text")
    if texts:
        # An answer below 500 has a kind and a place, and is no failure.
        went_wrong = failure is not None and not failure.flag("is_answer")
        style = "bold red" if went_wrong else "bold"
        return [
            ["  ", Piece(line, style if index == 0 else "")]
            for index, text in enumerate(texts)
            for line in wrap(text, width - 2)
        ]
    if failure is None:
        return [
            [
                "  ",
                Piece(
                    "nothing failed", "bold green" if not render.failed(why.record("execution")) else "bold"
                ),
            ]
        ]
    kind, message = failure.maybe_text("type") or failure.text("kind"), failure.maybe_text("message")
    result: list[Line] = [
        ["  ", Piece(line, "bold red")] for line in wrap(f"{kind}: {message}" if message else kind, width - 2)
    ]
    location = failure.maybe_record("location")
    if location is not None and render.place(location.data):
        function = location.maybe_text("function")
        result.append(
            ["  ", Piece(render.place(location.data), "cyan"), f" in {function}()" if function else ""]
        )
    return result


def _fact(fact: Record, places: dict[int, str], width: int) -> list[Line]:
    said = fact.text("mark")
    mark = _MARK_WORDS.get(said, said)
    text = fact.text("text")
    rule, call = fact.maybe_text("rule"), fact.maybe_number("call")
    where = places.get(int(call), "") if call is not None else ""
    note = Piece(f"rule {rule}", "dim") if mark == "≈" and rule else Piece(where, "cyan")
    first, *rest = wrap(text, width - 4)
    start: list[Piece | str] = ["  ", Piece(mark, MARKS.get(mark, "")), " "]
    if rest:
        *more, last = rest
        result: list[Line] = [[*start, first], *[["    " + line] for line in more]]
        return [*result, *spread(["    " + last], [note] if note.text and note.text not in text else [], width)]
    return spread([*start, first], [note] if note.text and note.text not in text else [], width)
