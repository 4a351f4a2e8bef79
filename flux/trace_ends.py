"""How two executions began and how they ended, compared leaf by leaf.

Of a request, the path is left to its parameters where both took the same route. Of an exception,
functions are compared and not lines: every edit moves lines.
"""

from collections.abc import Iterator

from flux.execution import Execution, Exited, Killed, Raised, Returned, Trigger
from flux.failure import find_failure, normalise_message
from flux.streamed import StreamedBody
from flux.trace_values import Difference, by_name, find_differences, read


def compare_triggers(a: Trigger, b: Trigger) -> Iterator[Difference]:
    """Yield where the requests differ."""
    if not (a.route and a.route == b.route):  # The parameters of one route say the rest.
        yield from find_differences(a.path, b.path, "path", fixed=True)
    yield from find_differences(a.method, b.method, "method", fixed=True)
    yield from find_differences(by_name(a.params), by_name(b.params), "params")
    yield from find_differences(by_name(a.query), by_name(b.query), "query")
    yield from find_differences(by_name(a.headers), by_name(b.headers), "headers")
    yield from find_differences(_describe(a.streamed), _describe(b.streamed), "body", fixed=True)
    for what, one, other in (("body", a.body, b.body), ("auth", a.auth, b.auth), ("user", a.user, b.user)):
        if one != other:
            yield from find_differences(read(one), read(other), what)


def compare_outcomes(a: Execution, b: Execution) -> Iterator[Difference]:
    """Yield where the ends differ."""
    if a.outcome == b.outcome:
        return
    yield from find_differences(a.status, b.status, "status", fixed=True)
    match a.outcome, b.outcome:
        case Returned() as one, Returned() as other:
            yield from find_differences(by_name(one.headers), by_name(other.headers), "headers")
            yield from find_differences(_describe(one.streamed), _describe(other.streamed), "body", fixed=True)
            if one.body != other.body:
                yield from find_differences(read(one.body), read(other.body), "body")
        case Raised() as one, Raised() as other:
            yield from find_differences(one.type, other.type, "type", fixed=True)
            yield from find_differences(one.code, other.code, "code", fixed=True)
            yield from find_differences(one.message, other.message, "message")
            yield from find_differences(one.cause, other.cause, "cause")
            # Lines move with every edit; a function is where it is.
            yield from find_differences(_list_functions(one), _list_functions(other), "stack", fixed=True)
            if one.violations != other.violations:
                yield from find_differences(read(one.violations), read(other.violations), "violations")
        case Killed() as one, Killed() as other:
            yield from find_differences(one.limit, other.limit, "limit", fixed=True)
            yield from find_differences(one.allowed, other.allowed, "allowed", fixed=True)
        case Exited() as one, Exited() as other:
            yield from find_differences(one.exit_code, other.exit_code, "exit_code", fixed=True)
            yield from find_differences(one.signal, other.signal, "signal", fixed=True)
            if normalise_message(one.detail) != normalise_message(other.detail):
                yield from find_differences(one.detail, other.detail, "detail")
        case one, other:
            yield from find_differences(one.kind, other.kind, "outcome", fixed=True)
            yield from find_differences(_tell_failure(a), _tell_failure(b), "error", fixed=True)


def _list_functions(raised: Raised) -> list[object]:
    return [f"{frame.file} {frame.function}" for frame in raised.frames if frame.user]


def _tell_failure(execution: Execution) -> object:
    failure = find_failure(execution)
    return None if failure is None else f"{failure.type}: {failure.message}"


def _describe(streamed: StreamedBody | None) -> object:
    return None if streamed is None else {"sha256": streamed.sha256, "bytes": streamed.size_bytes}
