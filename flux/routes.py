"""Which function answers which request.

A pattern is a method and a path, ``POST /orders/{id}``. Its path is a list of
segments, each of which is either *static* (``orders``), a *parameter* that
takes any one segment (``{id}``), or, at the end only, a *tail* that takes all
that is left (``{rest...}``). Parameters bind to decoded text; the path is cut
into segments before it is decoded, so ``a%2Fb`` is one segment with a slash in
it and never two.

How to think about it: a tree with one level a segment. At each level static
beats parameter beats tail, and a wrong turn is taken back, so what matches
does not depend on the order in which routes were added. A trailing slash makes
an empty last segment, which is static: ``/orders`` and ``/orders/`` are two
paths. Neither parameter nor tail takes an empty segment: ``/orders/`` is not
an order with an empty id.

``HEAD`` falls back to ``GET`` and ``OPTIONS`` is the caller's to answer with
the ``allow`` of `MethodNotAllowed`, unless somebody added a route for them.
"""

import re
from typing import Generic, NoReturn, TypeAlias, TypeVar
from urllib.parse import unquote

import attrs

from flux.errors import OperatorError
from flux.message import HttpResponse, RawPath, problem

T = TypeVar("T")


class RoutePatternError(OperatorError):
    """A route that cannot be read."""

    code = "FLX520"


class RouteConflictError(OperatorError):
    """Two routes that would answer the same requests."""

    code = "FLX521"


@attrs.frozen
class Match(Generic[T]):
    """Somebody answers this request."""

    target: T
    """What was given to `RouteTable.add`."""

    params: dict[str, str]
    """Values of the pattern's parameters, percent-decoded."""

    pattern: str
    """The pattern as it was added: what to group executions by."""


@attrs.frozen
class NotFound:
    """Nobody answers this path, whatever the method."""


@attrs.frozen
class MethodNotAllowed:
    """Somebody answers this path, but not this method."""

    allow: tuple[str, ...]
    """The methods that are answered, sorted: the value of the ``allow`` header."""


def answer_unmatched(found: NotFound | MethodNotAllowed, method: str, path: str) -> HttpResponse:
    """Return what to answer when no route matched: 404, 405, or what ``OPTIONS`` asked for."""
    match found:
        case NotFound():
            return problem(404, "NOT_FOUND", f"nothing answers {path}")
        case MethodNotAllowed(allow):
            allow_header = ("allow", ", ".join(allow))
            if method == "OPTIONS":
                return HttpResponse(204, (allow_header,))
            response = problem(405, "METHOD_NOT_ALLOWED", f"{path} does not answer {method}")
            return attrs.evolve(response, headers=(*response.headers, allow_header))


Found: TypeAlias = Match[T] | NotFound | MethodNotAllowed


@attrs.frozen
class _Route(Generic[T]):
    """One pattern, at the end of its way down the tree."""

    pattern: str
    names: tuple[str, ...]
    target: T
    place: str


@attrs.define
class _Node(Generic[T]):
    """A place in the tree: where the segments so far have led."""

    static: "dict[str, _Node[T]]" = attrs.Factory(dict)
    parameter: "_Node[T] | None" = None
    routes: dict[str, _Route[T]] = attrs.Factory(dict)
    """Routes that end here, by method."""
    tails: dict[str, _Route[T]] = attrs.Factory(dict)
    """Routes whose tail begins here, by method."""


