"""``flux replay``: run a recorded execution again, with nothing leaving.

The verdict stands in the first lines: on the code that made the record, whether it does the
same again; on other code, whether it would still fail. Then where the two parted, with what
was recorded beside what the replay did. Exit code 1 means a finding: it still fails, or
nothing was decided.
"""

import json
import shlex
import sys
from pathlib import Path

import click

from flux.cli import moments, render
from flux.cli.client import INVOKE_TIMEOUT_S, Answer, open_client
from flux.cli.complete import execution_ids
from flux.cli.failures import EXIT_FINDING, UsageError
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cut, json_text, pad, spread, wrap
from flux.cli.settings import settings
from flux.verdict_marks import FINE, GRADE_WORDS, STRICTLY_FINE

SOURCES = (
    ("recorded", "recorded"),
    ("world", "from the database of then"),
    ("borrowed", "borrowed"),
    ("fixture", "from files"),
    ("live", "asked for real"),
    ("held", "made up for what was held"),
)
CASE_SUFFIX = ".fluxcase"
"""As `flux.case_file.SUFFIX`, which is not imported until there is a case."""
GRADE_MARKS = {"exact": "=", "reordered": "↕", "changed": "≠", "new": "+", "missing": "−"}


@click.command()
@click.argument("id", metavar="ID or FILE", shell_complete=execution_ids)
@click.option(
    "--on",
    metavar="CODE",
    help="The code to run: . is the project's folder as it is, anything else a commit. Without it, the code that made "
    "the record.",
)
@click.option(
    "--answer",
    "answers",
    metavar="N=ANSWER",
    multiple=True,
    help="Answer call N of the replay: timeout, a status such as 503, @ID (as that execution was answered) or the "
    "name of a file with the body.",
)
@click.option(
    "--isolation",
    type=click.Choice(["strict", "core"]),
    help="The walls around the code of a case file (strict, unless it is said here).",
)
@click.option(
    "--live",
    "live",
    metavar="http:HOST",
    multiple=True,
    help="Send requests to HOST for real where the record has no answer. Asks first.",
)
@click.option("--yes", is_flag=True, help="Agree to --live without being asked.")
@click.option(
    "--strict",
    is_flag=True,
    help="The record alone answers, and nothing is fine that stopped early: past it is a finding too.",
)
def command(
    id: str,
    on: str | None,
    answers: tuple[str, ...],
    isolation: str | None,
    live: tuple[str, ...],
    yes: bool,
    strict: bool,
) -> int:
    """Run a recorded execution again, with nothing leaving.

    Its host calls are answered from the record. No request is sent, no row is changed. ID is a name, a UUID,
    the beginning of either, @-1 (the latest) or @last-error. FILE is a case file, NAME.fluxcase, which needs neither
    server nor database.
    """
    if strict and (answers or live):
        raise UsageError(
            "flux replay: --strict lets the record alone answer", remedy="leave out --answer and --live"
        )
    brought = _read_answers(answers)
    fine = STRICTLY_FINE if strict else FINE
    if id.endswith(CASE_SUFFIX):
        if live:
            raise UsageError("flux replay: --live is not for case files", remedy="replay it on its server")
        from flux.cli.offline import replay_file

        text = replay_file(Path(id), on, json.dumps({"answers": brought} if brought else {}), isolation)
        return _show(Answer(text, Record(json.loads(text))), fine, id)
    if "/" in id or Path(id).is_file():
        raise UsageError(
            f"flux replay: {id} is neither an execution's name nor a case file",
            remedy=f"a case file's name ends in {CASE_SUFFIX}; flux trace list shows executions",
        )
    if isolation is not None:
        raise UsageError(
            "flux replay: --isolation is for case files", remedy="the server runs code as its flux.toml says"
        )
    order: dict[str, object] = {"answers": brought} if brought else {}
    if live:
        hosts = [_read_host(text) for text in live]
        if not yes:
            _ask_consent(hosts)
        order["live"] = hosts
    client = open_client()
    answer = client.post(
        "executions", id, "replay", body=json.dumps(order), timeout_s=INVOKE_TIMEOUT_S, on=on
    )
    return _show(answer, fine)


