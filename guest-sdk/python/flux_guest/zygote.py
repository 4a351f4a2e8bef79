"""The zygote: imports a deployment's code once, then forks a worker whenever the host asks.

The host builds a jail (docs/security.md) around the process and then calls `main`, with what a
worker is to call to have the jail tightened. Descriptor 3 is the control socket. JSON lines go to
the host:

    {"clock": "vdso", "detail": "..."}   how the clock is held: the first line, before any of the project's code runs
    {"importing": "functions/a.py"}      what it is at
    {"ready": {"functions": [...]}}      the code is imported
    {"failed": [{...}, ...]}             it is not: one entry for each place that failed
    {"forked": pid}                      with the worker's pidfd
    {"unforked": "reason"}               the system refused a worker
    {"exited": pid, "status": n}         a wait status

and from the host comes one byte ``F`` a worker, with three descriptors: the worker's
0 (what to run), its 1 and 2 (what it prints past the SDK), and its 3 (the wire).
"""

import ctypes
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flux_guest import _layout, _machine, _registry, _report, _validation, _values, _worker

_fork = os.fork  # Functions find it closed.
_kill, _getpid, _waitpid = os.kill, os.getpid, os.waitpid  # A module may put something else in their place.
_libc = ctypes.CDLL(None, use_errno=True)  # Loaded once, and not in each worker.
PR_SET_PDEATHSIG = 1
CONTROL = 3
FIRST_OF_OURS = 2
"""The zygote's number where it has a PID namespace of its own, in which 1 waits for it. Elsewhere 2 is the kernel's."""
TRACEBACK_CHARACTERS_MAX = 20_000


def _die_with_zygote(zygote: int) -> None:
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != zygote:  # It died before the request took hold.
        os._exit(0)


def _end_what_was_started() -> bool:
    """End the processes that modules have made, where none but those can be meant; tell whether there were any.

    Such a process would be a clock, and who knows what else, for functions that can hear it.
    """
    if _getpid() != FIRST_OF_OURS:
        return False
    try:
        _kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return False
    try:
        while True:
            _waitpid(-1, 0)
    except ChildProcessError:
        return True


