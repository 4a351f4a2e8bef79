"""The contracts in ``.importlinter`` speak of every module: a new one can't slip past them."""

import configparser
from pathlib import Path

import flux

PACKAGE = Path(flux.__file__).parent
ROOT = Path(__file__).parents[2]

READS_FILES = frozenset({"flux.commit", "flux.git", "flux.history", "flux.project", "flux.testing"})
"""Single modules that stand above the ground floor, because they look at a project's folder."""
ENTRY = frozenset({"flux.__init__", "flux.__main__"})


def read_contract(name: str, key: str) -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    lines = config[f"importlinter:contract:{name}"][key].splitlines()
    return {line.strip() for line in lines if line.strip() and not line.strip().startswith("#")}


def test_every_module_of_the_ground_floor_is_held_to_purity() -> None:
    modules = {f"flux.{path.stem}" for path in PACKAGE.glob("*.py")}
    assert read_contract("pure", "source_modules") == modules - READS_FILES - ENTRY


def test_the_floors_name_no_module_that_does_not_exist() -> None:
    planned_or_there = " ".join(read_contract("floors", "layers")).replace("|", " ").split()
    there = {path.stem for path in PACKAGE.glob("*.py")}
    there |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {name for name in planned_or_there if not name.startswith("(")} <= there


def test_purity_forbids_every_door_of_the_heavy_dependencies() -> None:
    forbidden = read_contract("pure", "forbidden_modules")
    doors = {"trio", "asyncpg", "httpcore", "click", "watchfiles", "os", "socket", "random", "time"}
    assert doors <= forbidden
