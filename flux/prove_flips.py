"""What an execution heard, and what it might have heard instead: the flips that ``flux why --prove`` tries.

A *flip* changes one thing that came to the function from outside: a field of its input, the answer of one call, or
the code itself. What takes its place is real where it can be: the value that another execution of the function, one
that passed (a *peer*), had in the same place. Where no peer tells, it is the plainest answer there is: a request is
answered 200 with an empty object, a statement has changed a row or finds none, a secret has a value.

Flips have a *site*, the thing they change. Two flips of a site exclude each other. One that takes a peer's whole
answer has *parts*, the values in which the two answers differ, so that a search can go on inside it.

Nothing is run here. `list_flips` says what there is to try, the likeliest first, and `alter` what an execution is to
hear with some of them in force.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import attrs

from flux import calls, values
from flux.brought import Content, Timeout, make_result
from flux.execution import Execution, Trigger
from flux.failure import Failure, Kind
from flux.hostcall import HostCall, HostCallResult
from flux.matching import align, is_stream
from flux.trace_values import ABSENT
from flux.why_case import clean, find_input, name_call, short_sha, show

DEPTH_MAX = 6
"""What is nested deeper in an input or a body is one value."""
VALUES_MAX = 2
"""Values of peers that are tried in one place."""
PARTS_MAX = 8
"""An answer that differs from a peer's in more places is flipped whole or not at all."""
ROWS_MAX = 20
CALLS_MAX = 100
"""Of more calls, the last ones are flipped: an experiment has not the runs for all."""
DIGITS_MAX = 600
"""Longer numbers in text are text: Python may refuse to read them."""
STAND_IN = "stand-in"
"""The value of a secret that has none."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FAR_AWAY = 1_000_000_007
_NO_JOB = "00000000-0000-8000-8000-000000000000"
_WITH_BODY = ("http.request", "invoke")
_NOT_FLIPPED = ("db.begin", "db.commit", "db.rollback", "net.")
"""What opens or ends a transaction, and the bytes of a library's own connection."""


@attrs.frozen
class Field:
    """A field of the input is another one, or is not there."""

    path: tuple[str, ...]
    """Names from the outermost to the innermost."""
    value: object
    """As JSON, or `flux.trace_values.ABSENT`."""


@attrs.frozen
class Answered:
    """A call is answered otherwise."""

    call: int
    """Seq of the recorded call."""
    result: HostCallResult


@attrs.frozen
class Part:
    """One value in a call's answer is another one."""

    call: int
    path: tuple[str | int, ...]
    """Into the answer's JSON; `_BODY` steps into JSON that is text."""
    value: object


@attrs.frozen
class Code:
    """Other code runs."""

    deployment: str
    sha: str
    dirty: bool


Change = Field | Answered | Part | Code


@attrs.frozen
class Flip:
    """One change, and the words for it."""

    site: str
    """What it changes: ``input.plan``, ``call 3``, ``code``. Recorded names in it are hostile."""
    change: Change
    text: str
    """Half a sentence behind "when": ``input.plan is "pro", as in qk1d44me (it was absent)``. Sanitised."""
    peer: Execution | None = attrs.field(default=None, repr=False)
    """Whose value it is; None when it is nobody's."""
    parts: tuple["Flip", ...] = ()
    """The same change taken apart; empty when it has no parts."""

    @property
    def call(self) -> int | None:
        """Seq of the call whose answer it changes."""
        return self.change.call if isinstance(self.change, Answered | Part) else None


@attrs.frozen
class Flips:
    """All there is to try."""

    flips: tuple[Flip, ...]
    """Those of one site together, the likeliest site and flip first."""
    left_out: tuple[str, ...] = ()
    """What was heard and can't be flipped, a sentence each."""


@attrs.frozen
class Altered:
    """What an execution is to hear."""

    execution: Execution
    """The original, with another input or of other code."""
    given: Mapping[int, HostCallResult]
    """Answers, by the seq of the recorded call."""
    lends: tuple[HostCall, ...] = ()
    """Calls of peers whose values it hears: what it asks then as they did, it may hear as they did."""


