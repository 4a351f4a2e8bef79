"""Whatever somebody may type from a page stands in a fence that says so: there it is found, and typed by tests."""

import re

from tests.shell_blocks import PAGES, ROOT, is_like, read_fences

NO_SHELL = {"python", "toml", "json", "sql", "text", "js", "ts", "yaml"}
DIRECTIVE = re.compile(r"\{(toctree|include)\}")


def test_every_fence_says_what_it_holds_and_no_command_stands_outside() -> None:
    known = NO_SHELL | {"sh", "console"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in read_fences(text):
            where = f"{page.relative_to(ROOT)}:{fence.line}"
            assert fence.language in known or DIRECTIVE.match(fence.language), f"{where}: {fence.language!r}"
            assert fence.language == "console" or not re.search(r"^\$ ", fence.text, re.MULTILINE), where
        prose = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        # A block by four blanks is Markdown's other way; in a list it is only a paragraph of an item.
        assert not re.search(r"^[^\S\n]*\n {4}(\$|\./|flux|curl|pip|git)\b", prose, re.MULTILINE), page


def test_what_is_masked_is_all_that_may_differ() -> None:
    shown = "POST /a → 500 in 32 ms   qk3f81xa · f76755e\n...\n  calls  2 exact\n"
    printed = "POST /a → 500 in 1.2 s   zzzzzzzz · 1234567\nmore\n  calls\n 2 exact\n"
    assert is_like(shown, printed, ["zzzzzzzz"])
    assert not is_like(shown, printed)
    assert not is_like(shown, printed.replace("2 exact", "3 exact"), ["zzzzzzzz"])
    assert not is_like(shown, printed.replace("500", "501"), ["zzzzzzzz"])
    assert not is_like(shown, printed + "and more\n", ["zzzzzzzz"])
