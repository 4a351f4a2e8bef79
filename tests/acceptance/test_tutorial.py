"""The README's ten minutes, typed by somebody who has only the wheel.

The wheel is built and installed into a virtual environment of its own, far from the
checkout, and everything runs there with that environment's ``flux``. What is typed and
what must come out is read from README.md, so it can't go stale.
"""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.shell_blocks import masked, read_steps

ROOT = Path(__file__).parents[2]
COMMAND_S_MAX = 120.0
START_S_MAX = 120.0
STOP_S_MAX = 60.0


@attrs.frozen
class Installed:
    """Flux as a user has it."""

    folder: Path
    """Where the user works."""
    environment: dict[str, str]

    def type(self, line: str, *, folder: Path | None = None, exit_code: int = 0) -> str:
        """Type a line into a shell; return what it prints on stdout."""
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=folder or self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False,
        )  # fmt: skip
        assert done.returncode == exit_code, f"$ {line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A fresh virtual environment with the wheel in it."""
    place = tmp_path_factory.mktemp("tutorial")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)])
    (wheel,) = place.glob("*.whl")
    venv = place / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    python = venv / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps",
         "--no-compile", "--disable-pip-version-check", str(wheel)])  # fmt: skip
    # The tests need no network, so the dependencies are those of the environment that runs them. The line of a
    # .pth comes after the environment's own packages, and the .pth files of that other folder (Flux is installed
    # there in place, by one) are not obeyed: Flux itself can only come from the wheel, as asserted below.
    (purelib,) = venv.glob("lib/python*/site-packages")
    others = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (purelib / "dependencies.pth").write_text("".join(f"{path}\n" for path in others))
    folder = place / "home"
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    path = f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return Installed(folder, {**kept, "PATH": path, "HOME": str(folder), "TZ": "UTC"})


def run(command: list[str]) -> str:
    """Standard output of a command that succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_samples() -> list[tuple[str, str]]:
    """What README.md has typed in its ten minutes, each line with what it shows beneath."""
    return [(step.line, step.shown or "") for step in read_steps("README.md") if step.section == "Ten minutes"]


class Dev:
    """A ``flux dev`` that somebody typed, with what it told so far."""

    def __init__(self, installed: Installed, line: str) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {line}"], cwd=installed.folder / "shop", env=installed.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.told = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                self.told += line.decode()

    def wait_told(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """Wait until it has told something like ``pattern`` beyond the first ``after`` characters."""
        deadline = time.monotonic() + START_S_MAX
        while (found := re.compile(pattern, re.MULTILINE).search(self.told, after)) is None:
            assert self._process.poll() is None and time.monotonic() < deadline, self.told
            time.sleep(0.02)
        return found

    def press_ctrl_c(self) -> int:
        """As a terminal does, to everything in its foreground; return the exit code."""
        os.killpg(self.pid, signal.SIGINT)
        exit_code = self._process.wait(STOP_S_MAX)
        self._reader.join()
        return exit_code

    def end(self) -> None:
        """Whatever the test found, nothing of it goes on."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()


@contextlib.contextmanager
def running(dev: Dev) -> Iterator[Dev]:
    try:
        yield dev
    finally:
        dev.end()


def curl(port: int, line: str) -> tuple[int, dict[str, str], Any]:
    """Do what the README's curl does, to another port."""
    words = shlex.split(line)
    assert words[:3] == ["curl", "-i", "-XPOST"] and words[4] == "-d"
    _, _, path = words[3].partition("localhost:4000")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=COMMAND_S_MAX)
    with contextlib.closing(connection):
        # curl -d declares a form whatever it sends.
        connection.request(
            "POST", path, words[5].encode(), {"content-type": "application/x-www-form-urlencoded"}
        )
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, json.loads(answer.read())


