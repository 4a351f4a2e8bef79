"""``flux trace debug``: step through an execution, forwards and backwards, with its variables.

The execution is run again on the code that made it, with nothing leaving, and followed line by line. Each step
has a number that is the same in each run. ``--at`` shows one; ``--print`` looks something up each time that a line is
about to run; ``--watch`` tells how a name changed. Without any of them it stands where the execution failed: on a
terminal with a prompt (`flux.cli.debug_prompt`), else it shows that.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flux.cli import render
from flux.cli.client import INVOKE_TIMEOUT_S, Answer, open_client
from flux.cli.complete import execution_ids
from flux.cli.failures import EXIT_FINDING, UsageError
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cut, wrap
from flux.cli.settings import settings
from flux.seen_values import show
from flux.verdict_marks import FAITHFUL

if TYPE_CHECKING:
    from flux.cli.debug_clock import Clock

EVENTS_BEFORE, EVENTS_AFTER = 6, 2
VALUES_SHOWN = 40
STACK_SHOWN = 12
SOURCE_CELLS = 80


@click.command()
@click.argument("id", metavar="ID", shell_complete=execution_ids)
@click.option(
    "--at", "at", metavar="N", type=click.IntRange(min=1), help="Show event N: where it was, and what names held."
)
@click.option(
    "--print",
    "looked_up",
    nargs=2,
    metavar="FILE:LINE EXPR",
    help="What EXPR was each time that the line was about to run. 'plan, total' asks for two.",
)
@click.option(
    "--dap",
    "dap",
    is_flag=False,
    flag_value="stdio",
    metavar="[PORT]",
    help="Speak the Debug Adapter Protocol: on stdin and stdout, or on PORT of 127.0.0.1 (0: a free one).",
)
@click.option("--watch", "watch", metavar="NAME", help="How NAME, or order.total, changed, and which line did it.")
def command(id: str, at: int | None, looked_up: tuple[str, str] | None, dap: str | None, watch: str | None) -> int:
    """Step through an execution, both ways, with its variables.

    It is run again on the code that made it, with nothing leaving. Without an option it stands where the execution
    failed, or at its end: on a terminal with a prompt, where help lists the commands. Code in JavaScript and
    WebAssembly is shown at its host calls.
    """
    if looked_up is not None and watch is not None:
        raise UsageError("flux trace debug: --print or --watch, one at a time", remedy="ask twice")
    if dap is not None:
        if looked_up is not None or watch is not None:
            raise UsageError("flux trace debug: --dap is for an editor, which asks itself", remedy="--dap, and --at N")
        return _serve(id, dap, at)
    order: dict[str, object] = {}
    if at is not None:
        order["at"] = at
    if looked_up is not None:
        order["file"], order["line"] = read_place(looked_up[0])
        order["expression"] = looked_up[1]
    if watch is not None:
        order["watch"] = watch
    said = settings()
    if not order and not said.json and sys.stdin.isatty() and sys.stdout.isatty():
        return _prompt(id)
    answer = ask(id, order)
    debugged = answer.record.of_schema("flux.debug/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
    else:
        finds = looked_up is not None or watch is not None
        shows_frame = not finds or at is not None
        screen.page(lines(debugged, screen.width, finds=finds, shows_frame=shows_frame, quiet=said.quiet))
    return 0 if is_faithful(debugged) else EXIT_FINDING


def _prompt(id: str) -> int:
    """Read commands until it is enough."""
    from flux.cli.debug_prompt import Prompt, read_line
    from flux.cli.debug_walk import Walk

    id = find_id(id)
    walk = Walk(lambda order: ask(id, order).record)
    screen = Screen.stdout()
    Prompt(walk, lambda: read_clock(id), screen).run(read_line)
    if not settings().quiet:
        name = walk.told.record("execution").text("name")
        screen.line(Piece(f"to be here again: flux trace debug {name} --at {walk.at}", "dim"))
    return 0 if is_faithful(walk.told) else EXIT_FINDING


def _serve(id: str, where: str, at: int | None) -> int:
    """Answer an editor."""
    from flux.cli.dap_serve import serve_port, serve_stdio
    from flux.cli.dap_session import Session
    from flux.cli.debug_walk import Walk

    if where != "stdio" and not (where.isascii() and where.isdigit() and int(where) < 2**16):
        raise UsageError(f'flux trace debug: "{where[:40]}" is no port', remedy="flux trace debug ID --dap [PORT]")
    id = find_id(id)

    def open_session() -> Session:
        return Session(
            lambda at: Walk(lambda order: ask(id, order).record, at), lambda: read_clock(id), find_project(), at
        )

    if where == "stdio":
        serve_stdio(open_session())
    else:
        serve_port(int(where), open_session)
    return 0


def find_id(id: str) -> str:
    """Return the whole id: what the beginning of one means, and @-1, is another execution after a while."""
    return open_client().get("executions", id).record.of_schema("flux.trace/1").text("id")


def read_clock(id: str) -> "Clock":
    """Read the record of an execution, for what it says of times, calls and rows."""
    from flux.cli.debug_clock import Clock

    return Clock(open_client().get("executions", id).record.of_schema("flux.trace/1"))


def find_project() -> Path | None:
    """Return the project's folder that one is in."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "flux.toml").is_file()), None)


def ask(id: str, order: dict[str, object]) -> Answer:
    """Have the server look."""
    return open_client().post("executions", id, "debug", body=json.dumps(order), timeout_s=INVOKE_TIMEOUT_S)


