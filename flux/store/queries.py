"""The queries of ``queries.sql``, each under its name.

All SQL that Flux sends lies in that one file, so that it can be read, explained and
checked against the schema in one place. ``QUERIES.find_execution`` is the text of
the query of that name, and a name that isn't there raises `AttributeError`.

Lists are the one thing that is put together: `where` adds conditions, which lie in the same
file, to a query that says where they go. Values stay parameters there too.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

_PATH = Path(__file__).with_name("queries.sql")
_HEADING = re.compile(r"^-- (name|filter): (\w+)\n", re.MULTILINE)
_MARK = "/*filters*/"


@attrs.frozen
class Condition:
    """One condition on a list."""

    filter: str
    """Name of the condition in ``queries.sql``."""
    values: tuple[object, ...] = ()
    """One for each ``?`` in it."""
    negated: bool = False
    """The condition must not hold. What is unknown (null) does not hold, so its negation does."""


class Queries:
    """The queries by name, as attributes; `FILTERS` has the conditions."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def __getattr__(self, name: str) -> str:
        try:
            return self._texts[name]
        except KeyError:
            raise AttributeError(f"queries.sql has no query {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted(self._texts)


def where(query: str, conditions: Sequence[Condition], values: Sequence[object]) -> tuple[str, list[object]]:
    """Return ``query`` under ``conditions``, and all its values; ``values`` are those of ``query`` itself."""
    all_values = list(values)
    terms: list[str] = []
    for condition in conditions:
        first, *rest = FILTERS[condition.filter].split("?")
        assert len(rest) == len(condition.values), f"{condition.filter} takes {len(rest)} values"
        term = first
        for value, text in zip(condition.values, rest, strict=True):
            all_values.append(value)
            term += f"${len(all_values)}{text}"
        terms.append(f" and ({term}) is not true" if condition.negated else f" and ({term})")
    assert _MARK in query, "this query takes no filters"
    return query.replace(_MARK, "".join(terms)), all_values


def _read() -> tuple[dict[str, str], dict[str, str]]:
    _, *parts = _HEADING.split(_PATH.read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {"name": {}, "filter": {}}
    for kind, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        assert name not in found[kind], f"queries.sql has {name} twice"
        lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
        found[kind][name] = "\n".join(lines).strip().rstrip(";")
    return found["name"], found["filter"]


_names, FILTERS = _read()
QUERIES = Queries(_names)
