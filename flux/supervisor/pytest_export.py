"""A recorded failure as a test, made as small as it can be and still fail.

The test runs without a database, so whether it fails is tried without one too: each smaller execution is replayed on
the code that made the record, by a `Replayer` without database and secrets, and is kept where the verdict is
"same failure". What is tried, and in which order, is `flux.reduce`'s business. It has so many replays and so much time;
what it came to by then is written.

The seed is left out first. What stands for redacted values follows from them and the seed, so whoever has both can try
values until one fits, and a test goes into a repository.
"""

import ast
from typing import Any

import attrs
import trio

from flux import values
from flux.errors import OperatorError
from flux.execution import Execution, Raised, Returned
from flux.failure import find_failure
from flux.hostcall import HostCall
from flux.pytest_file import write_test
from flux.reduce import Path, reduce
from flux.streamed import READ, WRITES
from flux.supervisor.replay import Replayer, UnreplayableError
from flux.synthetic import STAND_IN, list_synthetic
from flux.verdict import Judgement, Verdict

RUNS_MAX = 60
SECONDS_MAX = 30.0
NO_SEED = bytes(32)
_STREAMS = WRITES | {READ}
_JSON_BODY = "body as JSON"
"""In the place of ``body``, in an answer that is taken apart."""


class NoTestError(OperatorError):
    """No test can be made of this execution that fails as it did."""

    code = "FLX676"
    exit_code = 6


@attrs.frozen
class WrittenTest:
    """A test, and what it took."""

    text: str
    runs: int
    """Replays."""
    is_smallest: bool
    """Nothing more can be left out; else there was no more time."""