def read_place(text: str) -> tuple[str, int]:
    """Return the file and the line that ``FILE:LINE`` means; raise `UsageError`."""
    file, _, line = text.rpartition(":")
    if not file or not (line.isascii() and line.isdigit()) or not 0 < int(line) < 10**9:
        raise UsageError(f"flux trace debug: {text} is not FILE:LINE", remedy="functions/signup.py:42, or signup.py:42")
    return file.removeprefix("./"), int(line)


def is_faithful(debugged: Record) -> bool:
    """Whether what is shown is what is on record."""
    verdict = debugged.maybe_text("verdict")
    return verdict is None or (verdict in FAITHFUL and debugged.data.get("divergence") is None)


def lines(debugged: Record, width: int, *, finds: bool, shows_frame: bool, quiet: bool) -> list[Line]:
    """The whole answer."""
    result = head(debugged, width)
    if finds:
        result += [[], *value_lines(debugged, width)]
    if shows_frame and (frame := debugged.maybe_record("frame")) is not None:
        result += [[], *frame_lines(debugged, frame)]
    if quiet:
        return result
    name, at = debugged.record("execution").text("name"), debugged.maybe_number("at")
    commands = []
    if at is not None and at > 1:
        commands.append((f"flux trace debug {name} --at {at - 1:.0f}", "the step before"))
    if debugged.text("granularity") == "line" and not finds:
        commands.append((f"flux trace debug {name} --print FILE:LINE EXPR", "what it was at a line"))
        commands.append((f"flux trace debug {name} --watch NAME", "how a name changed"))
    commands.append((f"flux why {name}", "what is known of its failure"))
    return [*result, *render.next_lines(commands, width)]


def head(debugged: Record, width: int) -> list[Line]:
    """Which execution, and whether what is shown is what is on record."""
    result = [*render.header(debugged.record("execution"), width)]
    verdict = debugged.maybe_text("verdict")
    count = f"{debugged.number('total'):,.0f} {'events' if verdict else 'host calls'}"
    if verdict is None:
        result.append([Piece(count, "dim")])
    elif is_faithful(debugged):
        result.append([Piece(f"{count} · run again: {verdict}, as recorded", "dim")])
    else:
        result.append([Piece(f"{count} · run again: {verdict}", "yellow")])
        reason = f"what is shown is not what is on record: {debugged.maybe_text('reason') or 'it went another way'}"
        result += [[Piece("  ! ", "yellow"), line] for line in wrap(reason, width - 4)]
    for note in debugged.items("notes"):
        result += [[Piece("  ! ", "yellow"), line] for line in wrap(str(note), width - 4)]
    return result


def value_lines(debugged: Record, width: int) -> list[Line]:
    """What was looked up, or how it changed."""
    values = debugged.records("values")
    if not values:
        return [["  ", Piece("it never had a value", "dim")]]
    left_out = int(debugged.number("values_left_out")) + max(0, len(values) - VALUES_SHOWN)
    result: list[Line] = [[Piece(f"  … {left_out:,} before (--json has the last 1,000)", "dim")]] if left_out else []
    for value in values[-VALUES_SHOWN:]:
        event = f"  #{value.number('event'):<7.0f}"
        place = f"{value.text('file')}:{value.number('line'):.0f}"
        result.append(
            [Piece(event, "dim"), Piece(f"{place:<28} "), Piece(cut(show(value.get("value")), width), "bold")]
        )
    return result


def frame_lines(debugged: Record, frame: Record) -> list[Line]:
    """One event: the steps around it, what names held, and who had called."""
    at = int(frame.number("event"))
    result: list[Line] = []
    for event in debugged.records("events"):
        number = int(event.number("event"))
        if at - EVENTS_BEFORE <= number <= at + EVENTS_AFTER:
            result.append(event_line(event, is_here=number == at))
    result.append([])
    held: list[tuple[str, Any]] = list(frame.record("locals").data.items())
    if "returned" in frame.data:
        held.append(("(returned)", frame.get("returned")))
    column = min(20, max([0, *(len(name) for name, _ in held)]))
    if not held:
        result.append(["  ", Piece("no names yet", "dim")])
    for name, value in held:
        result.append(["  ", Piece(f"{name:<{column}}  ", "cyan"), Piece(show(value))])
    return [*result, *stack_lines(frame)]


def stack_lines(frame: Record) -> list[Line]:
    """Who had called, the innermost first."""
    result: list[Line] = []
    stack = frame.records("stack")
    for index, entry in enumerate(stack[:STACK_SHOWN]):
        place = f"{entry.text('file')}:{entry.number('line'):.0f}"
        result.append([Piece("  in    " if index == 0 else "  from  ", "dim"), f"{place}  {entry.text('function')}()"])
    if len(stack) > STACK_SHOWN:
        result.append([Piece(f"  … {len(stack) - STACK_SHOWN} more", "dim")])
    return [[], *result] if result else []


def event_line(event: Record, *, is_here: bool) -> Line:
    """One step on one line."""
    kind, detail = event.text("kind"), event.maybe_text("detail")
    place = f"{event.text('file')}:{event.number('line'):.0f}" if event.text("file") else ""
    text = cut(detail if detail and kind != "line" else (event.maybe_text("source") or ""), SOURCE_CELLS)
    style = "bold red" if kind == "exception" else "bold" if is_here else ""
    return [
        Piece(" → " if is_here else "   ", "bold"),
        Piece(f"#{event.number('event'):<6.0f} ", "dim"),
        Piece(f"{kind:<10}"),
        Piece(f"{place:<28} "),
        Piece(text, style),
    ]
