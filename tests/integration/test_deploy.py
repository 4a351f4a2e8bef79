"""The way to the switch, step by step: real code in its sandbox, a real database, a second psql as the witness."""

import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import cast

import attrs
import pytest
import trio
import trio.testing

from flux.deploy_history import Cause, NoEarlierDeployError
from flux.project import Project, read_project
from flux.sandbox.base import ImportFailedError
from flux.store.migrate import MigrationFailedError
from flux.store.postgres import connect
from flux.supervisor import deploy as deploying
from flux.supervisor.artifacts import Artifacts
from flux.supervisor.database_migrate import DestructiveStepError
from flux.supervisor.deploy import Candidate, Deployer, Gate, NotWrittenDownError, OvertakenError, Switch
from flux.supervisor.deployments import Deployments
from flux.supervisor.environments import Environments
from flux.supervisor.execute import Backing
from flux.supervisor.runtime import describe_runtime
from flux.supervisor.server_start import migrate
from flux.supervisor.shelf import NotHeldError, Shelf
from flux.supervisor.story import Story
from flux.tenant import Tenant
from tests.conftest import Database
from tests.dev_process import write_project
from tests.execution_world import open_world
from tests.postgres_server import PostgresServer

HELLO = """\
from flux_guest import function


@function("GET /hello")
def hello(ctx, input):
    return VERSION
"""
DEPLOYS = "select d.sha, d.cause from flux.deploy d order by id"


