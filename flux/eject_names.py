"""What ``flux.toml`` and decorators name that stays behind with a file that can't come along. No I/O.

The code is read and not run, so what is known is what stands written out. No mistake in that opens a door. A name that
seems to be there and is not, and one that is read nowhere, end the application at its start, as they would with Flux.
And every function is judged again there, by the middleware that its decorator has.
"""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping

import attrs

from flux.composition import is_below
from flux.config import Config


@attrs.frozen
class Declared:
    """One ``def`` with a decorator, as it may be a function or a middleware."""

    name: str
    route: str | None
    middleware: tuple[str, ...]


@attrs.frozen
class Missing:
    """What is named and is not there."""

    functions: frozenset[str] = frozenset()
    """Those that ``[[cron]]`` starts."""
    middleware: frozenset[str] = frozenset()


def find_missing(config: Config, sources: Mapping[str, bytes]) -> Missing:
    """Return what ``flux.toml`` and decorators name that no file of ``sources`` declares.

    ``sources`` are the Python files that come along, and can be read as Python.
    """
    trees = [ast.parse(source) for source in sources.values()]
    declared = [one for tree in trees for one in list_declared(tree)]
    there = {one.name for one in declared} | {name for tree in trees for name in _list_handed_over(tree)}
    named = {*config.http.middleware}
    for entry in config.routes:
        named |= {*entry.middleware}
    for table in config.functions.values():
        named |= {*(table.middleware or ())}
    for one in declared:
        named |= {*one.middleware}
    return Missing(frozenset(entry.function for entry in config.cron) - there, frozenset(named - there))


def find_unguarded(config: Config, sources: Mapping[str, bytes], missing: Collection[str]) -> Mapping[str, str]:
    """Return the functions around which one of ``missing`` would stand, each with the first such name."""
    found: dict[str, str] = {}
    for source in sources.values():
        for one in list_declared(ast.parse(source)):
            for name in _list_around(one, config):
                if name in missing:
                    found.setdefault(one.name, name)
    return dict(sorted(found.items()))


def _list_around(one: Declared, config: Config) -> Iterator[str]:
    """As `flux.composition.make_chain` has it."""
    table = config.get_function(one.name)
    around: list[str] = []
    if one.route is not None:
        around += config.http.middleware
        for entry in config.routes:
            if is_below(one.route, entry.below):
                around = [name for name in around if name not in entry.without]
                around += entry.middleware
    yield from (name for name in around if name not in table.without)
    yield from one.middleware if table.middleware is None else table.middleware


def list_declared(tree: ast.AST) -> Iterable[Declared]:
    """Yield each ``def`` that has a decorator."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.decorator_list:
            name, route, middleware = node.name, None, []
            for call in node.decorator_list:
                if not isinstance(call, ast.Call):
                    continue
                said = {keyword.arg: keyword.value for keyword in call.keywords}
                name = _read_text(said.get("name")) or name
                route = _read_text(call.args[0] if call.args else said.get("route")) or route
                names = said.get("middleware")
                if isinstance(names, ast.List | ast.Tuple):
                    middleware += [text for one in names.elts if (text := _read_text(one)) is not None]
            yield Declared(name, route, tuple(middleware))


def _list_handed_over(tree: ast.AST) -> Iterable[str]:
    """Names by which ``function(...)(handler)`` and ``middleware(handler)`` may declare something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (argument.id for argument in node.args if isinstance(argument, ast.Name))
            yield from (text for one in node.keywords if one.arg == "name" and (text := _read_text(one.value)))


def _read_text(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
