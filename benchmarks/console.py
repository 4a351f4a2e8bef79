"""How quick the console's pages are when there is much to show.

    python benchmarks/console.py [--quick] [--rounds 5] [--executions 100000] [--calls 5000]

A server like any other (``flux dev``, real workers) runs two functions once each, and their records are multiplied in
the database, over the last hour at most, one failure in ten. A third function makes so many host calls in one
execution. Chromium, without a window, then opens pages as a person would, one after the other and so many times::

    answer       until the page's last byte is there: what server and database take
    painted      until the browser has drawn something (its own first contentful paint)
    frame        the longest time between two frames while the page is scrolled from its top to its end
    server, database    processor time of each, until the page is drawn; it is told in steps of 10 ms

The browser runs on the machine's cores too. Its first page of all is not counted: it starts more than itself. Where
other work runs beside this, the first three are too long, and processor time is what to look at.
"""

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import get_tree_cpu_s, print_machine, print_table, spread
from benchmarks.sides import SETTINGS, create_database
from tests.browser import Browser, open_browser
from tests.conftest import Database
from tests.dev_process import running_dev, write_project
from tests.postgres_server import running_postgres

FUNCTIONS = """\
from flux_guest import Context, function


@function("GET /fine")
async def fine(ctx: Context, input: dict) -> dict:
    return {"n": 1}


@function("POST /failing")
async def failing(ctx: Context, input: dict) -> dict:
    return {"plan": input["plan"]}


@function("POST /many", timeout="300s")
async def many(ctx: Context, input: dict) -> dict:
    for number in range(input["calls"]):
        ctx.log.info("asked", number=number) if number % 100 == 0 else None
        await ctx.db.query("select $1::int as n", number)
    return {}
"""
TOML = "[limits]\nhost_calls = 1000000\n[recording]\nself_check_s = 0\n"
MOMENT = "now() - least(interval '55 min', now() - date_trunc('day', now(), 'UTC')) * (n::float8 / {count})"
OTHERWISE = {
    "id": "(lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0')"
    " || '8' || substr(md5(n::text), 1, 15))::uuid",
    "name": "substr(md5(n::text || 'name'), 1, 8)",
    "started_at": "moment",
    "path": "path || '/' || n",
}
"""Columns of a copy that are not the original's."""
SCROLL = """
const done = arguments[0], end = document.documentElement.scrollHeight, steps = 60;
let step = 0, last = null, longest = 0;
function next(now) {
  if (last !== null) { longest = Math.max(longest, now - last); }
  last = now;
  if (step++ === steps) { done(longest); return; }
  scrollTo(0, end * step / steps);
  requestAnimationFrame(next);
}
requestAnimationFrame(next);
"""
PAINTED = """
const [page] = performance.getEntriesByType("navigation");
const paint = performance.getEntriesByName("first-contentful-paint")[0];
return paint === undefined ? null : [page.responseEnd, paint.startTime];
"""


def multiply(database: Database, executions: int) -> None:
    """Make so many records of the two that there are."""
    columns = database.psql(
        "select attname from pg_attribute where attrelid = 'flux.execution'::regclass and attnum > 0"
    ).split()
    values = ", ".join(OTHERWISE.get(column, column) for column in columns)
    moment = MOMENT.format(count=executions)
    database.psql(
        f"insert into flux.execution ({', '.join(columns)}) select {values} from (select *, {moment} as moment from"
        f" generate_series(1, {executions}) n join flux.execution on path = case when n % 10 = 0 then '/failing'"
        " else '/fine' end) copied"
    )
    database.psql("vacuum analyze flux.execution")


def measure(browser: Browser, address: str, processes: Sequence[int]) -> tuple[float, ...]:
    """Open a page; return milliseconds: until it is there, until it is drawn, the longest frame, and each process's."""
    before = [get_tree_cpu_s(process) for process in processes]
    browser.go(address)
    found: Any = None
    while found is None:
        found = browser.driver.execute_script(PAINTED)
    answer, painted = found
    spent = [(get_tree_cpu_s(pid) - was) * 1000 for pid, was in zip(processes, before, strict=True)]
    return answer, painted, browser.driver.execute_async_script(SCROLL), *spent


def report(
    pages: Mapping[str, str], browser: Browser, rounds: int, processes: Sequence[int]
) -> Sequence[Sequence[str]]:
    """Open all pages in turn; return a line of figures for each."""
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in pages}
    for _ in range(rounds):
        for name, address in pages.items():
            taken[name].append(measure(browser, address, processes))
    return [[name, *(spread(figures, 0) for figures in zip(*taken[name], strict=True))] for name in pages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of a hundredth: to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=5000)
    said = parser.parse_args()
    share = 100 if said.quick else 1
    rounds = 1 if said.quick else said.rounds
    print_machine()
    with tempfile.TemporaryDirectory() as folder, running_postgres(extra_settings=SETTINGS) as postgres:
        Path(folder).chmod(0o755)
        project = write_project(Path(folder), {"shop.py": FUNCTIONS}, toml=TOML)
        database = create_database(postgres, "console")
        with running_dev(project, database) as server, open_browser() as browser:
            server.request("GET", "/fine")
            failed = server.request("POST", "/failing", {}).flux_id
            many = server.request("POST", "/many", {"calls": said.calls // share}).flux_id
            server.json("trace", "list")  # It answers once all that has ended is stored.
            multiply(database, said.executions // share)
            link = re.search(r"(http://\S+/_flux/)#t=\S+", server.wait_story("/_flux/#t="))
            assert link is not None
            browser.go(link[0])
            browser.wait_for("Executions", "h1")
            ui = link[1]
            old = database.psql("select name from flux.execution order by id limit 1 offset 200").strip()
            pages = {
                "list": ui,
                "list, its oldest": f"{ui}?before={old}",
                "list, filtered by status": f"{ui}?q=status%3A500",
                "list, filtered by a route that few have": f"{ui}?q=route%3A%2Fmany",
                "list, filtered by a commit that none has": f"{ui}?q=sha%3Affff",
                "list, filtered by an error that none has": f"{ui}?q=error%3Anothing-has-this",
                "errors": f"{ui}errors",
                "an execution that failed": f"{ui}e/{failed}",
                "one of very many calls": f"{ui}e/{many}",
                "its last calls": f"{ui}e/{many}?from={max(0, said.calls // share - 200)}",
                "its calls with a text": f"{ui}e/{many}?find=49",
            }
            print(f"{said.executions // share:,} executions, and one of {said.calls // share:,} calls\n")
            figures = report(pages, browser, rounds, (server.process.pid, postgres.pid))
            print_table(["page", "answer ms", "painted ms", "frame ms", "server ms", "database ms"], figures)


if __name__ == "__main__":
    main()
