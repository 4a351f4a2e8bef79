"""A stream that outlives its connection.

`endless` asks again when the connection is lost, waits longer each time, and
says so on stderr. What came twice because of that is the caller's to recognise:
only it knows what makes two lines the same.
"""

import time
from collections.abc import Callable, Iterator

from flux.cli.client import Answer, Stream
from flux.cli.failures import CutAnswer, NotAuthorised, ServerRefused, ServerUnreachable
from flux.cli.screen import Piece, Screen

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 5.0


def endless(ask: Callable[[], Stream], story: Screen | None) -> Iterator[Answer]:
    """Every line of the stream, across lost connections. The first connection must succeed."""
    wait_s = FIRST_WAIT_S
    connected = False
    told = False
    while True:
        try:
            stream = ask()
            if connected and told:
                _tell(story, "the server is back", "green")
            connected, told = True, False
            for answer in stream:
                wait_s = FIRST_WAIT_S
                yield answer
            reason = "the server ended the stream"
        except (ServerUnreachable, CutAnswer, ServerRefused, NotAuthorised) as error:
            # At first nothing works yet, so it is the reader's to mend; later it is a restart. A server that has
            # just been started may answer before its new token is written down.
            if not connected:
                raise
            reason = error.message
        if not told:
            _tell(story, f"{reason}; trying again until ctrl-c", "yellow")
            told = True
        time.sleep(wait_s)
        wait_s = min(LONGEST_WAIT_S, wait_s * 2)


def _tell(story: Screen | None, text: str, style: str) -> None:
    if story is not None:
        story.line(Piece(f"  ~ {text}", style))
