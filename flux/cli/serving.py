"""Running a server from the command line, and telling its story on stderr: for ``flux dev`` and ``flux serve``.

A line that begins with ``ready`` means that requests are taken. SIGINT and SIGTERM drain and end with exit code 0; a
second one ends at once.
"""

import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from flux import __version__
from flux.cli.screen import Line, Piece, Screen, cells, json_text, line_cells, pad, wrap, wrap_hanging
from flux.cli.settings import settings
from flux.errors import FluxError

if TYPE_CHECKING:
    import trio

    from flux.project import Project
    from flux.supervisor.deploy import Switch
    from flux.supervisor.story import Route, Story


LOG_FORMATS = ("text", "json")


def log_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command that serves the options that say how it tells its story."""
    command = click.option("--log-requests", is_flag=True, help="Tell of each execution in a line.")(command)
    return click.option(
        "--log-format", type=click.Choice(LOG_FORMATS), default="text",
        help="How the story on stderr is told: for people, or a JSON object a line.",
    )(command)  # fmt: skip


def run_server(
    prepare: "Callable[[], Callable[[Story, trio.Event], Awaitable[None]]]", schema: str, log_format: str
) -> int:
    """Run what ``prepare`` returns until a signal stops it; what keeps it from starting is told in ``log_format``.

    ``schema`` is that of the document that ``--json`` asks for.
    """
    try:
        return _run(prepare(), schema, log_format)
    except FluxError as error:
        if log_format != "json":
            raise
        from flux.cli.serving_json import tell_failure

        return tell_failure(error)


def make_story(log_format: str, *, no_color: bool, quiet: bool, json_schema: str | None = None) -> "Story":
    """Return who tells what happens, in the way that was asked for."""
    if log_format == "json":
        from flux.cli.serving_json import JsonStory

        return JsonStory(quiet=quiet, json_schema=json_schema)
    screen = Screen.stderr(colour=False if no_color else None, is_lasting=True)
    return ServerStory(screen, quiet=quiet, json_schema=json_schema)


def _run(serve: "Callable[[Story, trio.Event], Awaitable[None]]", schema: str, log_format: str) -> int:
    import trio

    said = settings()
    story = make_story(
        log_format, no_color=said.no_color, quiet=said.quiet, json_schema=schema if said.json else None
    )

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_listen_to_signals, stop, nursery.cancel_scope)
            await serve(story, stop)
            nursery.cancel_scope.cancel()

    calm_collector()
    try:
        trio.run(main)
    except* FluxError as group:
        first = find_first(group)
        raise first from first.__cause__
    return 0


def calm_collector() -> None:
    """Have cycles looked for seldom: a request leaves none worth it after every 700 objects, a tenth of its time."""
    import gc

    gc.freeze()
    gc.set_threshold(10_000, 50, 100)


def find_first(group: BaseExceptionGroup[FluxError]) -> FluxError:
    """Return one of the errors of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FluxError)
    return error


async def _listen_to_signals(stop, scope, *, task_status):  # type: ignore[no-untyped-def]
    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _number in signals:
            if stop.is_set():
                scope.cancel()
                return
            stop.set()


INDENT = " " * 10
"""What belongs to a line that begins with the time stands under its words."""


