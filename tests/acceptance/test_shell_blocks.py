"""Every command that the documentation shows, typed as it stands there, and what it prints compared.

One ``flux dev`` serves the tutorial's project, with three functions more for what the tutorial's don't do. Names of
executions on a page stand for executions that were made here, and the example hosts for a stub. Whatever is not typed
here is typed by another test (`TYPED_BY`) or can't be (`NOT_TYPED`); both lists hold only what is on a page.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.conftest import Database
from tests.dev_process import COMMAND_S_MAX, DevServer, counting_stub, environment, run_flux, running_dev
from tests.postgres_server import PostgresServer
from tests.shell_blocks import PAGES, ROOT, Step, is_like, read_steps

TYPED_BY = {
    ("README.md", "Ten minutes"): "tests/acceptance/test_tutorial.py",
    ("docs/tenants.md", "Tenants"): "tests/acceptance/test_tenants.py",
    ("examples/conduit/README.md", "Conduit"): "tests/conduit_app.py",
    ("examples/techempower/README.md", "TechEmpower"): "tests/acceptance/test_techempower.py",
}
"""Sections whose commands need a server of their own, which another test has."""

NOT_TYPED = {
    ("README.md", "./demo"): "it makes an environment, from the network: `python -m tests.clean_install` types it",
    ("README.md", "./test"): "it runs all tests, of which this is one: `python -m tests.clean_install` types it",
    ("CONTRIBUTING.md", "./test"): "it runs all tests, of which this is one",
    ("CONTRIBUTING.md", "./test tests/core -k wire"): "it makes an environment first, from the network",
    ("docs/mcp.md", "pip install 'fluxrt[mcp]'"): "it installs, from the network",
    ("docs/cli.md", "flux trace debug qk3f81xa --dap 4711"): (
        "it waits until an editor attaches: tests/integration/test_debug_adapter.py is one"
    ),
}
"""What can't be typed here, and why."""

EXITS = {"flux replay": (1,), "flux doctor": (0, 1)}
"""Exit codes of commands whose answer is a finding, for it failed here too, or may be one: what a machine lacks.

Of all others whatever is not 0 is a mistake, of the page or of Flux."""
RESTORE = "createdb NEW && pg_restore"
"""What makes a database of a backup, without a word."""

CHARGES = "https://api.stripe.com/v1/charges"
CHECKOUT = '''\
"""Paying."""

from flux_guest import Context, function


async def charge(ctx: Context, order: dict) -> dict:
    """Have an order paid."""
    paid = await ctx.http.post("https://api.stripe.com/v1/charges", json={"order": order["id"]}, timeout=1)
    return paid.json()


@function("POST /checkout")
async def check_out(ctx: Context, input: dict) -> dict:
    """Place an order and have it paid."""
    order = await ctx.db.query_one(
        "insert into orders (user_id, item, quantity, cents) values ($1, $2, 1, 1200) returning id, cents",
        input["user_id"],
        input["item"],
    )
    return await charge(ctx, order)
'''
PRICE = '''\
"""What a user pays."""

from flux_guest import Context, function

from functions.pricing import PLAN_CENTS


@function("POST /price")
async def price(ctx: Context, input: dict) -> dict:
    """The price of a user's plan."""
    user = await ctx.db.query_one("select id, plan from users where id = $1", input["user_id"])
    return {"cents": PLAN_CENTS[user["plan"]]}
'''