def list_processes(*mentions: str) -> set[int]:
    """Ids of processes whose command line or working directory mentions one of these."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            said = (folder / "cmdline").read_bytes().decode(errors="replace") + str(
                (folder / "cwd").readlink()
            )
            if any(mention in said for mention in mentions):
                found.add(int(folder.name))
    return found


def wait_gone(processes: set[int]) -> None:
    """Wait until none of them is there: a killed one still has to be collected by whoever inherited it."""
    deadline = time.monotonic() + STOP_S_MAX
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_the_first_ten_minutes_go_as_the_readme_says(installed: Installed) -> None:
    samples = read_samples()
    (init, _), (start, banner), (failing_curl, answered), (why, explained), (replay, replayed), last = samples
    shop = installed.folder / "shop"

    # It is the wheel that runs, and nothing of the checkout.
    venv = installed.environment["PATH"].partition(os.pathsep)[0].removesuffix("bin")
    for module in ("flux", "flux_guest"):
        place = installed.type(f"python -c 'import {module}; print({module}.__file__)'").strip()
        assert place.startswith(venv), place
    assert installed.type("command -v flux").strip() == f"{venv}bin/flux"
    assert installed.type("fluxrt --version") == installed.type("flux --version")

    assert "12 commits" in installed.type(init)
    assert len(installed.type("git log --oneline", folder=shop).splitlines()) == 12
    assert installed.type("git status --porcelain", folder=shop) == ""

    assert start == "cd shop && flux dev"
    with running(Dev(installed, "flux dev --port 0")) as dev:
        dev.wait_told(r"^ready .*\n")
        told, shown = (re.sub(r"127\.0\.0\.1:[0-9]+", "127.0.0.1:PORT", text) for text in (dev.told, banner))
        assert masked(told) == masked(shown)
        port = int(dev.wait_told(r"http://127\.0\.0\.1:([0-9]+)")[1])

        with_plan = failing_curl.replace('"}', '", "plan": "pro"}').replace("ana@", "ben@")
        status, headers, _ = curl(port, with_plan)
        assert status == 201
        passing = headers["flux-id"]
        status, headers, document = curl(port, failing_curl)
        assert f"HTTP/1.1 {status}" in answered and status == 500
        assert headers["content-type"] == "application/problem+json" == document_type(answered)
        name = headers["flux-id"]

        assert re.fullmatch(r"flux why [0-9a-z]{8}", why)
        said = installed.type(f"flux why {name}", folder=shop)
        assert masked(said, [name, passing]) == masked(explained)
        # And what it says holds, word by word: the planted bug's consequence, its cause, and what is left behind.
        assert installed.type("flux why @last-error", folder=shop) == said
        bug, crash = (find_line(shop, *place) for place in PLACES)
        assert f"functions/pricing.py:{crash} in amount()" in said
        assert re.search(
            rf'call 2 set users\[2\].plan from "free" to null +functions/signup\.py:{bug}$', said, re.M
        )
        document = json.loads(installed.type(f"flux why {name} --json", folder=shop))
        assert document["failure"]["location"] == {
            "file": "functions/pricing.py",
            "line": crash,
            "function": "amount",
        }
        changes = [(each["before"] or {}).get("plan", "-") + " " + str(each["after"]["plan"]) + " "
                   + str(each["committed"]) for each in document["mutations"]]  # fmt: skip
        assert changes == ["- free False", "free None False"]
        assert installed.type("flux state history users 2", folder=shop).count("rolled back") == 3

        look_around(installed, shop, name)
        watch_live(installed, shop, port, with_plan.replace("ben@", "cem@"))

        # The bug is mended as the README says, and the same request is answered.
        path = shop / "functions" / "signup.py"
        told = len(dev.told)
        path.write_text(path.read_text().replace('input.get("plan")', 'input.get("plan", "free")'))
        dev.wait_told(r"reload", after=told)
        assert re.fullmatch(r"flux replay [0-9a-z]{8} --on \.", replay)
        rows = installed.type("flux state history users 2", folder=shop)
        again = installed.type(f"flux replay {name} --on .", folder=shop)
        assert masked(again, [name]) == masked(replayed)
        assert installed.type("flux state history users 2", folder=shop) == rows
        assert curl(port, failing_curl)[0] == 201

        bisect, named = last
        assert re.fullmatch(r"flux bug bisect [0-9a-z]{8}", bisect)
        head = installed.type("git log -1 --format=%H && git status --porcelain", folder=shop)
        assert masked(installed.type(f"flux bug bisect {name}", folder=shop), [name]) == masked(named)
        assert installed.type("git log -1 --format=%H && git status --porcelain", folder=shop) == head

        ours = list_processes(str(shop))
        assert len(ours) > 5, "the server, its PostgreSQL, its workers"
        assert dev.press_ctrl_c() == 0, dev.told
        wait_gone(ours)
        assert list_processes(str(shop)) == set()
        assert not (shop / ".flux" / "dev.json").exists()

    # What was recorded is still there the next time, and begins faster: nothing is to be made.
    with running(Dev(installed, "flux dev --port 0")) as dev:
        dev.wait_told(r"^ready .*\n")
        assert "initdb" not in dev.told
        assert installed.type(f"flux why {name}", folder=shop).splitlines()[0] == said.splitlines()[0]
        assert dev.press_ctrl_c() == 0


PLACES = (
    ("functions/signup.py", "update users set plan"),
    ("functions/pricing.py", "return PLAN_CENTS[plan]"),
)
"""The bug, and where it comes to light."""


def document_type(answered: str) -> str:
    (found,) = re.findall(r"^content-type: (.*)$", answered, re.MULTILINE)
    return str(found)


def find_line(folder: Path, file: str, text: str) -> int:
    """The line of a statement: a call's is the one on which it begins."""
    lines = (folder / file).read_text().splitlines()
    (at,) = [number for number, line in enumerate(lines, 1) if text in line]
    return at - 1 if lines[at - 2].rstrip().endswith("(") else at