class ServerStory:
    """Writes what happens to stderr. A `flux.supervisor.story.Story`."""

    def __init__(self, screen: Screen, *, quiet: bool, json_schema: str | None, who: str = "") -> None:
        """``who`` stands before what is told of a tenant, or of one process of several."""
        self._who = who
        self._screen = screen
        self._quiet = quiet
        self._json_schema = json_schema
        """Unless None: also say on stdout, once, where requests are taken, the only answer that these commands have."""
        self._served: frozenset[Route] = frozenset()

    def named(self, **who: str | int) -> "ServerStory":
        """See `Story.named`."""
        said = self._who + "".join(f"{kind} {name}: " for kind, name in who.items())
        return ServerStory(self._screen, quiet=self._quiet, json_schema=None, who=said)

    def remember(self, routes: "Sequence[Route]") -> None:
        """Know what is served without a word: what comes and goes is told from then on."""
        self._served = frozenset(routes)

    def begin(self, project: "Project", branch: str | None, sha: str, changed_files: int) -> None:
        """See `Story.begin`."""
        code = sha.removeprefix("nogit-")[:7]
        where = f"{branch} @ {code}" if branch else code
        state = f"{changed_files} changed" if changed_files else "clean"
        if sha.startswith("nogit-"):
            state = "no git"
        name = project.config.project.name
        self._line(Piece(f"flux {__version__}", "bold"), f" · project {name} · {where} ({state})")
        self._line()

    def step(self, name: str, detail: str, elapsed_s: float) -> None:
        """See `Story.step`."""
        room, lines = 54, [detail]
        if self._screen.is_terminal:  # Into a pipe nothing is broken: a program looks for whole lines.
            room = max(16, min(room, self._screen.width - 26))
            lines = wrap(detail, room)
        first, *rest = lines
        took = Piece(f"{elapsed_s:5.1f} s", "dim")
        self._line("  ", Piece("✓", "green"), f" {pad(name, 13)} {pad(first, room)} ", took)
        for text in rest:
            self._line(" " * 18, text)

    def note(self, text: str) -> None:
        """See `Story.note`."""
        self._block(["  ", Piece("!", "yellow"), " "], self._who + text)

    def ready(
        self, url: str, routes: "Sequence[Route]", elapsed_s: float, watched: Sequence[str], console: str = "", /
    ) -> None:
        """See `Story.ready`."""
        self._line()
        self._line("  api   ", Piece(url, "cyan"))
        if console:
            is_here = (urlsplit(console).hostname or "") in ("127.0.0.1", "::1", "localhost")
            self._line("  ui    ", Piece(console, "cyan"), Piece("  (this machine only)" if is_here else "", "dim"))
        self._line()
        self._routes(routes)
        self._served = frozenset(routes)
        self._line()
        # Always told: programs wait for this line.
        watching = f" · watching {' '.join(watched)}" if watched else ""
        self._screen.line(Piece("ready", "bold green"), f" in {elapsed_s:.1f} s{watching} · ctrl-c to stop")
        sys.stderr.flush()
        if self._json_schema is not None:
            tell_ready_on_stdout(self._json_schema, url, routes)

    def reload(self, changed: Sequence[str], code: str, routes: "Sequence[Route]", elapsed_s: float) -> None:
        """See `Story.reload`."""
        what = changed[0] if len(changed) == 1 else f"{len(changed)} files"
        self._line(
            Piece(_now(), "dim"), "  reload  ", f"{what} changed → {code}",
            Piece(f"  {elapsed_s * 1000:.0f} ms", "dim"),
        )  # fmt: skip
        self._changes(routes)

    def switched(self, switch: "Switch", routes: "Sequence[Route]", *, held: bool) -> None:
        """See `Story.switched`."""
        deployment = switch.live.deployment
        code = deployment.sha.removeprefix("nogit-")[:7] + "+" * deployment.dirty
        until = " · held until a file is saved" if held else ""
        self._line(Piece(_now(), "dim"), f"  {switch.cause.value}  {code} is served{until}")
        self._changes(routes)

    def _changes(self, routes: "Sequence[Route]") -> None:
        """Write which routes and grants came and went: a change of these is why somebody changed the code."""
        now = frozenset(routes)
        for mark, some in (("−", self._served - now), ("+", now - self._served)):
            for route in sorted(some, key=lambda route: (route.path, route.trigger, route.function)):
                said = "  ".join(
                    [f"{route.trigger} {route.path}".strip() or "—", route.function, *route.grants]
                )
                self._line(INDENT, Piece(mark, "bold"), f" {said}")
        self._served = now

    def problem(self, what: str, error: FluxError, *, is_serving: bool) -> None:
        """See `Story.problem`."""
        self._screen.line(
            Piece(_now(), "dim"), "  ", Piece("✗", "red bold"), f" {self._who}{what}   ", Piece(error.code, "bold")
        )
        for line in error.message.split("\n"):
            self._block([INDENT], line)
        for failure in getattr(error, "failures", ()):
            for line in failure.traceback.rstrip().split("\n"):
                self._screen.line(INDENT, Piece(line, "dim"))
        for line in error.remedy.split("\n") if error.remedy else []:
            self._block([INDENT], line)
        outcome = (
            "the last good code is served" if is_serving else "nothing is served until it is mended and saved"
        )
        self._screen.line(INDENT, Piece(outcome, "yellow"))

    def crash(self, error: BaseException) -> None:
        """See `Story.crash`."""
        self._screen.line(
            Piece(_now(), "dim"), "  ", Piece("✗", "red bold"), f" {type(error).__name__}: {error}"
        )
        for text in traceback.format_exception(error):
            for line in text.rstrip().split("\n"):
                self._screen.line(INDENT, Piece(line, "dim"))

    def output(self, text: str) -> None:
        """See `Story.output`."""
        for line in text.rstrip("\n").split("\n"):
            self._screen.line("  ", Piece("│", "dim"), f" {line}")

    def executed(self, summary: Mapping[str, Any]) -> None:
        """See `Story.executed`."""
        self._screen.line(Piece(_now(), "dim"), f"  {summary['name']}  {self._who}{describe_execution(summary)}")

    def stopping(self) -> None:
        """See `Story.stopping`."""
        self._line(Piece(_now(), "dim"), "  stopping: requests in flight are finished")

    def _block(self, head: Line, text: str) -> None:
        """Write ``text`` after ``head``, its further lines beneath; into a pipe it stays one line."""
        indent = line_cells(head)
        is_terminal = self._screen.is_terminal
        width = self._screen.width - indent
        first, *rest = wrap_hanging(text, width, keeps_words=True) if is_terminal else [text]
        self._screen.line(*head, first)
        for line in rest:
            self._screen.line(" " * indent, line)

    def _routes(self, routes: "Sequence[Route]") -> None:
        if not routes:
            self._line("  no functions yet: put one into functions/")
            return
        paths = max(cells(route.path) for route in routes)
        names = max(cells(route.function) for route in routes)
        for route in routes:
            line: list[Piece | str] = [
                "  ", Piece(pad(route.trigger or "—", 6), "bold"), " ", pad(route.path, paths), "  ",
                pad(route.function, names),
            ]  # fmt: skip
            grants = Piece("  ".join(route.grants), "dim")
            if (
                not self._screen.is_terminal
                or line_cells(line) + 2 + cells(grants.text) <= self._screen.width
            ):
                self._line(*line, "  ", grants)
            else:
                self._line(*line)
                self._line(" " * 9, grants)

    def _line(self, *pieces: Piece | str) -> None:
        if not self._quiet:
            self._screen.line(*pieces)


def describe_execution(summary: Mapping[str, Any]) -> str:
    """Return an execution in a line, without its name."""
    what = summary["function"]
    if summary["trigger"] == "http":
        what = f"{summary['method']} {summary['path']}"
    elif summary["trigger"] != "invoke":
        what = f"{summary['trigger']} {what}"
    error = summary["error"]
    failed = f"  {error['type']}: {error['message']}" if error is not None else ""
    return f"{what} → {summary['status'] or summary['outcome']} in {summary['elapsed_ms']:,.1f} ms{failed}"


def tell_ready_on_stdout(schema: str, url: str, routes: "Sequence[Route]") -> None:
    """Write where requests are taken: the only answer that commands which serve have."""
    served = [
        {"trigger": route.trigger, "path": route.path, "function": route.function, "grants": route.grants}
        for route in routes
    ]
    document = {"schema": schema, "url": url, "pid": os.getpid(), "functions": served}
    Screen.stdout().write_raw_json(json_text(document))


def _now() -> str:
    return datetime.now().strftime("%H:%M:%S")
