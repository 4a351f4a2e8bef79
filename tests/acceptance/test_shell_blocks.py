"""Every command that the documentation shows, typed as it stands there, and what it prints compared.

One ``flux dev`` serves the shop of ``flux init --tutorial``, with three functions more for what the shop's don't do.
Names of executions on a page stand for executions that were made here, and the example hosts for a stub. The how-to
guides change that shop, so they come last. The tutorial begins with an empty folder, and brings servers and executions
of its own. Whatever is not typed here is typed by another test (`TYPED_BY`) or can't be (`NOT_TYPED`); both lists hold
only what is on a page.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from tests.conftest import Database
from tests.dev_process import (
    COMMAND_S_MAX,
    DevServer,
    counting_stub,
    database_url,
    environment,
    run_flux,
    serving,
    start_server,
)
from tests.postgres_server import PostgresServer
from tests.shell_blocks import PAGES, ROOT, File, Step, is_like, read_steps, read_walk

TUTORIAL = "docs/tutorial.md"
HOW_TO = ("docs/how-to/", "docs/migrating.md")

TYPED_BY = {
    ("README.md", "Ten minutes"): "tests/acceptance/test_tutorial.py",
    ("docs/leaving.md", "Leaving Flux"): "tests/acceptance/test_leaving.py",
    ("docs/leaving.md", "Bringing the rows over"): "tests/acceptance/test_leaving.py",
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
    (TUTORIAL, "python3 -m venv ~/flux && . ~/flux/bin/activate && pip install ."): "it installs, from the network",
    ("docs/mcp.md", "pip install 'fluxrt[mcp]'"): "it installs, from the network",
    ("docs/cli.md", "flux trace debug qk3f81xa --dap 4711"): (
        "it waits until an editor attaches: tests/integration/test_debug_adapter.py is one"
    ),
}
"""What can't be typed here, and why."""

EXITS = {"flux replay": (1,), "flux doctor": (0, 1)}
"""Exit codes of commands whose answer is a finding, for it failed here too, or may be one: what a machine lacks.

Of all others whatever is not 0 is a mistake, of the page or of Flux."""
FINDINGS = {
    (TUTORIAL, "flux replay mzg1qxp2 --on ."): 0,
    (TUTORIAL, "flux replay mzg1qxp2.fluxcase --on ."): 0,
    (TUTORIAL, "flux deploy --guard 20"): 1,
    ("docs/how-to/investigate-an-incident.md", "flux incident replay lost-plans --on ."): 1,
    ("docs/how-to/keep-a-failure-as-a-test.md", "python -m pytest -q test_signup_without_plan.py"): 1,
}
"""Exit codes of lines whose answer is another one on that page, with what the page shows."""
SERVERS = {"flux dev": ("dev", "--port", "0"), "flux serve": ("serve", "--bind", "127.0.0.1:0")}
"""What serves until something else is to, and how it is started here: other tests have servers on this machine."""
AUTHOR = {"GIT_AUTHOR_NAME": "Ana Ruiz", "GIT_AUTHOR_EMAIL": "ana@shop.example",
          "GIT_COMMITTER_NAME": "Ana Ruiz", "GIT_COMMITTER_EMAIL": "ana@shop.example"}  # fmt: skip
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


