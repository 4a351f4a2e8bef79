"""A worker process of ``flux serve --workers N``: started by the parent, and by nobody else.

It is told its place over the socket whose number is its only argument, and says there that it is ready, or why it
can't be. It has no terminal: what it tells goes to the parent's stderr, with its number where several could say it.
"""

import contextlib
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flux.cli.serving import calm_collector, find_first, make_story
from flux.errors import FluxError

if TYPE_CHECKING:
    import trio

    from flux.supervisor.crew_place import Place
    from flux.supervisor.deploy import Switch
    from flux.supervisor.listeners import Borrowed
    from flux.supervisor.story import Route, Story


class MemberStory:
    """Tells what one worker of several has to tell: of the start only the first one does, and of signals none."""

    def __init__(self, place: "Place", control: socket.socket) -> None:
        self._story = make_story(**place.screen)
        self._named = self._story.named(worker=place.number)
        self._place = place
        self._control = control
        self._is_ready = False

    def named(self, **who: str | int) -> "Story":
        """See `Story.named`."""
        return self._named.named(**who)

    def begin(self, *_arguments: object) -> None:
        """The parent has said so."""

    def step(self, name: str, detail: str, elapsed_s: float) -> None:
        """See `Story.step`."""
        if self._place.is_first:
            self._story.step(name, detail, elapsed_s)

    def note(self, text: str) -> None:
        """See `Story.note`."""
        is_start = self._place.is_first and not self._is_ready
        (self._story if is_start else self._named).note(text)

    def ready(
        self, _url: str, routes: "Sequence[Route]", _elapsed_s: float, _watched: Sequence[str], _console: str = "", /
    ) -> None:
        """Tell the parent, which says so once all are."""
        from flux.supervisor.crew_place import encode_ready

        self._named.remember(routes)
        self._is_ready = True
        self._control.sendall(encode_ready(routes))

    def remember(self, routes: "Sequence[Route]") -> None:
        """See `Story.remember`."""
        self._named.remember(routes)

    def reload(self, changed: Sequence[str], code: str, routes: "Sequence[Route]", elapsed_s: float) -> None:
        """See `Story.reload`."""
        self._named.reload(changed, code, routes, elapsed_s)

    def switched(self, switch: "Switch", routes: "Sequence[Route]", *, held: bool) -> None:
        """See `Story.switched`."""
        self._named.switched(switch, routes, held=held)

    def problem(self, what: str, error: FluxError, *, is_serving: bool) -> None:
        """See `Story.problem`."""
        self._named.problem(what, error, is_serving=is_serving)

    def crash(self, error: BaseException) -> None:
        """See `Story.crash`."""
        self._named.crash(error)

    def output(self, text: str) -> None:
        """See `Story.output`."""
        self._named.output(text)

    def executed(self, summary: Mapping[str, Any]) -> None:
        """See `Story.executed`."""
        self._named.executed(summary)

    def stopping(self) -> None:
        """The parent has said so."""


def main(descriptor: int) -> int:
    """Serve until the parent says so or is gone; return the exit code."""
    from functools import partial

    import trio

    from flux.supervisor.crew_member import serve_member
    from flux.supervisor.crew_place import decode_place, encode_failure

    control = socket.socket(fileno=descriptor)
    with control:
        place = decode_place(_read_line(control))
        story = MemberStory(place, control)
        calm_collector()
        exit_code = 0
        try:
            trio.run(partial(_serve, place, story, control, serve_member))
        except* FluxError as group:
            error = find_first(group)
            exit_code = error.exit_code
            with contextlib.suppress(OSError):  # The parent is gone, and nobody is left to be told.
                control.sendall(encode_failure(error.code, error.message, error.remedy, exit_code))
        return exit_code


def _read_line(control: socket.socket) -> bytes:
    """Read the first line and not a byte more: what comes behind it is for whoever serves."""
    line = b""
    while not line.endswith(b"\n"):
        line += control.recv(1) or b"\n"
    return line


async def _serve(place, story, control, serve) -> None:  # type: ignore[no-untyped-def]
    import trio

    stop = trio.Event()

    async def listen_to_parent(borrowed: "Borrowed") -> None:
        """Take whose clients we are told to take; drain when the parent is gone: nobody would end us."""
        from flux.supervisor.crew_place import decode_also

        rest = b""
        while True:
            await trio.lowlevel.wait_readable(control)
            data = control.recv(65536)
            if not data:
                stop.set()
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                borrowed.set(decode_also(line))

    async with trio.open_nursery() as nursery:
        await nursery.start(_listen_to_signals, stop)
        await serve(place, story, stop, listen_to_parent)
        nursery.cancel_scope.cancel()


async def _listen_to_signals(stop: "trio.Event", *, task_status) -> None:  # type: ignore[no-untyped-def]
    import trio

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _number in signals:
            stop.set()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
