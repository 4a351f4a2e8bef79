"""A regression that came with a new version of a package is found; ``tests.histories.regressions`` seeds many more."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Database
from tests.dev_process import counting_stub
from tests.histories.model import Plan
from tests.histories.regressions import REFUSALS_OF_FLAKY, run
from tests.postgres_server import PostgresServer


def test_a_bumped_dependency_is_named_and_what_shows_only_sometimes_never_is(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    tmp_path.chmod(0o755)
    plans = [
        Plan(commits=14, fault="dependency", broken=1, bump=False),
        Plan(commits=14, fault="flaky", broken=1),
    ]
    with counting_stub() as stub:
        tally = run(tmp_path / "shop", make_database(postgres18), stub, plans, seed=11)
    named, flaky = tally.found
    assert named.verdict == "right", named.told
    assert flaky.verdict in ("right", "undecided", *REFUSALS_OF_FLAKY), flaky.told
