"""The zygote: imports a deployment's code once, then forks a worker whenever the host asks.

The host builds a jail (docs/security.md) around the process and then calls `main`, with what a
worker is to call to have the jail tightened. Descriptor 3 is the control socket. JSON lines go to
the host:

    {"clock": "vdso", "detail": "..."}   how the clock is held: the first line, before any of the project's code runs
    {"importing": "functions/a.py"}      what it is at
    {"ready": {"functions": [...], "middleware": [...]}}   the code is imported
    {"failed": [{...}, ...]}             it is not: one entry for each place that failed
    {"forked": pid}                      with the worker's pidfd
    {"unforked": "reason"}               the system refused a worker
    {"exited": pid, "status": n}         a wait status

and from the host come four bytes a worker, the seconds of processor time that it may use, with
three descriptors: the worker's 0 (what to run), its 1 and 2 (what it prints past the SDK), and
its 3 (the wire). Zero seconds, with no descriptors, ask which workers have ended: a signal that
comes between Python's last look for one and its wait for the host is not heard before the host speaks.
"""

import _signal  # type: ignore[import-not-found]  # without the enums around it, which cost each worker pages
import ctypes
import errno
import faulthandler
import gc
import importlib
import inspect
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from flux_guest import _layout, _machine, _registry, _report, _validation, _values, _worker

_kill, _getpid, _waitpid = os.kill, os.getpid, os.waitpid  # A module may put something else in their place.
CONTROL = 3
FIRST_OF_OURS = 2
"""The zygote's number where it has a PID namespace of its own, in which 1 waits for it. Elsewhere 2 is the kernel's."""
TRACEBACK_CHARACTERS_MAX = 20_000
DESCRIPTION_CHARACTERS_MAX = 2_000
_PR_SET_PDEATHSIG, _SIGKILL = 1, int(signal.SIGKILL)
_CPU_S = struct.Struct("=I")
_DESCRIPTORS = struct.Struct("=3i")
_HANDLE = struct.Struct("=i")
_IN_FLIGHT_PAUSE_S = 0.002
_sleep = time.sleep  # Functions find another.
_ANCILLARY_BYTES = socket.CMSG_SPACE(_DESCRIPTORS.size)


Confine = Callable[[int], None]
"""Tightens the jail around a worker; takes the seconds of processor time that it may use."""
Fold = Callable[[range], object]
"""Puts the memory that workers will share where it is shared cheaply; takes the addresses of what they won't."""


class _Forking:
    """How a worker is forked: by the C library alone where nobody has asked to be told.

    `os.fork` prepares the child for what threads may have left behind and calls what modules have
    registered: some two hundred pages of memory, written in each worker before it does anything. There are
    no threads here, and what the standard library registers (new locks, a new seed) either stands as it is
    or is set at the beginning of an execution. A module of the project, or a library of it, that registers
    something is called as it expects, and pays for it.
    """

    def __init__(self) -> None:
        self._os_fork = os.fork  # Functions find it closed.
        # The GIL is kept: PyDLL does not let go of it as CDLL does.
        self._c_fork = ctypes.PyDLL(None, use_errno=True).fork
        self._c_fork.argtypes, self._c_fork.restype = (), ctypes.c_int
        self._registered = False
        self._register = os.register_at_fork
        os.register_at_fork = self._note_and_register

    def _note_and_register(self, **hooks: Any) -> None:
        module = str(sys._getframe(1).f_globals.get("__name__"))
        if module.partition(".")[0] not in sys.stdlib_module_names:
            self._registered = True
        self._register(**hooks)

    def fork(self) -> int:
        """Fork; raise OSError."""
        if self._registered:
            return self._os_fork()
        pid: int = self._c_fork()
        if pid < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return pid


_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _die_with_zygote(zygote: int) -> None:
    if _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
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


def import_functions(project: Path, folder: str, say: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
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
                _validation.describe(registered.input)
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
            "input": None if item.input is None else _validation.describe(item.input),
            "description": _values.printable(inspect.getdoc(item.handler) or "")[:DESCRIPTION_CHARACTERS_MAX],
            "file": item.file.removeprefix(prefix),
            "line": item.line,
        }
        for item in _registry.FUNCTIONS.values()
    ]


def _describe_middleware(project: Path) -> list[dict[str, Any]]:
    prefix = str(project) + os.sep
    found = []
    for name, handler in _registry.MIDDLEWARE.items():
        file, line = _registry.find_place(handler)
        found.append({"name": name, "file": file.removeprefix(prefix), "line": line})
    return found


