"""Finding the lines of keys, in TOML as nasty as the specification allows.

Two oracles: the paths are compared with what ``tomllib`` reads, which knows
nothing of lines; the lines with marks that the test puts into the text.
"""

import re
import tomllib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.toml_lines import KeyPath, find_key_lines

NASTY = '''\
# a comment with [brackets] and = "quotes
top.dotted."quoted key".end = 1 # L2
top . spaced = "a # no comment" # L3

[table] # ]]
multi = """
[not_a_table]
not_a_key = 1
\\"""
""""" # L6 to L10
literal = \'\'\'
C:\\\'\'\' # L11 to L12
path = 'C:\\' # L13
array = [ # L14
  1, # not = a key
  [2, 3], { inner = "}", "in.ner" = ["]"] }, # L16
]
when = 1979-05-27 07:32:00 # L18
inline = { a.b = 1, c = {} } # L19

["quo\\"ted".'lit.eral'] # L21
"" = true # L22

[[fruit]] # L24
name = "apple" # L25
[fruit.physical] # L26
color = "red" # L27
[[fruit.variety]] # L28
name = "red delicious" # L29
[[fruit.variety]] # L30
name = "granny smith" # L31
[[fruit]] # L32
[[fruit.variety]] # L33
name = "plantain" # L34'''


def paths_of(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Every path in a document that tomllib has read."""
    found = {path} if path else set()
    children: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        found |= paths_of(child, (*path, key))
    return found


def test_every_key_of_a_nasty_document_is_found_and_no_other() -> None:
    assert set(find_key_lines(NASTY)) == paths_of(tomllib.loads(NASTY))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("top", "dotted", "quoted key", "end"), 2),
        (("top", "spaced"), 3),
        (("table",), 5),
        (("table", "multi"), 6),
        (("table", "literal"), 11),
        (("table", "path"), 13),
        (("table", "array"), 14),
        (("table", "array", 0), 15),
        (("table", "array", 1, 1), 16),
        (("table", "array", 2, "in.ner", 0), 16),
        (("table", "when"), 18),
        (("table", "inline", "a", "b"), 19),
        (('quo"ted', "lit.eral"), 21),
        (('quo"ted', "lit.eral", ""), 22),
        (("fruit",), 24),
        (("fruit", 0, "name"), 25),
        (("fruit", 0, "physical", "color"), 27),
        (("fruit", 0, "variety", 1, "name"), 31),
        (("fruit", 1), 32),
        (("fruit", 1, "variety", 0, "name"), 34),
    ],
)
def test_a_key_stands_on_its_line(path: KeyPath, line: int) -> None:
    assert find_key_lines(NASTY)[path] == line


def test_windows_ends_of_lines_count_once() -> None:
    assert find_key_lines("a = 1\r\n\r\nb = '''\r\n'''\r\nc = 2")[("c",)] == 5


def test_an_empty_document_has_no_keys() -> None:
    assert find_key_lines("") == find_key_lines("# only a comment") == {}


NAMES = ["a", "b-c", "d_e", "7", '"q u"', "'l.t'", '"\\u00e9 \\" ]"', '""']
VALUES = [
    "1", "-0.5e3", "true", "nan", "2026-11-24T10:00:00Z", "07:32:00", '"# [x] = \\\\"', "'\\'", "[]", "{}",
    '"""\n[no]\nno = 1\n""""', "'''\n'' '''''", "[\n 1, # one\n [[]], ]",
    '{ x = 1, "y.z" = ["}"], w.v = {} }',
]  # fmt: skip


@given(st.data())
def test_a_key_is_found_on_the_line_where_it_was_written(data: st.DataObject) -> None:
    """Builds a document piece by piece, writing down where each key went."""
    lines: list[str] = []
    written: dict[KeyPath, int] = {}
    lengths: dict[str, int] = {}
    for number in range(data.draw(st.integers(0, 6))):
        kind = data.draw(st.sampled_from(["table", "array"]))
        # Tables have names of their own; arrays of tables repeat.
        name = f"table{number}" if kind == "table" else data.draw(st.sampled_from(["first", "second"]))
        lines += data.draw(st.sampled_from([[], [""], ["# [comment] = 1"]]))
        lines.append(f"[ {name} ] # [[x]]" if kind == "table" else f"[[{name}]]")
        path: KeyPath = (name,)
        if kind == "array":
            path = (name, lengths.get(name, 0))
            lengths[name] = lengths.get(name, 0) + 1
            written.setdefault((name,), len(lines))
        written[path] = len(lines)
        for key in data.draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
            value = data.draw(st.sampled_from(VALUES))
            read_key = next(iter(tomllib.loads(f"{key} = 1")))
            written[(*path, read_key)] = len(lines) + 1
            lines += f"{data.draw(st.sampled_from(['', '  ']))}{key} = {value} # end".split("\n")
    text = "\n".join(lines)
    found = find_key_lines(text)
    assert set(found) == paths_of(tomllib.loads(text))
    assert {path: found[path] for path in written} == written


def test_the_marks_in_the_nasty_document_are_where_they_say() -> None:
    for number, line in enumerate(NASTY.split("\n"), start=1):
        marked = re.search(r"# L(\d+)$", line)
        assert marked is None or int(marked[1]) == number
