"""Laws of the queue that decides whose execution is next."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flux.fair import FairQueue, ShareBounds, Turn

BOUNDS = st.builds(
    ShareBounds,
    weight=st.integers(1, 1000),
    turns_max=st.none() | st.integers(1, 5),
    memory_bytes_max=st.none() | st.integers(10, 40),
)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=5), st.data())
def test_who_always_waits_gets_turns_by_weight_whatever_the_others_ask(
    weights: list[int], data: st.DataObject
) -> None:
    turns_max = data.draw(st.integers(1, 2 * len(weights) - 1))  # So few that none are kept.
    queue = FairQueue(turns_max)
    had: Counter[str] = Counter()
    running: list[Turn] = []
    names = {f"share {index}": weight for index, weight in enumerate(weights)}
    for name, weight in names.items():
        queue.add_share(name, ShareBounds(weight))
    for _ in range(30):
        for name in names:
            # One asks five times as often as is needed: that it waits is all that counts.
            while queue.count_waiting(name) < (40 if name == "share 0" else 9):
                queue.ask(name, 1)
        granted = queue.grant()
        had.update(turn.share for turn in granted)
        running += granted
        assert len(running) == turns_max
        queue.end(running.pop(data.draw(st.integers(0, len(running) - 1))))
    for one, his in names.items():
        for other, theirs in names.items():
            # Neither is ahead by more than a turn of each.
            assert had[one] / his - had[other] / theirs <= 1 / his + 1 / theirs + 1e-9


class Model:
    """What is asked and ended at random, and what must hold all the time."""

    def __init__(self, bounds: dict[str, ShareBounds], turns_max: int) -> None:
        self.bounds, self.turns_max = bounds, turns_max
        self.queue = FairQueue(turns_max)
        for name, each in bounds.items():
            self.queue.add_share(name, each)
        self.waiting: list[Turn] = []
        self.running: list[Turn] = []

    def grant(self) -> None:
        for turn in self.queue.grant():
            first = next(other for other in self.waiting if other.share == turn.share)
            assert first is turn, "within a share it is first come, first served"
            self.waiting.remove(turn)
            self.running.append(turn)
        self.check()

    def fits(self, turn: Turn) -> bool:
        """Whether a turn could begin, by what is known from outside."""
        mine = [other for other in self.running if other.share == turn.share]
        bounds = self.bounds[turn.share]
        return (bounds.turns_max is None or len(mine) < bounds.turns_max) and (
            bounds.memory_bytes_max is None
            or sum(other.memory_bytes for other in mine) + turn.memory_bytes <= bounds.memory_bytes_max
        )

    def check(self) -> None:
        assert len(self.running) <= self.turns_max
        for name, bounds in self.bounds.items():
            mine = [turn for turn in self.running if turn.share == name]
            assert bounds.turns_max is None or len(mine) <= bounds.turns_max
            assert bounds.memory_bytes_max is None or sum(t.memory_bytes for t in mine) <= bounds.memory_bytes_max
        unused = {name: self.count_unused(name) for name in self.bounds}
        free = self.turns_max - len(self.running)
        assert free >= sum(unused.values()), "what is kept for one is given to nobody else"
        firsts = {turn.share: turn for turn in reversed(self.waiting)}
        for name, turn in firsts.items():
            assert not (unused[name] and self.fits(turn)), "who has fewer than are kept for him waits for nobody else"
            assert free == sum(unused.values()) or not self.fits(turn), "nobody waits who could run"

    def count_unused(self, name: str) -> int:
        """How many turns are kept for a share that it does not have: of half of all by weight, one at least."""
        if self.turns_max < 2 * len(self.bounds):
            return 0
        weights = sum(bounds.weight for bounds in self.bounds.values())
        bounds = self.bounds[name]
        kept = max(1, self.turns_max // 2 * bounds.weight // weights)
        if bounds.turns_max is not None:
            kept = min(kept, bounds.turns_max)
        return max(0, kept - sum(turn.share == name for turn in self.running))


@given(st.lists(BOUNDS, min_size=1, max_size=4), st.integers(1, 16), st.data())
def test_no_bound_is_passed_and_nobody_waits_who_could_run(
    bounds: list[ShareBounds], turns_max: int, data: st.DataObject
) -> None:
    model = Model({f"share {index}": each for index, each in enumerate(bounds)}, turns_max)
    names = sorted(model.bounds)
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["ask", "ask", "end", "give up"])):
            case "ask":
                name = data.draw(st.sampled_from(names))
                model.waiting.append(model.queue.ask(name, data.draw(st.integers(0, 10))))
            case "end" if model.running:
                model.queue.end(model.running.pop(data.draw(st.integers(0, len(model.running) - 1))))
            case "give up" if model.waiting:
                model.queue.end(model.waiting.pop(data.draw(st.integers(0, len(model.waiting) - 1))))
        model.grant()
    for turn in [*model.waiting, *model.running]:
        model.queue.end(turn)
    for name in names:
        model.queue.remove_share(name)


def test_who_was_idle_has_saved_up_no_turns() -> None:
    queue = FairQueue(1)
    for name in ("busy", "idle"):
        queue.add_share(name, ShareBounds())
    for _ in range(1000):
        queue.ask("busy", 0)
        [turn] = queue.grant()
        queue.end(turn)
    for _ in range(10):
        queue.ask("busy", 0)
        queue.ask("idle", 0)
    order = []
    for _ in range(20):
        [turn] = queue.grant()
        order.append(turn.share)
        queue.end(turn)
    assert order.count("idle") == 10
    assert all(order[index : index + 2].count("idle") == 1 for index in range(0, 20, 2)), order


def test_turns_that_never_end_keep_nobody_out() -> None:
    queue = FairQueue(64)
    for name in ("slow 1", "slow 2", "slow 3", "slow 4"):
        queue.add_share(name, ShareBounds(turns_max=16))
    queue.add_share("late", ShareBounds(turns_max=16))
    for _ in range(16):
        for name in ("slow 1", "slow 2", "slow 3", "slow 4"):
            queue.ask(name, 0)
    taken = Counter(turn.share for turn in queue.grant())
    assert taken.total() == 64 - 64 // 2 // 5, "what is kept for the late one stays"
    for _ in range(1000):
        turn = queue.ask("late", 0)
        assert queue.grant() == [turn], "it waits for nobody"
        queue.end(turn)
    assert max(taken.values()) - min(taken.values()) <= 1


def test_bounds_that_are_changed_hold_from_then_on_and_end_nothing() -> None:
    queue = FairQueue(8)
    queue.add_share("a", ShareBounds(turns_max=1))
    turns = [queue.ask("a", 1) for _ in range(4)]
    assert queue.grant() == turns[:1]
    queue.set_bounds("a", ShareBounds(turns_max=3))
    assert queue.grant() == turns[1:3]
    queue.set_bounds("a", ShareBounds(turns_max=1))
    assert (queue.get_use("a").turns, queue.get_use("a").waiting) == (3, 1)
    for turn in turns[:2]:
        queue.end(turn)
        assert not queue.grant()
    queue.end(turns[2])
    assert queue.grant() == turns[3:]


def test_turns_of_a_share_that_is_taken_out_count_until_they_end_and_not_for_another_of_its_name() -> None:
    queue = FairQueue(2)
    queue.add_share("a", ShareBounds(turns_max=1))
    queue.add_share("b", ShareBounds())
    first, late = queue.ask("a", 5), queue.ask("a", 5)
    assert queue.grant() == [first]
    queue.remove_share("a")
    queue.add_share("a", ShareBounds(turns_max=1))
    own = queue.ask("a", 5)
    assert queue.grant() == [own], "the turn of before is not the new share's"
    others = queue.ask("b", 0)
    assert not queue.grant(), "but it is one of the two"
    queue.end(first)
    assert queue.grant() == [others]
    queue.end(late)
    queue.end(own)
    queue.end(others)
    again = [queue.ask("a", 5), queue.ask("b", 0)]
    assert set(queue.grant()) == set(again), "all turns are there again, and no more"
    queue.ask("b", 0)
    assert not queue.grant()
