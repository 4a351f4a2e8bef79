"""Every changed row is logged, however it was changed: on the newest Postgres and on an old one.

Each case is a set of tables, and statements of the guest's or of the tables'
owner. The rows before, plus the log, must be the rows after, row by row; the
NOTICEs that the guest's connection heard must say the same as the log; and when
the same statements are rolled back, the NOTICEs alone must say what was lost.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.capture_oracle import (
    PINNED,
    ROW,
    CapturedDatabase,
    Change,
    Told,
    apply,
    check_chains,
    images,
    open_guest,
    told_images,
    without_empty,
)
from tests.conftest import Database
from tests.postgres_server import PostgresServer


@pytest.fixture(scope="module", params=["postgres18", "postgres15"])
def installed(
    request: pytest.FixtureRequest, make_database: Callable[[PostgresServer], Database]
) -> CapturedDatabase:
    made = make_database(request.getfixturevalue(request.param))
    return CapturedDatabase(made.server, made.name)


@pytest.fixture
def database(installed: CapturedDatabase) -> CapturedDatabase:
    installed.start_over()
    return installed


@attrs.frozen
class Case:
    """Statements, and what is to be expected of them."""

    tables: str
    """What the owner makes first."""

    statements: tuple[str, ...]
    """What the guest does, in one transaction."""

    depths: frozenset[int]
    """1: the statement itself; more: a trigger or a cascade. Cascades of cascades are 2 as well."""

    takes_back: bool
    """Whether a savepoint or an exception block takes some of it back."""


def read_cases(path: Path) -> dict[str, Case]:
    """The cases in a file of SQL; its head says how it is written."""
    cases = {}
    for part in path.read_text().split("\n-- case: ")[1:]:
        name, _, text = part.partition("\n")
        tables, marker, done = text.partition("\n-- guest\n")
        assert marker, f"case {name!r} has nothing for the guest to do"
        depths = re.search(r"^-- depths: (.*)$", tables, re.MULTILINE)
        cases[name] = Case(
            tables,
            tuple(statement.strip() for statement in re.split(r";\n(?=\S|\s*\Z)", done) if statement.strip()),
            frozenset(int(depth) for depth in depths[1].split()) if depths else frozenset({1}),
            "\n-- takes back\n" in f"\n{tables}",
        )
    return cases


CASES = read_cases(Path(__file__).with_name("capture_cases.sql"))


async def commit(case: Case, database: CapturedDatabase) -> tuple[list[Told], list[Told]]:
    """The case done by a guest: what was told of what stayed, and of what savepoints took back."""
    async with open_guest(database) as guest, guest.connection.transaction():
        for statement in case.statements:
            await guest.connection.execute(statement)
    told = guest.told(database.notice_secret())
    assert all(each.is_genuine for each in told)
    kept = {change.seq for change in database.changes()}
    return [each for each in told if each.seq in kept], [each for each in told if each.seq not in kept]


@pytest.mark.parametrize("name", CASES)
async def test_the_rows_before_and_the_log_give_the_rows_after(
    database: CapturedDatabase, name: str
) -> None:
    case = CASES[name]
    database.script(case.tables)
    database.forget_changes()
    before = database.rows()
    kept, lost = await commit(case, database)
    after, log = database.rows(), database.changes()

    assert apply(before, images(log)) == without_empty(after)
    check_chains(log)
    assert {change.depth for change in log} == case.depths
    assert not any(change.outside for change in log)

    assert heard(kept) == said(log), "the NOTICEs of what stayed say what the log says"
    assert apply(before, told_images(kept), in_order=False) == without_empty(after)
    assert bool(lost) == case.takes_back


@pytest.mark.parametrize("name", CASES)
async def test_what_is_rolled_back_is_known_from_the_notices_alone(
    database: CapturedDatabase, name: str
) -> None:
    case = CASES[name]
    database.script(case.tables)
    database.forget_changes()
    before = database.rows()
    async with open_guest(database) as guest:
        await guest.connection.execute(PINNED)
        await guest.connection.begin()
        for statement in case.statements:
            await guest.connection.execute(statement)
        # Nobody else can see these rows: the transaction itself has to say what they are.
        inside = {}
        for table, place in database.tables():
            rows = await guest.connection.fetch(f"select {ROW} from {place} whole_row")
            inside[table] = Counter(str(row[0]) for row in rows)
        await guest.connection.rollback()

    assert database.rows() == before
    assert database.changes() == []
    told = guest.told(database.notice_secret())
    assert all(each.is_genuine for each in told)
    standing = told_images(without_taken_back(told))
    assert apply(before, standing, in_order=False) == without_empty(inside)


def without_taken_back(told: list[Told]) -> list[Told]:
    """What no savepoint took back: an ordinal that comes again shows that the later ones are gone."""
    standing: list[Told] = []
    for each in told:
        while standing and standing[-1].ordinal >= each.ordinal:
            standing.pop()
        standing.append(each)
    return standing


def said(log: list[Change]) -> dict[int, tuple[Counter[str], Counter[str]]]:
    """The images before and after of each statement, from the log."""
    statements: dict[int, tuple[Counter[str], Counter[str]]] = {}
    for change in log:
        befores, afters = statements.setdefault(change.ordinal, (Counter(), Counter()))
        if change.before is not None:
            befores[change.before] += 1
        if change.after is not None:
            afters[change.after] += 1
    return statements


def heard(told: list[Told]) -> dict[int, tuple[Counter[str], Counter[str]]]:
    """The same from NOTICEs."""
    return {each.ordinal: (Counter(each.befores), Counter(each.afters)) for each in told}
