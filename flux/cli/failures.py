"""What can go wrong between a person and the server, and how it is told.

A failure is told on stderr: code, what happened, the next step. With ``--json``
it is one JSON object there, so that a program can read it; stdout stays empty
or ends where the answer was cut, and the exit code says which kind it was.
"""

import sys
from typing import TYPE_CHECKING

from flux.errors import FluxError, OperatorError

if TYPE_CHECKING:
    import click

EXIT_FINDING = 1
EXIT_NO_SUCH_ID = 3
EXIT_NOT_AUTHORISED = 4
EXIT_UNREACHABLE = 5
EXIT_NOT_WHOLE = 6


class UsageError(OperatorError):
    """The command line was not understood."""

    code = "FLX100"


class NoSuchId(OperatorError):
    """The server knows nothing by that name."""

    code = "FLX101"
    exit_code = EXIT_NO_SUCH_ID


class AmbiguousId(OperatorError):
    """More than one execution begins like that."""

    code = "FLX102"
    exit_code = EXIT_NO_SUCH_ID


class ServerUnreachable(OperatorError):
    """Nobody answered, or the connection was lost."""

    code = "FLX103"
    exit_code = EXIT_UNREACHABLE


class NotAuthorised(OperatorError):
    """The server wants another token."""

    code = "FLX104"
    exit_code = EXIT_NOT_AUTHORISED


class ServerRefused(OperatorError):
    """The server answered with an error that has no code of Flux's."""

    code = "FLX106"
    exit_code = EXIT_UNREACHABLE


class MalformedAnswer(OperatorError):
    """The answer is cut, is not what was asked for, or does not come from Flux."""

    code = "FLX107"
    exit_code = EXIT_UNREACHABLE


class CutAnswer(MalformedAnswer):
    """The connection was lost in the middle of an answer; a stream may be taken up again."""


class NoServer(OperatorError):
    """Nothing says where the server is."""

    code = "FLX108"
    exit_code = EXIT_UNREACHABLE


class NotWhole(OperatorError):
    """The record lacks what the answer needs."""

    code = "FLX109"
    exit_code = EXIT_NOT_WHOLE


class UntrustedServerFile(OperatorError):
    """``.flux/dev.json`` cannot be read, or others could have written it."""

    code = "FLX111"


class NoSuchPage(OperatorError):
    """``flux explain`` has no page for that code."""

    code = "FLX112"
    exit_code = EXIT_NO_SUCH_ID


class NoSuchSchema(OperatorError):
    """``flux schema`` knows no kind of document of that name."""

    code = "FLX114"
    exit_code = EXIT_NO_SUCH_ID


class UnwritableAnswer(OperatorError):
    """stdout does not take the answer; a reader that has left is no error."""

    code = "FLX115"


_KNOWN: dict[str, type[OperatorError]] = {
    kind.code: kind
    for kind in (NoSuchId, AmbiguousId, ServerUnreachable, NotAuthorised, ServerRefused, NotWhole)
}


def of_code(code: str, exit_code: object = None) -> type[OperatorError]:
    """The class for a code that the server sent, made on the spot when only the server knows it.

    ``exit_code`` is what the server says a command ends with; without one it is the usual.
    """
    members: dict[str, object] = {"code": code}
    if type(exit_code) is int and 0 < exit_code < 126:  # Beyond begin the shell's own and the signals'.
        members["exit_code"] = exit_code
    return _KNOWN.get(code) or type(code, (OperatorError,), members)


def usage_error(error: "click.ClickException", arguments: list[str]) -> UsageError:
    """Click's complaint as one of ours, with the help that belongs to it."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "flux"
    if context is None and arguments and not arguments[0].startswith("-"):
        path = f"flux {arguments[0]}"
    message = error.format_message()
    return UsageError(f"{path}: {message[:1].lower()}{message[1:].rstrip('.')}", remedy=f"{path} --help")


def tell(error: FluxError, arguments: list[str]) -> None:
    """Write the error to stderr. The flags are read from the raw arguments: parsing may be what failed."""
    from flux.cli.screen import Piece, Screen, json_text, wrap_hanging

    if "--json" in arguments:
        document = {
            "schema": "flux.error/1", "code": error.code, "message": error.message,
            "remedy": error.remedy, "exit": error.exit_code,
        }  # fmt: skip
        Screen.stderr().write_raw_json(json_text(document))
        return
    screen = Screen.stderr(colour=False if "--no-color" in arguments else None)
    indent = " " * (len(error.code) + 2)
    texts = [*error.message.split("\n"), *(error.remedy.split("\n") if error.remedy else [])]
    # Into a pipe nothing is broken: a program looks for whole lines.
    room = screen.width - len(indent) if screen.is_terminal else None
    lines = [line for text in texts for line in (wrap_hanging(text, room, keeps_words=True) if room else [text])]
    screen.line(Piece(error.code, "bold red"), Piece("  " + lines[0]))
    for text in lines[1:]:
        screen.line(Piece(indent + text))
    sys.stderr.flush()