def _import_functions(project: Path, folder: str, say: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Import every module below ``folder``; return what failed, each place once."""
    failures: dict[tuple[str, int, str, str], dict[str, Any]] = {}
    for file in sorted((project / folder).rglob("*.py")):
        relative = file.relative_to(project)
        parts = relative.with_suffix("").parts
        if any(part.startswith((".", "__pycache__")) for part in parts):
            continue
        say({"importing": _values.printable(str(relative))})
        try:
            importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        except BaseException as error:
            failure = _describe(error, project, str(relative))
            # A module that others import fails once for each of them, always at the same place.
            place = (failure["file"], failure["line"], failure["type"], failure["message"])
            failures.setdefault(place, failure)
    for registered in () if failures else _registry.FUNCTIONS.values():
        if registered.input is not None:
            try:
                _validation.prepare(registered.input)
            except Exception as error:
                place = (registered.file.removeprefix(f"{project}{os.sep}"), registered.line, "", "")
                failure = _describe(error, project, place[0])
                failures[place] = {**failure, "file": place[0], "line": place[1]}
    return list(failures.values())


def _describe(error: BaseException, project: Path, module: str) -> dict[str, Any]:
    prefix = str(project) + os.sep
    file, line = module, 1
    message = _report.message_of(error)
    if isinstance(error, SyntaxError) and error.filename:
        file, line, message = error.filename, error.lineno or 1, error.msg  # Its text would name the place again.
    else:
        for frame, number in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith(prefix):
                file, line = frame.f_code.co_filename, number
    kept = traceback.TracebackException.from_exception(error)
    entries = [entry for entry in kept.stack if not entry.filename.startswith(("<frozen", __file__))]
    # How the import came about is ours and Python's; what is the project's begins at its first file.
    ours = next((n for n, entry in enumerate(entries) if entry.filename.startswith(prefix)), len(entries))
    kept.stack = traceback.StackSummary.from_list(entries[ours:])
    shown = {
        "module": module,
        "type": type(error).__qualname__,
        "message": message,
        "file": file.removeprefix(prefix),
        "traceback": "".join(kept.format()).replace(prefix, "")[-TRACEBACK_CHARACTERS_MAX:],
    }
    return {**{key: _values.printable(text) for key, text in shown.items()}, "line": line}


def _describe_functions(project: Path) -> list[dict[str, Any]]:
    prefix = str(project) + os.sep
    return [
        {
            "name": item.name,
            "route": item.route,
            "atomic": item.atomic,
            "isolation": item.isolation,
            "timeout": item.timeout,
            "retries": item.retries,
            "cron": item.cron,
            "middleware": None if item.middleware is None else list(item.middleware),
            "file": item.file.removeprefix(prefix),
            "line": item.line,
        }
        for item in _registry.FUNCTIONS.values()
    ]


class Zygote:
    """The fork server."""

    def __init__(
        self,
        project: Path,
        control: socket.socket,
        worker: _worker.Worker,
        machine: _machine.Machine,
        confine: Callable[[bool], None],
        shuffle: int = 0,
    ) -> None:
        self._project = project
        self._control = control
        self._worker = worker
        self._machine = machine
        self._confine = confine
        self._layout = _layout.Layout()
        self._shuffle = shuffle

    def _say(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        data = json.dumps(message).encode() + b"\n"
        if descriptors:
            socket.send_fds(self._control, [data], descriptors)
        else:
            self._control.sendall(data)

    def run(self, functions: str) -> None:
        """Import, report, and fork until the host closes the control socket."""
        self._say({"clock": self._machine.level, "detail": self._machine.detail})
        self._layout.settle(self._shuffle)
        failures = _import_functions(self._project, functions, self._say)
        if _end_what_was_started():
            print("processes that modules started when they were imported have ended with the import", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        if failures:
            self._say({"failed": failures})
            return
        self._worker.attach()
        if self._machine.is_held:
            self._machine.deny_counter()
        self._say({"ready": {"functions": _describe_functions(self._project)}})
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        woken = [bytearray(4096)]
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(reader, select.POLLIN)
        sys._getframe()  # A signal's handler is given this frame's object, which is then kept: have it made now.
        self._layout.settle(self._shuffle)
        gc.freeze()  # Collecting in a worker would write to every page it shares with us.
        self._layout.give_scratch()
        # Nothing from here on may be kept: workers forked later would find it in their memory.
        while True:
            for descriptor, _event in poll.poll():
                if descriptor == reader:
                    os.readv(reader, woken)  # Into memory that is there already.
                    self._reap()
                elif not self._fork((reader, writer)):
                    return

    def _fork(self, own: tuple[int, int]) -> bool:
        sys._getframe()  # As in `run`: whether a signal comes while we are here must make no difference.
        data, descriptors, _flags, _address = socket.recv_fds(self._control, 1, 3)
        if not data:
            return False
        try:
            if len(descriptors) < 3:
                self._say({"unforked": "the zygote has no file descriptor left"})
                return True
            zygote = os.getpid()
            try:
                pid = _fork()
            except OSError as error:
                self._say({"unforked": os.strerror(error.errno or 0)})
                return True
            if pid == 0:
                self._become_worker(zygote, descriptors, own)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        handle = os.pidfd_open(pid)  # We have not reaped it, so the pid is still its own.
        self._say({"forked": pid}, [handle])
        os.close(handle)
        gc.collect()  # Python's lists of objects to use again would use the scratch up.
        return True

    def _become_worker(self, zygote: int, descriptors: list[int], own: tuple[int, int]) -> None:
        try:
            self._layout.take_scratch()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _die_with_zygote(zygote)
            start, output, wire = descriptors
            os.dup2(start, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.dup2(wire, CONTROL)  # takes the control socket's place
            for descriptor in (*descriptors, *own):
                os.close(descriptor)
            self._control.detach()
            self._confine(self._machine.is_held)
            self._worker.serve()
            os._exit(0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(70)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # Also of a process that a module has made: the host knows its workers.
            self._say({"exited": pid, "status": status})


def prepare() -> _machine.Machine:
    """Do what the jail would not let us do any more; what it returns is for `main`."""
    return _machine.hold()


def main(
    project: str,
    functions: str,
    machine: _machine.Machine,
    *,
    warm: bool,
    confine: Callable[[bool], None],
    shuffle: int = 0,
) -> None:
    """Serve a project; each worker calls ``confine`` before it runs anything, saying whether its clock is held.

    With ``shuffle``, objects lie in another order than without (`flux_guest._layout`).
    """
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # The host asks where an import hangs.
    os.chdir(project)
    control = socket.socket(fileno=CONTROL)
    worker = _worker.Worker(project, warm=warm, machine=machine)
    Zygote(Path(project), control, worker, machine, confine, shuffle).run(functions)
