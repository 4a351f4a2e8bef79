"""The debugger's prompt: ``flux trace debug ID`` on a terminal.

A line is a command and what it is about. Commands that move look for a place (`flux.cli.debug_walk`) and show it; the
others tell of the place where one stands. Nothing that is typed here runs anything of the project's: a condition or an
expression is looked up, in the small language of `flux.expression`.

What is wrong with a command is told, and the prompt goes on; it ends with ``quit``, ctrl-d, or when its input ends.
"""

import contextlib
import sys
from collections.abc import Callable

from flux import stepping
from flux.cli.debug_clock import Clock
from flux.cli.debug_walk import Place, Walk
from flux.cli.failures import tell
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen
from flux.cli.trace_debug import event_line, head, read_place, stack_lines, value_lines
from flux.errors import FluxError, OperatorError
from flux.seen_values import show
from flux.stepping import Search, Step, step_back_over, step_in, step_out, step_over

EVENTS_BEFORE, EVENTS_AFTER = 3, 1
LINES_AROUND = 6
NAME_CELLS_MAX = 20
HELP = """\
next, n          the next line of this function          prev, pn     the line of it before
step, s          the next line, wherever                 back, b      the event before, wherever
out, o           where this function returned to         at N         event N
continue, c [P]  on to P, or to the end                  rc [P]       back to P, or to the beginning
to FILE:LINE     on to a line; P is a line too, or a condition: total > 100; or both: signup.py:16 if total > 100
change NAME      back to where NAME changed              next-change NAME    on to where it changes
watch NAME       how it changed, all of it               print EXPR, p       order.total, len(lines) > 3
locals, stack    what names held, who had called         up, down     look at the function that called; and back
list, l          the code here                           calls, rows  host calls and rows, as of here
where, w         this again                              help, quit   an empty line does the last step again"""


class NoSuchCommandError(OperatorError):
    """A line that the prompt does not understand."""

    code = "FLX680"
    exit_code = 2


