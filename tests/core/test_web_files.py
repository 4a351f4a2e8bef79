"""An execution taken elsewhere, in a file that opens anywhere or as Markdown: hostile records do nothing there."""

import base64
import hashlib
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from markdown_it import MarkdownIt

from flux.supervisor.web import pages
from flux.supervisor.web.execution import CALLS_IN_FILE
from flux.supervisor.web.markdown import write_markdown
from tests.console_world import make_call
from tests.core.test_web_pages import WHY, make_failed, trace_of
from tests.hostile_pages import HOSTILE, INVISIBLE, PageReader, poison

NOW = datetime(2025, 11, 25, 14, 3, tzinfo=UTC)
HOSTILE_MARKDOWN = {
    **HOSTILE,
    "fence": "``` \n# owned\n<img src=x>\n`` ` ````` [a](javascript:alert(1))",
    "backquotes": "`", "only backquotes": "``````", "list": "\n- owned\n\n> owned\n\n| a |\n|-|\n", "spaces": "  ",
}  # fmt: skip


def check_file(page: bytes) -> PageReader:
    """Read a page in a file, and assert that nothing in it runs, is loaded, or leads out of it."""
    read = PageReader(page)
    for tag, attributes in read.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base", "form", "input", "button"), tag
        assert not any(name.startswith("on") or name in ("style", "src", "srcset", "action") for name in attributes)
    places = read.list_values("href")
    assert all(re.fullmatch("#[a-z0-9-]+", place) for place in places), places
    assert INVISIBLE.search(page.decode().replace("\n", "")) is None
    text = page.decode()
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style and "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [each["content"] for tag, each in read.elements if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert text.index("Content-Security-Policy") < text.index("<title>"), "before anything that it is to rule"
    return read


def documents() -> dict[str, Any]:
    return {"trace": trace_of(make_failed()), "why": WHY}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_in_every_field_of_a_file_stays_text(kind: str) -> None:
    read = check_file(pages.render_file(poison(documents(), HOSTILE[kind]), NOW))
    if kind == "template":
        assert "{{ 7 * 7 }}" in read.text and "49" not in read.text


def test_a_file_shows_what_the_page_shows_and_leads_nowhere() -> None:
    given = documents()
    read = check_file(pages.render_file(given, NOW))
    text = " ".join(read.text.split())
    for said in (
        given["trace"]["name"], "KeyError: 'plan'", "users[42] update, rolled back", 'plan "free" null',
        "Went wrong: call 2.",
        "Timeout: no answer in 10 s", "job for email: done , ran as qk3f81xa", "caused by qk3f81xc, call 3",
        "on the working tree: same failure, as before qk3f81xb", "warning plan is missing", "saved at 2025-11-25 14:03",
    ):  # fmt: skip
        assert said.replace(" ,", ",") in text.replace(" ,", ","), said
    assert "#call-2" in read.list_values("href") and "Copy" not in text


def test_a_file_of_very_many_calls_says_how_many_it_has_not() -> None:
    calls = tuple(make_call(seq, "db.query", ["select 1", []], {"rows": []}) for seq in range(1, 5001))
    began = time.process_time()
    read = check_file(pages.render_file({"trace": trace_of(make_failed(calls=calls)), "why": WHY}, NOW))
    assert time.process_time() - began < 10
    assert "… 3,000 more calls, in the JSON of flux trace" in read.text and CALLS_IN_FILE == 2000
    assert "call-2000" in read.list_values("id") and "call-2001" not in read.list_values("id")


@pytest.mark.parametrize("kind", HOSTILE_MARKDOWN)
def test_hostile_text_in_every_field_of_markdown_has_no_meaning(kind: str) -> None:
    """CommonMark's own rules say what a reader makes of it: headings, lists and code, and of no text anything else."""
    shape = _shape_of(write_markdown(**documents()))
    hostile = write_markdown(**poison(documents(), HOSTILE_MARKDOWN[kind]))
    assert _shape_of(hostile) <= shape, hostile
    assert len(hostile) < 100_000 and INVISIBLE.search(hostile.replace("\n", "")) is None


def test_markdown_tells_what_happened() -> None:
    written = write_markdown(**documents())
    for said in (
        "## ` POST /signup ` → ` 500 `", "- ` KeyError: 'plan' `", "### Calls",
        "- 2. ` http POST api.stripe.com/v1/charges `, DURATION: **failed**, ` Timeout: no answer in 10 s `",
        '- ` users[42] ` ` update `, **rolled back**: ` {"id": 42, "plan": "free"} ` → ` {"id": 42, "plan": null} `',
        "- not whole: ` a body was cut `", "### Input",
    ):  # fmt: skip
        assert said in re.sub(r"[0-9.]+ ms: ", "DURATION: ", written), written


def _shape_of(text: str) -> set[str]:
    """Return the kinds of everything that a reader of Markdown finds in it."""
    kinds = set()
    for token in MarkdownIt("commonmark").parse(text):
        kinds |= {token.type, *(child.type for child in token.children or ())}
    return kinds
