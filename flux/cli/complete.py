"""What the shell offers for ids, functions and filters.

A shell asks at every press of the tab key. So the server gets half a second, and
when it cannot be asked nothing is offered: an error message in the middle of a
half-typed command line would be worse than no help.
"""

from typing import Any

import click
from click.shell_completion import CompletionItem

from flux.errors import FluxError
from flux.sanitize import is_safe

PATIENCE_S = 0.5
OFFERED_MAX = 50


def _ask(context: click.Context, *path: str, **query: object) -> dict[str, Any]:
    from flux.cli.client import open_client

    # Nothing runs, so no context is the current one; what was said of the server stands in this one.
    with context.scope(cleanup=False):
        try:
            client = open_client(connect_timeout_s=PATIENCE_S)
            return dict(client.get(*path, timeout_s=PATIENCE_S, **query).record.data)
        except FluxError:
            return {}


def _item(value: Any, help_text: str = "") -> CompletionItem | None:
    """An offer, if a shell can take it: hostile names are left out rather than escaped into other names."""
    if not isinstance(value, str) or not all(map(is_safe, value + help_text)):
        return None
    return CompletionItem(value, help=help_text)


def execution_ids(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the latest executions, each with its route and status."""
    offers: list[CompletionItem | None] = []
    if not incomplete or incomplete.startswith("@"):
        offers += [_item("@-1", "the latest execution"), _item("@last-error", "the latest failure")]
    for summary in _ask(context, "executions", n=OFFERED_MAX).get("executions", []):
        if isinstance(summary, dict):
            words = (summary.get("method"), summary.get("path") or summary.get("function"))
            where = " ".join(str(word) for word in words if word)
            offers.append(
                _item(summary.get("name"), f"{summary.get('status') or summary.get('outcome')} {where}")
            )
    return [item for item in offers if item is not None and item.value.startswith(incomplete)]


def function_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the deployed functions, each with its route."""
    functions = _ask(context, "functions").get("functions", [])
    offers = [
        _item(item.get("name"), item.get("route") or "") for item in functions if isinstance(item, dict)
    ]
    return [item for item in offers if item is not None and item.value.startswith(incomplete)]


def filter_words(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The term being typed: its key, then the routes, functions or words that it may have."""
    from flux.filter import KEYS, OUTCOMES, TRIGGERS

    before, space, term = incomplete.rpartition(" ")
    minus = "-" if term.startswith("-") else ""
    key, colon, _ = term.removeprefix("-").partition(":")
    if not colon:
        words = [f"{name}:" for name in KEYS]
    else:
        values: list[Any] = {
            "trigger": list(TRIGGERS),
            "outcome": list(OUTCOMES),
            "status": ["5xx", "4xx", ">=500"],
            "since": ["15m", "1h", "1d"],
            "until": ["15m", "1h"],
        }.get(key, [])
        if key in ("route", "function"):
            functions = _ask(context, "functions").get("functions", [])
            field = "route" if key == "route" else "name"
            values = [
                str(item.get(field) or "").rpartition(" ")[2] for item in functions if isinstance(item, dict)
            ]
        words = [f"{key}:{value}" for value in dict.fromkeys(values) if value]
    offers = [_item(before + space + minus + word) for word in words]
    return [item for item in offers if item is not None and item.value.startswith(incomplete)]
