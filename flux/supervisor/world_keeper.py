"""Worlds that are built once and serve many replays.

To build a world is a matter of tenths of a second, and of as many rows as have changed since; to put one back to
its beginning is one of tenths of a millisecond. So whoever replays several executions, or one on several
commits, has a `WorldKeeper` for as long as that takes, and borrows worlds from it.

Executions that ran near each other share a world: it stands as of the oldest snapshot among them, copies all tables
that any of them wrote, and moves on to what the one that is replayed saw (`flux.supervisor.world_timeline`). A world
that was lent goes back to its beginning before it is lent again. One that can't be put back, or in which something
unforeseen has happened, is thrown away.

A world's transaction keeps the server from cleaning up behind everybody else, and who would change a table's shape has
to wait for it. So a world has a greatest age, after which it is not lent again, and one that nobody asks for is closed
after a moment. Nor is one lent that was built before a row was forgotten: it has that row.
"""

import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence

import attrs
import trio

from flux.execution import Execution
from flux.store.postgres import Connection, ConnectionLost, DatabaseError, Pool
from flux.store.world import WorldPlan
from flux.supervisor.world import WorldDatabase
from flux.supervisor.world_build import Built, build, plan_world, read_changes
from flux.supervisor.world_timeline import Span, Timeline

LIFE_S_MAX = 60.0
"""How old a world may be when it is lent."""
IDLE_S_MAX = 2.0
"""How long a world is kept while nobody has it: from one replay of a series to the next."""
SHARED_BY_MAX = 50
"""Executions that one world serves: what changed between them is held in memory, and moved over for each."""
IDLE_MAX = 2
"""Worlds that are kept while nobody has them: each takes a connection of the guests'."""
GROUPS_MAX = 64
"""Groups that are remembered: of an older one, executions are taken by themselves again."""


@attrs.define
class _Group:
    """Executions that share a world."""

    plans: dict[bytes, WorldPlan]
    """By the execution's id."""
    timelines: dict[bytes, Timeline]
    written: frozenset[str]
    """Tables that any of them writes, as far as is known."""
    whole: frozenset[str]
    """Those of which any of them needs more than touched rows, likewise."""
    aside: frozenset[str] = frozenset()
    """Those whose rows any of them needs to be set aside, likewise."""

    def plan(self) -> WorldPlan:
        """Return the plan of the world that serves all."""
        first = min(self.timelines, key=lambda each: self.timelines[each].first.age)
        return attrs.evolve(self.plans[first], written=self.written, whole=self.whole, aside=self.aside)


@attrs.define
class _Kept:
    group: _Group
    connection: Connection
    built: Built
    built_at: float
    """By trio's clock."""
    erasures: int
    """As `WorldKeeper.take_erasures` was told before it was built."""
    idle_since: float = 0.0

    def find_deadline(self, life_s_max: float) -> float:
        """Return when it is to be closed if nobody takes it."""
        return min(self.built_at + life_s_max, self.idle_since + IDLE_S_MAX)


