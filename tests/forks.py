"""``flux`` as a process of its own, without Python reading all of Flux again.

A new ``python -m flux dev`` computes for a second before its first line of work: half a million calls that find
modules and make classes. The tests start hundreds. So one process per run of the tests imports Flux once, then does
nothing but fork: each child gets its own folder, environment, words, standard streams and session, and goes where
``python -m flux`` would have gone, to `flux.cli.main`. From there on it is the real thing: a pid, signals, an exit
code, an interpreter that ends as interpreters end. Where the start itself is what is asked about, and wherever no
test runs (benchmarks), ``python -m flux`` is started as it is typed; ``FLUX_TESTS_EXEC=1`` does so everywhere.

    a test   --(SEQPACKET: folder, environment, words + report, stdin, stdout, stderr)-->  the forking process
    a test   <--(its report socket: the child's pid, at last its exit code)--              the forking process
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import attrs

ROOT = Path(__file__).parents[1]
ORDER_BYTES_MAX = 1 << 20
"""Folder, environment and words of one child."""
_STREAMS = 3


class Forked:
    """A child, as `subprocess.Popen` would show it."""

    def __init__(self, args: Sequence[str], report: socket.socket, stderr: BinaryIO | None) -> None:
        self.args = list(args)
        self.stderr = stderr
        self.returncode: int | None = None
        """Its exit code, minus the number of the signal that killed it, or None while it runs."""
        self._report = report
        self._heard = b""
        self._lock = threading.Lock()
        """Several threads may wait for it."""
        while b"\n" not in self._heard:
            self._hear(None)
        pid, _, self._heard = self._heard.partition(b"\n")
        self.pid = int(pid)
        self._settle()  # One that ends at once may have been heard whole.

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        with self._lock:
            if self.returncode is None:
                self._hear(0.0)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and return its exit code."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self.returncode is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                self._hear(left)
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # It has ended, and that is not reported yet.
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _hear(self, timeout: float | None) -> None:
        """Take in what is reported within ``timeout`` seconds."""
        ready, _, _ = select.select([self._report], [], [], timeout)
        if not ready:
            return
        heard = self._report.recv(64)
        if not heard:
            raise RuntimeError(f"the process that forks has ended, and with it {self.args}")
        self._heard += heard
        if hasattr(self, "pid"):
            self._settle()

    def _settle(self) -> None:
        """Take its exit code from what was heard, if it is there."""
        if b"\n" in self._heard:
            self.returncode = int(self._heard)
            self._report.close()


class Forker:
    """The process that has imported Flux, as tests see it."""

    def __init__(self) -> None:
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ORDER_BYTES_MAX)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        """Held to start it, once: by whichever test is the first to need it."""

    def _be_there(self) -> None:
        with self._lock:
            if self._process is None:
                number = self._theirs.fileno()
                # A session of its own: a ctrl-c at the terminal is for whoever runs the tests.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.forks", str(number)], cwd=ROOT, stdin=subprocess.DEVNULL,
                    pass_fds=[number], start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )  # fmt: skip
                self._theirs.close()

    def start(
        self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str], *, stdin: int, stdout: int,
        stderr: int, own_session: bool = False,
    ) -> Forked:  # fmt: skip
        """Start ``flux ARGUMENTS`` in ``folder`` with these descriptors as its standard streams."""
        order = {
            "folder": str(folder), "arguments": list(arguments), "environment": dict(environment),
            "own_session": own_session,
        }  # fmt: skip
        self._be_there()
        report, theirs = socket.socketpair()
        with theirs:
            descriptors = [theirs.fileno(), stdin, stdout, stderr]
            socket.send_fds(self._control, [json.dumps(order).encode()], descriptors)
        return Forked([sys.executable, "-m", "flux", *arguments], report, None)

    def start_server(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """Start a command that serves, in a session of its own; its ``stderr`` is a pipe."""
        read_end, write_end = os.pipe()
        try:
            with open(os.devnull, "r+b") as nothing:
                server = self.start(
                    folder, arguments, environment, stdin=nothing.fileno(), stdout=nothing.fileno(), stderr=write_end,
                    own_session=True,
                )  # fmt: skip
        finally:
            os.close(write_end)
        server.stderr = os.fdopen(read_end, "rb")
        return server

    def run(
        self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str], stdin: str, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run ``flux ARGUMENTS`` to its end and return what it wrote."""
        with tempfile.TemporaryFile() as typed, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            typed.write(stdin.encode())
            typed.seek(0)
            child = self.start(
                folder, arguments, environment, stdin=typed.fileno(), stdout=out.fileno(), stderr=err.fileno()
            )
            try:
                exit_code = child.wait(timeout_s)
            except BaseException:
                child.kill()
                child.wait()
                raise
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(child.args, exit_code, _read_text(out), _read_text(err))

    def close(self) -> None:
        """End it, and what it has forked and runs still."""
        self._control.close()
        self._theirs.close()
        if self._process is not None:
            self._process.wait()


