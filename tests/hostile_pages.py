"""What tests of the console's pages share: documents full of text that wants to be more, and a reader of HTML.

The reader is Python's own parser, which knows nothing of templates: it says which elements a page has, with which
attributes and which text.
"""

import itertools
import re
from html.parser import HTMLParser
from typing import Any

HOSTILE = {
    "script": "</pre></script><script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'y\' style="display:none',
    "image": "<img src=x onerror=alert(1)>",
    "link": "javascript:alert(1)",
    "template": "{{ 7 * 7 }}{% raw %}{{ link }}",
    "terminal": "\x1b]0;owned\x07\x1b[2J\x9b31m\x00",
    "bidi": "good\u202eyp.live\u2066\u200b",
    "long": "<b>" * 100_000,
    "surrogate": "half \ud800 a character",
}
"""Text that a request, a function or a row may hold."""

TIMES = {
    "at", "started_at", "first", "last", "since", "until", "pushed_at", "run_at", "pinned_at", "claimed_at", "ended_at",
    "paused_at", "added_at", "next", "tick", "time", "date",
}  # fmt: skip
"""Fields that Flux writes itself, and reads."""

INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


def poison(document: Any, text: str, key: str = "") -> Any:
    """Return a document with ``text`` in place of each text, and in the names of columns."""
    if isinstance(document, str):
        return document if key in TIMES else text
    if isinstance(document, list):
        return [poison(item, text, key) for item in document]
    if isinstance(document, dict):
        if key in ("before", "after", "key", "fields", "headers", "details"):
            return {text[:1000]: poison(item, text) for item in document.values()}
        return {name: poison(item, text, name) for name, item in document.items()}
    return document


class PageReader(HTMLParser):
    """What a page consists of."""

    VOID = frozenset({"meta", "link", "input", "rect", "br"})

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self._open == [], "each element that was begun is ended"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.text += " " * (tag == "br")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> ends what was begun"
        self.text += " " * (tag in ("td", "th", "caption"))

    def handle_data(self, data: str) -> None:
        self.text += data

    def list_values(self, attribute: str) -> list[str]:
        """Return all values that an attribute has on the page."""
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def check_page(page: bytes) -> PageReader:
    """Read a page, and assert that there is nothing on it that runs, leads away or can't be seen."""
    read = PageReader(page)
    for tag, attributes in read.elements:
        assert tag not in ("iframe", "object", "embed", "img", "base", "style"), tag
        if tag == "script":
            assert attributes.keys() == {"type", "src"}
        for name in attributes:
            assert not name.startswith("on") and name not in ("style", "srcdoc", "action", "formaction"), (tag, name)
    for address in (*read.list_values("href"), *read.list_values("src"), *read.list_values("data-copy-from")):
        assert address == "" or address.startswith(("/_flux/", "#")), address
        assert not address.startswith("/_flux//"), address
    assert INVISIBLE.search(page.decode().replace("\n", "")) is None
    ids = read.list_values("id")
    assert len(ids) == len(set(ids)), "an id is one element's"
    _check_names(read)
    return read


def _check_names(read: PageReader) -> None:
    """What a page must have for who hears it: a language, a title, landmarks, one heading, names of fields."""
    tags = [tag for tag, _ in read.elements]
    assert dict(read.elements)["html"] == {"lang": "en"}
    assert tags.count("h1") == 1 and tags.count("main") == 1 and tags.count("header") == 1 and tags.count("title") == 1
    labels = {attributes.get("for") for tag, attributes in read.elements if tag == "label"}
    for tag, attributes in read.elements:
        if tag == "input":
            assert attributes.get("id") in labels
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
    for tag, headings in (("table", "caption"), ("section", "h2"), ("nav", "nav")):
        assert tags.count(tag) == 0 or headings in tags
    for label in read.list_values("aria-labelledby"):
        assert label in read.list_values("id")
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels)), "no level is left out"
