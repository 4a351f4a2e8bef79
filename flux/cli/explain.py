"""``flux explain``: what an error code means and what to do about it."""

import re
from pathlib import Path

import click
from click.shell_completion import CompletionItem

import flux
from flux.cli.failures import NoSuchPage
from flux.cli.screen import Line, Piece, Screen, json_text, wrap
from flux.cli.settings import settings

_PACKAGE = Path(flux.__file__).parent
PAGES = (_PACKAGE / "docs" / "errors", _PACKAGE.parent / "docs" / "errors")
"""Where the pages are: inside an installed package, and in a checkout."""


def _codes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    return [
        CompletionItem(code, help=title(path))
        for code, path in pages().items()
        if code.startswith(incomplete.upper())
    ]


@click.command()
@click.argument("code", required=False, shell_complete=_codes)
def command(code: str | None) -> None:
    """What an error CODE means and what to do; without CODE, the list of all."""
    said = settings()
    found = pages()
    screen = Screen.stdout()
    if code is None:
        if said.json:
            rows = [{"code": name, "title": title(path)} for name, path in found.items()]
            screen.write_raw_json(json_text({"schema": "flux.explain-list/1", "codes": rows}))
        else:
            screen.page([["  ", Piece(name, "bold"), "  ", title(path)] for name, path in found.items()])
        return
    name, path = find_page(code)
    text = path.read_text(encoding="utf-8")
    if said.json:
        document = {"schema": "flux.explain/1", "code": name, "title": title(path), "text": text}
        screen.write_raw_json(json_text(document))
        return
    screen.page(_lines(text, min(screen.width, 80)))


def pages() -> dict[str, Path]:
    """Every code and its page, in order."""
    for folder in PAGES:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("FLX*.md"))}
    return {}


def find_page(code: str) -> tuple[str, Path]:
    """The code as it is written in full, and its page; raises where there is none."""
    name = _normal(code)
    path = pages().get(name)
    if path is None:
        raise NoSuchPage(f'there is no page for "{code}"', remedy="flux explain    lists all codes")
    return name, path


def title(path: Path) -> str:
    """The short sentence in a page's first line."""
    with path.open(encoding="utf-8") as file:
        return file.readline().strip().lstrip("# ").partition(": ")[2]


def _normal(code: str) -> str:
    digits = re.fullmatch(r"(?:FLX)?-?([0-9]{1,3})", code.strip().upper())
    return f"FLX{int(digits[1]):03d}" if digits else code


def _lines(text: str, width: int) -> list[Line]:
    """A page of Markdown: headings bold, code as it is, paragraphs and lists wrapped."""
    result: list[Line] = []
    paragraph: list[str] = []
    fenced = False

    def flush() -> None:
        if paragraph:
            joined = " ".join(paragraph).replace("`", "")
            item = joined.startswith(("- ", "* "))
            for index, line in enumerate(wrap(joined[2:] if item else joined, width - 4)):
                result.append([("  - " if index == 0 else "    ") if item else "  ", line])
            paragraph.clear()

    for line in text.rstrip().split("\n"):
        if line.startswith("```"):
            flush()
            fenced = not fenced
        elif fenced or line.startswith("    "):
            flush()
            result.append([Piece("    " + line.removeprefix("    "), "cyan")])
        elif line.startswith("#"):
            flush()
            result.append([Piece(line.lstrip("# "), "bold")])
        elif not line.strip():
            flush()
            result.append([])
        else:
            if line.startswith(("- ", "* ")):
                flush()
            paragraph.append(line.strip())
    flush()
    return result