def list_flips(
    original: Execution, failure: Failure, peers: Sequence[Execution], earlier: Execution | None
) -> Flips:
    """Return what can be flipped in ``original``.

    ``peers`` passed, the nearest first; ``earlier`` is the last that passed on the deployment before, if one did.
    """
    left_out: list[str] = []
    flipped = [call for call in original.calls if not _is_left_alone(call)]
    last = [call for call in flipped[-CALLS_MAX:] if call.request.seq != failure.call]
    behind = [call for call in flipped if call.request.seq == failure.call]
    if len(flipped) > len(last) + len(behind):
        left_out.append(f"of its {len(flipped):,} answers only the last {len(last) + len(behind)} are flipped")
    theirs = [(peer, _find_counterparts(original, peer)) for peer in peers]
    if any(call.request.name.startswith("net.") for call in original.calls):
        left_out.append("what a library read from a connection of its own is not flipped")
    found = [flip for call in behind for flip in _flip_answer(call, theirs)]
    if earlier is not None:
        text = f"the code is that of {short_sha(earlier.sha)}, deployment {earlier.deployment}, as in {earlier.name}"
        found.append(Flip("code", Code(earlier.deployment, earlier.sha, earlier.dirty), text, earlier))
    own = find_input(original)
    if own is None:
        left_out.append("the input is no JSON object, so it has no fields to flip")
    else:
        found += _flip_fields(own, original.trigger, peers, makes_up=failure.kind is Kind.UNIQUE_VIOLATION)
    for call in reversed(last):
        found += _flip_answer(call, theirs)
    return Flips(tuple(found), tuple(left_out))


def alter(original: Execution, flips: Sequence[Flip]) -> Altered:
    """Return what ``original`` is to hear with all of ``flips`` in force; they are of different sites."""
    execution = original
    given: dict[int, HostCallResult] = {}
    documents: dict[int, Any] = {}
    lends: list[HostCall] = []
    for flip in flips:
        match flip.change:
            case Field(path, value):
                execution = attrs.evolve(execution, trigger=_set_field(execution.trigger, path, value))
            case Answered(call, result):
                given[call] = result
            case Part(call, path, value):
                documents[call] = _put(documents.get(call, _read_answer(original, call)), path, value)
            case Code(deployment, sha, dirty):
                execution = attrs.evolve(execution, deployment=deployment, sha=sha, dirty=dirty)
        if flip.peer is not None and not isinstance(flip.change, Code):
            lends += flip.peer.calls
    given |= {call: HostCallResult(values.encode_json(document)) for call, document in documents.items()}
    return Altered(execution, given, tuple(lends))


# --- answers ---------------------------------------------------------------------------------------


_Theirs = Sequence[tuple[Execution, Mapping[int, HostCall]]]
"""Each peer, and its calls by the seq of the own call that they are like."""


def _is_left_alone(call: HostCall) -> bool:
    return is_stream(call.request.name) or call.request.one_way or call.request.name.startswith(_NOT_FLIPPED)


def _find_counterparts(original: Execution, peer: Execution) -> dict[int, HostCall]:
    pairs = align(original.calls, peer.calls)
    return {pair.left.request.seq: pair.right for pair in pairs if pair.left is not None and pair.right is not None}


def _flip_answer(call: HostCall, peers: _Theirs) -> Iterator[Flip]:
    """Yield other answers to ``call``: those of peers, and then the plainest."""
    request = call.request
    site, named, was = f"call {request.seq}", name_call(call), _tell_answer(call)
    seen = [_essence(call)]
    for peer, counterparts in peers:
        theirs = counterparts.get(request.seq)
        if len(seen) > VALUES_MAX:
            break
        if theirs is None or theirs.result is None or _has_failed(theirs) or _essence(theirs) in seen:
            continue
        seen.append(_essence(theirs))
        text = f"{named} is answered as in {peer.name}: {_tell_answer(theirs)} (it was {was})"
        result = HostCallResult(theirs.result.value)
        yield Flip(site, Answered(request.seq, result), text, peer, tuple(_list_parts(call, theirs, peer)))
    for result, words in _list_plain(call):
        yield Flip(site, Answered(request.seq, result), f"{named} is answered {words} (it was {was})")


