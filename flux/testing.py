"""Recorded failures as tests: what a file that ``flux export ID --pytest`` wrote imports.

A `Recording` is in the test file, and stays there: a function's input, what it asked, what it was answered, and how it
failed. `assert_fixed` runs the function as it is now, from the project's folder, in a process of its own, and answers
it from that. There is no server, database or network; the clock and randomness are those of then, so it does the
same each time. It fails while the function fails as it did, and passes once it gets past that.

Code that was changed may ask otherwise. Questions find their answers by what they ask, as in ``flux replay --on .``. A
statement that writes other values is answered with those (`flux.derived`). What cannot be answered stops the test:
behind the point of the failure that is a pass; before it nothing is decided, and the test fails with the question.
"""

import inspect
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flux import values
from flux.composition import Chain
from flux.derived import derive
from flux.execution import Execution, Frame, Killed, Level, Outcome, Raised, Returned, Trigger
from flux.failure import find_failure
from flux.guest_ends import read_answer, read_report
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.limits import GIB, Limits, format_duration
from flux.matching_session import MatchingSession
from flux.project import find_project, read_project
from flux.redact import RedactionRules, Redactor
from flux.sanitize import sanitize
from flux.session import Answer, Diverge, Divergence, Perform
from flux.supervisor.inputs import parse_json, read_input
from flux.supervisor.start_document import make_document
from flux.synthetic import list_synthetic
from flux.verdict import Judgement, Replayed, Verdict, judge
from flux.wire import (
    CallReceived,
    CancelReceived,
    Event,
    GuestConnection,
    GuestProtocolError,
    RaiseReceived,
    ReturnReceived,
    WaitReceived,
)

PATIENCE_S = 60.0
"""How long a function may compute without a word: a test that hangs is to end."""
DERIVED_MAX = 20
"""Statements that are answered with other values than recorded."""
MEMORY_BYTES = GIB
OUTPUT_CHARACTERS = 4_000
QUESTION_CHARACTERS = 1_000
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "TZ": "UTC"}
"""As behind the walls: the order of sets of text follows from it."""


@attrs.frozen(kw_only=True)
class Call:
    """One question of the function, and its answer."""

    name: str
    arguments: Any
    """JSON, with PROTOCOL.md's tags for what JSON lacks."""
    answer: Any = None
    error: Mapping[str, Any] | None = None
    """``name``, ``message``, ``code`` and ``details``, where it failed."""
    took_ns: int = 0
    after_ns: int = 0
    """The function's clock when it heard the answer, since its start."""
    answered: int | None = -1
    """Its place among the answers; -1: the same as among the questions. None: it was never answered."""
    task: int = 0
    at: tuple[str, int, str] | None = None
    """File, line and function that asked."""


@attrs.frozen(kw_only=True)
class Failure:
    """How it ended then."""

    type: str = ""
    """Of an exception; empty where it answered with ``status``."""
    message: str = ""
    frames: Sequence[tuple[str, int, str]] = ()
    """Lines of the project that it passed, the outermost first."""
    call: int | None = None
    cause: str = ""
    code: str = "FUNCTION_ERROR"
    status: int = 500
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@attrs.frozen(kw_only=True)
class Recording:
    """One execution that failed."""

    execution: str
    """Its UUID."""
    function: str
    kind: str = "http"
    method: str = ""
    path: str = ""
    route: str = ""
    params: Sequence[tuple[str, str]] = ()
    query: Sequence[tuple[str, str]] = ()
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    auth: bytes = b""
    user: bytes = b""
    client: str = ""
    scheme: str = ""
    host: str = ""
    started_at_ns: int
    seed: str
    middleware: Sequence[str] = ()
    timeout_s: float
    calls: Sequence[Call]
    failure: Failure

    def _make_execution(self) -> Execution:
        trigger = Trigger(
            self.kind, self.method, self.path, self.route, tuple(self.params), tuple(self.query), tuple(self.headers),
            self.body, auth=self.auth, user=self.user, client=self.client, scheme=self.scheme, host=self.host,
        )  # fmt: skip
        return Execution(
            id=uuid.UUID(self.execution), tenant="main", function=self.function, deployment="", sha="", dirty=False,
            trigger=trigger, started_at_ns=self.started_at_ns, seed=bytes.fromhex(self.seed),
            level=Level("process", "process", "python"), outcome=_make_outcome(self.failure),
            calls=tuple(_make_call(seq, call, self.started_at_ns) for seq, call in enumerate(self.calls, 1)),
        )  # fmt: skip


