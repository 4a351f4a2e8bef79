"""Changed code is replayed: it hears what was recorded of what it asks, or it stops.

The guest is a set of tasks, each with a list of things to do one after the other; the changed
guest has some of them left out, moved, added. The host answers each question with something
that only fits that question, in any order, and takes its time. So whatever the replay gives as
recorded can be checked against the question alone.
"""

import random
from collections.abc import Sequence

import attrs
import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.matching import Grade, align, make_key
from flux.matching_session import Fidelity, MatchingSession, Source
from flux.session import Answer, Diverge, Divergence, Perform, RecordSession

STARTED_NS = 1_767_225_600_000_000_000
SEED = bytes(32)
Step = tuple[str, bytes]
Tasks = list[list[Step]]

questions = st.one_of(
    st.tuples(st.just("http.request"), st.integers(0, 3).map(lambda n: b'["GET","http://h/%d",{}]' % n)),
    st.tuples(
        st.just("http.request"), st.integers(0, 3).map(lambda n: b'["POST","http://h/a",{"body":"%d"}]' % n)
    ),
    st.tuples(st.just("db.query"), st.integers(0, 3).map(lambda n: b'["select $1",[%d]]' % n)),
    st.tuples(st.just("db.execute"), st.integers(0, 3).map(lambda n: b'["update t set a = $1",[%d]]' % n)),
)
clocks = st.one_of(
    st.just(("clock.now", b"[]")),
    st.integers(0, 5).map(lambda n: ("clock.sleep", b"[%d]" % n)),
    st.just(("entropy.take", b"[8]")),
)
steps = st.one_of(questions, questions, clocks)
tasks = st.lists(st.lists(steps, max_size=5), min_size=1, max_size=4)


def answer_of(name: str, arguments: bytes, count: int) -> bytes:
    """What the host says to the ``count``-th question of its kind: nothing else is answered so."""
    return msgspec.json.encode([name, arguments.decode(), count])


@attrs.define
class World:
    """Performs what it is asked, and takes different time for it in each run."""

    chance: random.Random
    now_ns: int = STARTED_NS
    at_work: list[HostCallRequest] = attrs.Factory(list)
    _counts: dict[tuple[str, bytes], int] = attrs.Factory(dict)
    _started_ns: dict[int, int] = attrs.Factory(dict)
    _values: dict[int, bytes] = attrs.Factory(dict)

    def take(self, request: HostCallRequest) -> None:
        key = (request.name, request.arguments)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._values[request.seq] = answer_of(*key, self._counts[key])
        self._started_ns[request.seq] = self.now_ns
        self.at_work.append(request)

    def finish_one(self) -> tuple[int, HostCallResult]:
        request = self.at_work.pop(self.chance.randrange(len(self.at_work)))
        self.now_ns += self.chance.randint(1, 10**9)
        value = self._values[request.seq]
        if request.name == "clock.sleep":
            (seconds,) = msgspec.json.decode(request.arguments)
            self.now_ns, value = max(self.now_ns, self._started_ns[request.seq] + seconds * 10**9), b"null"
        if request.name == "clock.now":
            value = b"%d" % self.now_ns
        elapsed_ns = self.now_ns - self._started_ns[request.seq]
        return request.seq, HostCallResult(value, None, elapsed_ns, self.now_ns)


@attrs.define
class Run:
    """What a guest asked and heard."""

    heard: list[tuple[int, bytes]] = attrs.Factory(list)
    divergence: Divergence | None = None
    asked: dict[int, HostCallRequest] = attrs.Factory(dict)