def _has_failed(call: HostCall) -> bool:
    if call.result is None or call.result.error is not None:
        return True
    http = calls.read_http(call)
    return http is not None and (http.status is None or http.status >= 400)


def _essence(call: HostCall) -> object:
    """What of an answer a function goes by: without header fields and names, which differ each time."""
    if call.result is None:
        return None
    if call.result.error is not None:
        return call.result.error.name, call.result.error.code
    answer = calls.read_json(call.result.value)
    if call.request.name in _WITH_BODY and isinstance(answer, dict):
        return answer.get("status"), values.encode_json_canonical(answer.get("body"))
    return call.result.value


def _list_plain(call: HostCall) -> Iterator[tuple[HostCallResult, str]]:
    """Yield answers that nobody gave: what failed goes well, what went well fails or finds nothing."""
    request, has_failed = call.request, _has_failed(call)
    statement = calls.read_statement(call)
    if calls.read_http(call) is not None:
        if has_failed:
            yield make_result(request, Content("{}")), "200 with {}"
        else:
            yield make_result(request, Timeout()), "by nobody within its time limit"
    elif request.name == "db.execute" and has_failed:
        yield _answer({"affected": 1, "tag": "OK 1"}), "without an error, as if it had changed 1 row"
    elif request.name == "db.query" and statement is not None:
        nothing = {"columns": list(statement.columns), "rows": [], "tag": "SELECT 0"}
        if has_failed:
            yield _answer(nothing), "without an error and without rows"
        elif statement.rows:
            yield _answer(nothing), "without rows"
        elif statement.columns:
            row = [None] * len(statement.columns)
            yield _answer({**nothing, "rows": [row], "tag": "SELECT 1"}), "with a row, of nulls"
    elif has_failed and request.name.startswith("secret."):
        yield _answer(STAND_IN), "as if there were a secret of that name"
    elif has_failed and request.name == "invoke":
        answer = {"execution": "", "status": 200, "content_type": "application/json", "body": "{}"}
        yield _answer(answer), "200 with {}, as if the function had passed"
    elif has_failed and request.name == "queue.push":
        yield _answer({"job": _NO_JOB}), "as if the job had been taken"


def _answer(value: object) -> HostCallResult:
    return HostCallResult(values.encode_json(value))


def _tell_answer(call: HostCall) -> str:
    """An answer in a few words."""
    if call.result is None:
        return "never answered"
    if (error := call.result.error) is not None:
        return clean(f"{error.name} {error.code}".strip(), 60)
    if (http := calls.read_http(call)) is not None:
        return f"{http.status}" if http.status is not None else "no answer"
    statement = calls.read_statement(call)
    if statement is not None and statement.rows is not None:
        count = len(statement.rows)
        return "no row" if not count else "1 row" if count == 1 else f"{count:,} rows"
    if statement is not None and statement.affected is not None:
        return f"{statement.affected:,} affected"
    return show(calls.read_json(call.result.value))


# --- parts of an answer ----------------------------------------------------------------------------

_BODY = "body"


def _list_parts(own: HostCall, theirs: HostCall, peer: Execution) -> Iterator[Flip]:
    """Yield the values in which two answers of one kind differ, none where there are too many or it is only one."""
    if own.result is None or theirs.result is None or _has_failed(own):
        return
    left, right = calls.read_json(own.result.value), calls.read_json(theirs.result.value)
    found = list(_compare_answers(own, left, right))
    if not 1 <= len(found) <= PARTS_MAX:
        return
    for path, name, mine, yours in found:
        site = f"call {own.request.seq} {name}"
        where = f"{clean(name, 100)} in the answer of {name_call(own)}"
        text = f"{where} is {_show(yours)}, as in {peer.name} (it was {_show(mine)})"
        yield Flip(site, Part(own.request.seq, path, yours), text, peer)


