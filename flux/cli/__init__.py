"""The command line: one file a command, each imported only when it runs.

``flux/cli/state_history.py`` is ``flux state history``: the file defines a click
command named ``command``, and the first line of its docstring is its line in
``flux --help``. Nothing else registers it (`flux.cli.registry`). Every command
gets the global flags, before or after its name (`flux.cli.settings`), asks the
server through `flux.cli.client`, and writes through `flux.cli.screen`, the only
door to the terminal, which sanitises what passes.

Classes here are frozen dataclasses and named tuples rather than attrs classes,
and heavy imports stand inside functions: this package's start-up is felt at
each command (``benchmarks/start.py``).
"""

import errno
import os
import sys

from flux.errors import FluxError

EXIT_INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Why the system does not take what is written to a stream; a terminal that is gone is EIO."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; what it raises is told on stderr, with the next step."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # Also while modules are imported, which takes most of a short command's time.
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    import click

    from flux.cli.failures import UnwritableAnswer, tell, usage_error
    from flux.cli.registry import root

    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show "●" or "→" gets an escape, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = root.main(arguments, prog_name="flux", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        failure = usage_error(error, arguments)
        tell(failure, arguments)
        return failure.exit_code
    except FluxError as error:
        sys.stdout.flush()
        tell(error, arguments)
        return error.exit_code
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `flux tail | head`: the reader has what it wanted. Python would complain
        # once more when it flushes stdout at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        # What a file has no room for is still in the stream's buffer, and would be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        remedy = "make room for it (df -h), or have it written elsewhere"
        unwritable = UnwritableAnswer(f"the answer can't be written: {error.strerror}", remedy=remedy)
        tell(unwritable, arguments)
        return unwritable.exit_code