class WorldKeeper:
    """See the module; `open_keeper` makes one."""

    def __init__(self, pool: Pool, token: bytes, schema: str, life_s_max: float) -> None:
        self._pool = pool
        self._token = token
        self._schema = schema
        self._life_s_max = life_s_max
        self._groups: dict[bytes, _Group] = {}
        """By the execution's id."""
        self._remembered: deque[_Group] = deque()
        self._idle: list[_Kept] = []
        self._changed = trio.Event()
        self._erasures = 0
        self.built = 0
        """Worlds built so far."""
        self.lent = 0
        """Times that one was lent."""

    def expect(self, originals: Sequence[Execution]) -> None:
        """Let executions share worlds; each has its committed mutations too. Those without a transaction need none."""
        known = [
            (Timeline(original, self._schema), plan, original)
            for original in originals
            if original.id.bytes not in self._groups
            and (plan := plan_world(original, self._schema, frozenset())) is not None
        ]
        known.sort(key=lambda each: each[0].first.age)
        for start in range(0, len(known), SHARED_BY_MAX):
            some = known[start : start + SHARED_BY_MAX]
            group = _Group(
                {original.id.bytes: plan for _, plan, original in some},
                {original.id.bytes: timeline for timeline, _, original in some},
                frozenset().union(*(plan.written for _, plan, _ in some)),
                frozenset().union(*(plan.whole for _, plan, _ in some)),
            )
            self._groups.update(dict.fromkeys(group.plans, group))
            self._remembered.append(group)
            if len(self._remembered) > GROUPS_MAX:
                for key in self._remembered.popleft().plans:
                    del self._groups[key]

    def take_erasures(self, erasures: int) -> None:
        """Hear how often rows were forgotten (`flux.store.erasures`): what is known from before the last time goes."""
        if erasures != self._erasures:
            self._erasures = erasures
            self._groups.clear()
            self._remembered.clear()

    @contextlib.asynccontextmanager
    async def lend(
        self,
        original: Execution,
        written: frozenset[str] = frozenset(),
        whole: frozenset[str] = frozenset(),
        aside: frozenset[str] = frozenset(),
        *,
        atomic: bool = True,
        isolation: str = "",
    ) -> AsyncIterator[WorldDatabase]:
        """Give the world that ``original`` saw, in which ``written`` can be written too, ``whole`` in all ways.

        Rows of ``aside`` can be set aside.
        ``atomic`` and ``isolation`` as in `flux.supervisor.world.open_world`. Raises `WorldError` when there is none.
        """
        assert original.transactions, "what saw no database needs no world"
        key = original.id.bytes
        if key not in self._groups:
            self.expect([original])
        group = self._groups[key]
        group.written |= written
        group.whole |= whole
        group.aside |= aside
        kept = self._take_idle(group) or await self._build(group)
        is_whole = False
        try:
            timeline = group.timelines[key]
            timeline.take_changes(read_changes(kept.built.changes, timeline))
            world = WorldDatabase(kept.connection, kept.built, timeline, atomic=atomic, isolation=isolation)
            await world.start(group.plans[key].inserted)
            self.lent += 1
            yield world
            is_whole = await self._reset(kept)
        finally:
            # What ended otherwise may still be in the middle of something.
            if is_whole and len(self._idle) < IDLE_MAX:
                kept.idle_since = trio.current_time()
                self._idle.append(kept)
                self._changed.set()
            else:
                await self._close(kept)

    def _take_idle(self, group: _Group) -> _Kept | None:
        now = trio.current_time()
        for kept in self._idle:
            if (
                kept.group is group
                and kept.erasures == self._erasures
                and kept.built.copied >= group.written
                and kept.built.plan.whole >= group.whole
                and kept.built.plan.aside >= group.aside
                and now - kept.built_at < self._life_s_max
            ):
                self._idle.remove(kept)
                return kept
        return None

    async def _build(self, group: _Group) -> _Kept:
        # An idle one has a connection that this one may be waiting for.
        while self._idle:
            await self._close(self._idle.pop(0))
        connection = await self._pool.take()
        erasures = self._erasures
        try:
            built = await build(
                connection, self._token, group.plan(), Span.of(list(group.timelines.values()))
            )
        except BaseException:
            await self._give_back(connection)
            raise
        self.built += 1
        return _Kept(group, connection, built, trio.current_time(), erasures)

    async def _reset(self, kept: _Kept) -> bool:
        try:
            await kept.built.mover.reset()
        except (DatabaseError, ConnectionLost):
            # A guest has left something in the session, or the server has ended it: there will be another.
            return False
        return True

    async def _close(self, kept: _Kept) -> None:
        await self._give_back(kept.connection)

    async def _give_back(self, connection: Connection) -> None:
        connection.is_dirty = True
        with trio.CancelScope(shield=True):
            await self._pool.give_back(connection)

    async def expire(self) -> None:
        """Close idle worlds when they are too old; runs until it is cancelled."""
        while True:
            deadline = min((kept.find_deadline(self._life_s_max) for kept in self._idle), default=math.inf)
            self._changed = trio.Event()
            with trio.move_on_at(deadline):
                await self._changed.wait()
                continue
            now = trio.current_time()
            for kept in [kept for kept in self._idle if kept.find_deadline(self._life_s_max) <= now]:
                self._idle.remove(kept)
                await self._close(kept)

    async def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._close(self._idle.pop())


@contextlib.asynccontextmanager
async def open_keeper(
    pool: Pool, token: bytes, schema: str, *, life_s_max: float = LIFE_S_MAX
) -> AsyncIterator[WorldKeeper]:
    """Keep worlds of the tables in ``schema`` until the block ends; what is lent then is to be back."""
    keeper = WorldKeeper(pool, token, schema, life_s_max)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.expire)
        try:
            yield keeper
        finally:
            nursery.cancel_scope.cancel()
            await keeper.close()
