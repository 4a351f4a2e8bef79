"""Which calls of an execution a page shows: of thousands some, and what is known of the others.

A page has room for some hundred calls. So that none is out of reach for that, it says which these are, of how many;
it names what went wrong among all of them, with the place where that is shown; and what is looked for is looked for in
all. Who makes the page of a stored execution chooses from calls as they were recorded, who makes a file of it from
the document: both choose here, by places.

Looking through the calls of a large record takes seconds. It is done a piece at a time, with a word to whoever asked
between two pieces: he may run it beside the server's own work, and end it.
"""

import codecs
import json
from collections.abc import Callable, Mapping, Sequence

import attrs

from flux.hostcall import HostCall

CALLS_SHOWN = 200
"""Calls on one page."""
WRONG_SHOWN = 10
FIND_CHARACTERS_MAX = 200
PIECE_BYTES = 256 * 1024
"""Of what was asked or answered, looked through at once: a millisecond or two."""


@attrs.frozen
class Wrong:
    """A call that went wrong."""

    seq: int
    place: int
    """Among all calls, from 0."""


@attrs.frozen
class Passage:
    """Some calls of an execution."""

    total: int
    """How many calls there are."""
    found: int
    """How many of them have what was looked for: all, where nothing was."""
    first: int
    """Place of the first one here among these."""
    places: Sequence[int]
    """Of the calls that are here, among all."""
    wrong: Sequence[Wrong]
    """The first calls that went wrong, wherever they are."""
    wrong_count: int
    """How many did."""


def choose(seqs: Sequence[int], wrong: Sequence[bool], found: Sequence[int] | None, first: int, room: int) -> Passage:
    """Return ``room`` calls from the ``first`` on: of all, or of the places in ``found``.

    ``seqs`` and ``wrong`` are of all calls. Beyond the last one is the beginning.
    """
    places: Sequence[int] = range(len(seqs)) if found is None else found
    first = first if first < len(places) else 0
    bad = [place for place, is_wrong in enumerate(wrong) if is_wrong]
    return Passage(
        total=len(seqs),
        found=len(places),
        first=first,
        places=list(places[first : first + room]),
        wrong=[Wrong(seqs[place], place) for place in bad[:WRONG_SHOWN]],
        wrong_count=len(bad),
    )


def read_first(query: Mapping[str, str]) -> int:
    """Return the place that a page's ``from`` says; what says none is the beginning."""
    text = query.get("from", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def choose_calls(
    calls: Sequence[HostCall], text: str, first: int, room: int, between: Callable[[], None] = lambda: None
) -> Passage:
    """Return ``room`` of these calls from the ``first`` on: of all, or of those that have ``text`` in them.

    While it looks for text it calls ``between`` again and again: what that raises ends the search.
    """
    found = None
    if text:
        has = make_search(text, between)
        found = [place for place, call in enumerate(calls) if has(call)]
    wrong = [call.result is None or call.result.error is not None for call in calls]
    return choose([call.request.seq for call in calls], wrong, found, first, room)


def make_search(text: str, between: Callable[[], None] = lambda: None) -> Callable[[HostCall], bool]:
    """Return what says whether a call has ``text`` in it, in any case: its kind, what was asked and answered, where.

    What was asked and answered is JSON as it was written, in which a text may stand with escapes or without.
    """
    needles = {form.casefold() for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])}
    overlap = max(map(len, needles)) - 1

    def has_said(part: str) -> bool:
        folded = part.casefold()
        return any(needle in folded for needle in needles)

    def has_written(data: bytes) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        kept = ""  # The end of the piece before: a needle may begin there.
        for start in range(0, len(data), PIECE_BYTES):
            between()
            piece = data[start : start + PIECE_BYTES]
            # A letter's folding does not depend on the letters beside it.
            folded = kept + decoder.decode(piece, final=start + PIECE_BYTES >= len(data)).casefold()
            if any(needle in folded for needle in needles):
                return True
            kept = folded[-overlap:] if overlap else ""
        return False

    def has(call: HostCall) -> bool:
        between()
        request, result = call.request, call.result
        said = [request.name]
        if request.position is not None:
            said += [f"{request.position.file}:{request.position.line}", request.position.function]
        if result is not None and result.error is not None:
            said.append(f"{result.error.name}: {result.error.message}")
        written = [request.arguments] if result is None else [request.arguments, result.value]
        return any(map(has_said, said)) or any(map(has_written, written))

    return has
