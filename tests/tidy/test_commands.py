"""Each command has its line of help, its place in docs/cli.md, and flags that do something."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from flux.cli import registry

ROOT = Path(__file__).parents[2]
COMMANDS = registry.command_files()
CLI_PAGE = ROOT / "docs" / "cli.md"

GLOBAL_FLAGS = {"--json", "--no-color", "--quiet", "--verbose", "--server"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_has_a_line_of_help_and_the_global_flags(words: tuple[str, ...]) -> None:
    module = COMMANDS[words]
    line = registry.summary(module)
    assert 10 <= len(line) <= 90 and line[-1] in ".?", f"flux/cli/{module}.py: {line!r}"
    command = registry.load(module, words[-1])
    assert command.help
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert flags >= GLOBAL_FLAGS
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts[0]} of flux {' '.join(words)} has no help"


EACH_FIRST = """
import importlib, os, sys
from flux.cli import registry
heavy, work_here = set(sys.argv[1].split()), set(sys.argv[2].split())
for module in registry.command_files().values():
    child = os.fork()
    if child == 0:
        importlib.import_module(f"flux.cli.{module}")
        found = heavy & sys.modules.keys()
        if found and module not in work_here:
            print(module, sorted(found), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""
HEAVY = "attrs msgspec trio asyncpg h11 httpcore cryptography zstandard wasmtime flux.store flux.supervisor"
WORK_HERE = "bug_bisect export incident_replay init"
"""They do more than ask the server: one decides, others read and write case files and projects."""


def test_each_command_may_be_the_first_thing_that_is_imported_and_brings_nothing_heavy() -> None:
    """Commands of other tests run where all is imported (`tests.forks`): there, neither a circle nor a weight shows."""
    done = subprocess.run(
        [sys.executable, "-c", EACH_FIRST, HEAVY, WORK_HERE], capture_output=True, text=True, check=False, timeout=1800
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_group_has_its_line_of_help() -> None:
    groups = {words[0] for words in COMMANDS if len(words) > 1}
    assert groups <= registry.GROUPS.keys()


def test_the_page_of_the_command_line_has_each_command_and_no_other() -> None:
    text = CLI_PAGE.read_text(encoding="utf-8")
    described = {tuple(words.split()) for words in re.findall(r"^### flux ([a-z -]+)$", text, re.MULTILINE)}
    assert described == set(COMMANDS)


def test_the_page_of_the_command_line_shows_each_option() -> None:
    text = CLI_PAGE.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### flux ([a-z -]+)$\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    for words, module in COMMANDS.items():
        command = registry.load(module, words[-1])
        for parameter in command.params:
            long = next((flag for flag in parameter.opts if flag.startswith("--")), None)
            if long is not None and long not in GLOBAL_FLAGS | {"--help"}:
                assert long in sections[" ".join(words)], f"docs/cli.md: flux {' '.join(words)} {long}"