def assert_fixed(recording: Recording, *, project: Path | str | None = None) -> None:
    """Raise AssertionError while the function fails as it did; and where that can't be decided, with the reason.

    ``project`` is the folder with ``flux.toml``; without it, the nearest one above the file of the caller.
    """
    __tracebackhide__ = True
    caller = inspect.stack(context=0)[1].filename
    root = find_project(Path(caller).parent if project is None else Path(project))
    original = recording._make_execution()
    derived: list[int] = []
    while True:
        replayed, output = _run(original, recording, root)
        other = _derive(original, replayed.divergence) if len(derived) < DERIVED_MAX else None
        if other is None:
            break
        derived.append(other.request.seq)
        calls = tuple(other if call.request.seq == other.request.seq else call for call in original.calls)
        original = attrs.evolve(original, calls=calls)
    judgement = judge(original, replayed)
    if judgement.verdict not in (Verdict.PASSED, Verdict.PAST_IT):
        raise AssertionError(_tell(recording, judgement, replayed, derived, output))


def _derive(original: Execution, divergence: Divergence | None) -> HostCall | None:
    if divergence is None or not isinstance(divergence.expected, HostCallRequest):
        return None
    assert isinstance(divergence.actual, HostCallRequest)
    recorded = next(call for call in original.calls if call.request.seq == divergence.expected.seq)
    return derive(recorded, divergence.actual)


def _make_outcome(failure: Failure) -> Outcome:
    if not failure.type:
        return Returned(failure.status, tuple(failure.headers), failure.body)
    frames = tuple(Frame(file, line, function, user=True) for file, line, function in failure.frames)
    return Raised(
        failure.type, failure.message, frames, failure.status, failure.code, call=failure.call, cause=failure.cause
    )


def _make_call(seq: int, call: Call, started_at_ns: int) -> HostCall:
    place = None if call.at is None else Position(*call.at)
    request = HostCallRequest(seq, call.name, values.encode_json_canonical(call.arguments), call.task, place)
    if call.answered is None:
        return HostCall(request, None, 0)
    error = None
    if call.error is not None:
        details = values.encode_json_canonical(call.error.get("details", {}))
        error = HostCallError(call.error["name"], call.error["message"], call.error.get("code", ""), details)
    result = HostCallResult(
        values.encode_json(call.answer), error, call.took_ns, started_at_ns + call.after_ns if call.after_ns else 0
    )
    return HostCall(request, result, 0, seq if call.answered == -1 else call.answered)


# --- running it ------------------------------------------------------------------------------------


def _run(original: Execution, recording: Recording, root: Path) -> tuple[Replayed, str]:
    __tracebackhide__ = True
    trigger = original.trigger
    value: object = parse_json(trigger.body)
    if trigger.kind == "http":
        content_type = next((text for name, text in trigger.headers if name == "content-type"), "")
        value = read_input(dict(trigger.params), trigger.query, content_type, trigger.body)
    limits = Limits(timeout_s=recording.timeout_s, memory_bytes_max=MEMORY_BYTES)
    document = make_document(
        original, trigger, limits, Chain((), tuple(recording.middleware)), value, tells_waits=True
    )
    session = MatchingSession(
        original.calls, started_at_ns=original.started_at_ns, seed=original.seed, has_world=False,
        timeout_s=recording.timeout_s,
    )  # fmt: skip
    config = read_project(root).config
    # What rules hide is hidden in what the function asks too: the record has it so, and questions are to be found.
    redactor = Redactor(RedactionRules.parse(config.recording.redact), original.seed)
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as start:
        start.write(document + b"\n")
        start.seek(0)
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable, "-P", "-m", "flux_guest._alone", str(root), config.project.functions,
                    str(theirs.fileno()),
                ],
                stdin=start, stdout=output, stderr=output, pass_fds=[theirs.fileno()],
                env={**os.environ, **ENVIRONMENT},
            )  # fmt: skip
        try:
            ours.settimeout(PATIENCE_S)
            outcome, divergence = _Conversation(ours, session, redactor, limits).run()
            why = "it has ended without a word"
        except TimeoutError:
            outcome, divergence = None, None
            why = f"it computed for {format_duration(PATIENCE_S)} without a word"
        except (ConnectionError, GuestProtocolError) as error:
            outcome, divergence = None, None
            why = f"what it said can't be read: {error}"
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        said = sanitize(output.read().decode(errors="backslashreplace")[-OUTPUT_CHARACTERS:], newlines=True)
    if outcome is None and divergence is None and not session.stalled:
        raise AssertionError(f"{original.function} did not come to its end: {sanitize(why)}\n{said}".rstrip())
    waited_for = session.stalled_on if outcome is None and divergence is None else None
    execution = attrs.evolve(
        original, outcome=redactor.outcome(outcome or original.outcome), calls=session.calls, logs=session.logs
    )
    synthetic = list_synthetic(original, has_secrets=False)
    return Replayed(execution, divergence, waited_for, synthetic=synthetic), said


