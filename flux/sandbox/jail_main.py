"""The program that builds a jail around itself and becomes what is to live in it.

``python -m flux.sandbox.jail_main PLAN``, started by the supervisor (`flux.sandbox.jail`).
It reads the plan, puts on layer after layer, each of them for good, and only then hands
over: to the zygote, which imports the user's code, or to the probe, which tries the walls.

In ``strict`` three processes come of it. A PID namespace begins with a child, so the process
that was started, the *keeper*, makes one and only waits from then on. The child is process 1,
whom no signal from inside reaches and without whom the kernel ends all others: no place for
code that means to end by a signal and be seen to. So it too only waits, for its child, the
zygote. When one of the three ends the others do, and the keeper ends as the zygote ended. All
wear the same jail.

In ``core`` there is no such namespace, but nobody in the jail can leave the process group. So the
keeper is there as well, for one purpose: to be told by the kernel that the supervisor has ended, and
to end the group.

On the control socket, before anything else, goes one line::

    {"jailed": true}                                          with the pidfd of the one in the jail
    {"refused": {"layer": ..., "call": ..., "errno": ..., "detail": ...}}
"""

import errno
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import sys
import sysconfig
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from flux.sandbox import jail_checks
from flux.sandbox.jail_arenas import Arenas
from flux.sandbox.jail_landlock import SCOPES_FROM_ABI, restrict_to_reading
from flux.sandbox.jail_linux import (
    LayerRefusedError,
    check_machine,
    die_with_parent,
    system_call,
    tell_end_of_parent,
)
from flux.sandbox.jail_namespaces import separate, shrink_root
from flux.sandbox.jail_plan import SDK_PACKAGES, Plan
from flux.sandbox.jail_privileges import (
    ZYGOTE_DESCRIPTORS_MAX,
    WorkerLimits,
    clear_environment,
    close_descriptors,
    drop_privileges,
    end_files,
    limit_resources,
    offer_to_kernel,
    write_limit,
)
from flux.sandbox.jail_seccomp import WorkerFilter, install, make_zygote_filter, write_pid
from flux.sandbox.wasm_filter import make_loading_filter, make_serving_filter

_getpid = os.getpid  # A module may put something else in its place.
CONTROL = 3
REFUSED_STATUS = 71
IN_FLIGHT_ATTEMPTS_MAX, IN_FLIGHT_PAUSE_S = 1000, 0.005
SDK = "flux_guest"
"""Found by name when it is needed: host and guests share no code."""
WASM_HOST = "flux.sandbox.wasm_main"
"""Found by name as well: it is large, and nobody else has a use for it."""
WASM_DESCRIPTORS_MAX = 2048
"""A guest has one: its socket."""
WASM_FILE_BYTES_MAX = 2**30
"""Of an image of memory, which is kept in a file without a name, and of compiled code on its way to the supervisor."""
SYSTEM_LIBRARIES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache"),
    "/usr/share/zoneinfo",
)
"""Shared objects that Python's own modules load, and time zones. Nothing in them is anybody's secret."""


def main(arguments: list[str], arenas: Arenas | None = None) -> None:
    """Build the jail that ``arguments`` describe and live in it; ``arenas`` is where Python's memory is gathered."""
    plan = Plan.decode(arguments[0])
    die_with_parent(plan.parent)
    if plan.control != CONTROL:
        os.dup2(plan.control, CONTROL, inheritable=False)
    offer_to_kernel()
    gc.disable()  # What is imported until the jail stands, stays: looking through it again and again finds nothing.
    try:
        if plan.cgroup:
            _enter_cgroup(plan.cgroup)
        # What is imported now need not be readable later; none of it is the user's.
        module = _import_what_lives_here(plan)
        # The clock is taken over where /proc can still be read, and wasm guests' engine made ready where its
        # files can. A probe tells how that went.
        ready = module.prepare(plan) if plan.runs_wasm else module.hold()
        if arenas is not None:
            arenas.fill_up()
        abi = _build(plan)
    except (LayerRefusedError, OSError) as error:
        _refuse(error)
    gc.freeze()  # Nor will it later: it is what the SDK is made of, and some hundred objects that nobody has any more.
    gc.enable()
    match plan.program:
        case "probe":
            _tell(jail_checks.run(plan, abi, ready))
        case "wasm-probe":
            _tell(jail_checks.run_for_wasm(plan, abi, lambda: str(ready.try_guest(_confine_host))))
        case "wasm":
            module.main(ready, _confine_host)
        case _:
            module.main(
                plan.project,
                plan.functions,
                ready,
                warm=plan.warm,
                prepare_confining=prepare_confining,
                fold=arenas.fold if arenas is not None else _leave,
                shuffle=plan.shuffle,
            )


