"""Replaying changed code: what the recording can still answer, and when.

`flux.session.ReplaySession` demands the recorded path, call by call. Changed code leaves
it, on purpose. So here each question looks for its counterpart by content
(`flux.matching`), and where its answer comes from depends on what it would do::

    db.*                  the world: the database as the execution saw it. The recorded answer of the
                          counterpart is the oracle: while both have written the same, they must agree
    http.*, secret.* ...  the counterpart's recorded answer, to the letter; without one the replay stops,
                          unless the caller brought an answer or allows it for real
    invoke                the same, as what it runs is not taken back
    queue.push            held: nothing is pushed, and the answer is the recorded one, or an id that is made up
    response.*            held: what is written is digested, and sent to nobody
    request.read          of an upload no bytes are on record: the replay stops
    clock.*, entropy.*    streams: recorded values in their order, then what follows from them

Time is simulated. An answer takes as long as it took when it was recorded, a timer as long
as it says, and a new question of the database no time at all. The guest is handed one
answer at a time, the earliest, and only when it has said that it waits (`waits`): so the
order is the same in every run, however fast the machine is, and a time-out in the code
comes before or after an answer as it would have.

While the guest keeps to the recorded path (*on track*), times and order are the recorded
ones. The first question that differs ends that.
"""

import enum
import hashlib
import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

import attrs

from flux import calls as recorded_calls
from flux import streamed, values
from flux.brought import Borrowed, BroughtAnswer, make_result
from flux.execution import LogLine
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult
from flux.matching import Counterparts, is_stream, make_key
from flux.session import CANCELLED, Answer, Cut, Decision, Diverge, Divergence, Perform, Reply
from flux.sql_rules import get_first_word

NS = 1_000_000_000
PUSH = "queue.push"
NEVER_NS = math.inf
SLEEP_S_MAX = 86_400
READING_WORDS = frozenset({"select", "values", "table", "show", "explain"})
"""First words of statements that write nothing by themselves. What a function does that they call is not seen."""


class Source(enum.StrEnum):
    """Where an answer came from."""

    RECORDED = "recorded"
    WORLD = "world"
    """The database as the execution saw it."""
    STREAM = "stream"
    """Clock and randomness."""
    BORROWED = "borrowed"
    """The recording of another execution."""
    FIXTURE = "fixture"
    """What the caller of the replay brought."""
    LIVE = "live"
    """Asked for real, with consent."""
    HELD = "held"
    """The id of a job that was never recorded and was not pushed; what was written as an answer, and not sent."""


@attrs.frozen
class Fidelity:
    """How far the world agrees with what was recorded."""

    matched: int = 0
    """Statements that were asked as recorded, with the same writes before them."""
    equal: int = 0
    """Of them, those that were answered as recorded."""
    first_unequal: tuple[HostCall, HostCallResult] | None = None
    """The recorded call whose answer the world does not give, and what it gave."""


@attrs.define
class _Pending:
    """A question that the guest has not heard the answer of."""

    request: HostCallRequest
    due_ns: float
    """When the answer comes, by the guest's clock; `NEVER_NS` if none was ever recorded."""
    rank: int
    """Decides among answers of one moment: the recorded order, then that of the questions."""
    source: Source
    result: HostCallResult | None = None
    """None while it is performed."""
    counterpart: HostCall | None = None
    cancelled_ns: float = NEVER_NS
    """When the recording says that its cancellation is answered."""
    is_oracle: bool = False
    """Both sides had written the same when it was asked: what the world answers must be what was recorded."""


