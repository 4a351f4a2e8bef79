"""``flux completion``: what makes the tab key know Flux's commands, ids and routes.

The printed script asks ``flux`` itself, so it stays right when Flux changes.
"""

import os
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from flux.cli.failures import UsageError
from flux.cli.registry import root
from flux.cli.screen import json_text
from flux.cli.settings import settings

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
PROGRAMS = ("flux", "fluxrt")


@click.command()
@click.argument("shell", required=False, type=click.Choice(list(SHELLS)))
def command(shell: str | None) -> None:
    """Print a completion script for SHELL (default: the one you use).

    \b
    bash   echo 'eval "$(flux completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(flux completion zsh)"' >> ~/.zshrc
    fish   flux completion fish > ~/.config/fish/completions/flux.fish
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(
            f'flux completion: no script for the shell "{name}"', remedy=f"flux completion {'|'.join(SHELLS)}"
        )
    # Click's own source() would start bash to ask for its version; the template needs none of that.
    scripts = [
        completer.source_template % completer.source_vars()
        for completer in (
            SHELLS[name](root, {}, program, f"_{program.upper()}_COMPLETE") for program in PROGRAMS
        )
    ]
    text = "\n".join(scripts)
    if settings().json:
        text = json_text({"schema": "flux.completion/1", "shell": name, "script": text})
    click.echo(text)
