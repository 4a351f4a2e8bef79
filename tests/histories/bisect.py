"""``flux bug bisect`` over a history of any length, as typed, against a running server.

    python -m tests.histories.bisect --commits 1000

The history has a culprit, which is reverted and comes back, two commits that can't be imported, one with a migration,
one with another version of a package, and merges. Whether the answer is right the history itself says. What must not
happen is asked of others: git whether the checkout is as it was, the stub what reached it, psql for the tables' sums
and how many replays there are.
"""

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.conftest import Database, create_database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev
from tests.histories.model import History, Plan, make_history
from tests.histories.shop import BODY, PATH, Kit
from tests.histories.write import list_untouched, write_history
from tests.postgres_server import running_postgres

SUMS = (
    "select coalesce(md5(string_agg(orders::text, ',' order by id)), '') from orders union all "
    "select md5(string_agg(products::text, ',' order by id)) from products"
)


@attrs.frozen
class Shop:
    """A history that is served at its head."""

    history: History
    server: DevServer
    database: Database
    stub: CountingStub

    def fail(self) -> str:
        """Send the request that fails; return the execution's name."""
        answer = self.server.request("POST", PATH, BODY)
        assert answer.status >= 500, answer.body
        return answer.flux_id

    def bisect(self, *arguments: str, exit_code: int = 0) -> Any:
        """Run ``flux bug bisect``; assert that nobody else noticed."""
        before = self.look()
        answer = self.server.json("bug", "bisect", *arguments, exit_code=exit_code)
        assert self.look() == before
        return answer

    def look(self) -> Mapping[str, object]:
        """All that must be the same afterwards."""
        return {
            **list_untouched(self.server.project),
            "stub": len(self.stub.seen),
            "tables": self.database.psql(SUMS),
        }

    def count_replays(self) -> int:
        """How many replays are on record."""
        return int(self.database.psql("select count(*) from flux.execution where trigger = 'replay'"))


@contextlib.contextmanager
def serving(history: History, folder: Path, database: Database, *, wheels: bool = False) -> Iterator[Shop]:
    """Write a history and serve its head, for as long as the block lasts."""
    with counting_stub() as stub:
        folder.chmod(0o755)
        written = write_history(history, folder / "shop", Kit(stub_port=stub.port, wheels=wheels))
        with running_dev(folder / "shop", database, "--port", "0") as server:
            yield Shop(written, server, database, stub)


def check(shop: Shop, answer: Any, between: int) -> str:
    """Assert that an answer is as good as it says; return what it is worth."""
    worth = shop.history.check(answer["first_bad"], answer["candidates"])
    assert worth != "wrong", answer
    steps = answer["steps"]
    assert len({step["sha"] for step in steps}) == len(steps), answer
    assert all(step["reason"] for step in steps)
    # Both ends are seen twice, and what was recorded on the bad one is one of the two.
    assert answer["good"]["runs"] >= 2 <= answer["bad"]["runs"] + answer["bad"]["recorded"]
    if not answer["doubted"]:
        assert answer["runs"] <= math.ceil(math.log2(between)) + answer["skipped"] + 4, answer
    if worth == "right":
        # One that changed a line on the way to the failure may have been run once: another were over the bound.
        least = {"parent": 4, "commit": 4} if answer["doubted"] else {"parent": 2, "commit": 1}
        assert all(proof["runs"] >= least[proof["role"]] for proof in answer["proof"]), answer
    return worth


def main() -> int:
    """Run one and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", default="key")
    said = parser.parse_args()
    plan = Plan(commits=said.commits, fault=said.fault, reverts=True, at=0.4)
    with running_postgres() as postgres, tempfile.TemporaryDirectory(prefix="flux-bisect-") as folder:
        history = make_history(said.seed, plan)
        with serving(history, Path(folder), create_database(postgres), wheels=True) as shop:
            name = shop.fail()
            culprits = [shop.history.shas[number] for number in history.culprits]
            seen: dict[str, object] = {"commits": said.commits, "culprits": culprits}
            for turn in ("first", "second"):
                began, replays = time.monotonic(), shop.count_replays()
                answer = shop.bisect(name)
                seen[turn] = {
                    "seconds": round(time.monotonic() - began, 2), "answer": check(shop, answer, said.commits),
                    "first_bad": answer["first_bad"], "steps": len(answer["steps"]), "skipped": answer["skipped"],
                    "runs": answer["runs"], "cached": answer["cached"], "replays": shop.count_replays() - replays,
                }  # fmt: skip
            print(json.dumps(seen, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
