"""The global flags: on every command, before or after its name.

The registry adds them to each command that it loads, so a command's own file
does not mention them; it asks `settings` what was said. A command that has a
``-q`` of its own (the filter of ``tail`` and ``trace list``) keeps it, and quiet is
``--quiet`` there, or ``-q`` before the command's name.
"""

from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Settings:
    """What the global flags say."""

    json: bool = False
    """Answer with JSON on stdout, for programs."""

    no_color: bool = False
    """Colourless, even on a terminal."""

    quiet: bool = False
    """The answer and nothing else: no story on stderr, no headings, no next commands."""

    verbose: bool = False
    """Shorten nothing and leave nothing out."""

    server: str | None = None
    """URL of the server, when given on the command line."""


def settings() -> Settings:
    """What was said on the command line of the command that runs now."""
    said = click.get_current_context().find_root().ensure_object(dict)
    return Settings(**said)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:  # Not said after the command's name leaves what was said before it.
        context.find_root().ensure_object(dict)[parameter.name] = value


_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--json",), {"is_flag": True, "help": "Answer in JSON on stdout."}),
    (("--no-color",), {"is_flag": True, "help": "No colour (as NO_COLOR=1)."}),
    (("-q", "--quiet"), {"is_flag": True, "help": "Only the answer: no story, headings or next commands."}),
    (("-v", "--verbose"), {"is_flag": True, "help": "Shorten nothing."}),
    (("--server",), {"metavar": "URL", "help": "The server (default: FLUXRT_URL, else .flux/dev.json)."}),
)


def add_global_options(command: click.Command) -> None:
    """Give the command the global flags that it does not define itself."""
    taken = {name for parameter in command.params for name in parameter.opts}
    for names, attributes in _OPTIONS:
        free = [name for name in names if name not in taken]
        if names[-1] in free:
            # Eager, so that --version and --help know of --json wherever it stands.
            option = click.Option(free, expose_value=False, is_eager=True, callback=_remember, **attributes)
            command.params.append(option)