def _show(answer: Answer, fine: frozenset[str], file: str | None = None) -> int:
    """Show a replay; return the exit code that its verdict means. ``file`` is the case that was replayed, if it is."""
    said = settings()
    replay = answer.record.of_schema("flux.replay/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(lines(replay, screen.width, whole=said.verbose, quiet=said.quiet, file=file))
    return 0 if replay.text("verdict") in fine else EXIT_FINDING


def _read_host(text: str) -> str:
    kind, _, host = text.partition(":")
    if kind != "http" or not host:
        raise UsageError(
            f"flux replay: --live {text} is not http:HOST",
            remedy="--live http:api.example.com, or http:127.0.0.1:9000",
        )
    return host.removeprefix("//")


def _ask_consent(hosts: list[str]) -> None:
    """Ask a person whether requests may leave; refuse where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError(
            f"flux replay: --live would send real requests to {', '.join(hosts)}, and there is nobody to ask",
            remedy="add --yes if that is wanted",
        )
    said = f"Real requests may be sent to {', '.join(hosts)}: they may charge, mail or delete. Go on?"
    if not click.confirm(said, err=True):
        raise UsageError("flux replay: nothing was replayed, and nothing was sent", remedy="leave out --live")


def _read_answers(answers: tuple[str, ...]) -> dict[str, object]:
    """What each ``N=ANSWER`` means."""
    said: dict[str, object] = {}
    if not answers:
        return said
    # It knows all calls: that takes as long as the command.
    from flux.brought import Status, Timeout, read_answer

    for text in answers:
        number, separator, answer = text.partition("=")
        if not separator or not number.isdecimal() or not int(number):
            raise UsageError(
                f"flux replay: {text} is not N=ANSWER, with N from 1 on",
                remedy="--answer 3=timeout, --answer 3=503 ...",
            )
        known = read_answer(answer)
        if isinstance(known, Timeout):
            said[number] = {"timeout": True}
        elif isinstance(known, Status):
            said[number] = {"status": known.status}
        elif answer.startswith("@") and answer not in ("@", "@-"):
            said[number] = {"from": answer if answer.startswith(("@-", "@last")) else answer[1:]}
        else:
            try:
                said[number] = {"body": Path(answer).read_text(encoding="utf-8")}
            except (OSError, UnicodeDecodeError) as error:
                cause = getattr(error, "strerror", None) or str(error)
                other = "no status from 200 to 599, and no file" if answer.isdecimal() else "no file"
                raise UsageError(
                    f"flux replay: {answer} is {other} that can be read: {cause}",
                    remedy="--answer N=timeout, N=503, N=@ID or N=FILE",
                ) from error
    return said


def lines(replay: Record, width: int, *, whole: bool, quiet: bool, file: str | None = None) -> list[Line]:
    """The whole answer."""
    summary, verdict = replay.record("execution"), replay.text("verdict")
    mark, style = render.VERDICT_MARKS.get(verdict, ("?", "bold"))
    replayed = replay.record("replayed")
    took = moments.duration(replayed.number("elapsed_ms"))
    result: list[Line] = [
        *render.header(summary, width),
        *[[Piece(line, "dim")] for line in wrap(f"replayed on {_code(replay)} · {took} · {_sent(replay)}", width)],
        [],
        ["  ", Piece(f"{mark} {verdict}", style), Piece(f"   {_statuses(replay)}", "dim")],
        *[["    " + line] for line in wrap(replay.text("reason"), width - 4)],
    ]
    for note in replay.items("notes"):
        result += [[Piece("  ! ", "yellow"), line] for line in wrap(str(note), width - 4)]
    if synthetic := replay.items("synthetic"):
        named = "synthetic: " + ", ".join(map(str, synthetic))
        result += [[Piece("  ! ", "yellow"), line] for line in wrap(named, width - 4)]
    result += _divergence(replay, width)
    result += held_lines(replay, width)
    result += _calls(replay, width, whole=whole)
    result += [[], *_counts(replay, width)]
    commands = _next(replay) if file is None else _next_of_case(replay, file)
    return result if quiet else [*result, *render.next_lines(commands, width)]


def _sent(replay: Record) -> str:
    sent = replay.number("sent")
    if not sent:
        return "nothing left the sandbox"
    return f"{sent:g} {'request was' if sent == 1 else 'requests were'} sent for real"


def _code(replay: Record) -> str:
    code = replay.record("code")
    sha = code.text("sha").removeprefix("nogit-")[:7] + "+" * code.flag("dirty")
    if replay.maybe_text("on") is None:
        return f"the code that made the record ({sha})"
    same = ", which is the code that made the record" if code.flag("is_recorded") else ""
    return f"the project's folder ({sha}{same})" if replay.text("on") == "." else f"commit {sha}{same}"


def _statuses(replay: Record) -> str:
    """``500 → 201``, or where the replay ended instead."""
    before, after = (
        replay.record("original").maybe_number("status"),
        replay.record("replayed").maybe_number("status"),
    )
    return f"{before or 0:g} → {'stopped' if after is None else f'{after:g}'}"


def _divergence(replay: Record, width: int) -> list[Line]:
    divergence = replay.maybe_record("divergence")
    if divergence is None:
        return []
    kind, seq = divergence.text("kind"), divergence.number("seq")
    where = {"log": f"log line {seq:g}", "outcome": "the end"}.get(
        kind, f"call {seq:g}" if seq else "the end"
    )
    left, right = (_side(divergence.get(side), width) for side in ("recorded", "replayed"))
    return [
        [],
        ["  ", Piece(f"they part at {where}", "bold")],
        *[["    recorded  ", *line] for line in left[:1]],
        *[["              ", *line] for line in left[1:]],
        *[["    replayed  ", *line] for line in right[:1]],
        *[["              ", *line] for line in right[1:]],
    ]


def held_lines(replay: Record, width: int) -> list[Line]:
    """What the replay would have pushed to the queue, and did not."""
    held = replay.data.get("held")
    if not held:
        return []
    result: list[Line] = [[]]
    for one in replay.records("held"):
        arguments = one.get("arguments")
        payload = json_text(arguments.get("payload")) if isinstance(arguments, dict) else json_text(arguments)
        named = arguments.get("function") if isinstance(arguments, dict) else "?"
        grade = one.text("grade")
        place = one.maybe_record("location")
        what = cut(f"{one.text('kind')} {named} {payload}", max(20, width - 24))
        style = "bold" if grade in ("new", "changed") else "dim"
        graded = Piece(f" ({GRADE_WORDS.get(grade, grade)})", style)
        said: list[Piece | str] = ["  ", Piece("held: ", "yellow"), what, graded]
        result += spread(said, [Piece(render.place(place.data), "cyan")] if place is not None else [], width)
    return result


def _side(side: object, width: int) -> list[Line]:
    """A question, a log line or an end, and where in the code."""
    if side is None:
        return [[Piece("nothing", "dim")]]
    if not isinstance(side, dict):
        return [[line] for line in wrap(str(side), width - 14)]
    record = Record(side, "divergence")
    kind = record.maybe_text("kind")
    if kind is not None:
        title = render.call_title(kind, record.get("arguments"))
    else:
        title = f"{record.text('level')}: {record.text('message')}"
    location = record.maybe_record("location")
    place = [] if location is None else [Piece(render.place(location.data), "cyan")]
    return [[line] for line in wrap(title, width - 14)] + ([[*place]] if place else [])


def _calls(replay: Record, width: int, *, whole: bool) -> list[Line]:
    """Every call of both sides, unless all are the same."""
    calls = replay.records("calls")
    if not calls or (not whole and all(call.text("grade") == "exact" for call in calls)):
        return []
    half = (width - 12) // 2
    result: list[Line] = [
        [],
        ["  ", Piece(f"{'#':>3} {pad('RECORDED', half)}  {pad('REPLAYED', half)}", "dim")],
    ]
    for call in calls:
        left, right = call.maybe_record("recorded"), call.maybe_record("replayed")
        either = right or left
        number = f"{either.number('seq'):g}" if either is not None else ""
        grade = call.text("grade")
        style = "" if grade == "exact" else "yellow"
        texts = [_title(side, half) for side in (left, right)]
        result.append(
            [
                "  ",
                Piece(f"{number:>3} ", "dim"),
                texts[0],
                "  ",
                texts[1],
                " ",
                Piece(GRADE_MARKS.get(grade, "?"), style),
            ]
        )
    return result


def _title(call: Record | None, width: int) -> Piece:
    if call is None:
        return Piece(pad("—", width), "dim")
    return Piece(pad(cut(render.call_title(call.text("kind"), call.get("arguments")), width), width))


def _counts(replay: Record, width: int) -> list[Line]:
    answers, grades = replay.record("answers"), replay.record("grades")
    given = [
        f"{answers.number(name):g} {words}"
        for name, words in SOURCES
        if answers.number(name) or name == "recorded"
    ]
    graded = [f"{grades.number(name):g} {name}" for name in GRADE_MARKS if grades.number(name)]
    fidelity = replay.record("fidelity")
    matched, equal = fidelity.number("matched"), fidelity.number("equal")
    stopped = replay.number("stopped")
    left = _sent(replay) if replay.number("sent") else "0 effects left the sandbox"
    effects = f"1 effect was stopped; {left}" if stopped else left
    return [
        *spread(["  ", Piece("answers  ", "dim"), " · ".join(given)], [], width),
        *spread(["  ", Piece("calls    ", "dim"), " · ".join(graded) or "none"], [], width),
        *(
            spread(
                ["  ", Piece("database ", "dim"), f"{equal:g} of {matched:g} statements answered as then"],
                [],
                width,
            )
            if matched
            else []
        ),
        *spread(["  ", Piece("stopped  ", "dim"), effects], [], width),
    ]


def _next_of_case(replay: Record, file: str) -> list[str | tuple[str, str]]:
    if replay.maybe_text("on") is not None:
        return [(f"flux replay {file}", "on the code that made the record")]
    return [(f"flux replay {file} --on .", "on the project's folder as it is")]


def _next(replay: Record) -> list[str | tuple[str, str]]:
    name = replay.record("execution").text("name")
    commands: list[str | tuple[str, str]] = []
    if replay.maybe_text("on") is None:
        commands.append((f"flux replay {name} --on .", "on the project's folder as it is"))
    else:
        on = replay.text("on")
        # A branch may be called almost anything.
        other = on if on == "." else shlex.quote(f"{name}@{on}")
        commands.append((f"flux trace diff {name} {other}", "both sides, value by value"))
    if replay.text("verdict") not in FINE:
        commands.append((f"flux why {name}", "why it failed then"))
    return [*commands, (f"flux trace {name}", "everything it did")]
