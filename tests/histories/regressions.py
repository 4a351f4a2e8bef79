"""Seed regressions into git histories, record the request that each breaks, and have them found by ``flux bug bisect``.

Anybody can run it::

    python -m tests.histories.regressions --count 50 --commits 60

All histories are branches of one repository, without a commit in common, and one ``flux dev`` serves them all. For each
the head is deployed, the request is sent until it fails, and the bisect is asked as a person would ask. What it
answers is held against what is known of the history (`tests.histories.model.History.check`): *right*, *wrong*, or
*undecided* if it says that it can't tell, by a range in which the culprit is or by a refusal with its code.

What a bisect must not do is asked of others: a stub counts the requests that reach it, psql sums the tables, and the
repository is compared file by file.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import attrs

from tests.conftest import Database, create_database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev
from tests.histories.model import FAULTS, History, Plan, make_history
from tests.histories.shop import BODY, PATH, Kit
from tests.histories.write import list_untouched, write_history
from tests.postgres_server import running_postgres

TRIES_MAX = 40
"""Requests until one fails, of a fault that shows only sometimes."""
REFUSALS_OF_FLAKY = ("FLX550", "FLX555")
"""The bad end did not fail again, or not each time: of a fault that shows only sometimes either may come first."""


@attrs.frozen
class Found:
    """What became of one regression."""

    history: History
    verdict: str
    """``right``, ``wrong``, ``undecided``, or the code of a refusal."""
    told: str
    """What the bisect says, shortly."""
    runs: int
    """Replays that were run for it."""
    elapsed_s: float


@attrs.define
class Tally:
    """All of them."""

    found: list[Found] = attrs.field(factory=list)

    @property
    def counts(self) -> Counter[str]:
        """How many of each verdict."""
        return Counter(each.verdict for each in self.found)

    @property
    def wrong(self) -> list[Found]:
        """Those that named a commit which is not the culprit."""
        return [each for each in self.found if each.verdict == "wrong"]

    @property
    def unexplained(self) -> list[Found]:
        """Those that were refused although the fault shows each time."""
        return [
            each for each in self.found if each.verdict.startswith("FLX") and each.history.fault != "flaky"
        ]


def draw_plan(chance: random.Random, number: int, commits: int) -> Plan:
    """Return what the history number ``number`` is to have; the faults take turns."""
    fault = FAULTS[number % len(FAULTS)]
    alone = fault != "merge"
    return Plan(
        commits=commits,
        fault=fault,
        on_branch=alone and chance.random() < 0.3,
        broken=chance.randint(0, 4),
        hides_culprit=alone and chance.random() < 0.1,
        migration=chance.random() < 0.7,
        bump=chance.random() < 0.7,
        reverts=alone and chance.random() < 0.2,
        other=chance.random() < 0.2,
    )


class Seeder:
    """Seeds regressions into the repository that a server serves."""

    def __init__(self, server: DevServer, database: Database, stub: CountingStub, kit: Kit) -> None:
        self._server = server
        self._database = database
        self._stub = stub
        self._kit = kit

    def seed(self, history: History, branch: str) -> Found:
        """Write ``history``, record its failure and have it bisected."""
        kit = attrs.evolve(self._kit, wheels=history.fault == "dependency")
        if history.fault == "column":
            # What fails is the question itself, so code that asks another one has left the record there. Where it goes
            # on to send something that was never sent, nothing is decided; where it comes to its end, that shows.
            kit = attrs.evolve(kit, stub_port=None)
        history = write_history(history, self._server.project, kit, branch=branch, check_out=False)
        self._server.json("deploy", "--on", branch)
        name = self._record()
        before = (self._observe(), list_untouched(self._server.project))
        began = time.monotonic()
        done = self._server.command(
            "bug", "bisect", name, "--good", history.good, "--bad", history.bad, "--json"
        )
        elapsed_s = time.monotonic() - began
        assert (self._observe(), list_untouched(self._server.project)) == before, "somebody outside noticed"
        assert done.stdout, f"flux bug bisect {name} says nothing: {done.stderr}"
        answer = json.loads(done.stdout)
        if answer["refused"] is not None:
            return Found(history, answer["refused"], answer["reason"], answer["runs"], elapsed_s)
        verdict = history.check(answer["first_bad"], answer["candidates"])
        named = answer["first_bad"] or f"one of {len(answer['candidates'])}"
        return Found(history, verdict, named[:12], answer["runs"], elapsed_s)

    def _record(self) -> str:
        for _ in range(TRIES_MAX):
            answer = self._server.request("POST", PATH, dict(BODY))
            if answer.status >= 500:
                return answer.flux_id
        raise AssertionError("the request does not fail on the head of its history")

    def _observe(self) -> tuple[int, str]:
        tables = self._database.psql(
            "select coalesce(md5(string_agg(orders::text, ',' order by id)), '') from orders "
            "union all select md5(string_agg(products::text, ',' order by id)) from products"
        )
        return len(self._stub.seen), tables


def run(
    folder: Path, database: Database, stub: CountingStub, plans: list[Plan], seed: int, *, tells: bool = False
) -> Tally:
    """Seed a regression for each plan, in a repository that is made in ``folder``."""
    kit = Kit(stub_port=stub.port)
    # What the server begins with has to be checked out; the others are beside it.
    write_history(make_history(seed, Plan(commits=12, migration=False)), folder, kit)
    tally = Tally()
    with running_dev(folder, database) as server:
        seeder = Seeder(server, database, stub, kit)
        for number, plan in enumerate(plans):
            found = seeder.seed(make_history(seed + number, plan), f"seeded-{number}")
            tally.found.append(found)
            if tells:
                tell(number, plan, found)
    return tally


def tell(number: int, plan: Plan, found: Found) -> None:
    """Print one."""
    has = [name for name in ("on_branch", "reverts", "other", "hides_culprit") if getattr(plan, name)]
    print(
        f"{number:>3}  {found.verdict:<9}  {found.elapsed_s:>6.1f} s  {found.runs:>3} runs  {plan.fault:<10}  "
        f"{found.told:<14}  {' '.join(has)}",
        flush=True,
    )


def main() -> int:
    """Run it; exit code 1 when one was named wrongly, or refused without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=50, help="regressions")
    parser.add_argument("--commits", type=int, default=60, help="of each history")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    plans = [draw_plan(chance, number, options.commits) for number in range(options.count)]
    with (
        tempfile.TemporaryDirectory(prefix="flux-regressions-") as folder,
        running_postgres() as postgres,
        counting_stub() as stub,
    ):
        Path(folder).chmod(0o755)
        tally = run(
            Path(folder) / "shop", create_database(postgres), stub, plans, options.seed * 1000, tells=True
        )
    counts = tally.counts
    print(
        f"\n{len(tally.found)} regressions: "
        + ", ".join(f"{count} {name}" for name, count in counts.most_common())
    )
    print(f"refused although the fault shows each time: {len(tally.unexplained)}")
    return 1 if tally.wrong or tally.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
