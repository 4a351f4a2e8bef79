"""Inside the jail: try each wall and tell what it said.

A layer that was set up without an error is not yet a layer that holds: a container's own
seccomp profile may answer in the kernel's place. So a probe, jailed like a zygote, tries
what each layer is there to refuse.
"""

import errno
import mmap
import os
import resource
import socket
from collections.abc import Callable
from typing import Any, Protocol

from flux.sandbox.jail_linux import PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP, SYS_PRCTL, try_call
from flux.sandbox.jail_namespaces import HOST_NAME, NOBODY
from flux.sandbox.jail_plan import Plan
from flux.sandbox.jail_privileges import KEPT_VARIABLES, ONE_THREAD, read_capabilities

Finding = tuple[bool, str]
"""Whether it holds, and what was seen."""

GUEST_SAYS = "hello"
"""What the guest says that a probe runs."""
_FILTERING = 2


class Machine(Protocol):
    """What the guest SDK says of the clock."""

    level: str
    detail: str


def run(plan: Plan, abi: int, machine: Machine | None) -> dict[str, Any]:
    """Return the findings, one for each layer, and how the clock is held: that is told and not required."""
    clock = None if machine is None else {"level": machine.level, "detail": machine.detail}
    return {"layers": _run_all(_list_checks(plan, abi)), "clock": clock}


def run_for_wasm(plan: Plan, abi: int, try_guest: Callable[[], str]) -> dict[str, Any]:
    """Return the same for a process of wasm guests.

    ``try_guest`` puts on the tighter jail in which it serves, runs a guest there, also in a thread of its own,
    and returns what it said.
    """
    checks = _list_checks(plan, abi)
    order = [*checks, "code"]
    within = {name: checks.pop(name) for name in ("limits", "seccomp")}
    # The others ask for what a serving process can't even ask for.
    found = {name: check() for name, check in checks.items()}
    said = try_guest()
    found |= {name: check() for name, check in within.items()}
    found["code"] = _check_code(said)
    return {"layers": [{"name": name, "ok": found[name][0], "detail": found[name][1]} for name in order]}


def _list_checks(plan: Plan, abi: int) -> dict[str, Callable[[], Finding]]:
    checks: dict[str, Callable[[], Finding]] = {
        "descriptors": _check_descriptors,
        "environment": _check_environment,
        "limits": lambda: _check_limits(plan),
        "privileges": _check_privileges,
        "landlock": lambda: _check_landlock(abi),
        "seccomp": _check_seccomp,
    }
    if plan.isolation == "strict":
        checks["namespaces"] = _check_namespaces
        checks["user"] = lambda: _check_user(plan)
    return checks


def _run_all(checks: dict[str, Callable[[], Finding]]) -> list[dict[str, Any]]:
    layers = []
    for name, check in checks.items():
        ok, seen = check()
        layers.append({"name": name, "ok": ok, "detail": seen})
    return layers


def _check_descriptors() -> Finding:
    found = []
    for descriptor in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        found.append(descriptor)
    return found == [0, 1, 2, 3], f"open are {' '.join(map(str, found))}, and no others"


def _check_environment() -> Finding:
    kept = sorted(set(os.environ) - set(ONE_THREAD))
    seen = f"empty but for {', '.join(kept) or 'nothing'}, and for asking libraries for one thread"
    return set(kept) <= set(KEPT_VARIABLES), seen


def _check_limits(plan: Plan) -> Finding:
    data = resource.getrlimit(resource.RLIMIT_DATA)[1]
    written = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return (
        0 < data <= plan.data_bytes_max and written == 0,
        f"memory at most {data >> 20} MiB, {written} bytes into files",
    )


def _check_privileges() -> Finding:
    capabilities = read_capabilities()
    locked = try_call(SYS_PRCTL, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
    return capabilities == 0 and locked == 1, f"capabilities {capabilities:#x}, none to be had anew"


def _check_landlock(abi: int) -> Finding:
    # Anybody may list the root folder, and no rule of ours gives it.
    refused = _errno_of(lambda: os.listdir("/"))
    return refused == errno.EACCES, f"version {abi}; listing / is answered {_name(refused)}"


def _check_seccomp() -> Finding:
    mode = try_call(SYS_PRCTL, PR_GET_SECCOMP, 0, 0, 0, 0)
    refused = _errno_of(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close())
    return (
        mode == _FILTERING and refused == errno.EPERM,
        f"mode {mode}; making a socket is answered {_name(refused)}",
    )


def _check_namespaces() -> Finding:
    alone = (os.getppid(), os.getpid()) == (1, 2)
    named = os.uname().nodename == HOST_NAME.decode()
    absent = [
        path for path in ("/etc/passwd", "/proc/self", "/dev/null", "/sys/kernel") if not os.path.exists(path)
    ]
    return alone and named and len(
        absent
    ) == 4, f"process {os.getpid()} of its own; there is no {' '.join(absent)}"


def _check_user(plan: Plan) -> Finding:
    expected = NOBODY if plan.uid is None else plan.uid
    of_its_own = "in a user namespace" if plan.uid is None else "of the tenant's own"
    return os.getuid() == os.geteuid() == expected and os.getgroups() in ([], [expected]), (
        f"uid {os.getuid()} {of_its_own}"
    )


def _check_code(said: str) -> Finding:
    attempts: dict[str, Callable[[], object]] = {
        "executable memory": _map_executable,
        "a file without a name": lambda: os.close(os.memfd_create("x")),
        "opening a file": lambda: os.close(os.open("/", os.O_RDONLY)),
        "a process": _fork_and_end,
    }
    refused = {what: _errno_of(attempt) for what, attempt in attempts.items()}
    answers = ", ".join(f"{what} is answered {_name(number)}" for what, number in refused.items())
    return said == GUEST_SAYS and set(refused.values()) == {errno.EPERM}, f"a guest said {said!r}; {answers}"


def _map_executable() -> None:
    mmap.mmap(
        -1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_EXEC
    ).close()


def _fork_and_end() -> None:
    if os.fork() == 0:
        os._exit(0)


def _errno_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    return 0


def _name(number: int) -> str:
    return errno.errorcode.get(number, "allowed" if number == 0 else str(number))