class MatchingSession:
    """See the module. ``has_world`` says that statements can be performed; without, only recorded ones are."""

    def __init__(
        self,
        calls: Sequence[HostCall],
        *,
        started_at_ns: int,
        seed: bytes,
        has_world: bool,
        tells_waits: bool = True,
        timeout_s: float = math.inf,
        brought: Mapping[int, BroughtAnswer] | None = None,
        live: frozenset[str] = frozenset(),
        given: Mapping[int, HostCallResult] | None = None,
        lends: Sequence[HostCall] = (),
        functions: frozenset[str] | None = None,
        heard: Sequence[HostCall] = (),
        is_comparable: Callable[[], bool] = lambda: True,
    ) -> None:
        """``is_comparable`` says whether the world shows what was recorded, so that its answers must be the same.

        ``brought`` is by the call's number in the replay; ``live`` names hosts as `calls.find_host` does; ``functions``
        are those of the code that is replayed, None when that is not known.

        ``given`` answers whatever asks like a recorded call, by that one's number, and ``lends`` are calls of others
        that answer what the record does not: of an experiment (`flux.prove`), which changes what was heard.

        ``heard`` are ``calls`` as they are on record, where those were redacted once more to be compared: the guest
        hears what was heard.

        ``tells_waits``: the guest says when it waits. One that does not must do one thing at a time.
        """
        ordered = sorted(calls, key=lambda call: call.request.seq)
        self._recorded = Counterparts(ordered)
        self._paths = _split_paths(ordered)
        """For each task, the recorded path that is still ahead."""
        self._streams = _split_streams(ordered)
        self._asked: defaultdict[int, int] = defaultdict(int)
        """For each task, questions so far that are no stream's: on track, where on its path it is."""
        self._has_world = has_world
        self._brought = dict(brought or {})
        self._live = live
        self._given = dict(given or {})
        self._lends = Counterparts(lends)
        self._on_record = {call.request.seq: call.result for call in heard if call.result is not None}
        self._functions = functions
        self._made_up = 0
        """Ids of jobs that were made up."""
        self._is_comparable = is_comparable
        self._seed = seed
        self._now_ns = started_at_ns
        self._started_at_ns = started_at_ns
        self._deadline_ns = started_at_ns + timeout_s * NS
        self._pending: dict[int, _Pending] = {}
        self._calls: dict[int, HostCall] = {}
        self._logs: list[LogLine] = []
        self._heard = 0
        self._drawn = 0
        self._tells_waits = tells_waits
        self._waiting = not tells_waits
        self._on_track = True
        self._writes_ahead = deque(call.request.seq for call in ordered if _may_write(call.request))
        """Recorded calls that change what the next statement sees, and that the replay has not come to."""
        self._writes_differ = False
        self._pieces_then = [
            call.request.arguments
            for call in ordered
            if call.request.name == streamed.WRITE and call.result is not None and call.result.error is None
        ]
        self._pieces_now: list[bytes] = []
        """Of the answer, written piece by piece: what is on record of each."""
        self.sources: dict[int, Source] = {}
        """By the call's number in the replay."""
        self.fidelity = Fidelity()

    # What a driver asks

    def decide(self, request: HostCallRequest, at_ns: int) -> Decision:  # noqa: ARG002 - time is simulated
        """See `flux.session.Session.decide`."""
        self._calls[request.seq] = HostCall(request, None, self._now_ns - self._started_at_ns)
        if is_stream(request.name):
            return self._answer_from_stream(request)
        if request.seq in self._brought:
            return self._give_brought(request)
        if self._given and (call := self._recorded.find(request)) is not None and call.request.seq in self._given:
            return self._give(request, call)
        if request.name.startswith("db."):
            return self._decide_statement(request)
        if request.name == PUSH:
            return self._decide_push(request)
        if request.name in streamed.WRITES:
            return self._decide_written(request)
        return self._decide_outbound(request)

    def completed(self, seq: int, result: HostCallResult) -> HostCall:
        """See `flux.session.Session.completed`."""
        pending = self._pending[seq]
        assert pending.result is None, f"call {seq} was answered twice"
        pending.result = result
        if result.error is not None and result.error.name == CANCELLED:
            pending.due_ns = self._now_ns
        elif pending.is_oracle and pending.counterpart is not None and self._is_comparable():
            self._compare(pending.counterpart, result)
        return attrs.evolve(self._calls[seq], result=result, answered=self._heard + 1)

    def cancelled(self, seq: int) -> bool:
        """See `flux.session.Session.cancelled`."""
        pending = self._pending.get(seq)
        if pending is None or pending.due_ns <= self._now_ns:
            return False  # It has its answer, or has it coming.
        if pending.result is None:
            return pending.source in (Source.WORLD, Source.LIVE)
        pending.result = HostCallResult(error=HostCallError(CANCELLED, "the function no longer waited"))
        recorded_ns = pending.cancelled_ns
        pending.due_ns = (
            recorded_ns if self._on_track and self._now_ns <= recorded_ns < NEVER_NS else self._now_ns
        )
        return False

    def waits(self) -> None:
        """Take note that the guest has nothing left to do until it hears an answer."""
        self._waiting = True

    def take_replies(self) -> list[Reply]:
        """See `flux.session.Session.take_replies`: at most one, the earliest, and only to a guest that waits."""
        if not self._waiting or not self._pending:
            return []
        seq, pending = self._find_next()
        if pending.result is None or pending.due_ns > self._deadline_ns:
            return []
        assert isinstance(pending.due_ns, int), "an answer that never came is due"
        del self._pending[seq]
        self._waiting = not self._tells_waits
        self._now_ns = max(self._now_ns, pending.due_ns)
        self._heard += 1
        result = attrs.evolve(pending.result, now_ns=self._now_ns)
        self._calls[seq] = attrs.evolve(self._calls[seq], result=result, answered=self._heard)
        counterpart = pending.counterpart
        if self._on_record and counterpart is not None and pending.result is counterpart.result:
            was = self._on_record[counterpart.request.seq]
            return [(seq, attrs.evolve(result, value=was.value, error=was.error))]
        return [(seq, result)]

    def logged(self, line: LogLine) -> Divergence | None:
        """See `flux.session.Session.logged`: changed code may say what it likes."""
        self._logs.append(line)
        return None

    @property
    def cut(self) -> Cut | None:
        """See `flux.session.Session.cut`: changed code is at no recorded place when its time is over."""
        return None

    @property
    def stalled(self) -> bool:
        """See `flux.session.Session.stalled`: the next answer comes after the time limit, or never."""
        if not self._waiting or not self._pending:
            return False
        due_ns = self._find_next()[1].due_ns
        return due_ns > self._deadline_ns or due_ns == NEVER_NS

    @property
    def stalled_on(self) -> HostCallRequest | None:
        """The first of the questions that a stalled guest waits for."""
        return self._pending[min(self._pending)].request if self.stalled else None

    @property
    def calls(self) -> tuple[HostCall, ...]:
        """See `flux.session.Session.calls`."""
        return tuple(self._calls.values())

    @property
    def logs(self) -> tuple[LogLine, ...]:
        """See `flux.session.Session.logs`."""
        return tuple(self._logs)

    @property
    def left_over(self) -> tuple[int, ...]:
        """Numbers of the calls that an answer was brought for and that were never made."""
        return tuple(sorted(self._brought))

    def find_counterpart(self, seq: int) -> HostCall | None:
        """Return the recorded call that a question, by its number, was asked like; None once it is answered."""
        pending = self._pending.get(seq)
        return None if pending is None else pending.counterpart

    @property
    def is_on_track(self) -> bool:
        """Whether every question so far was the recorded one, in its turn."""
        return self._on_track

    # Where an answer comes from

    def _answer_from_stream(self, request: HostCallRequest) -> Decision:
        call = self._take_from_stream(request)
        if request.name == "clock.sleep":
            return self._sleep(request, call)
        if call is not None and call.result is not None:
            return self._hold(request, self._find_due_ns(call), Source.STREAM, call.result, call)
        match request.name:
            case "clock.now":
                return self._hold(
                    request, self._now_ns, Source.STREAM, HostCallResult(values.encode(self._now_ns))
                )
            case "entropy.take":
                return self._hold(request, self._now_ns, Source.STREAM, self._draw(request))
        return Diverge(Divergence("new", request.seq, None, request))

    def _sleep(self, request: HostCallRequest, call: HostCall | None) -> Decision:
        match recorded_calls.read_json(request.arguments):
            case [int() | float() as seconds] if 0 <= seconds <= SLEEP_S_MAX:
                end_ns: float = self._now_ns + round(seconds * NS)
            case _:
                error = HostCallError(
                    "InvalidArguments", f"clock.sleep takes 0 to {SLEEP_S_MAX} seconds", "FLX425"
                )
                return self._hold(request, self._now_ns, Source.STREAM, HostCallResult(error=error))
        if call is None or call.result is None:
            return self._hold(request, end_ns, Source.STREAM, _NULL)
        due_ns = self._find_due_ns(call)
        if call.result.error is None:
            return self._hold(request, due_ns, Source.STREAM, call.result, call)
        # It was given up before its end. A guest that does not give it up this time hears it end.
        decision = self._hold(request, end_ns, Source.STREAM, _NULL, call)
        self._pending[request.seq].cancelled_ns = due_ns
        return decision

    def _take_from_stream(self, request: HostCallRequest) -> HostCall | None:
        """Return what was recorded between the same two questions. One more look at the clock sees the same time."""
        if not self._on_track:
            return None
        recorded = self._streams.get(_stream_key(self._asked[request.task], request))
        if not recorded:
            return None
        is_last = len(recorded) == 1
        return recorded[0] if is_last and request.name == "clock.now" else recorded.popleft()

    def _draw(self, request: HostCallRequest) -> HostCallResult:
        """Randomness beyond what was recorded: it follows from the seed, so each replay draws the same."""
        arguments = recorded_calls.read_json(request.arguments)
        match arguments:
            case [int() as size, *_] if 0 <= size <= 65_536:
                self._drawn += 1
                drawn = hashlib.shake_256(b"replay %d " % self._drawn + self._seed).digest(size)
                return HostCallResult(values.encode(drawn))
        message = "entropy.take takes a number of bytes, 0 to 65,536"
        return HostCallResult(error=HostCallError("InvalidArguments", message, "FLX425"))

    def _give_brought(self, request: HostCallRequest) -> Decision:
        answer = self._brought.pop(request.seq)
        result = make_result(request, answer)
        self._follow(request.task, self._recorded.take(request))
        self._leave_track()
        source = Source.BORROWED if isinstance(answer, Borrowed) else Source.FIXTURE
        return self._hold(request, self._now_ns + result.elapsed_ns, source, result)

    def _give(self, request: HostCallRequest, call: HostCall) -> Decision:
        """Answer what asks like ``call`` otherwise than that was answered, and nothing else about it."""
        given = self._given.pop(call.request.seq)
        is_same = make_key(request) == make_key(call.request)
        self._recorded.take_out(call)
        self._follow(request.task, call if is_same else None)
        self._follow_writes(request, call)
        # No world has done it, whatever the answer says.
        self._writes_differ |= _may_write(request)
        was_answered = call.result is not None and call.result.error is None
        due_ns = self._find_due_ns(call) if was_answered else self._now_ns
        return self._hold(request, due_ns + given.elapsed_ns, Source.FIXTURE, given, call)

    def _decide_statement(self, request: HostCallRequest) -> Decision:
        similar = self._recorded.find_similar(request)
        call = self._recorded.take(request)
        self._follow(request.task, call)
        self._follow_writes(request, call)
        if self._has_world:
            due_ns = self._now_ns if call is None or call.result is None else self._find_due_ns(call)
            return self._hold(request, due_ns, Source.WORLD, None, call)
        if call is None or self._writes_differ:
            # Without a database nobody knows what it would say now.
            return self._diverge(request, call or similar)
        return self._hold_recorded(request, call)

    def _decide_outbound(self, request: HostCallRequest) -> Decision:
        similar = self._recorded.find_similar(request)
        call = self._recorded.take(request)
        self._follow(request.task, call)
        if request.name == streamed.READ and (call is None or call.result is None or call.result.error is None):
            return Diverge(Divergence(streamed.UNHEARD, request.seq, None if call is None else call.request, request))
        if call is not None and not _waits_otherwise(call, request):
            return self._hold_recorded(request, call)
        http = recorded_calls.read_http(HostCall(request, None, 0))
        if http is not None and http.host in self._live:
            return self._hold(request, self._now_ns, Source.LIVE, None)
        lent = self._lends.take(request) if call is None else None
        if lent is not None and lent.result is not None:
            return self._hold(request, self._now_ns + lent.result.elapsed_ns, Source.BORROWED, lent.result)
        return self._diverge(request, call or similar)

    def _decide_written(self, request: HostCallRequest) -> Decision:
        """A piece of the answer is taken as it was then, and sent to nobody: only the digest of all is asked for."""
        call = self._recorded.take(request)
        self._follow(request.task, call)
        if call is not None and call.result is not None and call.result.error is not None:
            return self._hold_recorded(request, call)
        if request.name == streamed.WRITE:
            self._pieces_now.append(request.arguments)
        elif call is not None and call.result is not None and self._pieces_now == self._pieces_then:
            # The same pieces are the same answer: a guest that hears stand-ins can't write what was digested then.
            return self._hold_recorded(request, call)
        due_ns = self._now_ns if call is None or call.result is None else self._find_due_ns(call)
        return self._hold(request, due_ns, Source.HELD, None, call)

    def _decide_push(self, request: HostCallRequest) -> Decision:
        call = self._recorded.take(request)
        self._follow(request.task, call)
        if call is not None:
            return self._hold_recorded(request, call)
        result = self._refuse_push(request) or HostCallResult(values.encode({"job": self._make_job_id()}))
        return self._hold(request, self._now_ns, Source.HELD, result)

    def _refuse_push(self, request: HostCallRequest) -> HostCallResult | None:
        """Return the error that a push of another function's name would have met, where that is certain."""
        match recorded_calls.read_json(request.arguments):
            case [str(name), *_] if self._functions is not None and name not in self._functions:
                known = ", ".join(sorted(self._functions))
                message = f'queue.push: no function is called "{name[:200]}"; there is {known}'
                details = values.encode_canonical({"function": name[:200]})
                return HostCallResult(error=HostCallError("UnknownFunction", message, "FLX570", details))
        return None

    def _make_job_id(self) -> str:
        """Return an id that no job has: of version 8, whose bits are anybody's, and the same in each replay."""
        self._made_up += 1
        digest = hashlib.sha256(b"held %d " % self._made_up + self._seed).hexdigest()
        return f"00000000-0000-8000-8000-{digest[:12]}"

    def _hold_recorded(self, request: HostCallRequest, call: HostCall) -> Decision:
        if call.result is None:
            return self._hold(request, NEVER_NS, Source.RECORDED, _NULL, call)
        due_ns: float = self._find_due_ns(call)
        error = call.result.error
        if error is not None and error.name == CANCELLED:
            # It was never answered, until the guest gave it up.
            self._hold(request, NEVER_NS, Source.RECORDED, call.result, call)
            self._pending[request.seq].cancelled_ns = due_ns
            return Answer(call.result)
        return self._hold(request, due_ns, Source.RECORDED, call.result, call)

    def _hold(
        self,
        request: HostCallRequest,
        due_ns: float,
        source: Source,
        result: HostCallResult | None,
        counterpart: HostCall | None = None,
    ) -> Decision:
        answered = counterpart.answered if counterpart is not None and self._on_track else None
        rank = answered if answered is not None else _LAST
        # Known when it is asked: what is asked until it is answered depends on how fast the world is.
        is_oracle = source is Source.WORLD and not self._writes_differ
        self._pending[request.seq] = _Pending(
            request, due_ns, rank, source, result, counterpart, is_oracle=is_oracle
        )
        self.sources[request.seq] = source
        return Perform() if result is None else Answer(result)

    def _diverge(self, request: HostCallRequest, counterpart: HostCall | None) -> Decision:
        expected = None if counterpart is None else counterpart.request
        return Diverge(Divergence("new" if expected is None else "changed", request.seq, expected, request))

    def _find_due_ns(self, call: HostCall) -> int:
        """When the recorded answer comes: then as now while on track, else after as long a time."""
        result = call.result
        assert result is not None
        if self._on_track and result.now_ns >= self._now_ns:
            return result.now_ns
        return self._now_ns + result.elapsed_ns

    def _find_next(self) -> tuple[int, _Pending]:
        return min(self._pending.items(), key=lambda item: (item[1].due_ns, item[1].rank, item[0]))

    # What has become of the recorded path

    def _follow(self, task: int, call: HostCall | None) -> None:
        self._asked[task] += 1
        path = self._paths.get(task)
        if call is None or not path or path.popleft() != call.request.seq:
            self._leave_track()

    def _leave_track(self) -> None:
        self._on_track = False

    def _follow_writes(self, request: HostCallRequest, call: HostCall | None) -> None:
        """Note the first difference in what was written: from there on answers may differ."""
        ahead = self._writes_ahead
        if call is None:
            self._writes_differ |= _may_write(request)
        elif not _may_write(request):
            self._writes_differ |= bool(ahead) and ahead[0] < call.request.seq
        elif ahead and ahead[0] == call.request.seq:
            ahead.popleft()
        else:
            self._writes_differ = True

    def _compare(self, call: HostCall, result: HostCallResult) -> None:
        recorded = call.result
        if recorded is None or (recorded.error is not None and recorded.error.name == CANCELLED):
            return
        equal = _says_the_same(recorded, result)
        first = self.fidelity.first_unequal
        self.fidelity = Fidelity(
            self.fidelity.matched + 1,
            self.fidelity.equal + equal,
            first if equal or first is not None else (call, result),
        )


