"""Executions as they happen in all workers of a crew, for readers of any of them.

A reader's subscription hears its own worker at once, and each of the others over a stream of its own. That stream
begins with what had ended there and was not stored at that moment; after it comes what happens. So what `Live` says
about the seam between history and the present holds for each of them: listen first (`CrewLive.complete`), read the
store afterwards, and nothing is missed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
import trio

from flux.supervisor.live import Line, Live, Published, Subscription, stream_lines
from flux.supervisor.present import encode
from flux.supervisor.siblings import SiblingGoneError, Siblings

FIRST_LISTEN_S = 2.0
"""How long a reader waits for the other workers before it begins without those that don't answer."""
LISTEN_AGAIN_S = 0.5
"""Between two tries to hear a worker that is not there."""
SETTLE_S = 1.0
"""How long another worker waits for what has ended there to be stored, before it says what is not."""
SETTLE_PATIENCE_S = 1.5
"""How long it is waited for. Shorter than any question waits (`flux.supervisor.console.SETTLE_TIMEOUT_S`): a worker
that does not answer is to be told from one that has nothing to say."""
WAITING_MAX = 2000
"""Executions that are not stored and that a stream begins with; how many there are besides is told."""

PUBLISHED = "/_crew/published"
SETTLE = "/_crew/settle"


class CrewLive(Live):
    """Where executions of a whole crew are watched."""

    def __init__(self, siblings: Siblings, nursery: trio.Nursery) -> None:
        """``nursery`` runs what listens to others, as long as somebody reads."""
        super().__init__()
        self._siblings = siblings
        self._nursery = nursery
        self._not_stored_elsewhere: dict[int, Mapping[str, str] | None] = {}
        """By worker: names by id, of what it could not store when it was asked last; None when it did not say."""

    @property
    def not_stored_count(self) -> int:
        """See `Live.not_stored_count`."""
        return super().not_stored_count + sum(len(names or ()) for names in self._not_stored_elsewhere.values())

    @property
    def unheard(self) -> Sequence[int]:
        """See `Live.unheard`."""
        return sorted(number for number, names in self._not_stored_elsewhere.items() if names is None)

    async def complete(self, subscription: Subscription) -> None:
        """See `Live.complete`."""
        with trio.move_on_after(FIRST_LISTEN_S):
            async with trio.open_nursery() as waiting:
                for number in self._siblings.others:
                    begun = trio.Event()
                    self._nursery.start_soon(self._listen, number, subscription, begun)
                    waiting.start_soon(begun.wait)

    async def wait_stored(self) -> None:
        """See `Live.wait_stored`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().wait_stored)
            for number in self._siblings.others:
                nursery.start_soon(self._settle_other, number)

    async def _settle_other(self, number: int) -> None:
        names: Mapping[str, str] | None = None
        try:
            if not self._siblings.is_there(number):
                names = {}
                return
            with trio.move_on_after(SETTLE_PATIENCE_S):
                names = (await self._siblings.ask(number, "POST", SETTLE, {}))["not_stored"]
        except SiblingGoneError:
            names = None  # It is told as one that did not say: see `unheard`.
        finally:
            # Also when the caller's deadline comes first: what was known before is not true any more.
            self._not_stored_elsewhere[number] = names

    def find_not_stored(self, prefix: str) -> Published | None:
        """See `Live.find_not_stored`."""
        if (own := super().find_not_stored(prefix)) is not None:
            return own
        for names in self._not_stored_elsewhere.values():
            for id, name in (names or {}).items():
                if id.startswith(prefix) or name.startswith(prefix):
                    return Published(id, {"name": name}, ())
        return None

    async def _listen(self, number: int, subscription: Subscription, begun: trio.Event) -> None:
        """Hear one of the others, and whoever takes over from it, until nobody reads any more."""
        while not subscription.is_closed:
            try:
                with trio.CancelScope() as scope:
                    subscription.on_close(scope.cancel)
                    async for line in self._siblings.listen(number, PUBLISHED):
                        self._hear(msgspec.json.decode(line), subscription, is_first=not begun.is_set())
                        begun.set()
            except SiblingGoneError:
                begun.set()  # It is not there: what it had ended is stored, or is when another takes its place.
            if not subscription.is_closed:
                await trio.sleep(LISTEN_AGAIN_S)
        begun.set()

    def _hear(self, said: Mapping[str, Any], subscription: Subscription, *, is_first: bool) -> None:
        if "gap" in said:
            subscription.lose(said["gap"])
        elif "begin" in said:
            published = [_decode(one) for one in said["begin"]]
            for one in published:
                if is_first:
                    subscription.wait_for(one)
                else:
                    subscription.push(one)
            if said["left_out"]:
                subscription.lose(said["left_out"])
        elif "id" in said:
            subscription.push(_decode(said))


def _decode(said: Mapping[str, Any]) -> Published:
    return Published(said["id"], said["summary"], said["logs"])


def _encode(published: Published) -> Line:
    return Line(published.id, encode(_document(published)))


def _document(published: Published) -> Mapping[str, Any]:
    return {"id": published.id, "summary": published.summary, "logs": list(published.logs)}


@attrs.frozen
class PublishedStream:
    """What ended here and is not stored, and then all that ends: for the other workers."""

    subscription: Subscription
    lines: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self.lines)

    async def aclose(self) -> None:
        """Stop listening."""
        self.subscription.close()


def publish_to_others(live: Live) -> PublishedStream:
    """Begin to listen, and return the stream."""
    waiting: Sequence[Published] = list(live.not_stored)
    subscription = live.subscribe(lambda published: (_encode(published),))
    subscription.waiting = ()
    kept = waiting[-WAITING_MAX:]
    begin = {"begin": [_document(one) for one in kept], "left_out": len(waiting) - len(kept)}

    async def lines() -> AsyncIterator[bytes]:
        yield encode(begin) + b"\n"
        async for piece in stream_lines(subscription, None, datetime.now(UTC), follow=True):
            yield piece

    return PublishedStream(subscription, lines())
