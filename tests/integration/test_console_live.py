"""The live tail's promise: each execution once, whatever order things happen in; and what is lost is counted."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.supervisor.live import Line, LineStream, Live, Published

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def summary(number: int, *, outcome: str = "returned") -> dict[str, Any]:
    return {"id": f"id-{number}", "name": f"n{number}", "outcome": outcome, "number": number}


def line(number: int, *, ended_at: datetime = NOW) -> Line:
    return Line(f"id-{number}", json.dumps(summary(number)).encode(), ended_at)


def everything(published: Published) -> tuple[Line, ...]:
    return (published.summary_line,)


def numbers(data: bytes) -> list[int]:
    return [document["number"] for document in map(json.loads, data.splitlines()) if "number" in document]


async def read_all(stream: LineStream) -> bytes:
    return b"".join([piece async for piece in stream])


class Store:
    """What stands for the database: rows become visible when they are added, a page is read at one instant."""

    def __init__(self) -> None:
        self.rows: list[Line] = []

    async def pages(self, size: int) -> AsyncIterator[Sequence[Line]]:
        at = 0
        while True:
            page = self.rows[at : at + size]
            yield page
            await trio.lowlevel.checkpoint()
            at += len(page)
            if len(page) < size:
                return


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["end committed", "end waiting", "store", "subscribe", "yield"]), min_size=4, max_size=40
    ),
    st.integers(1, 3),
    st.random_module(),  # Draws the seed of trio's scheduler.
)
def test_each_execution_is_shown_once_whatever_the_order(steps: list[str], page: int, _seed: object) -> None:
    async def run() -> None:
        live, store = Live(), Store()
        waiting: list[int] = []
        shown: list[bytes] = []
        count = 0
        stream: LineStream | None = None

        async def read(reader: LineStream) -> None:
            async for piece in reader:
                shown.append(piece)

        async with trio.open_nursery() as nursery:

            def subscribe() -> LineStream:
                reader = LineStream(live.subscribe(everything), store.pages(page), NOW, follow=True)
                nursery.start_soon(read, reader)
                return reader

            for step in steps:
                match step:
                    case "end committed":
                        store.rows.append(line(count))
                        live.publish(summary(count), stored=True)
                        count += 1
                    case "end waiting":
                        live.publish(summary(count), stored=False)
                        waiting.append(count)
                        count += 1
                    case "store" if waiting:
                        number = waiting.pop(0)
                        store.rows.append(line(number))
                        await trio.lowlevel.checkpoint()  # Visible in the database, and we are not told yet.
                        live.mark_stored(f"id-{number}")
                    case "subscribe" if stream is None:
                        stream = subscribe()
                    case _:
                        await trio.lowlevel.checkpoint()
            stream = stream or subscribe()
            await trio.testing.wait_all_tasks_blocked()
            live.close()
        assert sorted(numbers(b"".join(shown))) == list(range(count))
        await stream.aclose()
        assert live.counts.subscribers == 0

    trio.run(run)


async def test_a_slow_reader_is_told_how_many_it_missed_and_where() -> None:
    live = Live(lines_max=5)
    stream = LineStream(live.subscribe(everything), None, NOW, follow=True)
    for number in range(12):
        live.publish(summary(number), stored=True)
    first = await anext(stream)
    assert numbers(first) == [0, 1, 2, 3, 4]
    assert json.loads(first.splitlines()[-1]) == {"gap": 7}
    live.publish(summary(12), stored=True)
    assert numbers(await anext(stream)) == [12]
    assert live.counts.lost == 7
    await stream.aclose()


async def test_a_slow_reader_is_bounded_in_bytes_too() -> None:
    live = Live(bytes_max=1000)
    subscription = live.subscribe(everything)
    for number in range(100):
        live.publish(summary(number) | {"error": "x" * 300}, stored=True)
    taken = await subscription.take()
    assert taken[-1] == 98
    assert sum(len(item.data) for item in taken if isinstance(item, Line)) <= 1000
    subscription.close()


async def test_a_slow_reader_does_not_slow_the_others() -> None:
    live = Live(lines_max=3)
    slow = LineStream(live.subscribe(everything), None, NOW, follow=True)
    quick = LineStream(live.subscribe(everything), None, NOW, follow=True)
    seen: list[int] = []
    for number in range(10):
        live.publish(summary(number), stored=True)
        seen += numbers(await anext(quick))
    assert seen == list(range(10))
    assert b'{"gap":7}' in await anext(slow)
    await slow.aclose()
    await quick.aclose()


async def test_a_silent_stream_has_a_heartbeat(autojump_clock: trio.testing.MockClock) -> None:
    live = Live()
    stream = LineStream(live.subscribe(everything), None, NOW, follow=True, heartbeat_s=10)
    started = trio.current_time()
    assert json.loads(await anext(stream)) == {"heartbeat": True}
    assert trio.current_time() - started == pytest.approx(10)
    await stream.aclose()


async def test_no_follow_ends_at_now() -> None:
    live, store = Live(), Store()
    store.rows = [line(0), line(1)]
    live.publish(summary(2), stored=False)
    stream = LineStream(live.subscribe(everything), store.pages(10), NOW, follow=False)
    live.publish(summary(3), stored=True)  # After now.
    assert numbers(await read_all(stream)) == [0, 1, 2]
    await stream.aclose()


async def test_history_that_ended_long_ago_is_not_remembered() -> None:
    live, store = Live(), Store()
    store.rows = [line(number, ended_at=NOW - timedelta(hours=1)) for number in range(1000)]
    stream = LineStream(live.subscribe(everything), store.pages(100), NOW, follow=True)
    for _ in range(10):
        await anext(stream)
    live.publish(summary(5), stored=True)  # As if ids could come again: it shows that the old one was let go.
    assert numbers(await anext(stream)) == [5]
    await stream.aclose()


async def test_a_stream_that_was_never_begun_leaves_nothing_behind() -> None:
    live = Live()
    stream = LineStream(live.subscribe(everything), None, NOW, follow=True)
    assert live.counts.subscribers == 1
    await stream.aclose()
    assert live.counts.subscribers == 0


async def test_all_streams_end_when_the_supervisor_does() -> None:
    live = Live()
    stream = LineStream(live.subscribe(everything), None, NOW, follow=True)
    live.publish(summary(0), stored=True)
    live.close()
    assert numbers(await read_all(stream)) == [0]
    late = LineStream(live.subscribe(everything), None, NOW, follow=True)
    assert await read_all(late) == b""


async def test_waiting_for_the_store_waits_for_what_has_ended_by_now_and_no_longer() -> None:
    live = Live()
    live.publish(summary(0), stored=False)
    live.publish(summary(1), stored=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.wait_stored)
        await trio.testing.wait_all_tasks_blocked()
        live.publish(summary(2), stored=False)  # Not waited for.
        live.mark_stored("id-1")
        live.mark_stored("id-0")
    assert live.counts.not_stored == 1
    assert live.find_not_stored("n2") is not None
    assert live.find_not_stored("n1") is None


def test_executions_are_counted_by_outcome() -> None:
    live = Live()
    for outcome in ("returned", "raised", "returned"):
        live.publish(summary(0, outcome=outcome), stored=True)
    assert live.counts.ended == {"returned": 2, "raised": 1}
