"""Environments with real installers and real jails: what is installed, what is refused, and what a guest sees of it.

Wheels are made here, and no index is asked: each project says ``--no-index``. That nothing happened which should not
is seen from outside, by files that code would have left.
"""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from flux.project import read_project
from flux.requirements import RequirementsError
from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.jail import find_tenant_uid
from flux.sandbox.jail_plan import SDK_PACKAGES
from flux.sandbox.process import ProcessSandbox
from flux.supervisor import environment_build
from flux.supervisor.artifacts import Artifact, Artifacts
from flux.supervisor.environment_build import InstallFailedError
from flux.supervisor.environment_installer import InstallerMissingError, SourcePackageError, find_installer
from flux.supervisor.environment_tree import EnvironmentDamagedError, RefusedPackageError, check_tree
from flux.supervisor.environments import Environment, Environments
from tests.dev_process import environment
from tests.escape.unprivileged import command_as_nobody
from tests.wheels import pack_installed, write_source, write_wheel

PATIENCE_S = 180.0
ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
JAILS = [("strict", "own"), ("strict", "same"), ("core", "same")]
LOCAL = "--no-index\n--find-links wheels\n"


@attrs.define
class World:
    """A project, a folder of wheels in it, and its environments."""

    root: Path
    environments: Environments
    told: list[str]

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    def ask_for(self, text: str, *, name: str = "requirements.txt") -> None:
        (self.root / name).write_text(LOCAL + text)

    async def provide(self, **options: Any) -> Environment:
        found = await self.environments.provide(self.root, **options)
        assert found is not None
        return found

    def list_left(self) -> list[str]:
        """What lies beside the locks."""
        folder = self.root / "environments"
        return (
            sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
            if folder.is_dir()
            else []
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    root = tmp_path / "shop"
    (root / "functions").mkdir(parents=True)
    told: list[str] = []
    made = World(root, Environments(root / "environments", told.append), told)
    write_wheel(
        made.wheels, "plain", {"plain/__init__.py": "answer = 42\n", "plain/inner.py": "deep = True\n"}
    )
    return made


async def ask(
    world: World,
    found: Environment | None,
    modules: Mapping[str, str],
    *,
    isolation: str = "strict",
    user: str = "same",
) -> Any:
    """Run the function ``look`` of a project with these modules in a jail; return what it answers or raises."""
    artifact = world.root.parent / "artifact"
    shutil.rmtree(artifact, ignore_errors=True)
    for name, text in modules.items():
        path = artifact / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in (artifact, *artifact.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    uid = find_tenant_uid("environments") if user == "own" else None
    folder = found.packages_folder if found is not None else None
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = ProcessSandbox(artifact, "functions", environment=folder, isolation=isolation, uid=uid)
            try:
                await nursery.start(sandbox.run)
                worker = await sandbox.acquire()
                await worker.start(make_document("look"))
                frame = await Talk(worker).hear()
                await sandbox.release(worker, reusable=False)
            finally:
                nursery.cancel_scope.cancel()
    assert frame is not None
    return json.loads(frame[1]["body"]) if frame[0] == "return" else frame[1]


def look(body: str, *, before: str = "") -> dict[str, str]:
    """The modules of a project whose function ``look`` has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return {
        "functions/look.py": f"{before}\nfrom flux_guest import function\n\n@function()\ndef look(ctx, input):\n{lines}"
    }


# --- what is installed ------------------------------------------------------------------------------------


async def test_a_project_without_packages_makes_no_folder_and_starts_no_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_build, "_start", lambda *_: pytest.fail("a process was started"))
    assert await world.environments.provide(world.root) is None
    (world.root / "requirements.txt").write_text("# nothing yet\n")
    (world.root / "pyproject.toml").write_text('[project]\nname = "shop"\ndependencies = ["plain"]\n')
    assert await world.environments.provide(world.root) is None, "requirements.txt goes before pyproject.toml"
    assert not (world.root / "environments").exists() and world.told == []


@pytest.mark.parametrize("installer", ["pip", "uv"])
async def test_pure_and_compiled_packages_are_there_in_each_jail_and_flux_s_own_are_not(
    world: World, installer: str
) -> None:
    pack_installed(world.wheels, "zstandard")
    world.ask_for("zstandard\nplain\n")
    found = await world.provide(installer=installer)
    assert [name for name, _ in found.packages] == ["plain", "zstandard"]
    assert found.was_built and found.installer.startswith(installer) and not found.ran_code
    assert {"plain", "zstandard"} <= found.modules
    body = """
import os, sys, importlib.util
data = zstandard.ZstdCompressor().compress(b"hello " * 1000)
def refusal(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
own = ["trio", "asyncpg", "attrs", "click", "typing_extensions"]
return {
    "same": zstandard.ZstdDecompressor().decompress(data) == b"hello " * 1000, "backend": zstandard.backend,
    "answer": plain.answer, "cached": os.path.exists(plain.__spec__.cached), "place": plain.__file__,
    "write": refusal(lambda: open(plain.__file__, "a")), "new": refusal(lambda: open(plain.__file__ + "x", "w")),
    "chmod": refusal(lambda: os.chmod(plain.__file__, 0o777)), "unlink": refusal(lambda: os.unlink(plain.__file__)),
    "own": [name for name in own if importlib.util.find_spec(name) is not None],
    "path": sys.path,
}
"""
    for isolation, user in JAILS if installer == "pip" else JAILS[:1]:
        seen = await ask(
            world, found, look(body, before="import plain, zstandard"), isolation=isolation, user=user
        )
        assert seen["same"] and seen["backend"] == "cext" and seen["answer"] == 42 and seen["cached"], seen
        assert seen["place"] == str(found.packages_folder / "plain/__init__.py")
        assert {seen[what] for what in ("write", "new", "chmod", "unlink")} <= {"PermissionError", "OSError"}
        assert seen["own"] == [] and seen["path"][-1] == str(found.packages_folder)
    assert (await world.provide(installer=installer)).was_built is False, "it is as it was built"


@pytest.mark.parametrize(("isolation", "user"), JAILS)
async def test_numpy_computes_in_each_jail_with_the_one_thread_there_is(
    world: World, isolation: str, user: str
) -> None:
    """Its OpenBLAS starts threads as soon as it is loaded, and interrupts the process when it can't."""
    body = """
square = numpy.arange(250_000, dtype=float).reshape(500, 500)
return {
    "product": float((square @ numpy.eye(500)).sum()), "sum": float(square.sum()),
    "solved": float(numpy.linalg.solve(numpy.eye(300) * 2, numpy.ones(300)).sum()),
}
"""
    seen = await ask(world, None, look(body, before="import numpy"), isolation=isolation, user=user)
    assert seen == {"product": 31249875000.0, "sum": 31249875000.0, "solved": 150.0}


AS_ANYBODY = """
import sys, tempfile
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import trio
from flux.supervisor.environments import Environments
from tests.integration.test_environments import World, ask, look
from tests.wheels import pack_installed

async def main():
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "shop", Environments(Path(folder) / "shop/environments"), [])
        world.root.mkdir()
        pack_installed(world.wheels, "zstandard")
        world.ask_for("zstandard\\n")
        found = await world.provide()
        for isolation in ("strict", "core"):
            code = look("return [zstandard.backend]", before="import zstandard")
            print(isolation, *await ask(world, found, code, isolation=isolation))

trio.run(main)
"""


def test_a_user_who_owns_nothing_installs_and_runs_as_root_does() -> None:
    arguments = ["-c", AS_ANYBODY, str(ROOT)]
    command = command_as_nobody(arguments) if IS_ROOT else [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False, cwd="/",
        env={**environment(), "HOME": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["strict cext", "core cext"]


async def test_the_sdk_loads_no_package_that_an_environment_is_not_told_of(world: World) -> None:
    """Else a project would have Flux's version of it, whatever its own list says."""
    world.ask_for("plain\n")
    found = await world.provide()
    body = "import sys\nreturn sorted({name.partition('.')[0] for name, module in sys.modules.items()"
    body += " if '-packages/' in (getattr(module, '__file__', None) or '')})"
    seen = await ask(world, found, look(body, before="import plain"))
    assert set(seen) - {"flux", "flux_guest"} == {*SDK_PACKAGES, "plain"}


async def test_packages_of_pyproject_toml_and_wheels_by_path(world: World) -> None:
    write_wheel(
        world.root / "vendor", "needs", {"needs.py": "import plain\nx = plain.answer\n"}, requires=["plain"]
    )
    places = {"needs": world.root / "vendor", "plain": world.wheels}
    listed = [f"{name} @ {place.as_uri()}/{name}-1.0-py3-none-any.whl" for name, place in places.items()]
    (world.root / "pyproject.toml").write_text(f"[project]\nname = 'shop'\ndependencies = {listed}\n")
    found = await world.provide()
    assert found.source == "pyproject.toml" and [name for name, _ in found.packages] == ["needs", "plain"]
    world.ask_for("./vendor/needs-1.0-py3-none-any.whl\n")
    other = await world.provide()
    assert other.source == "requirements.txt" and other.packages == found.packages and other.key != found.key


async def test_the_same_text_is_the_same_environment_with_no_wheel_left_to_fetch(world: World) -> None:
    world.ask_for("plain\n")
    first = await world.provide()
    assert [sentence.split(" in ")[0] for sentence in world.told][-1] == "installed 1 package"
    shutil.rmtree(world.wheels)
    world.ask_for("# the same with a comment\n\nplain   # and here\n")
    told: list[str] = []
    again = await Environments(world.root / "environments", told.append).provide(world.root)
    assert again == attrs.evolve(first, was_built=False) and told == []
    world.ask_for("plain>=1\n")
    with pytest.raises(InstallFailedError):
        await world.provide()
    assert world.list_left() == [first.key[:16]], (
        "another text is another environment, and a failed one is none"
    )


async def test_a_wheel_with_other_content_is_another_environment(world: World) -> None:
    world.ask_for("./wheels/plain-1.0-py3-none-any.whl\n")
    first = await world.provide()
    write_wheel(world.wheels, "plain", {"plain/__init__.py": "answer = 43\n"})
    second = await world.provide()
    assert second.key != first.key
    assert (second.packages_folder / "plain/__init__.py").read_text() == "answer = 43\n"
    assert (first.packages_folder / "plain/__init__.py").read_text() == "answer = 42\n"


async def test_an_artifact_has_all_that_its_environment_follows_from(world: World) -> None:
    """So earlier code finds its packages; a wheel with other content makes another artifact, a comment's does not."""
    (world.root / "flux.toml").write_text('[project]\nname = "shop"\n')
    (world.root / "functions/shop.py").write_text("")
    (world.root / "deps").mkdir()
    (world.root / "deps/base.txt").write_text("../wheels/plain-1.0-py3-none-any.whl\n")
    world.ask_for("-r deps/base.txt\n")
    project = read_project(world.root)
    artifacts = Artifacts(world.root / "artifacts")
    made = artifacts.make(project)
    first, folder = made.hash, made.folder
    assert await world.environments.provide(folder) == attrs.evolve(await world.provide(), was_built=True)
    write_wheel(world.wheels, "plain", {"plain/__init__.py": "answer = 43\n"})
    made = artifacts.make(project)
    second, other = made.hash, made.folder
    assert second != first and (other / "wheels/plain-1.0-py3-none-any.whl").is_file()
    (world.root / "pyproject.toml").write_text("[project]\ndependencies = ['unread']\n")
    assert artifacts.make(project) == Artifact(second, other)


async def test_of_many_who_build_at_once_one_does_and_all_have_it(world: World) -> None:
    world.ask_for("plain\n")
    results: list[Environment] = []
    told: list[list[str]] = [[] for _ in range(4)]

    async def build(sentences: list[str]) -> None:
        others = Environments(world.root / "environments", sentences.append)
        found = await others.provide(world.root)
        assert found is not None
        results.append(found)

    async with trio.open_nursery() as nursery:
        for sentences in told:
            nursery.start_soon(build, sentences)
    assert sorted(found.was_built for found in results) == [False, False, False, True]
    assert len({(found.key, found.packages_folder) for found in results}) == 1
    assert sum("waiting" in " ".join(sentences) for sentences in told) == 3


# --- a build that does not end well -----------------------------------------------------------------------


class Index:
    """A package index on this machine that can keep its visitors waiting."""

    def __init__(self, folder: Path) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.set()
                index.open.wait(PATIENCE_S)
                name = self.path.strip("/").split("/")[-1]
                file = folder / name
                if file.is_file():
                    body, kind = file.read_bytes(), "application/octet-stream"
                else:
                    links = "".join(
                        f'<a href="/files/{one.name}">{one.name}</a>' for one in folder.glob("*.whl")
                    )
                    body, kind = f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html"
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/simple"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def index(world: World) -> Any:
    made = Index(world.wheels)
    yield made
    made.close()


def start_build(world: World) -> "subprocess.Popen[bytes]":
    (world.root / "flux.toml").write_text('[project]\nname = "shop"\n')
    clean = {name: value for name, value in environment().items() if not name.startswith(("PIP_", "UV_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flux", "build", "--installer", "pip"], cwd=world.root, env=clean,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def list_installers(world: World) -> list[int]:
    """Processes of this system that install into the world's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"install_main" in command and str(world.root).encode() in command:
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_a_build_that_is_cut_leaves_no_process_and_nothing_half_and_the_next_one_builds(
    world: World, index: Index, number: signal.Signals
) -> None:
    (world.root / "requirements.txt").write_text(f"--index-url {index.url}\nplain\n")
    with start_build(world) as cut:
        assert await trio.to_thread.run_sync(index.asked.wait, PATIENCE_S)
        assert len(list_installers(world)) == 1
        cut.send_signal(number)
        await trio.to_thread.run_sync(cut.communicate)
    folder = world.root / ".flux/environments"
    left = sorted(path.name.partition("-")[0] for path in folder.iterdir() if path.suffix != ".lock")
    assert left == (["unfinished"] if number == signal.SIGKILL else [])
    with trio.fail_after(PATIENCE_S):
        while list_installers(world):  # noqa: ASYNC110 - processes of the system, which tell nobody
            await trio.sleep(0.01)
    if number == signal.SIGINT:
        return
    index.open.set()
    with start_build(world) as next_one:
        out, err = await trio.to_thread.run_sync(next_one.communicate)
    assert (next_one.returncode, out) == (0, b"plain==1.0\n"), err
    assert [path.name for path in folder.iterdir() if path.name.startswith("unfinished")] == []


async def test_what_other_builds_left_is_taken_away_unless_somebody_still_builds(world: World) -> None:
    world.ask_for("plain\n")
    folder = world.root / "environments"
    (folder / "unfinished-aaaa").mkdir(parents=True)
    (folder / "unfinished-bbbb").mkdir()
    with (folder / "bbbb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = await world.provide()
    assert world.list_left() == sorted([found.key[:16], "unfinished-bbbb"])


FAILURES: dict[str, tuple[str, str, str]] = {
    "no such package": ("there-is-none-of-this\n", "there-is-none-of-this", "is the name right"),
    "no such version": ("plain==9\n", "plain==9", ""),
    "needs what there is not": ("lacks\n", "nothing-of-it", "is the name right"),
    "a version that Flux fixes": ("conflicts\n", "msgspec<0.1", "functions have msgspec=="),
    "another hash": (
        f"plain==1.0 --hash=sha256:{'0' * 64}\n",
        "plain",
        "find out why before you change the hash",
    ),
}


@pytest.mark.parametrize(
    ("name", "installer"),
    [
        *((name, "uv") for name in FAILURES),
        *((name, "pip") for name in FAILURES if name != "no such version"),
    ],
)
async def test_a_failed_build_ends_with_the_installer_s_words_and_what_to_do(
    world: World, name: str, installer: str
) -> None:
    text, words, remedy = FAILURES[name]
    write_wheel(world.wheels, "lacks", {"lacks.py": ""}, requires=["nothing-of-it"])
    write_wheel(world.wheels, "conflicts", {"conflicts.py": ""}, requires=["msgspec<0.1"])
    world.ask_for(text)
    with pytest.raises(InstallFailedError) as caught:
        await world.provide(installer=installer)
    assert words in caught.value.message and remedy in caught.value.remedy, str(caught.value)
    assert "requirements.txt" in caught.value.message and "exit code" in caught.value.message
    assert "unfinished-" not in caught.value.message, "what is gone is not named"
    assert world.list_left() == []


async def test_passwords_of_an_index_are_in_no_message_and_no_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_RETRIES", "UV_HTTP_RETRIES"):
        monkeypatch.setenv(name, "0")
    (world.root / "requirements.txt").write_text(
        "--index-url http://me:swordfish@127.0.0.1:9/simple\nplain-2\n"
    )
    for installer in ("pip", "uv"):
        with pytest.raises(InstallFailedError) as caught:
            await world.provide(installer=installer)
        assert "swordfish" not in str(caught.value) and "swordfish" not in " ".join(world.told)
    assert world.list_left() == []


def test_of_several_uv_the_first_that_is_machine_code_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script in its place starts it, which is more than the one program that may be started."""
    real = find_installer("uv")
    script, broken, behind = (tmp_path / name for name in ("script", "broken", "behind"))
    for folder in (script, broken, behind):
        folder.mkdir()
    (script / "uv").write_text(f'#!/bin/sh\nexec {real.program} "$@"\n')
    (broken / "uv").write_bytes(b"\x7fELF\x02\x01")
    (behind / "uv").symlink_to(real.program)
    for folder in (script, broken):
        (folder / "uv").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script / "python"))
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (script, broken, behind))))
    assert find_installer() == attrs.evolve(real, program=str(behind / "uv"))


async def test_without_an_installer_it_is_said_what_to_get(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.ask_for("plain\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_installer().name == "pip"
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InstallerMissingError, match="no uv and no pip"):
        await world.provide()


# --- code of a package does not run ----------------------------------------------------------------------

MARK = "open({!r}, 'a').write('ran')\n"


@pytest.mark.parametrize("settings", ["none", "the project's", "the user's"])
async def test_an_installer_that_is_told_to_build_can_not(
    world: World, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its settings uv builds a package that they name, whatever its options say: there the kernel refuses."""
    mark = world.root.parent / "mark"
    write_source(world.wheels, "sourced", MARK.format(str(mark)))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(world.root.parent / "settings"))
    folder = world.root if settings == "the project's" else world.root.parent / "settings/uv"
    folder.mkdir(parents=True, exist_ok=True)
    if settings != "none":
        (folder / "uv.toml").write_text(
            'no-build = false\n[pip]\nno-build = false\nno-binary = ["sourced"]\n'
        )
    world.ask_for("sourced\n")
    with pytest.raises(SourcePackageError) as caught:
        await world.provide(installer="uv")
    assert ("Building sourced" in caught.value.message) == (settings == "the user's")
    assert not mark.exists() and world.list_left() == []


@pytest.mark.parametrize("installer", ["pip", "uv"])
async def test_source_is_refused_however_it_is_asked_for_and_none_of_it_runs(
    world: World, installer: str
) -> None:
    mark = world.root.parent / "mark"
    source = write_source(world.root / "source", "sourced", MARK.format(str(mark)))
    shutil.copy(source, world.wheels / "hidden-1.0.tar.gz")
    write_wheel(world.wheels, "asks", {"asks.py": ""}, requires=[f"sourced @ {source.as_uri()}"])
    for text, kinds in {
        f"sourced @ {source.as_uri()}\n": (SourcePackageError,),
        "./source/sourced-1.0.tar.gz\n": (SourcePackageError,),
        "sourced @ git+file:///nowhere\n": (SourcePackageError,),
        "asks\n": (SourcePackageError, InstallFailedError),
        "hidden\n": (SourcePackageError, InstallFailedError),
    }.items():
        world.ask_for(text)
        with pytest.raises(kinds) as caught:
            await world.provide(installer=installer)
        assert "--allow-sdist" in caught.value.remedy or "URL dependencies" in caught.value.message
    assert not mark.exists() and world.list_left() == []


async def test_source_that_is_allowed_is_built_and_writes_nowhere_else_and_sees_no_tokens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "swordfish")
    code = """
seen = {"variables": sorted(os.environ)}
for name in ("OUTSIDE", os.path.expanduser("~/flux-was-here"), "/tmp/flux-was-here"):
    try:
        open(name, "w").close()
        seen[name] = "written"
    except OSError as error:
        seen[name] = type(error).__name__
"""
    outside = world.root.parent / "outside"
    write_source(world.wheels, "sourced", code.replace("OUTSIDE", str(outside)))
    world.ask_for("sourced\n")
    for installer in ("pip", "uv"):
        found = await world.provide(allow_sdist=True, installer=installer)
        assert found.ran_code and found.packages == (("sourced", "1.0"),)
        seen: dict[str, Any] = {}
        exec((found.packages_folder / "sourced.py").read_text(), seen)
        told = seen["seen"]
        assert "SHOP_TOKEN" not in told.pop("variables")
        assert len(told) == 3 and set(told.values()) == {"PermissionError"}
        assert not outside.exists()
        assert (await world.provide()).ran_code, "flux dev uses what was built so, and it is said"
        shutil.rmtree(found.packages_folder.parent)


# --- wheels that no honest tool would write ---------------------------------------------------------------


async def build_hostile(
    world: World, name: str, files: dict[str, str], installer: str, **options: Any
) -> str:
    """Ask for a wheel with ``files``; return what was refused, or an empty text when it was installed."""
    write_wheel(world.wheels, name, {f"{name}.py": "", **files}, **options)
    world.ask_for(f"{name}\n")
    try:
        await world.provide(installer=installer)
    except (InstallFailedError, RefusedPackageError) as error:
        assert world.list_left() == []
        return error.message
    return ""


@pytest.mark.parametrize("installer", ["pip", "uv"])
async def test_a_wheel_that_unpacks_elsewhere_writes_nothing_there(world: World, installer: str) -> None:
    outside = world.root.parent / "climbed"
    up = "../" * 40 + str(outside)[1:]
    paths = (up, str(outside), f"climbs-1.0.data/data/{up}", f"climbs-1.0.data/scripts/{up}")
    await build_hostile(world, "climbs", dict.fromkeys(paths, "x"), installer)
    assert not outside.exists()


def test_the_wall_behind_the_installer_s_own_check_holds(tmp_path: Path) -> None:
    """An installer that would follow such a path can't write there, nor start what it has put there."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    program = """
import json, os, subprocess, sys
from flux.sandbox import install_main
sys.modules["pip"] = None
def act(*_arguments, **_options):
    inside, outside = sys.argv[1:]
    def refusal(attempt):
        try:
            attempt()
        except OSError as error:
            return type(error).__name__
    open(f"{inside}/file", "w").close()
    os.mkdir(f"{inside}/folder")
    os.rename(f"{inside}/file", f"{inside}/folder/file")
    print(json.dumps([
        refusal(lambda: open(outside, "w")), refusal(lambda: os.mkdir(outside)),
        refusal(lambda: os.symlink("/etc", outside)), refusal(lambda: os.mkfifo(outside)),
        refusal(lambda: os.rename(f"{inside}/folder", outside)),
        refusal(lambda: os.link(f"{inside}/folder/file", outside)),
        refusal(lambda: open(__file__, "a")), refusal(lambda: os.unlink(__file__)),
        refusal(lambda: subprocess.run(["/bin/true"])), refusal(lambda: os.execv("/bin/true", ["true"])),
        refusal(lambda: os.posix_spawn("/bin/true", ["true"], {})),
    ]))
install_main.runpy.run_module = act
sys.exit(install_main.main([install_main.Job(os.getppid(), [sys.argv[1]], "pip", sys.argv[1:], []).encode()]))
"""
    script = tmp_path / "script.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, script, inside, outside],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    refusals = json.loads(done.stdout)
    assert len(refusals) == 11 and None not in refusals and set(refusals) <= {"PermissionError", "OSError"}
    assert not outside.exists() and script.read_text() == program


@pytest.mark.parametrize("installer", ["pip", "uv"])
async def test_what_runs_by_itself_in_a_python_of_its_own_does_not_run_here(
    world: World, installer: str
) -> None:
    """``.pth`` lines and ``sitecustomize`` are for a folder that is a site; links and rights are not unpacked."""
    mark = world.root.parent / "mark"
    write_wheel(
        world.wheels,
        "eager",
        {
            "eager.py": "answer = 1\n",
            "eager.pth": f"import builtins; {MARK.format(str(mark))}",
            "sitecustomize.py": MARK.format(str(mark)),
            "usercustomize.py": MARK.format(str(mark)),
            "__editable__.py": MARK.format(str(mark)),
            "json.py": "shadowed = True\n",
            "os.py": "shadowed = True\n",
            "encodings/__init__.py": "shadowed = True\n",
            "passwd": "/etc/passwd",
            "eager-1.0.data/scripts/tool": "#!/bin/sh\n",
        },
        modes={
            "passwd": stat.S_IFLNK | 0o777,
            "eager.py": stat.S_IFREG | 0o6777,
            "eager-1.0.data/scripts/tool": stat.S_IFREG | 0o4755,
        },
    )
    world.ask_for("eager\n")
    found = await world.provide(installer=installer)
    for path in found.packages_folder.rglob("*"):
        looked = path.lstat()
        assert stat.S_IMODE(looked.st_mode) == (0o755 if stat.S_ISDIR(looked.st_mode) else 0o644), path
        assert stat.S_ISREG(looked.st_mode) or stat.S_ISDIR(looked.st_mode), path
    body = """
import sys, json, os, encodings
shadowed = [module.__name__ for module in (json, os, encodings) if hasattr(module, "shadowed")]
custom = set(sys.modules) & {"sitecustomize", "usercustomize"}
return {"shadowed": shadowed, "custom": sorted(custom), "answer": eager.answer}
"""
    seen = await ask(world, found, look(body, before="import eager"))
    assert seen == {"shadowed": [], "custom": [], "answer": 1}
    assert not mark.exists()


@pytest.mark.parametrize("place", ["flux_guest/__init__.py", "flux_guest.py", "flux/errors.py", "flux.so"])
async def test_a_package_can_not_stand_in_the_place_of_flux_s_own(world: World, place: str) -> None:
    assert "in the place of Flux's own module" in await build_hostile(world, "imposter", {place: ""}, "uv")


async def test_a_wheel_that_would_fill_the_disk_is_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.supervisor.environments.BYTES_MAX", 30 * 2**20)
    refused = await build_hostile(world, "large", {"large.bin": "\0" * (40 * 2**20)}, "uv")
    assert "more than 30 MiB of disk" in refused


def make_link(tree: Path) -> None:
    (tree / "here").symlink_to("/etc/passwd")


def make_folder_link(tree: Path) -> None:
    (tree / "package" / "up").symlink_to("..")


def make_pipe(tree: Path) -> None:
    os.mkfifo(tree / "pipe")


def make_second_name(tree: Path) -> None:
    (tree / "second").hardlink_to(tree / "package/module.py")


def make_rights(tree: Path) -> None:
    (tree / "package/module.py").chmod(0o4755)


def make_group_rights(tree: Path) -> None:
    (tree / "package/module.py").chmod(0o2755)


def make_strange_name(tree: Path) -> None:
    (tree / "package" / "red\x1b[31m.py").write_text("")


def make_broken_name(tree: Path) -> None:
    (tree / os.fsdecode(b"\xff.py")).write_text("")


TREES: dict[Callable[[Path], None], str] = {
    make_link: "is a link to '/etc/passwd'",
    make_folder_link: "is a link to '..'",
    make_pipe: "is no file",
    make_second_name: "has a second name elsewhere",
    make_rights: "has mode 4755",
    make_group_rights: "has mode 2755",
    make_strange_name: "has a name that is no text",
    make_broken_name: "has a name that is no text",
}


@pytest.mark.parametrize("make", TREES, ids=lambda make: make.__name__)
def test_what_no_installer_should_leave_is_refused_if_one_does(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/module.py").write_text("")
    (tmp_path / "package-1.0.dist-info").mkdir()
    (tmp_path / "package-1.0.dist-info/RECORD").write_text("package/module.py,,\n")
    check_tree(tmp_path)
    make(tmp_path)
    with pytest.raises(RefusedPackageError) as caught:
        check_tree(tmp_path)
    assert TREES[make] in caught.value.message and "\x1b" not in caught.value.message


# --- an environment that has changed ----------------------------------------------------------------------


def replace_with_the_same_size_and_time(packages: Path) -> None:
    path = packages / "plain/__init__.py"
    before = path.stat()
    path.write_text("answer = 66\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_byte_code(packages: Path) -> None:
    (path,) = (packages / "plain/__pycache__").glob("inner.*.pyc")
    path.write_bytes(path.read_bytes().replace(b"deep", b"dump"))


def add_a_module(packages: Path) -> None:
    (packages / "plain/more.py").write_text("")


def add_a_link(packages: Path) -> None:
    (packages / "plain/more").symlink_to("/etc")


def remove_a_module(packages: Path) -> None:
    (packages / "plain/inner.py").unlink()


def open_to_others(packages: Path) -> None:
    (packages / "plain/inner.py").chmod(0o666)


def open_folder_to_others(packages: Path) -> None:
    (packages / "plain").chmod(0o777)


def put_a_link_in_place(packages: Path) -> None:
    kept = packages.parent.parent.parent / "kept.py"
    (packages / "plain/inner.py").rename(kept)
    (packages / "plain/inner.py").symlink_to(kept)


def break_the_manifest(packages: Path) -> None:
    (packages.parent / "manifest.json").write_text("{}")


def remove_the_manifest(packages: Path) -> None:
    (packages.parent / "manifest.json").unlink()


def take_another_s_manifest(packages: Path) -> None:
    path = packages.parent / "manifest.json"
    path.write_text(path.read_text().replace(packages.parent.name, "0" * 16))


CHANGES: dict[Callable[[Path], None], str] = {
    replace_with_the_same_size_and_time: "plain/__init__.py has changed",
    replace_byte_code: "has changed",
    add_a_module: "plain/more.py was not there",
    add_a_link: "plain/more was not there",
    remove_a_module: "plain/inner.py is gone",
    open_to_others: "plain/inner.py can be written by others",
    open_folder_to_others: "plain can be written by others",
    put_a_link_in_place: "plain/inner.py has changed",
    break_the_manifest: "manifest.json can't be read",
    remove_the_manifest: "manifest.json can't be read",
    take_another_s_manifest: "manifest.json is another one's",
}


async def test_what_has_changed_is_named_and_refused_until_it_is_built_anew(world: World) -> None:
    """By who has used it already and by who has not; and ``flux build`` makes it good."""
    world.ask_for("plain\n")
    found = await world.provide(installer="uv")
    folder = found.packages_folder.parent
    shutil.copytree(folder, world.root / "as-built")
    for change, words in CHANGES.items():
        assert await world.provide() == attrs.evolve(found, was_built=False)
        change(found.packages_folder)
        for environments in (world.environments, Environments(world.root / "environments")):
            with pytest.raises(EnvironmentDamagedError) as caught:
                await environments.provide(world.root)
            assert words in caught.value.message and str(folder) in caught.value.message
        shutil.rmtree(folder)
        shutil.copytree(world.root / "as-built", folder)
    take_another_s_manifest(found.packages_folder)
    assert await world.provide(installer="uv", mend=True) == found
    assert any("manifest.json is another one's" in sentence for sentence in world.told)
    assert world.list_left() == [found.key[:16]]


@pytest.mark.parametrize(
    "name", ["requirements.txt", "more.txt", "pyproject.toml", "plain-1.0-py3-none-any.whl"]
)
async def test_a_link_out_of_the_project_is_not_followed(world: World, name: str) -> None:
    outside = world.root.parent / "secret"
    outside.write_text("swordfish swordfish\n")
    (world.root / name).symlink_to(outside)
    if name in ("more.txt", "plain-1.0-py3-none-any.whl"):
        world.ask_for("-r more.txt\n" if name == "more.txt" else f"./{name}\n")
    with pytest.raises(RequirementsError, match="a link leads out of the project's folder") as caught:
        await world.provide()
    assert "swordfish" not in str(caught.value)


async def test_a_wheel_that_is_not_there_is_said_with_the_line(world: World) -> None:
    world.ask_for("./wheels/none-1.0-py3-none-any.whl\n")
    with pytest.raises(
        RequirementsError, match=r"requirements.txt:3  wheels/none-1.0-py3-none-any.whl can't be read"
    ):
        await world.provide()
