"""``flux function list``: the functions that are deployed, what stands before them, and what they may reach."""

from typing import Any

import click

from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, json_text, pad, wrap
from flux.cli.settings import settings

COLUMN_CELLS_MAX = 32


@click.command()
@click.option("--openapi", is_flag=True, help="Their routes as an OpenAPI 3.1 document, in JSON.")
def command(openapi: bool) -> None:
    """The functions that are deployed, what stands before them, and what they may reach."""
    said = settings()
    if openapi:
        Screen.stdout().write_raw_json(open_client().get("openapi").text)
        return
    answer = open_client().get("functions")
    functions = answer.record.of_schema("flux.functions/1").records("functions")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    rows: list[tuple[str, str, str, str, str, str, str | None]] = []
    for function in functions:
        error = function.data.get("error")
        rows.append((
            function.maybe_text("route") or "—", function.text("name"), function.maybe_text("runtime") or "?",
            (function.maybe_text("sha") or "").removeprefix("nogit-")[:7],
            " → ".join(_stands_before(function)),
            _grants(function.get("grants")),
            None if error is None else error if isinstance(error, str) else json_text(error),
        ))  # fmt: skip
    head: tuple[str, ...] = ("route", "function", "runtime", "code", "goes through", "may reach")
    widths = [
        min(COLUMN_CELLS_MAX, max([cells(head[column]), *(cells(str(row[column])) for row in rows)]))
        for column in range(5)
    ]
    if not any(row[4] for row in rows):
        head, widths = (*head[:4], head[5]), widths[:4]
    lines: list[Line] = []
    if rows and not said.quiet:
        lines.append([Piece("  " + "  ".join(map(pad, head, [*widths, 0])), "dim")])
    for route, name, runtime, sha, middleware, grants, error in rows:
        start = 2 + sum(widths) + 2 * len(widths)
        first, *more = wrap(grants, max(20, screen.width - start)) if grants else [""]
        lines.append([
            "  ", Piece(pad(route, widths[0]), "bold"), "  ", pad(name, widths[1]), "  ",
            Piece(pad(runtime, widths[2]), "dim"), "  ", Piece(pad(sha, widths[3]), "dim"), "  ",
            *([pad(middleware, widths[4]), "  "] if len(widths) == 5 else []), first,
        ])  # fmt: skip
        lines += [[" " * start + line] for line in more]
        if error is not None:
            lines += [["    ", Piece(("✗ " if not index else "  ") + line, "red")]
                      for index, line in enumerate(wrap(error, screen.width - 6))]  # fmt: skip
    screen.page(lines)
    if not rows and not said.quiet:
        Screen.stderr().line("no functions are deployed: put one into functions/ and run flux dev")


def _stands_before(function: Record) -> list[str]:
    """What a request goes through before it reaches the function: the gateway's check first."""
    auth = function.data.get("auth")
    checked = [" ".join([auth["kind"], *auth["scopes"]])] if isinstance(auth, dict) else []
    return checked + (list(map(str, function.items("middleware"))) if function.data.get("middleware") else [])


def _grants(grants: Any) -> str:
    """``db  http:api.stripe.com``, from a list or from an object of lists."""
    if isinstance(grants, list):
        return "  ".join(item if isinstance(item, str) else json_text(item) for item in grants)
    if isinstance(grants, dict):
        parts: list[str] = []
        for name, value in grants.items():
            if isinstance(value, list):
                parts += [f"{name}:{item if isinstance(item, str) else json_text(item)}" for item in value]
            elif value is True:
                parts.append(name)
            elif value:
                parts.append(f"{name}:{value if isinstance(value, str) else json_text(value)}")
        return "  ".join(parts)
    return "" if grants is None else json_text(grants)