class Prompt:
    """The commands, over one `Walk`."""

    def __init__(self, walk: Walk, clock: Callable[[], Clock], screen: Screen) -> None:
        """``clock`` reads the execution's record, when it is first asked for."""
        self._walk = walk
        self._read_clock = clock
        self._clock: Clock | None = None
        self._screen = screen
        self._up = 0
        """Whose names are looked at: so many callers up."""
        self._commands: dict[str, Callable[[str], None]] = {
            "next": lambda rest: self._step(rest, "next"),
            "step": lambda rest: self._step(rest, "step"),
            "out": lambda rest: self._step(rest, "out"),
            "prev": lambda rest: self._step(rest, "prev"),
            "back": self._back,
            "at": self._go_to,
            "continue": lambda rest: self._run(rest, ahead=True),
            "rc": lambda rest: self._run(rest, ahead=False),
            "reverse-continue": lambda rest: self._run(rest, ahead=False),
            "to": self._run_to,
            "change": lambda rest: self._find_change(rest, ahead=False),
            "next-change": lambda rest: self._find_change(rest, ahead=True),
            "watch": self._watch,
            "print": self._print,
            "locals": self._list_locals,
            "stack": self._list_stack,
            "up": lambda rest: self._look_up(rest, 1),
            "down": lambda rest: self._look_up(rest, -1),
            "list": self._list_code,
            "calls": self._list_calls,
            "rows": self._list_rows,
            "where": self._where,
            "help": lambda _rest: self._say(*([line] for line in HELP.split("\n"))),
        }
        self._short = {
            "n": "next", "s": "step", "o": "out", "pn": "prev", "b": "back", "c": "continue", "p": "print",
            "l": "list", "w": "where", "h": "help", "?": "help", "reverse-step": "back", "bt": "stack",
        }  # fmt: skip

    def run(self, read: Callable[[str], str]) -> None:
        """Read commands with ``read``, which gets the prompt, until one says that it is enough."""
        walk = self._walk
        self._say(*head(walk.told, self._screen.width), [])
        self._where("")
        self._say([], [Piece("  help lists the commands, quit ends", "dim")])
        last = ""
        while True:
            try:
                typed = read(f"#{walk.at} > ").strip()
                command = self._full(typed.partition(" ")[0])
                if command == "quit":
                    return
                if command:
                    last = typed if command in ("next", "step", "prev", "back", "out", "up", "down") else ""
                self.obey(typed or last)
            except EOFError:
                self._say([])
                return
            except KeyboardInterrupt:
                self._say([])  # The line is dropped, or the answer that did not come.
            except FluxError as error:
                tell(error, [])

    def obey(self, line: str) -> None:
        """Do one command; raise what is wrong with it."""
        word, _, rest = line.strip().partition(" ")
        if not word:
            return
        command = self._full(word)
        if command not in self._commands:
            near = [each for each in self._commands if each.startswith(command[:2])]
            raise NoSuchCommandError(
                f'the debugger has no command "{word[:40]}"',
                remedy=f"{', '.join(near)}, or help" if near else "help lists them",
            )
        self._commands[command](rest.strip())

    def _full(self, word: str) -> str:
        return self._short.get(word, {"q": "quit", "exit": "quit"}.get(word, word))

    def _say(self, *lines: Line) -> None:
        for line in lines:
            self._screen.cut_line(*line)

    # Commands that move

    def _step(self, rest: str, which: str) -> None:
        _want_nothing(rest, which)
        walk = self._walk
        here = walk.here
        search = {"next": step_over, "prev": step_back_over, "out": step_out}.get(which, _step_in)(here)
        found = walk.find(search)
        if found is not None:
            self._arrive(found)
        elif search.ahead:
            self._arrive(walk.find_end(), walk.end)
        else:
            self._arrive(1, "it begins here")

    def _back(self, rest: str) -> None:
        _want_nothing(rest, "back")
        self._arrive(max(1, self._walk.at - 1), "it begins here" if self._walk.at <= 2 else "")

    def _go_to(self, rest: str) -> None:
        number = rest.removeprefix("#").replace(",", "")
        if not (number.isascii() and number.isdigit()) or len(number) > 12:
            raise NoSuchCommandError(f'"{rest[:40]}" is no number of an event', remedy=f"at 1 to at {self._walk.total}")
        self._arrive(int(number))

    def _run_to(self, rest: str) -> None:
        if stepping.read_target(rest).file is None:
            raise NoSuchCommandError(f'"{rest[:80]}" is not FILE:LINE', remedy="to signup.py:42")
        self._run(rest, ahead=True)

    def _run(self, rest: str, *, ahead: bool) -> None:
        walk = self._walk
        if not rest:
            self._arrive(walk.find_end() if ahead else 1, walk.end if ahead else "it begins here")
            return
        found = walk.run([read_target(rest)], ahead=ahead)
        if found is None:
            self._say([Piece(f"  not {'after' if ahead else 'before'} event {walk.at:,}: {rest}", "yellow")])
            return
        self._arrive(found[0])

    def _find_change(self, rest: str, *, ahead: bool) -> None:
        _want(rest, "NAME", "change order.total")
        change = self._walk.find_change(rest, ahead=ahead)
        if change is None:
            side = "after" if ahead else "before"
            self._say([Piece(f"  {rest} did not change {side} event {self._walk.at:,}", "yellow")])
            return
        told = f"{rest} had become {show(change.value)}, by {change.place}"
        self._arrive(change.event, told)

    def _arrive(self, number: int, why: str = "") -> None:
        self._walk.go(number)
        self._up = 0
        if why:
            self._say([Piece(f"  {why}", "bold")])
        self._where("")

    # Commands that tell

    def _where(self, rest: str) -> None:
        _want_nothing(rest, "where")
        walk = self._walk
        here = walk.here
        for number in range(max(1, here.number - EVENTS_BEFORE), min(walk.total, here.number + EVENTS_AFTER) + 1):
            self._say(event_line(walk.event(number), is_here=number == here.number))
        kind, more = "event" if walk.by_line else "host call", "" if walk.ended else " that are known"
        count = f"{here.number:,} of {walk.total:,}{more}"
        self._say([Piece(f"  {kind} {count} · {self._get_clock().tell(here.asked)}", "dim")])

    def _get_clock(self) -> Clock:
        if self._clock is None:
            self._clock = self._read_clock()
        return self._clock

    def _list_locals(self, rest: str) -> None:
        _want_nothing(rest, "locals")
        self._say(*locals_lines(self._walk.frame(self._up), self._up))

    def _list_stack(self, rest: str) -> None:
        _want_nothing(rest, "stack")
        self._say(*(stack_lines(self._walk.frame()) or [["  ", Piece("nobody of the project's had called it", "dim")]]))

    def _look_up(self, rest: str, by: int) -> None:
        _want_nothing(rest, "up" if by > 0 else "down")
        stack = self._walk.frame().records("stack")
        if not 0 <= self._up + by < len(stack):
            self._say([Piece("  nobody of the project's had called it" if by > 0 else "  nothing is below it", "dim")])
            return
        self._up += by
        entry = stack[self._up]
        place = f"{entry.text('file')}:{entry.number('line'):.0f}"
        self._say([Piece("  in    ", "dim"), f"{place}  {entry.text('function')}()"])

    def _print(self, rest: str) -> None:
        _want(rest, "EXPR", "print order.total, len(order.lines)")
        for text, value in self._walk.look_up(rest, self._up):
            self._say([Piece("  "), Piece(f"{text} = ", "cyan"), Piece(show(value))])

    def _watch(self, rest: str) -> None:
        _want(rest, "NAME", "watch order.total")
        self._say(*value_lines(self._walk.ask({"watch": rest, "at": self._walk.at}), self._screen.width))

    def _list_code(self, rest: str) -> None:
        _want_nothing(rest, "list")
        file, line = self._place()
        lines = self._walk.source(file) if file else None
        if lines is None:
            self._say([Piece(f"  the code of {file or 'this call'} is not known here", "dim")])
            return
        for number in range(max(1, line - LINES_AROUND), min(len(lines), line + LINES_AROUND) + 1):
            mark, style = (" → ", "bold") if number == line else ("   ", "")
            self._say([Piece(f"{mark}{number:>5}  ", style or "dim"), Piece(lines[number - 1].expandtabs(), style)])

    def _place(self) -> tuple[str, int]:
        if not self._up:
            here = self._walk.here
            return here.file, here.line
        entry = self._walk.frame().records("stack")[self._up]
        return entry.text("file"), int(entry.number("line"))

    def _list_calls(self, rest: str) -> None:
        _want_nothing(rest, "calls")
        here = self._walk.here
        self._say(*self._get_clock().call_lines(here.asked, here.heard, self._screen.width))

    def _list_rows(self, rest: str) -> None:
        _want_nothing(rest, "rows")
        here = self._walk.here
        self._say(*self._get_clock().row_lines(here.asked, here.heard))


