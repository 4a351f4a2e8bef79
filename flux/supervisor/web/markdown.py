"""An execution as Markdown, for a ticket or a message: why it ended so, what it asked for, which rows it changed.

Whoever shows Markdown makes links, pictures and HTML of text that asks for it. So all that was recorded stands between
backquotes, more of them than it has itself, where nothing has a meaning; and is made visible before.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flux.sanitize import sanitize
from flux.supervisor.web import words
from flux.supervisor.web.values import show, show_line

CALLS_MAX = 50
CHANGES_MAX = 20
ROOM = 1000
"""Characters of a body."""


def write_markdown(trace: Mapping[str, Any], why: Mapping[str, Any]) -> str:
    """Return an execution, of the documents of its page."""
    return "\n".join(_list_lines(trace, why)) + "\n"


def quote(text: str) -> str:
    """Return recorded text on one line, in which nothing has a meaning."""
    text = sanitize(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    # A space at both ends is taken away again (CommonMark, 6.1), and keeps a backquote there from joining the fence.
    return f"{fence} {text or ' '} {fence}"


def _list_lines(trace: Mapping[str, Any], why: Mapping[str, Any]) -> Iterator[str]:
    name = words.cut(str(trace["name"]), 40)
    yield f"## {quote(words.route_of(trace))} → {quote(words.status_of(trace).word)}"
    yield ""
    yield f"{quote(name)}, {quote(str(trace['started_at']))}, in {words.duration(trace['elapsed_ms'])}"
    yield ""
    for said in [*why["verdict_text"], *(f"{fact['mark']} {fact['text']}" for fact in why["facts"])]:
        yield f"- {quote(words.cut(said, ROOM))}"
    if trace["completeness"] != "whole":
        yield f"- not whole: {quote(words.cut(trace['completeness'], ROOM))}"
    yield from _list_some("Calls", trace["calls"], CALLS_MAX, _describe_call)
    yield from _list_some("Rows", trace["mutations"], CHANGES_MAX, _describe_change)
    for title, value in (("Input", trace["input"]), ("Output", trace["output"])):
        if value is not None:
            yield from ("", f"### {title}", "", *_fence(show(value, ROOM).text))
    yield from ("", quote(f"flux why {name}"))


def _list_some(
    title: str, items: Sequence[Mapping[str, Any]], most: int, describe: Callable[[Mapping[str, Any]], str]
) -> Iterator[str]:
    if items:
        yield from ("", f"### {title}", "")
        yield from (f"- {describe(item)}" for item in items[:most])
        if len(items) > most:
            yield f"- and {len(items) - most:,} more"


def _describe_call(call: Mapping[str, Any]) -> str:
    error = call["error"]
    said = f"{call['seq']}. {quote(words.call_title(str(call['kind']), call['arguments']))}"
    said += f", {words.duration(call['elapsed_ms'])}"
    if error is not None:
        raised = f"{error['type']}: {error['message']}"
        said += f": **failed**, {quote(words.cut(raised, words.ERROR_ROOM))}"
    elif call["answered"] is None:
        said += ": **never answered**"
    if place := words.place_of(call["location"]):
        said += f", {quote(place)}"
    return said


def _describe_change(change: Mapping[str, Any]) -> str:
    key = "" if change["key"] is None else f"[{words.key_text(change['key'])}]"
    said = f"{quote(words.cut(str(change['table'])) + key)} {quote(words.cut(str(change['op']), 20))}"
    if not change["committed"]:
        said += ", **rolled back**"
    images = [show_line(change[side]).text for side in ("before", "after") if isinstance(change[side], dict)]
    return said + (f": {' → '.join(map(quote, images))}" if images else "")


def _fence(text: str) -> tuple[str, str, str]:
    text = sanitize(text, newlines=True)
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return fence, text, fence