_Found = tuple[tuple[str | int, ...], str, object, object]


def _compare_answers(call: HostCall, left: Any, right: Any) -> Iterator[_Found]:
    if not isinstance(left, dict) or not isinstance(right, dict):
        return
    if call.request.name in _WITH_BODY:
        mine, yours = _read_body(left), _read_body(right)
        if isinstance(mine, dict) and isinstance(yours, dict) and left.get("status") == right.get("status"):
            for path, old, new in _differ(mine, yours):
                yield (_BODY, *path), _name(path), old, new
        return
    columns, rows, others = left.get("columns"), left.get("rows"), right.get("rows")
    if not isinstance(rows, list) or not isinstance(others, list) or columns != right.get("columns"):
        return
    if len(rows) != len(others) or len(rows) > ROWS_MAX or not isinstance(columns, list):
        return
    for index, (row, other) in enumerate(zip(rows, others, strict=True)):
        for column, name in enumerate(columns):
            if row[column] != other[column]:
                yield ("rows", index, column), f"{name} of row {index + 1}", row[column], other[column]


def _read_body(answer: Mapping[str, Any]) -> object:
    body = answer.get("body")
    return calls.read_json(body.encode("utf-8", "surrogatepass")) if isinstance(body, str) else None


def _read_answer(original: Execution, seq: int) -> Any:
    call = next(call for call in original.calls if call.request.seq == seq)
    assert call.result is not None, "an answer that has parts is there"
    return values.decode_json(call.result.value)


def _put(document: Any, path: Sequence[str | int], value: object) -> Any:
    """Return a JSON document with ``value`` at ``path``; `ABSENT` takes the member away."""
    first, *rest = path
    if first == _BODY and isinstance(document, dict) and isinstance(document.get("body"), str) and rest:
        inner = calls.read_json(document["body"].encode("utf-8", "surrogatepass"))
        return {**document, "body": values.encode_json(_put(inner, rest, value)).decode("utf-8", "surrogatepass")}
    if isinstance(document, list) and isinstance(first, int):
        return [*document[:first], _put(document[first], rest, value) if rest else value, *document[first + 1 :]]
    members = dict(document) if isinstance(document, dict) else {}
    if rest:
        return {**members, first: _put(members.get(str(first), {}), rest, value)}
    if value is ABSENT:
        members.pop(str(first), None)
        return members
    return {**members, first: value}


# --- the input -------------------------------------------------------------------------------------


def _flip_fields(
    own: Mapping[str, Any], trigger: Trigger, peers: Sequence[Execution], *, makes_up: bool
) -> Iterator[Flip]:
    """Yield other inputs, a field each: what only peers have, then what only this one has, then the rest.

    ``makes_up``: also values that nobody has had. Where a value is taken, those of peers are taken too, by them.
    """
    inputs = [(peer, theirs) for peer in peers if (theirs := find_input(peer)) is not None]
    found: dict[tuple[str, ...], list[Flip]] = {}
    seen: dict[tuple[str, ...], list[object]] = {}
    for peer, theirs in inputs:
        for path, mine, yours in _differ(own, theirs):
            if path[0] in dict(trigger.params) and yours is ABSENT:
                continue  # Without it, it would have been another route.
            values_seen = seen.setdefault(path, [])
            if yours in values_seen or len(values_seen) >= VALUES_MAX:
                continue
            values_seen.append(yours)
            text = f"{_name_field(path)} is {_show(yours)}, as in {peer.name} (it was {_show(mine)})"
            found.setdefault(path, []).append(Flip(f"input.{_name(path)}", Field(path, yours), text, peer))
    for path, mine in _list_leaves(own) if makes_up else ():
        if (new := _make_up(mine)) is not None:
            text = f"{_name_field(path)} is {_show(new)}, which is made up (it was {_show(mine)})"
            found.setdefault(path, []).append(Flip(f"input.{_name(path)}", Field(path, new), text))
    inner = {path[0] for path in found if len(path) > 1}
    for name, mine in own.items():
        # A field and one inside it can't both be flipped, and what is inside says more.
        if name not in dict(trigger.params) and name not in inner and ABSENT not in seen.get((name,), []):
            text = f"{_name_field((name,))} is absent (it was {_show(mine)})"
            found.setdefault((name,), []).append(Flip(f"input.{name}", Field((name,), ABSENT), text))

    def rank(path: tuple[str, ...]) -> int:
        mine = _get(own, path)
        alike = sum(_get(theirs, path) == mine for _, theirs in inputs)
        return 0 if mine is ABSENT or mine is None else 1 if path in seen and not alike else 2

    for path in sorted(found, key=rank):
        yield from found[path]


