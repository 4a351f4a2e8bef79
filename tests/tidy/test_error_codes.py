"""Codes, pages and exit codes: what is raised, what the docs say and what the command line shows agree."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import flux
from flux.cli import EXIT_INTERRUPTED, explain, failures
from flux.errors import BrokenInvariantError, FluxError

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "errors"
CODE = re.compile(r"FLX[0-9]{3}")

ANSWERED_BY_BOTH_SIDES = frozenset({"FLX101", "FLX102"})
"""The server raises these and the command line raises them again for what the server answered."""


def all_error_classes() -> set[type[FluxError]]:
    for module in pkgutil.walk_packages(flux.__path__, "flux."):
        if module.name != "flux.__main__":
            importlib.import_module(module.name)
    found: set[type[FluxError]] = set()
    waiting: list[type[FluxError]] = [FluxError]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    return {kind for kind in found if kind.__module__.startswith("flux.")}


def source_files() -> list[Path]:
    return sorted(path for path in (ROOT / "flux").rglob("*.py"))


def codes_in_strings() -> Iterator[tuple[str, str]]:
    """Each code that stands in the source as a string of its own, and where."""
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
                yield node.value, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    used = dict(codes_in_strings())
    pages = {path.stem for path in PAGES.glob("*.md")}
    missing = {code: place for code, place in used.items() if code not in pages}
    assert not missing, f"write docs/errors/CODE.md for {missing}"
    assert pages <= set(used), f"pages that nothing refers to: {sorted(pages - set(used))}"


def test_no_two_errors_share_a_code() -> None:
    owners: dict[str, list[str]] = {}
    for kind in all_error_classes():
        if "code" in vars(kind):
            owners.setdefault(kind.code, []).append(f"{kind.__module__}.{kind.__qualname__}")
    shared = {code: names for code, names in owners.items() if len(names) > 1}
    for code in ANSWERED_BY_BOTH_SIDES & shared.keys():
        if len(shared[code]) == 2 and any(name.startswith("flux.cli.failures.") for name in shared[code]):
            del shared[code]
    assert not shared


def test_codes_stand_in_the_area_of_their_branch() -> None:
    for kind in all_error_classes():
        if "code" not in vars(kind):
            continue
        assert CODE.fullmatch(kind.code), kind
        assert (kind.code >= "FLX900") is (kind is FluxError or issubclass(kind, BrokenInvariantError)), kind


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_says_what_it_means_why_it_happens_and_what_to_do(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert re.fullmatch(rf"# {path.stem}: .*[^.]", lines[0]), "the first line is '# CODE: a short sentence'"
    assert [line for line in lines if line.startswith("## ")] == [
        "## What it means",
        "## Why it happens",
        "## What to do",
    ]
    assert max(map(len, lines)) <= 120
    for section in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        assert section.strip(), "a section says something"
    for code in CODE.findall(text):
        assert (PAGES / f"{code}.md").exists(), f"it refers to {code}, which has no page"


def test_explain_shows_every_page(capsys: pytest.CaptureFixture[str]) -> None:
    pages = explain.pages()
    assert set(pages) == {path.stem for path in PAGES.glob("*.md")}
    for code, path in pages.items():
        explain.command.main([code], standalone_mode=False)
        shown = capsys.readouterr().out
        assert code in shown and explain.title(path) in shown
        assert "What to do" in shown
    explain.command.main([], standalone_mode=False)
    listed = capsys.readouterr().out
    assert all(code in listed for code in pages)


def test_the_exit_codes_are_those_of_the_table_in_the_docs() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    table = {int(code): words for code, words in re.findall(r"^\| ([0-9]+) \| (.+?) \|$", text, re.MULTILINE)}
    known = {
        0,
        failures.EXIT_FINDING,
        click.UsageError.exit_code,
        failures.EXIT_NO_SUCH_ID,
        failures.EXIT_NOT_AUTHORISED,
        failures.EXIT_UNREACHABLE,
        failures.EXIT_NOT_WHOLE,
        BrokenInvariantError.exit_code,
        EXIT_INTERRUPTED,
    }
    assert {kind.exit_code for kind in all_error_classes()} <= known
    assert set(table) == known