@attrs.define
class World:
    """A deployer and what it stands on."""

    root: Path
    database: Database
    deployments: Deployments
    deployer: Deployer
    shelf: Shelf
    backing: Backing
    told: list[Switch]

    def commit(self, version: int, more: Mapping[str, str] | None = None) -> str:
        """Commit ``hello`` that answers ``version``, and further files; return the commit."""
        (self.root / "functions/hello.py").write_text(HELLO.replace("VERSION", str(version)))
        for name, text in (more or {}).items():
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text(text)
        git(self.root, "add", "-A")
        git(self.root, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", str(version))
        return git(self.root, "rev-parse", "HEAD")

    @property
    def served(self) -> str:
        """The commit that is served."""
        assert self.deployments.current is not None
        return self.deployments.current.deployment.sha

    def deploys(self) -> list[str]:
        """What is on record, as ``psql`` has it."""
        return self.database.psql(DEPLOYS).splitlines()


class Notes:
    """Hears what a server tells at its start."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, _name: str, _detail: str, _elapsed_s: float) -> None:
        """What is done is looked at in the database."""


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
async def world(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> AsyncIterator[World]:
    root = write_project(tmp_path / "shop", {"hello.py": HELLO})
    git(root, "init", "-q", "-b", "main")
    told: list[Switch] = []

    async def probe(_project: Project) -> None:
        await trio.lowlevel.checkpoint()

    async with contextlib.AsyncExitStack() as stack:
        database = make_database(postgres18)
        made = await stack.enter_async_context(open_world(database, tmp_path / "journal"))
        nursery = await stack.enter_async_context(trio.open_nursery())
        deployments = Deployments(
            nursery,
            Artifacts(tmp_path / "artifacts", root),
            Environments(tmp_path / "environments"),
            Tenant(),
            idle_workers=1,
            isolation="core",
            on_output=print,
        )
        shelf = Shelf(deployments, root)
        deployer = Deployer(deployments, shelf, made.backing, root, probe=probe, told=told.append)
        yield World(root, database, deployments, deployer, shelf, made.backing, told)
        nursery.cancel_scope.cancel()


async def test_each_switch_is_on_record_with_what_ran_it(world: World) -> None:
    assert await world.deployer.resume() is None
    one = world.commit(1)
    first = await world.deployer.serve(read_project(world.root), Cause.START)
    two = world.commit(2)
    second = await world.deployer.deploy("main")
    assert (first.before, second.before) == (None, first.code)
    assert second.live.deployment.branch == "main" and not second.live.deployment.dirty
    again = await world.deployer.deploy(None)
    assert not again.is_news and world.served == two
    python = "update flux.deploy set runtime = jsonb_set(runtime::jsonb, '{python}', '\"cpython 3.11.0\"') where id = 1"
    world.database.psql(python)
    back = await world.deployer.roll_back(None)
    assert world.served == one
    assert [note.partition(":")[0] for note in back.notes] == ["python", "migrations are not undone"]
    assert "it ran on cpython 3.11.0, and runs on" in back.notes[0]
    assert world.deploys() == [f"{one}|start", f"{two}|deploy", f"{one}|rollback"]
    ran_on = world.database.psql("select runtime ->> 'python' from flux.deploy where id = 3")
    assert ran_on == describe_runtime()["python"]
    assert [switch.cause for switch in world.told] == ["start", "deploy", "rollback"]
    with pytest.raises(NoEarlierDeployError):
        await world.deployer.roll_back(None)
    kept: list[str] = []
    world.deployments.artifacts.keep = kept.extend  # type: ignore[method-assign, assignment]
    await world.deployer.keep_recorded()
    assert set(kept) == {first.code.deployment, second.code.deployment}


async def test_what_a_deploy_replaced_stands_by_with_its_workers_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.commit(1)
    first = await world.deployer.deploy(None)
    two = world.commit(2)
    second = await world.deployer.deploy(None)
    first.live.enter()  # A request that is under way goes on, whatever is switched meanwhile.
    back = await world.deployer.roll_back(None)
    first.live.leave()
    assert back.live is first.live and world.served == one
    with trio.fail_after(60):
        await second.live.wait_idle()

    # It was taken back for a reason, and so does not stand by; and nothing does for ever.
    again = await world.deployer.roll_back(two[:12])
    assert again.live is not second.live and world.served == two
    monkeypatch.setattr("flux.supervisor.deployments.STANDBY_S", 0.0)
    three = world.commit(3)
    await world.deployer.deploy(None)
    with trio.fail_after(60):
        await again.live.wait_idle()
    later = await world.deployer.roll_back(None)
    assert later.live is not again.live and world.served == two != three

    # Where files were changed since, they are made again, and workers that have the old folder are of no use.
    monkeypatch.setattr("flux.supervisor.deployments.STANDBY_S", 600.0)
    await world.deployer.deploy(three)
    folder = Path(later.live.deployment.folder)
    (folder / "functions" / "late.py").write_text("")
    back = await world.deployer.roll_back(None)
    assert back.live is not later.live and not (folder / "functions" / "late.py").exists()


async def test_a_gate_that_refuses_leaves_code_and_database_as_they_were(world: World) -> None:
    one = world.commit(1)
    await world.deployer.deploy(None)
    two = world.commit(2, {"migrations/001_more.sql": "create table more (id int primary key);"})
    seen: list[Candidate] = []

    async def refuse(candidate: Candidate) -> Gate:
        await trio.lowlevel.checkpoint()
        seen.append(candidate)
        async with world.shelf.borrow_held(candidate.on) as held:
            assert held is candidate.live
        assert [one.path for one in world.shelf.list_held_migrations(candidate.on)] == ["migrations/001_more.sql"]
        return Gate(passes=False, report={"worse": 1})

    switch = await world.deployer.deploy(None, refuse)
    assert (switch.deployed, switch.gate) == (False, {"worse": 1})
    assert seen[0].live.deployment.sha == two and seen[0].current is world.deployments.current
    assert world.served == one and len(world.deploys()) == 1
    assert world.database.psql("select to_regclass('more')") == ""
    with pytest.raises(NotHeldError):
        async with world.shelf.borrow_held(seen[0].on):
            pytest.fail("it is not held any more")
    with trio.fail_after(120):
        await seen[0].live.wait_idle()

    async def allow(_candidate: Candidate) -> Gate:
        await trio.lowlevel.checkpoint()
        return Gate(passes=True, report={"worse": 0})

    switch = await world.deployer.deploy(None, allow)
    assert switch.deployed and switch.gate == {"worse": 0} and switch.migrations == ("migrations/001_more.sql",)
    assert world.served == two and world.database.psql("select to_regclass('more')") == "more"


async def test_a_migration_that_takes_data_away_is_refused_by_its_line_before_anybody_looks(world: World) -> None:
    world.commit(1, {"migrations/001.sql": "create table users (id int primary key, plan text default 'free');"})
    await world.deployer.deploy(None)
    world.database.psql("insert into users values (1)")
    drops = "create table more (id int);\nalter table users\n  drop column plan;\n"
    two = world.commit(2, {"migrations/002.sql": drops})
    looked: list[Candidate] = []

    async def allow(candidate: Candidate) -> Gate:
        await trio.lowlevel.checkpoint()
        looked.append(candidate)
        return Gate(passes=True, report={})

    with pytest.raises(DestructiveStepError) as refused:
        await world.deployer.deploy(None, allow)
    assert refused.value.message.splitlines() == [
        "migrations/002.sql:3  drops column users.plan",
        "nothing was applied",
    ]
    assert looked == [] and len(world.deploys()) == 1
    assert world.database.psql("select plan, to_regclass('more') is null from users") == "free|t"
    switch = await world.deployer.deploy(None, allow, allow_destructive=True)
    assert world.served == two and [str(loss) for loss in switch.losses] == refused.value.message.splitlines()[:1]
    assert world.database.psql("select count(*) from information_schema.columns where table_name = 'users'") == "1"

    # What flux dev meets on its way: an own database is one that it may take from, and says what it took.
    project = read_project(world.root)
    (world.root / "migrations/003.sql").write_text("truncate users")
    story = Notes()
    with pytest.raises(DestructiveStepError, match="empties table users"):
        await migrate(project, world.backing, Tenant(), cast(Story, story), is_own=False)
    assert (world.database.psql("select count(*) from users"), story.notes) == ("1", [])
    await migrate(project, world.backing, Tenant(), cast(Story, story), is_own=True)
    assert world.database.psql("select count(*) from users") == "0"
    assert [note.partition(" (")[0] for note in story.notes] == ["migrations/003.sql:1  empties table users"]


async def test_code_that_is_no_good_changes_nothing_of_what_is_served(world: World) -> None:
    one = world.commit(1)
    await world.deployer.deploy(None)
    world.commit(2, {"functions/broken.py": "import no_such_module\n"})
    with pytest.raises(ImportFailedError):
        await world.deployer.deploy("HEAD")
    (world.root / "functions/broken.py").unlink()
    world.commit(3, {"migrations/001.sql": "create table half (); select no_such_column;"})
    with pytest.raises(MigrationFailedError):
        await world.deployer.deploy("HEAD")
    assert world.served == one and len(world.deploys()) == 1
    assert world.database.psql("select to_regclass('half')") == ""


async def test_a_deploy_takes_nothing_back_that_was_done_while_it_was_made_ready(world: World) -> None:
    one = world.commit(1)
    await world.deployer.deploy(None)
    two = world.commit(2)
    await world.deployer.deploy(None)
    world.commit(3)

    async def roll_back_meanwhile(_candidate: Candidate) -> Gate:
        await world.deployer.roll_back(None)
        return Gate(passes=True, report={})

    with pytest.raises(OvertakenError, match=f"{one[:7]} became current"):
        await world.deployer.deploy(None, roll_back_meanwhile)
    assert world.served == one
    assert world.deploys() == [f"{one}|deploy", f"{two}|deploy", f"{one}|rollback"]


async def test_of_two_deploys_at_once_the_later_one_is_served(world: World) -> None:
    one, two = world.commit(1), world.commit(2)
    async with trio.open_nursery() as nursery:
        for ref in (one, two):
            nursery.start_soon(world.deployer.deploy, ref)
            await trio.testing.wait_all_tasks_blocked()
    assert world.served == two
    assert world.deploys() == [f"{one}|deploy", f"{two}|deploy"]


async def test_whoever_asked_may_go_away_in_the_middle_of_the_switch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.commit(1)
    add_deploy = deploying.add_deploy
    with trio.CancelScope() as scope:

        async def add_and_leave(*arguments: object) -> None:
            await add_deploy(*arguments)  # type: ignore[arg-type]
            scope.cancel()
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(deploying, "add_deploy", add_and_leave)
        await world.deployer.deploy(None)
    assert world.deploys() == [f"{world.served}|deploy"]


async def test_what_the_database_does_not_take_down_is_not_switched_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.commit(1)
    await world.deployer.deploy(None)
    world.commit(2)
    monkeypatch.setattr(deploying, "WRITE_S", 0.2)
    other = await connect(world.database.options())
    async with contextlib.aclosing(other), other.transaction():
        await other.execute("lock table flux.deploy")
        with pytest.raises(NotWrittenDownError):
            await world.deployer.deploy(None)
    assert world.served == one and world.deploys() == [f"{one}|deploy"]
