"""The commands of the page about leaving, each typed: Flux writes the application, and the rest is done without it."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tests.conftest import Database, create_database
from tests.dev_process import database_url, run_flux
from tests.ejected import make_command, make_environment, migrate, running_application, running_worker
from tests.postgres_server import PostgresServer
from tests.shell_blocks import read_steps

SIGNUP = {"email": "ana@shop.example", "plan": "free"}


def test_the_commands_that_the_page_of_leaving_shows_do_it(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    assert run_flux(tmp_path, "init", "shop", "--tutorial").returncode == 0
    plain = tmp_path / "shop-plain"
    databases = [make_database(postgres18)]
    users = "select id, email, plan from users"

    def eject() -> None:
        done = run_flux(tmp_path / "shop", "eject", "../shop-plain")
        assert done.returncode == 0 and plain.is_dir(), done.stderr

    def find_packages() -> None:
        names = re.findall(r"^([\w-]+)", (plain / "requirements.txt").read_text(), re.MULTILINE)
        assert {"asyncpg", "httpx", "uvicorn"} <= {*names} and all(version(name) for name in names)

    def make_tables() -> None:
        if databases[-1].psql("select to_regclass('users') is not null") == "t":
            databases.append(create_database(postgres18))  # It says "from an empty database" the second time.
        done = migrate(plain, databases[-1])
        assert (done.returncode, done.stdout) == (0, "applied 001.sql\n"), done.stderr

    def serve() -> None:
        with running_application(plain, databases[-1]) as server:
            assert server.request("POST", "/signup", SIGNUP).status == 201

    def work() -> None:
        with running_worker(plain, databases[-1]) as worker:
            deadline = time.monotonic() + 60
            while (
                databases[-1].psql("select count(*) from background.workers") == "0"
            ):  # It says nothing itself.
                assert worker.process.poll() is None and time.monotonic() < deadline, worker.story
                time.sleep(0.05)

    def list_routes() -> None:
        done = subprocess.run(
            make_command(plain, "module", "server.table"), cwd=plain, env=make_environment(databases[-1], {}),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0 and re.search(r"^POST +/signup ", done.stdout, re.MULTILINE), done.stderr

    def copy_rows() -> None:
        source, target = databases
        path = f"{postgres18.bin_dir}:{os.environ['PATH']}"
        done = subprocess.run(
            [plain / "copy_data.sh"], env=make_environment(target, {"PATH": path, "SOURCE_URL": database_url(source)}),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert target.psql(users) == source.psql(users) == "1|ana@shop.example|free"

    def move_jobs() -> None:
        source, target = databases
        source.psql(
            "insert into flux.job (id, tenant, function, payload, run_at) "
            "values (gen_random_uuid(), 'shop', 'create_user', '{}', now())"
        )
        more = {"SOURCE_URL": database_url(source)}
        done = subprocess.run(
            make_command(plain, "path", str(plain / "move_jobs.py")), env=make_environment(target, more),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "moved 1 jobs of the tenant shop\n"), done.stderr
        jobs = "select id, state from "
        assert target.psql(f"{jobs} background.jobs") == source.psql(f"{jobs} flux.job").replace(
            "dead", "waiting"
        )

    typed: dict[str, Callable[[], object]] = {
        "flux eject ../shop-plain": eject,
        "cd ../shop-plain": lambda: None,
        "python -m venv .venv && . .venv/bin/activate": lambda: (
            None
        ),  # What is installed here is what it would get.
        "pip install -r requirements.txt": find_packages,
        "export DATABASE_URL=postgresql://user:password@localhost:5432/shop": lambda: None,
        "python migrate.py": make_tables,
        "uvicorn main:application --no-proxy-headers": serve,
        "python worker.py": work,
        "python -m server.table": list_routes,
        "SOURCE_URL=... ./copy_data.sh": copy_rows,
        "SOURCE_URL=... python move_jobs.py": move_jobs,
    }
    lines = [step.line for step in read_steps("docs/leaving.md")]
    assert {*lines} == typed.keys()
    for line in lines:
        typed[line]()