async def write_smallest_test(
    original: Execution, replayer: Replayer, *, seconds_max: float = SECONDS_MAX
) -> WrittenTest:
    """Return a test that fails as ``original`` did; ``replayer`` has neither database nor secrets."""
    failure = find_failure(original)
    if failure is None or failure.is_answer or not isinstance(original.outcome, Raised | Returned):
        raise NoTestError(
            f"{original.name} did not fail by an exception or an answer of its own",
            remedy=f"flux export {original.name} --case hands it on as it is",
        )
    if original.level.kind != "process":
        raise NoTestError(
            f"{original.name} ran as {original.level.kind}, and pytest runs Python",
            remedy=f"flux export {original.name} --case hands it on as it is",
        )
    if any(call.request.name in _STREAMS for call in original.calls):
        raise NoTestError(
            f"{original.name} read its request or wrote its answer piece by piece, and the pieces are on no record",
            remedy=f"flux export {original.name} --case hands it on as it is",
        )
    # Rows are no part of the test, nor is what the transaction was.
    whole = attrs.evolve(original, mutations=(), mutation_count=0, transactions=(), reads=(), ordinals=())
    middleware, timeout_s = await replayer.describe(whole)
    first = await _try(whole, replayer)
    if first.verdict is not Verdict.SAME_FAILURE:
        raise NoTestError(
            f"without its database {original.name} does not fail as it did: {first.reason}",
            remedy=f"flux replay {original.name} runs it in the database as it was",
        )
    seedless = attrs.evolve(whole, seed=NO_SEED)
    whole = seedless if await _fails(seedless, replayer) else whole
    current, runs, is_smallest = whole, 2, False
    document, roots = _take_apart(whole)
    proposals = reduce(document, roots)
    with trio.move_on_after(seconds_max):
        try:
            candidate = next(proposals)
            while runs < RUNS_MAX:
                smaller = _put_together(whole, candidate)
                runs += 1
                fails = await _fails(smaller, replayer)
                current = smaller if fails else current
                candidate = proposals.send(fails)
        except StopIteration:
            is_smallest = True
    notes = [f"made smaller by {runs} replays" + ("" if is_smallest else ", and not as small as it could be")]
    notes += [f"in it is {sentence}" for sentence in list_synthetic(current, has_secrets=False)]
    if current.seed != NO_SEED and _has_stand_ins(current):
        notes.append("with the seed below, values can be tried until one fits what stands for a redacted one")
    try:
        text = write_test(current, failure, middleware=middleware, timeout_s=timeout_s, notes=notes)
        ast.parse(text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise NoTestError(
            f"what {original.name} asked or was answered is nested deeper than Python's parser reads",
            remedy=f"flux export {original.name} --case hands it on as it is",
        ) from error
    return WrittenTest(text, runs, is_smallest)


def _has_stand_ins(execution: Execution) -> bool:
    asked = b"\n".join(call.request.arguments for call in execution.calls).decode("utf-8", "replace")
    return bool(STAND_IN.search(asked) or list_synthetic(execution, has_secrets=True))


async def _fails(execution: Execution, replayer: Replayer) -> bool:
    try:
        return (await _try(execution, replayer)).verdict is Verdict.SAME_FAILURE
    except UnreplayableError:
        return False  # Its input can't be read any more.


async def _try(execution: Execution, replayer: Replayer) -> Judgement:
    return (await replayer.replay(execution, None, {}, rehearses=True)).judgement


# --- what may be left out --------------------------------------------------------------------------


def _take_apart(execution: Execution) -> tuple[dict[str, Any], list[Path]]:
    """Return what may be left out of an execution as a document, and where in it that is."""
    trigger = execution.trigger
    document: dict[str, Any] = {
        # Tuples are left out whole or not at all.
        "headers": list(trigger.headers),
        "query": list(trigger.query),
        "body": _read_json(trigger.body),
        "answers": [
            None if call.result is None else _open(values.decode_json(call.result.value)) for call in execution.calls
        ],
    }
    roots: list[Path] = [("body",), ("headers",), ("query",)]
    for index, answer in enumerate(document["answers"]):
        if isinstance(answer, dict):
            # Without its other parts it would be no answer.
            roots += [("answers", index, part) for part in ("rows", "headers", _JSON_BODY) if part in answer]
    return document, roots


def _put_together(execution: Execution, document: dict[str, Any]) -> Execution:
    trigger = execution.trigger
    body = document["body"]
    smaller = attrs.evolve(
        trigger,
        headers=tuple(document["headers"]),
        query=tuple(document["query"]),
        # As it was sent, where nothing of it is left out: its layout is the client's.
        body=trigger.body if body == _read_json(trigger.body) else values.encode_json(body),
    )
    pairs = zip(execution.calls, document["answers"], strict=True)
    return attrs.evolve(execution, trigger=smaller, calls=tuple(_answer(call, answer) for call, answer in pairs))


def _answer(call: HostCall, answer: Any) -> HostCall:
    if call.result is None or call.result.error is not None or answer == _open(values.decode_json(call.result.value)):
        return call
    return attrs.evolve(call, result=attrs.evolve(call.result, value=values.encode_json(_close(answer))))


def _open(answer: Any) -> Any:
    """Return an answer with the JSON that is text in it as JSON, and with rows and header fields as tuples."""
    if not isinstance(answer, dict):
        return answer
    opened = dict(answer)
    for part in ("rows", "headers"):
        if isinstance(items := answer.get(part), list):
            opened[part] = [tuple(item) if isinstance(item, list) else item for item in items]
    if "rows" not in answer and isinstance(answer.get("body"), str):
        inner = _read_json(answer["body"].encode())
        if isinstance(inner, dict | list):
            opened[_JSON_BODY] = inner
            del opened["body"]
    return opened


def _close(answer: Any) -> Any:
    if isinstance(answer, dict) and _JSON_BODY in answer:
        kept = {key: value for key, value in answer.items() if key != _JSON_BODY}
        return {**kept, "body": values.encode_json(answer[_JSON_BODY]).decode()}
    return answer


def _read_json(data: bytes) -> Any:
    try:
        return values.decode_json(data)
    except values.ValueFormatError:
        return None
