"""``flux build`` and ``flux dev`` with packages, as people meet them: what is told, what is served, what stays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.dev_process import run_flux, running_dev, write_project
from tests.postgres_server import PostgresServer
from tests.wheels import write_source, write_wheel

LOCAL = "--no-index\n--find-links wheels\n"
USES = """\
from flux_guest import function
import pricing

@function("GET /price")
def price(ctx, input):
    return {"price": pricing.PRICE}

@function("GET /late")
def late(ctx, input):
    import reports
    return {}
"""
EARLY = "import reports\n" + USES


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = write_project(tmp_path / "shop", {"shop.py": USES})
    write_wheel(root / "wheels", "pricing", {"pricing.py": "PRICE = 1\n"})
    write_wheel(root / "wheels", "pricing", {"pricing.py": "PRICE = 2\n"}, version="2.0")
    (root / "requirements.txt").write_text(f"{LOCAL}pricing==1.0\n")
    return root


@pytest.fixture
def database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres18)


def test_build_prints_what_it_installed_and_says_so_in_json(project: Path) -> None:
    first = run_flux(project, "build")
    assert (first.returncode, first.stdout) == (0, "pricing==1.0\n"), first.stderr
    assert "installing what requirements.txt asks for (1 package) with" in first.stderr
    again = run_flux(project, "build", "--json")
    (told,) = [json.loads(again.stdout)]
    environment = told["environment"]
    assert (told["schema"], environment["built"], environment["ran_code"]) == ("flux.build/1", False, False)
    assert environment["packages"] == [{"name": "pricing", "version": "1.0"}]
    assert environment["source"] == "requirements.txt" and Path(environment["folder"]).is_dir()
    module = Path(environment["folder"]) / "pricing.py"
    module.write_text("PRICE = 0\n")
    mended = run_flux(project, "build")
    assert (mended.returncode, module.read_text()) == (
        0,
        "PRICE = 1\n",
    ) and "pricing.py has changed" in mended.stderr
    (project / "requirements.txt").unlink()
    nothing = run_flux(project, "build")
    assert (nothing.returncode, nothing.stdout) == (0, "") and "names no packages" in nothing.stderr
    assert json.loads(run_flux(project, "build", "--json").stdout) == {
        "schema": "flux.build/1",
        "environment": None,
    }


def test_build_refuses_with_a_code_and_what_to_do(project: Path) -> None:
    write_source(project / "wheels", "sourced", "seen = 1")
    for text, code, words in (
        (
            "./wheels/sourced-1.0.tar.gz\n",
            "FLX533",
            "requirements.txt:3  wheels/sourced-1.0.tar.gz is source",
        ),
        ("-e .\n", "FLX530", "requirements.txt:3  -e ."),
        ("pricing==3\n", "FLX532", "pricing==3"),
    ):
        (project / "requirements.txt").write_text(LOCAL + text)
        done = run_flux(project, "build")
        assert (done.returncode, done.stdout) == (2, "") and code in done.stderr and words in done.stderr
    (project / "requirements.txt").write_text(f"{LOCAL}./wheels/sourced-1.0.tar.gz\n")
    allowed = run_flux(project, "build", "--allow-sdist")
    assert (allowed.returncode, allowed.stdout) == (0, "sourced==1.0\n"), allowed.stderr
    assert "running the code that builds them" in allowed.stderr


def test_dev_installs_what_is_missing_reloads_what_has_changed_and_keeps_what_was_good(
    project: Path, database: Database
) -> None:
    with running_dev(project, database) as server:
        said = "\n".join(server.story)
        assert "installing what requirements.txt asks for (1 package) with" in said
        assert "1 package of requirements.txt" in said
        assert server.request("GET", "/price").json == {"price": 1}

        told = len(server.story)
        (project / "requirements.txt").write_text(f"{LOCAL}pricing==2.0\n")
        server.wait_story("requirements.txt changed", after=told)
        assert server.request("GET", "/price").json == {"price": 2}

        told = len(server.story)
        (project / "requirements.txt").write_text(f"{LOCAL}pricing==3.0\n")
        server.wait_story("the last good code is served", after=told)
        failed = "\n".join(server.story[told:])
        assert "FLX532" in failed and "pricing==3.0" in failed and "flux build" in failed
        assert server.request("GET", "/price").json == {"price": 2}

        told = len(server.story)
        (project / "requirements.txt").write_text(f"{LOCAL}pricing==2.0\n")
        server.wait_story("requirements.txt changed", after=told)
        assert not any("installing" in line for line in server.story[told:]), "it was there"

        told = len(server.story)
        (project / "functions/shop.py").write_text(EARLY)
        server.wait_story("the last good code is served", after=told)
        assert any(
            "reports is not in requirements.txt: add the package that has it" in line
            for line in server.story[told:]
        )


def test_a_second_start_needs_no_wheel_and_a_changed_file_starts_nothing(
    project: Path, database: Database
) -> None:
    assert run_flux(project, "build").returncode == 0
    shutil.rmtree(project / "wheels")
    with running_dev(project, database) as server:
        assert not any("installing" in line for line in server.story)
        assert server.request("GET", "/price").json == {"price": 1}
        explained = server.command("why", server.request("GET", "/late").flux_id).stdout
        assert "No module named 'reports'" in explained
        assert "add to requirements.txt: the package that has reports" in explained
        checks = {check["name"]: check for check in server.json("doctor")["checks"]}
        assert checks["packages"]["ok"] and "1 package of requirements.txt" in checks["packages"]["detail"]
        (module,) = (project / ".flux/environments").glob("*/site-packages/pricing.py")
        module.write_text("PRICE = 0\n")
        told = len(server.story)
        (project / "functions/shop.py").write_text(USES + "# saved\n")
        server.wait_story("the last good code is served", after=told)
        assert any("FLX535" in line for line in server.story[told:])
        assert any("pricing.py has changed" in line for line in server.story[told:])
        checks = {check["name"]: check for check in server.json("doctor", exit_code=1)["checks"]}
        assert not checks["packages"]["ok"] and "FLX535" in checks["packages"]["detail"]


def test_a_module_that_no_package_has_is_named_with_what_to_do(project: Path, database: Database) -> None:
    (project / "requirements.txt").unlink()
    (project / "functions/shop.py").write_text(
        USES.replace("import pricing\n", "").replace("pricing.PRICE", "1")
    )
    with running_dev(project, database) as server:
        told = len(server.story)
        (project / "functions/shop.py").write_text(USES)
        server.wait_story("write the one that has pricing into requirements.txt", after=told)
