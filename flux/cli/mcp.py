"""``flux mcp``: let a model read what was recorded, by the Model Context Protocol.

A client of that protocol starts it and speaks with it over stdin and stdout; see docs/mcp.md. It asks the
running server as every command does, with GETs alone, so a token of scope ``read`` is all it needs.
"""

import sys
from importlib.util import find_spec

import click

from flux.cli.screen import Screen
from flux.cli.settings import settings
from flux.errors import OperatorError


class MissingExtraError(OperatorError):
    """The package that speaks the protocol is not installed."""

    code = "FLX760"


@click.command()
def command() -> None:
    """Let a model read what was recorded: the Model Context Protocol over stdin and stdout.

    It answers questions (executions, why, trace diff, state, failures, deployments) and does nothing else. Whoever
    starts it for a model gives it a token that may only read: FLUXRT_URL and FLUXRT_TOKEN, made by flux token create
    NAME --scope read.
    """
    said = settings()
    if find_spec("mcp") is None:
        raise MissingExtraError(
            "flux mcp needs the package mcp, which is not installed with Flux unless it is asked for",
            remedy=f"{sys.executable} -m pip install 'fluxrt[mcp]'",
        )
    if sys.stdin.isatty() and not said.quiet:
        Screen.stderr(colour=False if said.no_color else None).line(
            "a client of the Model Context Protocol speaks with this over stdin and stdout; ctrl-d ends it"
        )
    import trio

    from flux.cli.mcp_serve import serve

    trio.run(serve, said.server)