def _import_what_lives_here(plan: Plan) -> ModuleType:
    """Return the module whose clock is taken over, or whose engine is made ready, before the jail is built."""
    if plan.runs_wasm:
        return importlib.import_module(WASM_HOST)
    if plan.program == "probe":
        # It runs no function, so the clock is all that it needs; to import the rest takes most of a probe's time.
        spec = importlib.util.find_spec(SDK)
        assert spec is not None, f"{SDK} is installed with Flux"
        sys.modules[SDK] = importlib.util.module_from_spec(spec)
        return importlib.import_module(f"{SDK}._machine")
    return importlib.import_module(f"{SDK}.zygote")


def _tell(message: dict[str, Any]) -> None:
    with socket.socket(fileno=CONTROL) as control:
        control.sendall(json.dumps(message).encode() + b"\n")


def _refuse(error: LayerRefusedError | OSError) -> NoReturn:
    if not isinstance(error, LayerRefusedError):
        call = f"open({error.filename})" if error.filename else "what it is built with"
        error = LayerRefusedError("files", call, error.errno or 0)
    told = {"layer": error.layer, "call": error.call, "errno": error.number, "detail": error.detail}
    os.write(CONTROL, json.dumps({"refused": told}).encode() + b"\n")
    os._exit(REFUSED_STATUS)


def _enter_cgroup(folder: str) -> None:
    """Go into a control group, with all children to come."""
    try:
        # One call, not a file's buffer: what is wrong is to be known here.
        descriptor = os.open(os.path.join(folder, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, b"0")
        os.close(descriptor)
    except OSError as error:
        raise LayerRefusedError("cgroups", f"write {folder}/cgroup.procs", error.errno or 0) from error


def _build(plan: Plan) -> int:
    """Put on every layer, in the order in which one makes the next possible; return Landlock's version."""
    check_machine()
    if plan.environment:
        _forget_own_packages()
    clear_environment()
    close_descriptors((0, 1, 2, CONTROL))
    readable = (
        list_readable_by_host(plan) if plan.runs_wasm else list_readable(plan.project, plan.environment)
    )
    # Where the project's code is Python it is importable. Elsewhere it must not be, by whatever name.
    sys.path[:] = _list_path("" if plan.runs_wasm else plan.project, plan.environment, readable)
    if plan.isolation == "strict":
        separate(as_user=plan.uid is None)
        shrink_root(readable)
    limit_resources(
        plan.data_bytes_max,
        counts_processes=plan.isolation == "strict",
        reserves_addresses=plan.runs_wasm,
        descriptors_max=WASM_DESCRIPTORS_MAX if plan.runs_wasm else ZYGOTE_DESCRIPTORS_MAX,
        file_bytes_max=WASM_FILE_BYTES_MAX if plan.runs_wasm else 0,
    )
    drop_privileges(plan.uid)
    _check_readable(readable)
    # Every change of credentials has undone it.
    die_with_parent(plan.parent)
    if plan.isolation == "core" and not plan.runs_wasm:  # That one has threads already, and never forks.
        _leave_keeper(plan.parent, readable)
    abi = restrict_to_reading(readable)
    if plan.isolation == "strict":
        _enter_pid_namespace()
    _tell_jailed()
    if plan.runs_wasm:
        install(make_loading_filter())
        return abi
    # Signals stay in the jail by its PID namespace, or else by Landlock.
    install(make_zygote_filter(may_signal=plan.isolation == "strict" or abi >= SCOPES_FROM_ABI))
    return abi


def list_readable(project: str, environment: str = "") -> list[str]:
    """Return the files and folders that can be read in the jail: Python, its libraries, the SDK, the code.

    Where the project says which packages it needs, it has these and none of Flux's own: what happens to lie
    beside Flux must not decide what its code does.
    """
    own = [*_list_python(), *(sysconfig.get_path(name) for name in ("purelib", "platlib"))]
    packages = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    sdk = importlib.util.find_spec(SDK)
    assert sdk is not None and sdk.origin is not None, f"{SDK} is installed with Flux"
    wanted = [
        *own,
        *packages,
        *SYSTEM_LIBRARIES,
        os.path.dirname(sdk.origin),
        *([project] if project else []),
    ]
    if environment:
        closed = _list_own_packages()
        found = [importlib.util.find_spec(name) for name in SDK_PACKAGES]
        brought = [
            os.path.dirname(spec.origin) for spec in found if spec is not None and spec.origin is not None
        ]
        wanted = [*(path for path in wanted if path not in closed), *brought, environment]
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path)]


