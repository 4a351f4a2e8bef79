"""Every query has a use, every use has its query, and a real server takes each of them."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import flux
from flux.store import queries
from flux.store.queries import FILTERS, QUERIES, Condition, where
from tests.conftest import Database
from tests.postgres_server import PostgresServer

SOURCE = "\n".join(path.read_text() for path in sorted(Path(flux.__file__).parent.rglob("*.py")))
NAMES = dir(QUERIES)
USED = set(re.findall(r"QUERIES\.(\w+)", SOURCE))


def test_every_query_is_used_and_every_used_query_exists() -> None:
    assert USED - set(NAMES) == set(), "these are used, and queries.sql does not have them"
    assert set(NAMES) - USED == set(), "these are in queries.sql, and nothing uses them"


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_is_used(name: str) -> None:
    made = {f"{key}_prefix" for key in ("sha", "deploy", "name")} | {"since", "until", "trigger", "outcome"}
    assert f'"{name}"' in SOURCE or name in made


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no query 'find_nothing'"):
        _ = QUERIES.find_nothing


def test_conditions_are_put_in_as_parameters() -> None:
    sql, values = where(
        "select 1 where true /*filters*/ limit $1",
        [Condition("status_min", (500,)), Condition("method_path_like", ("GET", "^/$"), negated=True)],
        (10,),
    )
    assert sql == (
        "select 1 where true  and (e.status >= $2) and (e.method = $3 and e.path ~ $4) is not true limit $1"
    )
    assert values == [10, 500, "GET", "^/$"]


def test_each_query_says_what_it_is_for() -> None:
    text = Path(queries.__file__).with_name("queries.sql").read_text()
    for heading in re.findall(r"^-- name: \w+\n(?!-- [A-Z\"])", text, re.MULTILINE):
        raise AssertionError(f"{heading.strip()} has no sentence on what it is for")
    assert "?" not in "".join(getattr(QUERIES, name) for name in NAMES), "values are parameters"


def test_a_real_server_takes_every_query(
    postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres)
    whole = {name: getattr(QUERIES, name) for name in NAMES}
    for name, text in FILTERS.items():
        whole[f"filter_{name}"], _ = where(
            QUERIES.list_executions, [Condition(name, (None,) * text.count("?"))], (1,)
        )
    script = "\n".join(f"prepare q_{name} as {sql};" for name, sql in whole.items())
    # Over stdin, so that an error names its line.
    done = subprocess.run(
        [postgres.bin_dir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", postgres.host, "-p", str(postgres.port),
         "-U", postgres.user, database.name],
        input=script, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