@attrs.define
class Typist:
    """Who types what pages show, and writes the files that they show."""

    folder: Path
    """Where he is."""
    database: Database
    """What his servers use, instead of one of their own that takes seconds to make."""
    servers: ExitStack
    """Ends them."""
    names: dict[str, str] = attrs.field(factory=dict)
    """Executions, and commits, by the name that pages have for them."""
    charges: str = CHARGES
    """The address that stands for `CHARGES`."""
    server: DevServer | None = None
    """What serves now."""
    is_watching: bool = False
    """It takes up what is saved."""

    def take(self, step: Step | File) -> str | None:
        """Type or write it; return what is wrong with it, None if nothing is."""
        if isinstance(step, Step):
            return self.type(step)
        path = self.folder / step.path
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() + "\n" if step.path == "flux.toml" else ""
        with self.taken_up(step.path):
            path.write_text(before + step.text)
        return None

    @contextmanager
    def taken_up(self, path: str) -> Iterator[None]:
        """Wait until a server that watches has taken up what the block saves there."""
        is_served = self.server is not None and self.is_watching and path.startswith(("functions/", "flux.toml"))
        told = len(self.server.story) if self.server is not None else 0
        yield
        if self.server is not None and is_served:
            self.server.wait_story(f"reload  {path} changed", after=told)

    def type(self, step: Step) -> str | None:
        """Type a step; return what is wrong with it, None if nothing is."""
        changed = re.fullmatch(r"sed -i .* (\S+)", step.line)
        with self.taken_up(changed[1] if changed else ""):
            printed = self.run(self.translated(step.line), FINDINGS.get((step.page, step.line)))
        if isinstance(printed, str) and step.line.startswith(RESTORE):
            new = self.translated("NEW")
            restored = self.database.server.psql("select name from flux.execution", new).split()
            if missing := {*self.names.values()} - {*restored}:
                return f"{step.page}: $ {step.line}\n{new} has no executions {missing}"
        if not isinstance(printed, str):
            return f"{step.page}: $ {step.line}\nexit {printed.returncode}\n{printed.stdout}{printed.stderr}"
        if step.shown is None:
            return None
        shown = self.translated(step.shown)
        if not is_like(shown, printed) and not is_like(shown, printed, self.list_names()):  # Asking takes time.
            return f"{step.page}: $ {step.line}\n{printed}"
        for named in (r"^flux-id: (\w{8})\r?$", r"^([0-9a-f]{7}) " if step.line.startswith("git log") else r"^$(.)"):
            pattern = re.compile(named, re.MULTILINE)
            self.names.update(zip(pattern.findall(step.shown), pattern.findall(printed), strict=True))
        return None

    def translated(self, text: str) -> str:
        """What a page says, of what there is here."""
        for shown, name in self.names.items():
            text = text.replace(shown, name)
        text = text.replace(CHARGES, self.charges)
        if self.server is not None:
            text = re.sub(r"\b(127\.0\.0\.1|localhost):4000/", rf"\1:{self.server.port}/", text)
        return re.sub(r"\bNEW\b", f"{self.database.name}_new", re.sub(r"\bDATABASE\b", self.database.name, text))

    def run(self, line: str, exit_code: int | None = None) -> str | subprocess.CompletedProcess[str]:
        """What a line prints; all of what became of it, if that is not what a page shows it for."""
        if line in SERVERS:
            return self.serve(line)
        if line == "flux tail":
            line = "flux tail --no-follow --since 1h"  # As it stands it goes on until ctrl-c.
        program, *arguments = shlex.split(line)
        if program == "flux" and ">" not in arguments:
            done = run_flux(self.folder, *arguments, environ=self.environment())
        else:
            line = re.sub(r"^curl (?!-i)", "curl --fail ", line)  # Else a refusal is an answer like any other.
            done = subprocess.run(
                ["/bin/sh", "-c", line], cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False,
            )  # fmt: skip
            if done.returncode == 0 and (entered := re.search(r"\bcd (\w[\w-]*)$", line)):
                self.folder /= entered[1]
        expected = EXITS.get(" ".join([program, *arguments[:1]]), (0,)) if exit_code is None else (exit_code,)
        return done.stdout if done.returncode in expected else done

    def serve(self, line: str) -> str:
        """What a server tells until it is ready: another one than before, if it is to be of another kind."""
        if self.server is None or self.is_watching != (line == "flux dev"):
            if self.server is not None:
                assert self.server.stop() == 0, "\n".join(self.server.story)
            url = database_url(self.database)
            self.server = start_server(self.folder, *SERVERS[line], "--database-url", url)
            self.is_watching = line == "flux dev"
            self.servers.enter_context(serving(self.server))
        return "\n".join(self.server.story)

    def environment(self) -> dict[str, str]:
        """What the shell of somebody has who works with Flux, PostgreSQL and git."""
        postgres = self.database.server
        programs = [str(Path(sys.executable).parent), str(postgres.bin_dir), os.environ["PATH"]]
        known = environment() | AUTHOR | {
            "PATH": os.pathsep.join(programs), "PGHOST": postgres.host, "PGPORT": str(postgres.port),
            "PGUSER": postgres.user,
        }  # fmt: skip
        if self.server is None:
            return known
        return known | {"FLUXRT_TOKEN": json.loads((self.folder / ".flux" / "dev.json").read_bytes())["token"]}

    def list_names(self) -> list[str]:
        """The names of all executions, replays too."""
        if self.server is None:
            return []
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


def list_steps(page: str) -> list[Step | File]:
    """What of a page is typed and written here; files are examples on pages that are not about making something."""
    return [step for step in (read_walk(page) if page == TUTORIAL or page.startswith(HOW_TO) else read_steps(page))
            if isinstance(step, File)
            or ((step.page, step.section) not in TYPED_BY and (step.page, step.line) not in NOT_TYPED)]  # fmt: skip


def test_what_pages_show_is_what_comes_of_typing_it(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    pages = sorted((str(page.relative_to(ROOT)) for page in PAGES), key=lambda page: (page.startswith(HOW_TO), page))
    ours = [step for page in pages if page != TUTORIAL for step in list_steps(page)]
    assert len(ours) > 15
    database = make_database(postgres18)
    with counting_stub() as stub, ExitStack() as servers:
        typist = Typist(make_shop(tmp_path, stub.url("/hang")), database, servers, charges=stub.url("/hang"))
        typist.serve("flux dev")
        assert typist.server is not None
        typist.names = make_executions(typist.server, database)
        wrong = [problem for step in ours if (problem := typist.take(step)) is not None]
    postgres18.psql(f'drop database if exists "{database.name}_new"', "postgres")
    assert not wrong, "\n\n".join(wrong)


def test_what_the_tutorial_shows_is_what_comes_of_doing_it(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    with ExitStack() as servers:
        typist = Typist(tmp_path, make_database(postgres18), servers)
        for step in list_steps(TUTORIAL):
            assert (problem := typist.take(step)) is None, problem  # What comes after it rests on it.


def test_what_is_not_typed_here_is_on_a_page_and_typed_where_the_list_says() -> None:
    steps = [step for page in PAGES for step in read_steps(str(page.relative_to(ROOT)))]
    assert NOT_TYPED.keys() | FINDINGS.keys() <= {(step.page, step.line) for step in steps}
    for beginning in (*EXITS, RESTORE):
        assert any(step.line.startswith(beginning) for step in steps), f"no page has {beginning} typed"
    assert len(NOT_TYPED) < 8, "most of what a page shows can be typed"
    assert TYPED_BY.keys() <= {(step.page, step.section) for step in steps}
    for (page, _), test in TYPED_BY.items():
        assert f'read_steps("{page}")' in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not read {page}"
