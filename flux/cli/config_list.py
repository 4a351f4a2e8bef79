"""``flux config list``: every setting, its value, and whether flux.toml, the environment or Flux has it so.

It reads the project's folder and its own environment, and asks no server: what was said to a server with an option, or
in the environment that it was started in, is not known here.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flux.cli.screen import Line, Piece, Screen, cells, cut, json_text, pad
from flux.cli.settings import settings

if TYPE_CHECKING:
    from flux.config_list import Setting

VALUE_CELLS_MIN = 12
VALUE_CELLS_MAX = 44
"""A longer value does not push the sources of all others to the right."""


@click.command()
def command() -> None:
    """Every key of flux.toml and every variable that Flux reads: its value, and where that is from."""
    from flux.config_list import list_settings
    from flux.project import find_project, read_config_text

    found = list_settings(read_config_text(find_project(Path())), os.environ)
    said, screen = settings(), Screen.stdout()
    if said.json:
        listed = [
            {"key": one.key, "value": one.value, "source": one.source, "hidden": one.is_hidden} for one in found
        ]
        screen.write_raw_json(json_text({"schema": "flux.config/1", "settings": listed}))
        return
    screen.page(_lines(found, screen, is_verbose=said.verbose))


def _lines(found: "Sequence[Setting]", screen: Screen, *, is_verbose: bool) -> list[Line]:
    keys = max(cells(one.key) for one in found)
    sources = max(cells(one.source) for one in found)
    room = max(VALUE_CELLS_MIN, screen.width - keys - sources - 4)
    values = ["not set" if one.value is None else json_text(one.value) for one in found]
    if screen.is_terminal and not is_verbose:
        values = [cut(value, room) for value in values]
    width = min(max(map(cells, values)), VALUE_CELLS_MAX)
    lines: list[Line] = []
    for one, value in zip(found, values, strict=True):
        key, source = Piece(pad(one.key, keys), "bold"), Piece(one.source, "cyan")
        if one.source == "default":
            key, source = Piece(key.text), Piece(source.text, "dim")
        lines.append([key, "  ", Piece(pad(value, width), "" if one.value is not None else "dim"), "  ", source])
    return lines