def look_around(installed: Installed, shop: Path, name: str) -> None:
    """The other commands of the README, each for what it is for."""
    listed = installed.type("flux tail --no-follow --since 1h", folder=shop)
    assert len(re.findall(r"POST /signup", listed)) == 2
    assert re.search(rf"{name} .* 500 .*\n.*KeyError: None   functions/pricing.py:[0-9]+\n", listed)
    trace = installed.type(f"flux trace {name}", folder=shop)
    assert '["ana@shop.example"]' in trace and '{"email": "ana@shop.example"}' in trace
    assert "UPDATE users" in installed.type(f"flux trace {name} --call 2", folder=shop)
    history = installed.type("flux state history users 1", folder=shop)
    assert re.search(r'v2 .*plan  "free" → "pro"', history) and re.search(r"v1 .*\+ row", history)
    assert "KeyError: None" in installed.type("flux errors", folder=shop)
    assert len(json.loads(installed.type("flux function list --json", folder=shop))["functions"]) == 3
    assert json.loads(
        installed.type("flux invoke show_order --data '{\"id\": 1}' --json", folder=shop, exit_code=1)
    )
    checks = json.loads(installed.type("flux doctor --json", folder=shop))["checks"]
    assert [check for check in checks if not check["ok"]] == []
    assert {"command", "database", "recording", "isolation"} <= {check["name"] for check in checks}
    # Every error's page came with the wheel.
    pages = {path.stem for path in (ROOT / "docs" / "errors").glob("FLX*.md")}
    assert set(re.findall(r"FLX[0-9]{3}", installed.type("flux explain", folder=shop))) >= pages
    assert "What to do" in installed.type("flux explain FLX402", folder=shop)
    for shell in ("bash", "zsh", "fish"):
        assert "flux" in installed.type(f"flux completion {shell}", folder=shop)
    # What the tab key offers, asked as bash asks. A busy server's answer may come too late for a press: one presses
    # again.
    for words, offer in (
        ("flux wh", "why"),
        (f"flux why {name[:5]}", name),
        ("flux invoke create_u", "create_user"),
    ):
        asked = f"_FLUX_COMPLETE=bash_complete COMP_WORDS='{words}' COMP_CWORD={words.count(' ')} flux"
        deadline = time.monotonic() + COMMAND_S_MAX
        while offer not in [line.partition(",")[2] for line in installed.type(asked, folder=shop).splitlines()]:
            assert time.monotonic() < deadline, f"{offer} is not offered"


def watch_live(installed: Installed, shop: Path, port: int, line: str) -> None:
    """``flux tail`` shows a request that is made while it looks, until ctrl-c."""
    tail = subprocess.Popen(
        ["/bin/sh", "-c", "exec flux tail"], cwd=shop, env=installed.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tail.stdout is not None and tail.stderr is not None
    try:
        assert tail.stdout.readline().split() == ["id", "time", "status", "route", "took", "calls", "code"]
        status, headers, _ = curl(port, line)
        assert status == 201
        assert tail.stdout.readline().split()[0] == headers["flux-id"]
        tail.send_signal(signal.SIGINT)
        assert tail.wait(STOP_S_MAX) == 130
        assert tail.stderr.read().strip() == "1 execution · 0 failed"
    finally:
        tail.kill()
        tail.wait()
        tail.stdout.close()
        tail.stderr.close()
