"""Which middleware stands around a function, and whether it can stand there.

Four places name middleware, from the outermost to the innermost::

    [http] middleware            around every route
    [[routes]] middleware        around the routes below a path, in the file's order
    the decorator's, or          around this function, whatever starts it:
    [functions.NAME] middleware  a request, a job, a schedule, another function

The first two are about HTTP and hold for requests only: a job has no header that an ``auth`` could read. ``without``
of a group or of a function takes a name out of what stands around it so far, which is how a login gets past ``auth``.
A name that stands there twice runs once, at its outermost place.

What is named and does not exist is refused before anything is served. A middleware may be what keeps strangers out:
a typo, a group that matches no route or a function that can have none must not open a door in silence.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import unquote

import attrs

from flux.config import CONFIG_NAME, Config, RoutesConfig
from flux.deployment import Function
from flux.errors import OperatorError

LANGUAGES = {"python": "Python", "javascript": "JavaScript", "typescript": "JavaScript"}
"""What code of a runtime shares its middleware with; a runtime that is not here has none."""


class UnknownMiddlewareError(OperatorError):
    """A middleware is named that no module declares."""

    code = "FLX585"


class RoutesMatchNothingError(OperatorError):
    """An entry of ``[[routes]]`` is for a path below which there is no route."""

    code = "FLX586"


class NotAroundError(OperatorError):
    """``without`` names a middleware that would not run anyway."""

    code = "FLX587"


class NoMiddlewareHereError(OperatorError):
    """Middleware is named for a function in WebAssembly, which can have none."""

    code = "FLX588"


@attrs.frozen
class Chain:
    """The middleware of one function, outermost first."""

    around: tuple[str, ...]
    """What stands around its route: for requests over HTTP."""
    own: tuple[str, ...]
    """What it has whatever starts it."""

    def list_for(self, kind: str) -> tuple[str, ...]:
        """Return what runs for a trigger of this kind."""
        return tuple(dict.fromkeys((*self.around, *self.own))) if kind == "http" else self.own


def make_chain(function: Function, config: Config) -> Chain:
    """Return the middleware of ``function``; raise `NotAroundError`."""
    table = config.get_function(function.name)
    own = table.middleware if table.middleware is not None else function.middleware or ()
    around: list[str] = []
    if function.route is not None:
        around += config.http.middleware
        for entry in config.routes:
            if not is_below(function.route, entry.below):
                continue
            around = [name for name in around if name not in entry.without]
            around += entry.middleware
        for name in table.without:
            if name not in around:
                raise NotAroundError(
                    f"{_place_of(config, f'functions.{function.name}.without')}  nothing puts {name} around "
                    f"{function.name}: around it {_say(around)}",
                    remedy="correct the name, or take it out of without",
                )
        around = [name for name in around if name not in table.without]
    elif table.without:
        raise NotAroundError(
            f"{_place_of(config, f'functions.{function.name}.without')}  {function.name} has no route, so nothing "
            "stands around it",
            remedy="take without out of the table",
        )
    return Chain(tuple(dict.fromkeys(around)), tuple(dict.fromkeys(own)))


def is_below(route: str, below: str) -> bool:
    """Whether the pattern of a route (``GET /admin/{id}``) is ``below`` itself or continues it.

    By its pattern: a parameter is below a parameter, whatever the two are called, and never below a word.
    """
    pattern = _read_segments(route.partition(" ")[2])
    prefix = _read_segments(below)
    if len(pattern) < len(prefix):
        return False
    return all(
        (one.startswith("{") and other.startswith("{")) or one == other
        for one, other in zip(pattern, prefix, strict=False)
    )


def _read_segments(path: str) -> list[str]:
    segments = path.strip("/").split("/") if path.strip("/") else []
    return [segment if segment.startswith("{") else unquote(segment) for segment in segments]


def check_middleware(config: Config, functions: Sequence[Function], declared: Mapping[str, Iterable[str]]) -> None:
    """Raise unless all that is named can run; ``declared`` has the names of what there is, by `LANGUAGES`."""
    _check_routes(config, functions)
    there = {language: frozenset(names) for language, names in declared.items()}
    for function in functions:
        for name, place in _list_named(function, config):
            language = LANGUAGES.get(function.runtime)
            if language is None:
                raise NoMiddlewareHereError(
                    f"{place}  {name} is to stand around {function.name}, and that is {function.runtime} "
                    f"({function.position.file}), which has no middleware",
                    remedy=f'to serve it without: [functions.{function.name}] without = ["{name}"]',
                )
            known = there.get(language, frozenset())
            if name not in known:
                raise UnknownMiddlewareError(
                    f"{place}  no {language} module declares a middleware named {name}, which is to stand around "
                    f"{function.name}: there is {', '.join(sorted(known)) or 'none'}",
                    remedy=f"correct the name, or declare it: {_DECLARING[language]}",
                )


_DECLARING = {
    "Python": "@middleware above a def of this name, in any module of the functions folder",
    "JavaScript": "export const NAME = defineMiddleware(...) in any module of the functions folder",
}


def _check_routes(config: Config, functions: Sequence[Function]) -> None:
    routes = [function.route for function in functions if function.route is not None]
    for index, entry in enumerate(config.routes):
        inside = [route for route in routes if is_below(route, entry.below)]
        if not inside:
            raise RoutesMatchNothingError(
                f"{_place_of(config, f'routes[{index}].below')}  there is no route below {entry.below}",
                remedy="correct the path, or remove the entry: flux function list has the routes",
            )
        outer = set(config.http.middleware)
        outer.update(name for other in config.routes[:index] for name in other.middleware)
        for name in entry.without:
            if name not in outer:
                raise NotAroundError(
                    f"{_place_of(config, f'routes[{index}].without')}  nothing before puts {name} around routes: "
                    f"there {_say(sorted(outer))}",
                    remedy="correct the name, or take it out of without",
                )


def _list_named(function: Function, config: Config) -> Iterator[tuple[str, str]]:
    """Yield each name that is to stand around ``function``, with the place that names it."""
    chain, table = make_chain(function, config), config.get_function(function.name)
    for name in chain.around:
        yield name, _find_naming(name, function, config)
    for name in chain.own:
        if table.middleware is not None:
            yield name, _place_of(config, f"functions.{function.name}.middleware")
        else:
            yield name, f"{function.position.file}:{function.position.line}"


def _find_naming(name: str, function: Function, config: Config) -> str:
    if name in config.http.middleware:
        return _place_of(config, "http.middleware")
    entries: tuple[RoutesConfig, ...] = config.routes
    index = next(
        index
        for index, entry in enumerate(entries)
        if name in entry.middleware and function.route is not None and is_below(function.route, entry.below)
    )
    return _place_of(config, f"routes[{index}].middleware")


def _place_of(config: Config, key: str) -> str:
    return config.origins.get(key, CONFIG_NAME)


def _say(names: Sequence[str]) -> str:
    return f"stands {', '.join(names)}" if names else "stands nothing"