class RouteTable(Generic[T]):
    """Patterns and their targets. Add them all, then match."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, target: T, place: str = "") -> None:
        """Answer ``pattern`` with ``target``; raise when it is malformed or already answered.

        ``place`` is where it stands in the code: of two that can't both be, each is named by it.
        """
        method, segments = _read_pattern(pattern)
        node = self._root
        names: list[str] = []
        for segment in segments:
            if segment.kind == "static":
                node = node.static.setdefault(segment.text, _Node())
                continue
            names.append(segment.text)
            if segment.kind == "tail":
                break
            if node.parameter is None:
                node.parameter = _Node()
            node = node.parameter
        ends = node.tails if segments[-1].kind == "tail" else node.routes
        if method in ends:
            here, there = (f"{place}  " if place else ""), (f" of {ends[method].place}" if ends[method].place else "")
            raise RouteConflictError(
                f'{here}route "{pattern}" answers the same requests as "{ends[method].pattern}"{there}',
                remedy="give one of the two another path or method, or remove it",
            )
        ends[method] = _Route(pattern, tuple(names), target, place)

    def match(self, method: str, path: RawPath) -> Found[T]:
        """Say who answers ``method`` on ``path``, the path as it was sent (`RequestHead.raw_path`)."""
        if not path.startswith("/"):
            return NotFound()  # The asterisk of "OPTIONS *", which is not a path.
        segments = path[1:].split("/")
        if "%" in path:
            segments = [unquote(segment, errors="strict") for segment in segments]
        allow: set[str] = set()
        found = _descend(self._root, segments, 0, method, allow)
        if found is None and method == "HEAD":
            found = _descend(self._root, segments, 0, "GET", allow)
        if found is not None:
            route, taken = found
            return Match(route.target, dict(zip(route.names, taken, strict=True)), route.pattern)
        if not allow:
            return NotFound()
        if "GET" in allow:
            allow.add("HEAD")
        return MethodNotAllowed(tuple(sorted(allow | {"OPTIONS"})))

    def list_methods(self, path: RawPath) -> tuple[str, ...]:
        """Return the methods that somebody answers on ``path``, sorted; none when nobody does."""
        found = self.match("", path)  # No pattern has the empty method.
        return found.allow if isinstance(found, MethodNotAllowed) else ()


def _descend(
    node: _Node[T], segments: list[str], depth: int, method: str, allow: set[str]
) -> tuple[_Route[T], list[str]] | None:
    """Find the route below ``node``, and what its parameters take; add to ``allow`` what else is there.

    No node is visited twice and none is deeper than the longest pattern, so what a
    match costs is bounded by the operator's patterns, not by the client's path.
    """
    if depth == len(segments):
        route = node.routes.get(method)
        if route is None:
            allow.update(node.routes)
            return None
        return route, []
    segment = segments[depth]
    child = node.static.get(segment)
    if child is not None:
        found = _descend(child, segments, depth + 1, method, allow)
        if found is not None:
            return found
    if segment and node.parameter is not None:
        found = _descend(node.parameter, segments, depth + 1, method, allow)
        if found is not None:
            found[1].insert(0, segment)
            return found
    if node.tails and segment:
        route = node.tails.get(method)
        if route is not None:
            return route, ["/".join(segments[depth:])]
        allow.update(node.tails)
    return None


@attrs.frozen
class _Segment:
    """One segment of a pattern."""

    kind: str
    """``static``, ``parameter`` or ``tail``."""
    text: str
    """The decoded text of a static segment, the name of the others."""


_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _read_pattern(pattern: str) -> tuple[str, list[_Segment]]:
    """Cut a pattern into its method and segments, or raise naming what is wrong with it."""
    method, space, path = pattern.partition(" ")
    if not space or not _METHOD.fullmatch(method):
        _malformed(pattern, "it does not begin with a method in capitals and one space")
    if method == "CONNECT":
        _malformed(pattern, "CONNECT asks for a tunnel, and the gateway has none")
    if not path.startswith("/"):
        _malformed(pattern, 'its path does not begin with "/"')
    if wrong := re.search(r"[^!-~]|[?#]", path):
        _malformed(pattern, f"its path has a {wrong.group()!r}, which must be percent-encoded in a path")
    if _ESCAPE.search(path):
        _malformed(pattern, 'it has a "%" that two hexadecimal digits do not follow')
    texts = path[1:].split("/")
    segments = [_read_segment(pattern, text) for text in texts]
    for segment in segments[:-1]:
        if segment.kind == "tail":
            _malformed(pattern, f'"{{{segment.text}...}}" takes all that is left, so it must come last')
    names = [segment.text for segment in segments if segment.kind != "static"]
    if len(names) != len(set(names)):
        _malformed(pattern, "two of its parameters have the same name")
    return method, segments


def _read_segment(pattern: str, text: str) -> _Segment:
    if parameter := _PARAMETER.fullmatch(text):
        return _Segment("tail" if parameter[2] else "parameter", parameter[1])
    if "{" in text or "}" in text:
        _malformed(pattern, f'"{text}" is not a parameter: braces go around a whole segment and a name')
    try:
        static = unquote(text, errors="strict")
    except UnicodeDecodeError:
        _malformed(pattern, f'"{text}" does not decode to UTF-8')
    if static in (".", ".."):
        _malformed(pattern, f'"{text}" never reaches a server: clients resolve it before they send')
    return _Segment("static", static)


def _malformed(pattern: str, why: str) -> NoReturn:
    raise RoutePatternError(
        f'route "{pattern}" cannot be read: {why}',
        remedy='write it like "POST /orders/{id}", or "GET /files/{rest...}" for all below a path',
    )
