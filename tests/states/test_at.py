"""Some times are asked for while others write. ``python -m tests.states.at`` does hundreds."""

from collections.abc import Callable

from tests.conftest import Database
from tests.postgres_server import PostgresServer, running_postgres
from tests.states import at


async def test_tables_are_as_another_program_read_them_and_blame_is_a_fold_of_the_log(
    make_database: Callable[[PostgresServer], Database],
) -> None:
    with running_postgres(extra_settings=["track_commit_timestamp=on"]) as server:
        tally = await at.run(make_database(server), times=8)
    assert tally.different == []
    assert tally.states == 8 * 2 * len(at.TABLES)
    assert tally.open_transactions > 0 and tally.blamed > 50 and tally.changes > 100