def list_readable_by_host(plan: Plan) -> list[str]:
    """Return the same for a process of wasm guests: it has imported what it needs, packages included."""
    functions = [os.path.join(plan.project, plan.functions)] if plan.project else []
    return [
        path
        for path in dict.fromkeys((*_list_python(), *SYSTEM_LIBRARIES, *functions))
        if os.path.exists(path)
    ]


def _list_python() -> list[str]:
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    if sys.base_prefix != "/usr":
        own.append(os.path.join(sys.base_prefix, "lib"))  # Where a Python that brings its libraries has them.
    return own


def _forget_own_packages() -> None:
    """Forget what the SDK's packages have loaded of Flux's own beside themselves: the project may have another."""
    closed = tuple(f"{path}/" for path in _list_own_packages())
    for name, module in list(sys.modules.items()):
        is_kept = name.partition(".")[0] in (SDK, *SDK_PACKAGES, "flux")
        if not is_kept and (getattr(module, "__file__", None) or "").startswith(closed):
            del sys.modules[name]


def _list_own_packages() -> set[str]:
    """Return the folders of packages that are Flux's."""
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return places | {entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))}


def _list_path(project: str, environment: str, readable: list[str]) -> list[str]:
    """Return ``sys.path`` as it is in the jail: the project, what of it can be read, the project's packages.

    Packages come last, so that none of them stands in the place of a module of Python's. Their folder is a
    place to import from and nothing else: it is no "site", so a ``.pth`` file in it does nothing.
    """
    there = [entry for entry in sys.path if any(f"{entry}/".startswith(f"{path}/") for path in readable)]
    if environment:
        closed = _list_own_packages()
        there = [*(entry for entry in there if entry not in closed), environment]
    return [project, *there] if project else there


def _check_readable(paths: list[str]) -> None:
    """Refuse to go on without Python or without the code: later it would look as if they were not there."""
    for path in paths:
        if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
            raise LayerRefusedError(
                "user", f"access({path})", errno.EACCES, f"user {os.getuid()} can't read {path}"
            )


def _enter_pid_namespace() -> None:
    """Go on as the child of the first process of the new PID namespace."""
    keeper_reader, keeper_writer = os.pipe()
    status_reader, status_writer = os.pipe()
    first = os.fork()
    if first != 0:
        _keep(first, status_reader, keeper_writer)
    os.close(keeper_writer)
    # Its parent is outside of the namespace, where it can't be seen: the pipe tells whether it lives.
    die_with_parent(0)
    if select.select([keeper_reader], [], [], 0)[0]:
        os._exit(0)
    zygote = os.fork()
    if zygote != 0:
        _wait_as_first(zygote, status_writer)
    die_with_parent(1)
    for descriptor in (keeper_reader, status_reader, status_writer):
        os.close(descriptor)