def _read_text(file: BinaryIO) -> str:
    return file.read().decode().replace("\r\n", "\n")


@attrs.frozen
class _Order:
    """What a child is to be."""

    folder: str
    arguments: list[str]
    environment: dict[str, str]
    own_session: bool
    descriptors: list[int]
    """Its standard streams."""


def _fork_forever(control: socket.socket) -> _Order | None:
    """Fork at each order until the tests close ``control``; return twice: None there, its order in each child."""
    reports: dict[int, socket.socket] = {}
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([control, wake_read], [], [])
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                wake_read.recv(4096)
            _report_ended(reports)
        if control not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, ORDER_BYTES_MAX, 1 + _STREAMS)
        if not message:
            for pid in reports:
                os.kill(pid, signal.SIGKILL)
            return None
        report = socket.socket(fileno=descriptors[0])
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for ours in (control, wake_read, wake_write, report, *reports.values()):
                ours.close()
            return _Order(descriptors=descriptors[1:], **json.loads(message))
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        reports[pid] = report
        _tell(report, pid)


def _report_ended(reports: dict[int, socket.socket]) -> None:
    for pid in list(reports):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with reports.pop(pid) as report:
                _tell(report, os.waitstatus_to_exitcode(status))


def _tell(report: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # The test has forgotten it.
        report.send(b"%d\n" % number)


def _become(order: _Order) -> None:
    """Be as ``python -m flux`` is when it begins."""
    if order.own_session:
        os.setsid()
    for number, descriptor in enumerate(order.descriptors):
        os.dup2(descriptor, number)
    for descriptor in order.descriptors:
        if descriptor >= _STREAMS:
            os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        _open_stream(number, name)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    time.tzset()
    sys.path[0] = order.folder
    sys.argv = [str(ROOT / "flux" / "__main__.py"), *order.arguments]


def _open_stream(number: int, name: str) -> None:
    """Make ``sys.stdout``, say, anew: the one that there was remembers that its descriptor was another file."""
    before = getattr(sys, name)
    is_read = number == 0
    raw = os.fdopen(number, "rb" if is_read else "wb", buffering=-1 if is_read else 0, closefd=False)
    stream = io.TextIOWrapper(
        raw, before.encoding, before.errors, line_buffering=raw.isatty(), write_through=not is_read
    )  # fmt: skip
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _import_flux() -> None:
    """Import what commands import, which takes long once."""
    from flux.cli import registry

    for module in registry.command_files().values():
        importlib.import_module(f"flux.cli.{module}")
    for module in ("dev_server", "serve_server"):
        importlib.import_module(f"flux.supervisor.{module}")


def _end(exit_code: int) -> NoReturn:
    """End as an interpreter ends, but for the clearing away of all modules: it would copy the memory that is shared."""
    threading._shutdown()  # type: ignore[attr-defined]  # Waits for threads, as an interpreter does.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(exit_code)


def main() -> int:
    """Fork for the tests; in a child, be the command."""
    from flux.cli import main as flux

    _import_flux()
    gc.freeze()  # Else a collection in a child copies all that there is.
    order = _fork_forever(socket.socket(fileno=int(sys.argv[1])))
    if order is None:
        return 0
    _become(order)
    try:
        exit_code = flux()
    except BaseException as error:
        exit_code = 1
        traceback.print_exception(error)
    _end(exit_code)


if __name__ == "__main__":
    sys.exit(main())
