"""Lines of a server's log for programs: whatever is in them, each is one line, JSON, and not too long."""

import io
import json
import os
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.cli.screen import Screen
from flux.cli.serving import make_story
from flux.cli.serving_json import LINE_BYTES_MAX, JsonStory, encode_line
from flux.errors import FluxError
from flux.supervisor.tenant_story import TenantStory
from tests import documents

texts = st.text(st.characters(), max_size=300) | st.sampled_from(["\ud800", "\x7f\x1b[2J", "\u202e" * 900, "😀" * 5000])
plain = frozenset(string.printable) - frozenset("\t\n\r\x0b\x0c")


@given(st.dictionaries(st.sampled_from("abcdefgh"), texts | st.integers() | st.none() | st.lists(texts, max_size=5)))
def test_a_line_is_short_plain_and_says_what_fits(said: dict[str, Any]) -> None:
    text = encode_line(said)
    assert set(text) <= plain and len(text) < LINE_BYTES_MAX
    read = json.loads(text)
    for key, value in read.items():
        assert value == said[key] or (value.endswith("...") and said[key].startswith(value[:-3]))
    if len(json.dumps(said)) < LINE_BYTES_MAX // 2:
        assert read == said


def test_a_line_says_whose_it_is_and_quiet_leaves_out_what_nobody_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = JsonStory(quiet=True, json_schema=None)
    story.step("postgres", "up", 1.0)
    story.named(worker=3).note("database away")
    tenant = TenantStory(story, "acme")
    tenant.crash(ValueError("broken\nthere"))
    tenant.switched(None, [], held=False)  # type: ignore[arg-type]
    tenant.executed(summary(404, "returned"))
    tenant.executed(summary(500, "raised", {"type": "KeyError", "message": "'plan'", "location": None}))
    tenant.executed(summary(404, "raised", {"type": "HTTPError", "message": "no such order", "location": None}))
    story.problem("migrations", FluxError("no", remedy="yes"), is_serving=True)
    story.failed(FluxError("no"))
    texts = capsys.readouterr().err.splitlines()
    documents.check_log(texts)
    for broken in ({"event": "end"}, {**json.loads(texts[0]), "more": 1}, {**json.loads(texts[2]), "stack": None}):
        with pytest.raises(documents.BadDocumentError):
            documents.check_log([json.dumps(broken)])
    lines = [json.loads(line) for line in texts]
    assert [(one["event"], one["level"], one.get("worker"), one.get("tenant")) for one in lines] == [
        ("note", "warning", 3, None), ("note", "warning", None, "acme"), ("crash", "error", None, "acme"),
        ("execution", "info", None, "acme"), ("execution", "error", None, "acme"), ("execution", "info", None, "acme"),
        ("problem", "error", None, None), ("failed", "error", None, None),
    ]  # fmt: skip
    assert "ValueError: broken\nthere" in lines[2]["stack"]
    assert (lines[4]["error_type"], lines[4]["error_message"]) == ("KeyError", "'plan'")


def summary(status: int, outcome: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
    """As much of a summary as a line needs."""
    return {
        "id": "01a216f0-31d0-7cf4-93e4-f4aa4d8839db", "name": "qk3f81xa", "tenant": "acme", "trigger": "http",
        "function": "order", "method": "GET", "path": "/orders/7", "status": status, "outcome": outcome,
        "elapsed_ms": 1.5, "calls": 0, "mutations": 0, "sha": "3f9c1e2", "dirty": False, "error": error,
    }  # fmt: skip


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_story_that_nobody_takes_any_more_costs_the_server_nothing(
    log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    # Unbuffered, so that closing it has nothing left to write.
    with open(writer, "wb", buffering=0) as raw:
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, "utf-8", write_through=True))
        story = make_story(log_format, no_color=True, quiet=False)
        story.note("database away")
        story.executed(summary(500, "raised", {"type": "KeyError", "message": "'plan'", "location": None}))
        story.crash(ValueError("broken"))
        with pytest.raises(BrokenPipeError):
            Screen.stderr().line("a command's own words: it ends with its reader")
        monkeypatch.undo()