def _differ(
    own: Mapping[str, Any], theirs: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object, object]]:
    """Yield where two JSON objects differ: the path, and the value of each or `ABSENT`."""
    for name in dict.fromkeys([*own, *theirs]):
        mine, yours = own.get(name, ABSENT), theirs.get(name, ABSENT)
        if isinstance(mine, dict) and isinstance(yours, dict) and len(path) < DEPTH_MAX:
            yield from _differ(mine, yours, (*path, name))
        elif type(mine) is not type(yours) or mine != yours:
            yield (*path, name), mine, yours


def _list_leaves(document: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in document.items():
        if isinstance(value, dict) and len(path) < DEPTH_MAX:
            yield from _list_leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _make_up(value: object) -> object:
    """Return a value of the same kind that is most likely nobody's; None where there is no such thing."""
    if isinstance(value, str) and _UUID.fullmatch(value):
        return f"{value[:-12]}f1f1f1f1f1f1"
    if isinstance(value, str) and len(value) <= DIGITS_MAX and value.isdecimal():
        return str(int(value) + _FAR_AWAY)
    if isinstance(value, str):
        return f"flux-{value}"
    return value + _FAR_AWAY if type(value) is int else None


def _get(document: object, path: Sequence[str]) -> object:
    for name in path:
        if not isinstance(document, Mapping) or name not in document:
            return ABSENT
        document = document[name]
    return document


def _set_field(trigger: Trigger, path: tuple[str, ...], value: object) -> Trigger:
    """Return ``trigger`` with a field of its input changed where the function would find it."""
    body = calls.read_json(trigger.body) if trigger.body.strip() else {}
    name = path[0]
    is_in_body = isinstance(body, dict) and name in body
    if not is_in_body and name in dict(trigger.query):
        query = tuple(pair for pair in trigger.query if pair[0] != name)
        return attrs.evolve(trigger, query=query if value is ABSENT else (*query, (name, _plain(value))))
    if not is_in_body and name in dict(trigger.params):
        params = tuple((key, _plain(value) if key == name else old) for key, old in trigger.params)
        return attrs.evolve(trigger, params=params, path=_fill(trigger, dict(params)))
    headers = trigger.headers
    if trigger.kind == "http" and not trigger.body.strip():
        headers = (*(pair for pair in headers if pair[0] != "content-type"), ("content-type", "application/json"))
    return attrs.evolve(trigger, body=values.encode_json(_put(body, path, value)), headers=headers)


def _fill(trigger: Trigger, params: Mapping[str, str]) -> str:
    """The path with other parameters in it; as it was where the pattern does not say how."""
    names = re.findall(r"\{(\w+)\}", trigger.route)
    if set(names) != set(params):
        return trigger.path
    return re.sub(r"\{(\w+)\}", lambda match: quote(params[match[1]], safe=""), trigger.route)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else values.encode_json(value).decode()


def _name(path: Sequence[str]) -> str:
    return ".".join(path)


def _name_field(path: Sequence[str]) -> str:
    return clean(f"input.{_name(path)}", 100)


def _show(value: object) -> str:
    return "absent" if value is ABSENT else show(value)