def _leave_keeper(supervisor: int, readable: list[str]) -> None:
    """Go on as the child of a process that ends its group when the supervisor has ended.

    Before Landlock is put on: each of the two then has its own, and neither can send the other a signal.
    """
    keeper = os.getpid()
    zygote = os.fork()
    if zygote == 0:
        die_with_parent(keeper)
        return

    def end_group(_number: int, _frame: object) -> None:
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end_group)
    tell_end_of_parent(signal.SIGTERM)
    if os.getppid() != supervisor:
        os.killpg(0, signal.SIGKILL)
    close_descriptors((CONTROL,))
    restrict_to_reading(readable, may_signal=True)
    _watch_without_control()
    _, how = os.waitpid(zygote, 0)
    _end_like(how)


def _keep(first: int, status: int, alive: int) -> NoReturn:
    """Wait for the namespace's first process; end as the zygote did, whose wait status it writes."""
    close_descriptors((CONTROL, status, alive))
    _watch_without_control()
    _, own = os.waitpid(first, 0)
    _end_like(struct.unpack("=i", os.read(status, 4) or struct.pack("=i", own))[0])


def _watch_without_control() -> None:
    """Put the filter on who only waits, and let go of the control socket.

    In this order: who is refused its filter takes the zygote with it, which may not have told the same yet, and says so
    itself. And whoever reads from the jail must see its end when the zygote ends, not when we do.
    """
    install(make_zygote_filter(may_signal=True))
    os.close(CONTROL)


def _wait_as_first(zygote: int, status: int) -> NoReturn:
    """Be process 1 of the namespace: wait for children that lost their parent, until the zygote has ended."""
    close_descriptors((CONTROL, status))
    _watch_without_control()
    while True:
        ended, how = os.waitpid(-1, 0)
        if ended == zygote:
            os.write(status, struct.pack("=i", how))
            os._exit(0)


def _end_like(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _tell_jailed() -> None:
    handle = os.pidfd_open(os.getpid())
    control = socket.socket(fileno=os.dup(CONTROL))
    for attempt in range(IN_FLIGHT_ATTEMPTS_MAX):
        try:
            socket.send_fds(control, [b'{"jailed": true}\n'], [handle])
            break
        except OSError as error:
            # Too many descriptors of this user's are under way between processes, of whatever program.
            if error.errno != errno.ETOOMANYREFS or attempt == IN_FLIGHT_ATTEMPTS_MAX - 1:
                raise
            time.sleep(IN_FLIGHT_PAUSE_S)
    control.close()
    os.close(handle)


Confine = Callable[[int], None]
"""What a worker calls before it runs anything, with the seconds of processor time that it may use."""


def prepare_confining(holds_clock: bool) -> Confine:
    """Return what tightens the jail around a worker that has just been forked, with all done that can be before.

    ``holds_clock``: what asks the kernel for the time, or for random bytes, goes past a clock that is held.
    """
    limits, worker_filter = WorkerLimits(), WorkerFilter(holds_clock=holds_clock)
    calls = (*limits.calls, worker_filter.call)
    cpu_s_buffer, code, offsets, getpid = limits.cpu_s, worker_filter.code, worker_filter.offsets, _getpid
    # Names of this module are looked up when `confine` runs, and the project's modules have run by then.
    put_limit, put_pid, call_system = write_limit, write_pid, system_call

    def confine(cpu_s: int) -> None:
        # One function and no more: to call another is to write to it, and each worker copies what it writes to.
        put_limit(cpu_s_buffer, 0, cpu_s, cpu_s)
        pid = getpid()
        for offset in offsets:
            put_pid(code, offset, pid)
        for prepared in calls:
            if call_system(*prepared.words) != 0:
                prepared.refuse()

    return confine


def _leave(_fresh: range) -> None:
    """Leave the zygote's memory where it is: there is no place of its own for it."""


def _confine_host() -> None:
    """Tighten the jail around a process of wasm guests whose code is loaded."""
    end_files()
    install(make_serving_filter(), all_threads=True)



if __name__ == "__main__":
    main(sys.argv[1:])
