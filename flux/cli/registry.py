"""Which commands there are, read from file names; none is imported until it runs.

``invoke.py`` is ``flux invoke`` and ``state_history.py`` is ``flux state history``: the
first underscore separates a group from its command, any further one is a
hyphen (``queue_dead_letter.py`` is ``flux queue dead-letter``). Such a file defines
``command``, a click command; the first line of its docstring is its help line.
Files that are no commands stand in `HELPERS` or begin with an underscore.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from flux import __version__
from flux.cli.settings import add_global_options, settings

HELPERS = frozenset(
    {
        "bisect_drive",
        "bisect_judge",
        "bisect_log",
        "bisect_show",
        "client",
        "complete",
        "database",
        "dap_serve",
        "dap_session",
        "dap_sources",
        "dap_values",
        "debug_clock",
        "debug_prompt",
        "debug_walk",
        "deployed",
        "export_forms",
        "failures",
        "follow",
        "guarded",
        "mcp_serve",
        "mcp_tools",
        "moments",
        "offline",
        "proof",
        "record",
        "registry",
        "render",
        "screen",
        "serve_worker",
        "serving",
        "serving_json",
        "settings",
        "table",
        "target_files",
        "together",
        "window",
        "work",
    }
)
"""Modules of this package that are no commands."""

GROUPS = {
    "bug": "Find the commit that broke it.",
    "config": "What is configured, and where each value comes from.",
    "cron": "What runs on a schedule.",
    "db": "The project's database.",
    "function": "The functions that are deployed.",
    "incident": "Replay the executions of a time window.",
    "queue": "Jobs that wait, run and failed.",
    "records": "What is kept, and for how long.",
    "secrets": "Values that functions need and records must not hold.",
    "state": "What rows were, and what changed them.",
    "tenant": "Who shares this server.",
    "token": "Who may talk to it.",
    "trace": "Executions: list, show, compare.",
}
"""A line of help for each group that may appear; a group without commands does not."""

DEFAULTS = {"trace": "show"}
"""``flux trace ID`` is short for ``flux trace show ID``."""


@cache
def command_files() -> dict[tuple[str, ...], str]:
    """Each command's words, and the module that defines it."""
    found: dict[tuple[str, ...], str] = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        if path.stem not in HELPERS:
            group, _, name = path.stem.partition("_")
            words = (group, name.replace("_", "-")) if name else (group,)
            found[words] = path.stem
    return found


def summary(module: str) -> str:
    """The first line of a command file's docstring, read without importing it."""
    with (Path(__file__).parent / f"{module}.py").open(encoding="utf-8") as file:
        line = file.readline().strip().removeprefix('"""').removesuffix('"""').strip()
    # "``flux why``: what happened." keeps what follows the name.
    if line.startswith("``") and "``:" in line:
        line = line.partition("``:")[2].strip()
    line = line.replace("``", "")
    return line[:1].upper() + line[1:]


def load(module: str, name: str) -> click.Command:
    """Import one command and give it the global flags."""
    command: click.Command = import_module(f"flux.cli.{module}").command
    command.name = name
    command.help = command.help or summary(module)
    add_global_options(command)
    return command


class LazyGroup(click.Group):
    """A group whose commands are files."""

    def __init__(self, name: str, prefix: tuple[str, ...] = (), **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.prefix = prefix
        """The words before this group's commands."""
        add_global_options(self)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        depth = len(self.prefix)
        return sorted(
            {words[depth] for words in command_files() if words[:depth] == self.prefix and words[depth:]}
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        words = (*self.prefix, cmd_name)
        module = command_files().get(words)
        if module is not None:
            return load(module, cmd_name)
        if not self.prefix and cmd_name in self.list_commands(ctx):
            return LazyGroup(cmd_name, words, help=GROUPS.get(cmd_name), no_args_is_help=True)
        return None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        default = DEFAULTS.get(" ".join(self.prefix))
        if default is not None:
            word = _first_word(args)
            if word is not None and word not in self.list_commands(ctx):
                args = [default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"; did you mean {' '.join((*self.prefix, near[0]))}?" if near else ""
            ctx.fail(f'no command "{args[0]}"{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        depth = len(self.prefix)
        rows = [
            (" ".join(words[depth:]), summary(module))
            for words, module in sorted(command_files().items())
            if words[:depth] == self.prefix
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_word(arguments: list[str]) -> str | None:
    """The first argument that is no option and no option's value."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--server":
            skip = True
        elif not argument.startswith("-"):
            return argument
    return None


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if not value or context.resilient_parsing:
        return
    if settings().json:
        click.echo(f'{{"schema": "flux.version/1", "version": "{__version__}"}}')
    else:
        click.echo(f"flux {__version__}")
    context.exit()


root = LazyGroup(
    "flux",
    help="Flux keeps the history of what your code did.\n\n"
    "Start with `flux init DIR`, `flux dev`, `flux tail`, `flux why @last-error`.",
    no_args_is_help=True,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            callback=_print_version,
            help="The version, and stop.",
        )
    ],
    epilog="Exit codes: 0 fine, 1 a finding, 2 usage, 3 no such or ambiguous id, 4 not authorised, "
    "5 server unreachable, 6 record not whole enough, 130 interrupted.",
)
