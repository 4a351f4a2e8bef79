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


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=5), st.integers(1, 8), st.data())
def test_who_always_waits_gets_turns_by_weight_whatever_the_others_ask(
    weights: list[int], turns_max: int, data: st.DataObject
) -> None:
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
        if len(self.running) < self.turns_max:
            firsts = {turn.share: turn for turn in reversed(self.waiting)}
            assert not any(self.fits(turn) for turn in firsts.values()), "nobody waits who could run"


@given(st.lists(BOUNDS, min_size=1, max_size=4), st.integers(1, 6), st.data())
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
