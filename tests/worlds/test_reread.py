"""Some reads are recorded while others write, and answered again. ``python -m tests.worlds.reread`` does thousands."""

from pathlib import Path

from tests.conftest import Database
from tests.worlds import reread


async def test_every_read_is_answered_again_as_it_was_whoever_wrote_meanwhile(
    database: Database, tmp_path: Path
) -> None:
    tally = await reread.run(database, tmp_path, reads=300)
    assert tally.different == []
    assert tally.equal == tally.reads >= 300
    assert len(tally.kinds) == 4, "both isolation levels, in one transaction and in several"
    assert tally.own > 0 and tally.built < tally.executions