@attrs.frozen
class Typist:
    """Who types what pages show."""

    server: DevServer
    database: Database
    names: dict[str, str]
    """Executions by the name that pages have for them."""
    charges: str
    """The address that stands for `CHARGES`."""

    def type(self, step: Step) -> str | None:
        """Type a step; return what is wrong with it, None if nothing is."""
        printed = self.run(self.translated(step.line))
        if isinstance(printed, str) and step.line.startswith(RESTORE):
            new = self.translated("NEW")
            restored = self.database.server.psql("select name from flux.execution", new).split()
            if missing := {*self.names.values()} - {*restored}:
                return f"{step.page}: $ {step.line}\n{new} has no executions {missing}"
        if isinstance(printed, str):
            shown = None if step.shown is None else self.translated(step.shown)
            if shown is None or is_like(shown, printed, self.list_names()):
                return None
            return f"{step.page}: $ {step.line}\n{printed}"
        return f"{step.page}: $ {step.line}\nexit {printed.returncode}\n{printed.stdout}{printed.stderr}"

    def translated(self, text: str) -> str:
        """What a page says, of what there is here."""
        for shown, name in self.names.items():
            text = text.replace(shown, name)
        text = text.replace(CHARGES, self.charges)
        text = text.replace("127.0.0.1:4000/", f"127.0.0.1:{self.server.port}/")
        return re.sub(r"\bNEW\b", f"{self.database.name}_new", re.sub(r"\bDATABASE\b", self.database.name, text))

    def run(self, line: str) -> str | subprocess.CompletedProcess[str]:
        """What a line prints; all of what became of it, if that is not what a page shows it for."""
        if line == "flux dev":
            return "\n".join(self.server.story)
        if line == "flux tail":
            line = "flux tail --no-follow --since 1h"  # As it stands it goes on until ctrl-c.
        program, *arguments = shlex.split(line)
        if program == "flux":
            done = run_flux(self.server.project, *arguments, environ=self.environment())
        else:
            line = re.sub(r"^curl ", "curl --fail ", line)  # Else a refusal is an answer like any other.
            done = subprocess.run(
                ["/bin/sh", "-c", line], cwd=self.server.project, env=self.environment(), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False,
            )  # fmt: skip
        return done.stdout if done.returncode in EXITS.get(" ".join([program, *arguments[:1]]), (0,)) else done

    def environment(self) -> dict[str, str]:
        """What the shell of somebody has who works with Flux and PostgreSQL."""
        postgres = self.database.server
        token = json.loads((self.server.project / ".flux" / "dev.json").read_bytes())["token"]
        return environment() | {
            "PATH": f"{postgres.bin_dir}{os.pathsep}{os.environ['PATH']}", "PGHOST": postgres.host,
            "PGPORT": str(postgres.port), "PGUSER": postgres.user, "FLUXRT_TOKEN": token,
        }  # fmt: skip

    def list_names(self) -> list[str]:
        """The names of all executions, replays too."""
        self.server.json("trace", "list")  # It waits until what has ended is stored; replays are not in it.
        return self.database.psql("select name from flux.execution").split()


def make_shop(folder: Path, charges: str) -> Path:
    """The tutorial's project, with a commit more."""
    made = run_flux(folder, "init", "shop", "--tutorial")
    assert made.returncode == 0, made.stderr
    shop = folder / "shop"
    (shop / "functions" / "checkout.py").write_text(CHECKOUT.replace(CHARGES, charges))
    (shop / "functions" / "price.py").write_text(PRICE)
    toml = (shop / "flux.toml").read_text()
    (shop / "flux.toml").write_text(toml.replace("allow = []", f'allow = ["{charges.split("/")[2]}"]'))
    git = ["git", "-c", "user.name=Ana Ruiz", "-c", "user.email=ana@shop.example"]
    for arguments in (["add", "."], ["commit", "-qm", "take money"]):
        subprocess.run([*git, *arguments], cwd=shop, check=True)
    return shop


def make_executions(server: DevServer, database: Database) -> dict[str, str]:
    """Have done what pages talk about; return the executions by the name that pages have for them."""
    passed = server.request("POST", "/signup", {"email": "ana@shop.example", "plan": "free"})
    assert passed.status == 201
    failed = server.request("POST", "/signup", {"email": "ben@shop.example"})
    peer = server.request("POST", "/price", {"user_id": 1})
    assert peer.status == 200
    database.psql("update users set plan = null where id = 1")
    priced = server.request("POST", "/price", {"user_id": 1})
    unpaid = server.request("POST", "/checkout", {"user_id": 1, "item": "mug"})
    assert {failed.status, priced.status, unpaid.status} == {500}
    return {"v78773x4": failed.flux_id, "qk3f81xa": failed.flux_id, "qt5m0c2e": unpaid.flux_id,
            "sg4ajpw1": priced.flux_id, "hz0dn8b3": peer.flux_id}  # fmt: skip


def test_what_pages_show_is_what_comes_of_typing_it(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    steps = [step for page in PAGES for step in read_steps(str(page.relative_to(ROOT)))]
    ours = [step for step in steps if (step.page, step.section) not in TYPED_BY
            and (step.page, step.line) not in NOT_TYPED]  # fmt: skip
    assert len(ours) > 15
    database = make_database(postgres18)
    with counting_stub() as stub:
        shop = make_shop(tmp_path, stub.url("/hang"))
        with running_dev(shop, database) as server:
            typist = Typist(server, database, make_executions(server, database), stub.url("/hang"))
            wrong = [problem for step in ours if (problem := typist.type(step)) is not None]
    postgres18.psql(f'drop database if exists "{database.name}_new"', "postgres")
    assert not wrong, "\n\n".join(wrong)


def test_what_is_not_typed_here_is_on_a_page_and_typed_where_the_list_says() -> None:
    steps = [step for page in PAGES for step in read_steps(str(page.relative_to(ROOT)))]
    assert NOT_TYPED.keys() <= {(step.page, step.line) for step in steps}
    for beginning in (*EXITS, RESTORE):
        assert any(step.line.startswith(beginning) for step in steps), f"no page has {beginning} typed"
    assert len(NOT_TYPED) < 8, "most of what a page shows can be typed"
    assert TYPED_BY.keys() <= {(step.page, step.section) for step in steps}
    for (page, _), test in TYPED_BY.items():
        assert f'read_steps("{page}")' in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not read {page}"