def _step_in(_here: Step) -> Search:
    return step_in()


def read_target(text: str) -> Place:
    """Return what ``signup.py:16``, ``total > 100`` or ``signup.py:16 if total > 100`` means."""
    said = stepping.read_target(text)
    if said.file is None:
        return Place(None, condition=text)
    file, line = read_place(f"{said.file}:{said.line}")
    return Place(file, line, said.condition)


def locals_lines(frame: Record, up: int = 0) -> list[Line]:
    """What names held."""
    held = list(frame.record("locals").data.items())
    if "returned" in frame.data and not up:
        held.append(("(returned)", frame.get("returned")))
    column = min(NAME_CELLS_MAX, max([0, *(len(name) for name, _ in held)]))
    lines: list[Line] = [["  ", Piece(f"{name:<{column}}  ", "cyan"), Piece(show(value))] for name, value in held]
    return lines or [["  ", Piece("no names yet", "dim")]]


def read_line(prompt: str) -> str:
    """Read a line from the terminal, with its history where Python has that; raise `EOFError` at its end."""
    with contextlib.suppress(ImportError):  # A Python without it reads lines as the terminal gives them.
        import readline  # noqa: F401 - that it is there is what `input` goes by
    sys.stdout.flush()
    return input(prompt)


def _want(rest: str, what: str, example: str) -> None:
    if not rest:
        raise NoSuchCommandError(f"{what} is missing", remedy=example)


def _want_nothing(rest: str, command: str) -> None:
    if rest:
        raise NoSuchCommandError(f'{command} takes nothing, and was given "{rest[:40]}"', remedy=command)
