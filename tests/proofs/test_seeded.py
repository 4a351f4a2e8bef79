"""Some faults are planted and proved. ``python -m tests.proofs.seeded`` does all of them."""

from collections.abc import Callable, Iterator

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev
from tests.postgres_server import PostgresServer
from tests.proofs.seeded import FAULTS, Fault, Seen, fail_all, make_project, prove

SMALL = ("taken", "wrong_place", "two_fields", "new_code", "says_so")
"""An input, a row and what followed from it, two things at once, the code, and nothing that was heard."""


@attrs.frozen
class Planted:
    """A server on which faults have been met."""

    server: DevServer
    stub: CountingStub
    database: Database
    names: dict[str, str]
    """Executions that failed, by the fault's name."""


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Planted]:
    faults = [fault for fault in FAULTS if fault.name in SMALL]
    with counting_stub() as stub:
        project = make_project(tmp_path_factory.mktemp("proofs"), faults, stub)
        database = make_database(postgres18)
        with running_dev(project, database) as server:
            names = fail_all(server, stub, faults)
            yield Planted(server, stub, database, {fault.name: name for fault, name in zip(faults, names, strict=True)})


def find(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.fixture(scope="module")
def seen(planted: Planted) -> dict[str, Seen]:
    before = len(planted.stub.seen)
    seen = {name: prove(planted.server, find(name), execution) for name, execution in planted.names.items()}
    assert len(planted.stub.seen) == before, "nothing leaves"
    return seen


@pytest.mark.parametrize("name", SMALL)
def test_what_was_spoilt_is_named_and_where_nothing_was_that_is_said(name: str, seen: dict[str, Seen]) -> None:
    assert seen[name].is_right, seen[name].why


def test_each_claim_names_executions_that_can_be_looked_at(planted: Planted, seen: dict[str, Seen]) -> None:
    proof = seen["taken"].why["proof"]
    passing, failing = proof["causes"][0]["runs"], proof["control"]["runs"]
    assert len(passing) == len(failing) == 2
    for run, status in ((passing[0], 200), (failing[0], 500)):
        trace = planted.server.json("trace", run)
        assert (trace["trigger"], trace["status"]) == ("replay", status)
    replays = {one["execution"]: one for one in planted.server.json("trace", planted.names["taken"])["replays"]}
    assert "flipped" in replays[passing[0]]["reason"], "it can't be mistaken for a replay of what was recorded"
    assert replays[passing[0]]["verdict"] == "passed"
    assert replays[failing[0]]["verdict"] == "same failure"


def test_what_did_not_fail_has_nothing_to_prove(planted: Planted) -> None:
    fine = planted.server.json("trace", "list", "-q", "function:taken status:200 -trigger:replay")["executions"][0]
    refused = planted.server.command("why", fine["name"], "--prove")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "FLX690" in refused.stderr and f"flux why {fine['name']}" in refused.stderr


def test_a_proof_stands_in_the_first_lines_with_its_mark_and_its_progress_on_stderr(planted: Planted) -> None:
    done = planted.server.command("why", planted.names["wrong_place"], "--prove", "-v")
    assert done.returncode == 0
    first = next(line for line in done.stdout.splitlines() if "↻" in line)
    assert "it answers 200 when path of row 1" in first
    assert "nothing flipped" in done.stdout.partition("  runs\n")[2]
    assert "flips to try" in done.stderr and "no timeline" not in done.stderr
    assert "  timeline\n" in done.stdout


def test_what_does_not_fail_again_by_itself_is_no_experiment(planted: Planted) -> None:
    failed = planted.server.request("POST", "/wrong_place", {})
    assert failed.status == 500
    # As after a restore from elsewhere: the row is another one, and the log of changes knows nothing of it.
    planted.database.psql("set session_replication_role = replica; update places set path = '/elsewhere'")
    refused = planted.server.command("why", failed.flux_id, "--prove")
    assert (refused.returncode, refused.stdout) == (6, "")
    assert "FLX691" in refused.stderr and "undecided" in refused.stderr