class _Conversation:
    """Answers a guest until it ends, or asks for what can't be answered."""

    def __init__(self, wire: socket.socket, session: MatchingSession, redactor: Redactor, limits: Limits) -> None:
        self._wire = wire
        self._session = session
        self._redactor = redactor
        self._limits = limits
        self._guest = GuestConnection(tells_waits=True)

    def run(self) -> tuple[Outcome | None, Divergence | None]:
        """Return how it ended, or where it left what is recorded; neither where it waits for ever, or is gone."""
        while not self._session.stalled:
            data = self._wire.recv(1 << 16)
            if not data:
                break
            for event in self._guest.receive(data):
                match event:
                    case ReturnReceived(value):
                        return read_answer(value, self._limits, self._session.calls, _kill), None
                    case RaiseReceived(report):
                        return read_report(report, self._limits, _kill), None
                if (divergence := self._take(event)) is not None:
                    return None, divergence
            for seq, result in self._session.take_replies():
                self._wire.sendall(self._guest.reply(seq, result))
        return None, None

    def _take(self, event: Event) -> Divergence | None:
        match event:
            case CallReceived(request) if not request.one_way:
                match self._session.decide(self._redactor.request(request), 0):
                    case Diverge(divergence):
                        return divergence
                    case Perform():
                        # An answer in pieces. Of a function that had none then: of others no test is made.
                        return Divergence("extra", request.seq, None, request)
                    case Answer():
                        pass
            case CancelReceived(seq):
                self._session.cancelled(seq)
            case WaitReceived():
                self._session.waits()
        return None


def _kill(limit: str, allowed: str, detail: str) -> Killed:
    return Killed(limit, allowed, "Flux's default", detail)


# --- saying it -------------------------------------------------------------------------------------


def _tell(
    recording: Recording, judgement: Judgement, replayed: Replayed, derived: Sequence[int], output: str
) -> str:
    then, now = recording.failure, find_failure(replayed.execution)
    was = f"{then.type}: {then.message}" if then.type else f"status {then.status}"
    place = "" if now is None or now.location is None else f" at {now.location.file}:{now.location.line}"
    match judgement.verdict:
        case Verdict.SAME_FAILURE | Verdict.OUTSIDE:
            said = f"{recording.function} still fails as it did: {was}{place}"
        case Verdict.OTHER_FAILURE if now is not None and replayed.waited_for is None:
            said = f"{recording.function} fails, not as it did ({was}), but with {now.type}: {now.message}{place}"
        case _:
            said = f"whether {recording.function} still fails with {was} is not decided: {judgement.reason}"
    lines = [said]
    if replayed.divergence is not None and isinstance(replayed.divergence.actual, HostCallRequest):
        asked = replayed.divergence.actual
        lines.append(f"it asks {asked.name} {asked.arguments.decode()[:QUESTION_CHARACTERS]}")
        lines.append("and no call of the recording answers that: change one, or add a Call(...)")
    lines += [f"call {seq} wrote other values than then, and was answered with those" for seq in derived]
    # What was recorded, or comes from the function, is on its way to a terminal.
    return "\n".join([*map(sanitize, lines), output]).rstrip()
