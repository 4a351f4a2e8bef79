"""A server that runs out of room and of files, and whose database falls silent, says so by name and goes on by itself.

``python -m tests.faults.exhaustion`` does this at length, and with the other disks, memory, the clock and a host that
never answers.
"""

import os
import subprocess
import sys

from tests.faults.exhaustion import CASES, Load, Row, Tally
from tests.faults.ledger import Findings, Told

NOTHING = Findings(frozenset(), frozenset(), frozenset(), frozenset(), ())


def test_one_server_lacks_one_thing_after_the_other_and_loses_no_trade() -> None:
    wants = ["the journal's", "descriptors", "a database that never"]
    only = [word for want in wants for word in ("--only", want)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.exhaustion", "--together", "--trades", "3", *only],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()},  # noqa: PTH109
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["want", "disk:", "files:", "peer:"], done.stdout
    assert "FLX702" in done.stderr  # Who asked was told what is lacking.


def test_a_want_that_lost_something_or_was_not_told_is_no_good_one() -> None:
    load = Load(0, told=Told(done={1}))
    lost = Findings(frozenset({1}), frozenset(), frozenset(), frozenset(), ())
    assert Row("a want", load, NOTHING).is_good
    for row in (
        Row("a want", load),
        Row("a want", load, lost),
        Row("a want", load, NOTHING, ["nobody was told"]),
    ):
        assert not row.is_good
    assert "a want: lost: trades [1]" in Tally([Row("a want", load, lost)]).report()
    assert {case.disk for case in CASES} == {"", "all", "database", "journal"}
