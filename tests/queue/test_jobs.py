"""A small run of ``tests/queue/jobs.py``, which says how it is done at any size."""

from pathlib import Path

from tests.conftest import Database
from tests.queue.jobs import run


def test_each_job_of_a_committed_push_runs_to_its_end_once_whichever_server_is_killed(
    database: Database, tmp_path: Path
) -> None:
    report = run(database, tmp_path, jobs=200, kills=1, seed=3)
    assert report.is_fine, report
    assert report.kills == 1 and report.rolled_back > 0