def run_guest(plan: Tasks, session: RecordSession | MatchingSession, world: World) -> Run:
    """Run the tasks to their end: each asks its next question when it has heard the answer to the last."""
    run = Run()
    ahead = [list(steps) for steps in plan]
    task_of: dict[int, int] = {}

    def ask(task: int) -> None:
        if run.divergence is not None or not ahead[task]:
            return
        name, arguments = ahead[task].pop(0)
        request = HostCallRequest(len(run.asked) + 1, name, arguments, task)
        run.asked[request.seq] = request
        task_of[request.seq] = task
        match session.decide(request, world.now_ns - STARTED_NS):
            case Perform():
                world.take(request)
            case Answer():
                pass
            case Diverge(divergence):
                run.divergence = divergence

    for task in range(len(plan)):
        ask(task)
    while run.divergence is None and len(run.heard) < len(run.asked):
        if isinstance(session, MatchingSession):
            session.waits()
        replies = session.take_replies()
        while not replies:
            session.completed(*world.finish_one())
            replies = session.take_replies()
        for seq, result in replies:
            run.heard.append((seq, result.value))
            ask(task_of[seq])
    return run


def record(plan: Tasks, seed: int) -> tuple[Run, tuple[HostCall, ...]]:
    session = RecordSession()
    return run_guest(plan, session, World(random.Random(seed))), session.calls


def make_session(calls: Sequence[HostCall], *, has_world: bool) -> MatchingSession:
    return MatchingSession(calls, started_at_ns=STARTED_NS, seed=SEED, has_world=has_world)


@given(tasks, st.integers(0, 2**32))
def test_code_that_did_not_change_hears_what_it_heard(plan: Tasks, seed: int) -> None:
    recorded, calls = record(plan, seed)
    session = make_session(calls, has_world=False)
    again = run_guest(plan, session, World(random.Random(0)))
    assert again.divergence is None
    assert again.heard == recorded.heard
    assert session.is_on_track
    assert {pair.grade for pair in align(calls, session.calls)} <= {Grade.EXACT}
    assert [call.result.now_ns for call in session.calls if call.result] == [
        call.result.now_ns for call in calls if call.result
    ]


@given(tasks, st.integers(0, 2**32))
def test_a_world_that_agrees_is_found_faithful(plan: Tasks, seed: int) -> None:
    recorded, calls = record(plan, seed)
    session = make_session(calls, has_world=True)
    again = run_guest(plan, session, World(random.Random(seed + 1)))
    statements = [call for call in calls if call.request.name.startswith("db.")]
    assert again.heard == recorded.heard
    assert (session.fidelity.matched, session.fidelity.equal) == (len(statements), len(statements))


GET = ("http.request", b'["GET","http://h/0",{}]')


@given(tasks, tasks, st.integers(0, 2**32))
@example([[GET, GET]], [[GET], [GET, GET]], 0)  # The first is given an answer and never hears it.
def test_whatever_is_answered_as_recorded_was_recorded_of_this_question(
    plan: Tasks, changed: Tasks, seed: int
) -> None:
    _, calls = record(plan, seed)
    session = make_session(calls, has_world=True)
    again = run_guest(changed, session, World(random.Random(seed)))
    recorded: dict[tuple[str, bytes], list[bytes]] = {}
    for call in calls:
        recorded.setdefault((call.request.name, call.request.arguments), []).append(
            call.result.value if call.result else b""
        )
    heard = dict(again.heard)
    parted = None if again.divergence is None else again.divergence.seq
    # What was heard is taken away first. Of what was given and not heard it is only known that it is one more.
    for seq in sorted(again.asked, key=lambda seq: (seq == parted, seq not in heard)):
        request = again.asked[seq]
        if request.name != "http.request":
            assert session.sources.get(seq) in (
                {Source.WORLD} if request.name.startswith("db.") else {Source.STREAM}
            )
            continue
        left = recorded.get((request.name, request.arguments), [])
        if seq == parted:
            assert not left
            continue
        assert session.sources[seq] is Source.RECORDED
        if seq in heard:
            left.remove(heard[seq])  # Each recorded answer is given once.
        else:
            left.pop()


def without_times(fidelity: Fidelity) -> Fidelity:
    """What it says, but for how long this run's world took for the answer that is another one."""
    if fidelity.first_unequal is None:
        return fidelity
    call, given_now = fidelity.first_unequal
    return attrs.evolve(fidelity, first_unequal=(call, attrs.evolve(given_now, elapsed_ns=0, now_ns=0)))


