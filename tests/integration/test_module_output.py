"""What modules print is told as whole lines, however it was written and read."""

import itertools
import os

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.sandbox.output import LINE_CHARS_MAX, PATIENCE_S, Output


async def hear(pieces: list[bytes]) -> list[str]:
    """Write these, each only after the one before it was read; return what was told."""
    reading, writing = os.pipe()
    told: list[str] = []
    try:
        output = Output(reading, told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.pump)
            for piece in pieces:
                os.write(writing, piece)
                await trio.testing.wait_all_tasks_blocked()
            os.close(writing)
        output.finish()
    finally:
        os.close(reading)
    return told


async def test_a_line_that_was_written_in_pieces_is_one() -> None:
    assert await hear([b"the modules:", b" ", b"[]", b"\nwriting: ", "ä".encode()[:1], "ä".encode()[1:], b"\n"]) == [
        "the modules: []\n",
        "writing: ä\n",
    ]
    assert await hear([b"no end", b" of it"]) == ["no end of it"]
    assert await hear([]) == []


async def test_the_beginning_of_a_line_does_not_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    reading, writing = os.pipe()
    told: list[str] = []
    try:
        async with trio.open_nursery() as nursery:
            output = Output(reading, told.append)
            nursery.start_soon(output.pump)
            os.write(writing, b"connecting ... ")
            await trio.sleep(PATIENCE_S / 2)
            assert told == []
            await trio.sleep(PATIENCE_S)
            assert told == ["connecting ... "]
            os.write(writing, b"done\n")
            await trio.testing.wait_all_tasks_blocked()
            assert told == ["connecting ... ", "done\n"]
            os.close(writing)
        output.finish()
    finally:
        os.close(reading)
    assert told == ["connecting ... ", "done\n"]


async def test_a_line_without_end_is_told_in_parts() -> None:
    told = await hear([b"x" * 40_000] * 4)
    assert "".join(told) == "x" * 160_000
    assert len(told) > 1 and max(map(len, told)) <= LINE_CHARS_MAX + 40_000


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=50, deadline=None)
def test_nothing_is_lost_or_changed_wherever_it_is_cut(said: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut <= len(said)), len(said)]
    pieces = [said[begin:end] for begin, end in itertools.pairwise(places) if begin < end]
    told = trio.run(hear, pieces)
    assert "".join(told) == said.decode(errors="backslashreplace")
    assert all(lines.endswith("\n") for lines in told[:-1])