class Zygote:
    """The fork server.

    A worker shares every page of memory with it until one of the two writes there, and so pays for all
    that it does differently, and the zygote for all that it does between two forks. So both do little.
    """

    def __init__(
        self,
        project: Path,
        control: socket.socket,
        worker: _worker.Worker,
        machine: _machine.Machine,
        forking: _Forking,
        shuffle: int = 0,
    ) -> None:
        self._project = project
        self._control = control
        self._worker = worker
        self._machine = machine
        self._forking = forking
        self._layout = _layout.Layout()
        self._shuffle = shuffle
        self._pid = os.getpid()
        self._is_forking = False
        self._has_missed = False
        """A worker ended while another was made, and is not waited for yet."""

    def _say(self, message: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")

    def run(self, functions: str, prepare_confining: Callable[[bool], Confine], fold: Fold) -> None:
        """Import, report, and fork until the host closes the control socket."""
        self._say({"clock": self._machine.level, "detail": self._machine.detail})
        self._layout.settle(self._shuffle)
        failures = import_functions(self._project, functions, self._say)
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
        declared = {"functions": _describe_functions(self._project), "middleware": _describe_middleware(self._project)}
        self._say({"ready": declared})
        confine = prepare_confining(self._machine.is_held)
        gc.collect()
        gc.freeze()  # A rehearsal collects as an execution does, and need not look through what is imported.
        self._worker.rehearse()
        _signal.signal(_signal.SIGCHLD, self._on_child_ended)
        sys._getframe()  # A signal's handler is given this frame's object, which is then kept: have it made now.
        self._layout.settle(self._shuffle)
        gc.freeze()  # Collecting in a worker would write to every page it shares with us.
        fold(self._layout.fresh)
        self._layout.give_scratch()
        # Nothing from here on may be kept: workers forked later would find it in their memory.
        while True:
            data, ancillary, _flags, _address = self._control.recvmsg(_CPU_S.size, _ANCILLARY_BYTES)
            if not data:
                return
            cpu_s = _CPU_S.unpack(data)[0]
            # The end of a worker is told after its beginning.
            self._is_forking = True
            if cpu_s:
                self._fork(ancillary, cpu_s, confine)
            self._is_forking = False
            if self._has_missed or not cpu_s:
                self._has_missed = False
                self._reap()
            del data, ancillary, _address
            gc.collect()  # Python's lists of objects to use again would use the scratch up.

    def _fork(self, ancillary: list[tuple[int, int, bytes]], cpu_s: int, confine: Confine) -> None:
        sys._getframe()  # As in `run`: whether a signal comes while we are here must make no difference.
        if not ancillary or len(ancillary[0][2]) < _DESCRIPTORS.size:
            _close_all(ancillary)
            self._say({"unforked": "the zygote has no file descriptor left"})
            return
        descriptors = _DESCRIPTORS.unpack(ancillary[0][2])
        try:
            pid = self._forking.fork()
            if pid == 0:
                self._become_worker(descriptors, cpu_s, confine)
        except OSError as error:
            self._say({"unforked": os.strerror(error.errno or 0)})
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        handle = os.pidfd_open(pid)  # We have not reaped it, so the pid is still its own.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _HANDLE.pack(handle))]
        while not self._send_forked(b'{"forked": %d}\n' % pid, rights):
            _sleep(_IN_FLIGHT_PAUSE_S)
        os.close(handle)

    def _send_forked(self, line: bytes, rights: list[tuple[int, int, bytes]]) -> bool:
        """Send a message with a descriptor; return False while too many of this user's are under way."""
        try:
            self._control.sendmsg([line], rights)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                return False
            raise
        return True

    def _become_worker(self, descriptors: tuple[int, ...], cpu_s: int, confine: Confine) -> None:
        try:
            self._layout.take_scratch()
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            _die_with_zygote(self._pid)
            start, output, wire = descriptors
            os.dup2(start, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.dup2(wire, CONTROL)  # takes the control socket's place
            os.close(start)
            os.close(output)
            os.close(wire)
            self._control.detach()
            confine(cpu_s)
            self._worker.serve()
            os._exit(0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(70)

    def _on_child_ended(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_forking:
            self._has_missed = True
        else:
            self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # Also of a process that a module has made: the host knows its workers.
            self._control.sendall(b'{"exited": %d, "status": %d}\n' % (pid, status))


def _close_all(ancillary: list[tuple[int, int, bytes]]) -> None:
    for _level, _kind, data in ancillary:
        for at in range(0, len(data) - _HANDLE.size + 1, _HANDLE.size):
            os.close(_HANDLE.unpack_from(data, at)[0])


hold = _machine.hold
"""Does what the jail would not let us do any more; what it returns is for `main`."""


def main(
    project: str,
    functions: str,
    machine: _machine.Machine,
    *,
    warm: bool,
    prepare_confining: Callable[[bool], Confine],
    fold: Fold,
    shuffle: int = 0,
) -> None:
    """Serve a project.

    ``prepare_confining`` is told whether the clock is held, and returns what each worker calls before it runs
    anything; ``fold`` is called before the first of them is forked. With ``shuffle``, objects lie in another order
    than without (`flux_guest._layout`).
    """
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # The host asks where an import hangs.
    os.chdir(project)
    control = socket.socket(fileno=CONTROL)
    forking = _Forking()
    worker = _worker.Worker(project, warm=warm, machine=machine)
    Zygote(Path(project), control, worker, machine, forking, shuffle).run(functions, prepare_confining, fold)
