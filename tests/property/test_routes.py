"""Routing against the shortest thing that could be right: try every route, take the most specific."""

from urllib.parse import quote, unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.message import RawPath
from flux.routes import Match, MethodNotAllowed, NotFound, RouteConflictError, RouteTable

METHODS = ["GET", "POST", "DELETE"]
SEGMENTS = st.sampled_from(["a", "b", "a b", "", "é", "%2F"])
PATTERN_SEGMENTS = st.one_of(SEGMENTS.map(lambda text: quote(text, safe="")), st.just("{}"))
PATTERNS = st.tuples(
    st.sampled_from(METHODS), st.lists(PATTERN_SEGMENTS, min_size=1, max_size=4), st.booleans()
).map(lambda drawn: number_parameters(*drawn))
PATHS = st.lists(SEGMENTS.map(lambda text: quote(text, safe="")), min_size=1, max_size=5).map(
    lambda s: "/" + "/".join(s)
)


def number_parameters(method: str, segments: list[str], tail: bool) -> str:
    named = [f"{{p{index}}}" if segment == "{}" else segment for index, segment in enumerate(segments)]
    if tail:
        named[-1] = "{rest...}"
    return f"{method} /" + "/".join(named)


def fits(pattern: str, path: str) -> dict[str, str] | None:
    wanted, got = pattern.split(" ")[1][1:].split("/"), [unquote(segment) for segment in path[1:].split("/")]
    params: dict[str, str] = {}
    for index, segment in enumerate(wanted):
        if segment.endswith("...}"):
            if index >= len(got) or not got[index]:
                return None
            return params | {segment[1:-4]: "/".join(got[index:])}
        if index >= len(got):
            return None
        if segment.startswith("{"):
            if not got[index]:
                return None
            params[segment[1:-1]] = got[index]
        elif unquote(segment) != got[index]:
            return None
    return params if len(wanted) == len(got) else None


def rank(pattern: str) -> list[int]:
    """Static before parameter before tail, segment by segment."""
    segments = pattern.split(" ")[1][1:].split("/")
    return [2 if segment.endswith("...}") else 1 if segment.startswith("{") else 0 for segment in segments]


@settings(max_examples=300, deadline=None)
@given(
    patterns=st.lists(PATTERNS, max_size=10), path=PATHS, method=st.sampled_from([*METHODS, "HEAD", "PUT"])
)
def test_the_most_specific_route_wins_whatever_the_order(patterns: list[str], path: str, method: str) -> None:
    routes: RouteTable[str] = RouteTable()
    added = []
    for pattern in patterns:
        try:
            routes.add(pattern, pattern)
        except RouteConflictError:
            continue
        added.append(pattern)
    fitting = [pattern for pattern in added if fits(pattern, path) is not None]
    found = routes.match(method, RawPath(path))
    for wanted in (method, "GET") if method == "HEAD" else (method,):
        mine = [pattern for pattern in fitting if pattern.startswith(wanted + " ")]
        if mine:
            best = min(mine, key=rank)
            assert isinstance(found, Match)
            assert (found.pattern, found.params) == (best, fits(best, path))
            return
    if not fitting:
        assert found == NotFound()
        return
    allowed = {pattern.split(" ")[0] for pattern in fitting} | {"OPTIONS"}
    if "GET" in allowed:
        allowed.add("HEAD")
    assert found == MethodNotAllowed(tuple(sorted(allowed)))