_LAST = 2**62
_NULL = HostCallResult()
"""Null, for a timer that ends, and in the place of an answer that never comes."""


def _split_paths(ordered: Sequence[HostCall]) -> dict[int, deque[int]]:
    paths: defaultdict[int, deque[int]] = defaultdict(deque)
    for call in ordered:
        if not is_stream(call.request.name):
            paths[call.request.task].append(call.request.seq)
    return dict(paths)


_StreamKey = tuple[int, int, str, bytes]


def _split_streams(ordered: Sequence[HostCall]) -> dict[_StreamKey, deque[HostCall]]:
    """Return the recorded clock and randomness, by task and how much that task had asked before."""
    streams: defaultdict[_StreamKey, deque[HostCall]] = defaultdict(deque)
    asked: defaultdict[int, int] = defaultdict(int)
    for call in ordered:
        if is_stream(call.request.name):
            streams[_stream_key(asked[call.request.task], call.request)].append(call)
        else:
            asked[call.request.task] += 1
    return dict(streams)


def _stream_key(asked: int, request: HostCallRequest) -> _StreamKey:
    return request.task, asked, request.name, request.arguments


def _may_write(request: HostCallRequest) -> bool:
    """Whether what comes after this call may see something else than what came before it."""
    if request.name in ("db.begin", "db.commit", "db.rollback"):
        return True
    statement = recorded_calls.read_statement(HostCall(request, None, 0))
    return statement is not None and get_first_word(statement.sql) not in READING_WORDS


def _waits_otherwise(call: HostCall, request: HostCallRequest) -> bool:
    """Whether the replay's patience with an outbound request would have made a difference."""
    then, now = recorded_calls.read_http(call), recorded_calls.read_http(HostCall(request, None, 0))
    if then is None or now is None or then.timeout_s == now.timeout_s or call.result is None:
        return False
    error = call.result.error
    if error is not None and error.name == "HttpTimeout":
        return True
    return now.timeout_s is not None and call.result.performed_ns > now.timeout_s * NS


def _says_the_same(recorded: HostCallResult, result: HostCallResult) -> bool:
    if recorded.error is None or result.error is None:
        return recorded.error is result.error and recorded.value == result.value
    return (recorded.error.name, recorded.error.code) == (result.error.name, result.error.code)
