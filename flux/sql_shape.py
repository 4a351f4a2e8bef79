"""What a statement says, without how it is written.

Two commits write one statement differently: another line break, a comment, a
keyword in capitals. `normalise` leaves what Postgres reads, so that a replay of changed
code recognises the statement that was recorded. It does not understand SQL: two texts
that are equal here are equal to Postgres, and two that differ may still mean the same.
That is the side to err on: a statement that is not recognised is run anew or shown as
new, and never answered as if it were another.
"""

from flux.sql_script import tokens

_BRACKETS = frozenset("()[],;")
_OPERATORS = frozenset("=<>*/")
"""Operators beside which space means nothing, unless another operator's character is there. Not ``-``
(``1e-5``), nor ``&`` (``u&'...'``), nor ``.`` (``1 .5``), nor ``:``."""


def normalise(sql: str) -> str:
    """Return ``sql`` with words in lower case, and as little space and no comments.

    Quoted text, quoted names and dollar quotes stay as they are.
    """
    parts: list[str] = []
    before, kind_before, end_before = "", "", 0
    for kind, begin, end in tokens(sql):
        text = sql[begin:end]
        if kind == "word":
            text = _lower(text)
        if parts and begin > end_before:
            if kind == kind_before == "quoted":
                # Two strings are one when a line break is between them, and an error without it.
                parts.append("\n" if "\n" in sql[end_before:begin] or "\r" in sql[end_before:begin] else " ")
            elif not (_needs_no_space(before, text, kind) or _needs_no_space(text, before, kind_before)):
                parts.append(" ")
        parts.append(text)
        before, kind_before, end_before = text, kind, end
    while parts and parts[-1] in (";", " "):
        parts.pop()
    return "".join(parts)


def _needs_no_space(mark: str, beside: str, kind: str) -> bool:
    """Whether ``mark`` ends where it ends, whatever stands beside it."""
    is_operator_beside = kind == "mark" and not (beside.isalnum() or beside in _BRACKETS or beside == "$")
    return (mark in _OPERATORS or mark in _BRACKETS) and not is_operator_beside


def _lower(word: str) -> str:
    # Postgres folds ASCII whatever the encoding; beyond it, it depends on the database.
    return "".join(letter.lower() if letter.isascii() else letter for letter in word)