@given(tasks, tasks, st.integers(0, 2**32))
@example([[("db.query", b'["select $1",[0]]')]] * 2, [[], [("db.query", b'["select $1",[0]]')]], 0)
@settings(max_examples=50)
def test_the_order_of_answers_does_not_depend_on_how_fast_the_world_is(
    plan: Tasks, changed: Tasks, seed: int
) -> None:
    _, calls = record(plan, seed)
    runs = []
    for speed in (1, 2, 3):
        session = make_session(calls, has_world=True)
        run = run_guest(changed, session, World(random.Random(speed)))
        times = [call.result.now_ns if call.result else None for call in session.calls]
        # One that was stopped may have been so before or after the world had answered what was never heard.
        fidelity = without_times(session.fidelity) if run.divergence is None else None
        runs.append((run.heard, run.divergence, times, fidelity))
    assert runs[0] == runs[1] == runs[2]


@given(tasks, st.integers(0, 2**32), st.integers(0, 3), st.integers(0, 5))
def test_one_more_look_at_the_clock_changes_no_question_and_no_answer(
    plan: Tasks, seed: int, task: int, place: int
) -> None:
    recorded, calls = record(plan, seed)
    looking = [list(steps) for steps in plan]
    chosen = looking[task % len(looking)]
    chosen.insert(place % (len(chosen) + 1), ("clock.now", b"[]"))
    session = make_session(calls, has_world=True)
    again = run_guest(looking, session, World(random.Random(0)))
    assert again.divergence is None
    assert session.is_on_track

    def list_heard(run: Run) -> list[tuple[int, bytes]]:
        return sorted(
            (run.asked[seq].task, value) for seq, value in run.heard if run.asked[seq].name == "http.request"
        )

    assert list_heard(again) == list_heard(recorded)


@given(tasks, tasks, st.integers(0, 2**32))
def test_an_alignment_has_every_question_once_and_keeps_its_word(
    plan: Tasks, changed: Tasks, seed: int
) -> None:
    _, left = record(plan, seed)
    _, right = record(changed, seed + 1)
    pairs = align(left, right)
    for side, calls in (("left", left), ("right", right)):
        shown = [getattr(pair, side).request.seq for pair in pairs if getattr(pair, side) is not None]
        asked = [call.request.seq for call in calls if call.request.name.startswith(("http.", "db."))]
        assert sorted(shown) == sorted(asked)
    exact = [pair for pair in pairs if pair.grade is Grade.EXACT]
    assert [pair.left.request.seq for pair in exact if pair.left] == sorted(
        pair.left.request.seq for pair in exact if pair.left
    )
    for pair in pairs:
        assert (pair.left is None) == (pair.grade is Grade.NEW)
        assert (pair.right is None) == (pair.grade is Grade.MISSING)
        if pair.left is not None and pair.right is not None:
            one, other = make_key(pair.left.request), make_key(pair.right.request)
            assert (one.exact == other.exact) == (pair.grade in (Grade.EXACT, Grade.REORDERED))
            assert one.shape == other.shape


def test_an_answer_that_was_in_time_is_in_time_however_long_we_were_held_up() -> None:
    def ask(timeout_s: float) -> HostCallRequest:
        options = b'{"body":null,"headers":[],"redirects":0,"timeout_s":%g}' % timeout_s
        return HostCallRequest(1, "http.request", b'["GET","http://h/a",' + options + b"]")

    answer = HostCallResult(b'{"body":"","headers":[],"redirects":[],"status":200,"url":"http://h/a"}')
    for took_ms, held_up_ms, is_in_time in ((950, 100, True), (1050, 0, False), (1050, 100, False)):
        result = attrs.evolve(answer, elapsed_ns=(took_ms + held_up_ms) * 10**6, held_up_ns=held_up_ms * 10**6)
        recorded = HostCall(ask(5), result, 0, 1)
        session = MatchingSession([recorded], started_at_ns=STARTED_NS, seed=SEED, has_world=False)
        assert isinstance(session.decide(ask(1), 0), Answer) is is_in_time, (took_ms, held_up_ms)
