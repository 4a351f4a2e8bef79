"""The jail as the supervisor sees it: the command that starts a program in it, and its refusals.

Two levels. ``core`` is what any Linux with Landlock and seccomp gives a process, root or
not. ``strict``, the default, adds namespaces: what a guest must not touch is then not
merely forbidden but absent. A level is never lowered by itself: where a layer can't be put
on, nothing starts, and the error names the layer, the call and what to do. Writing
``isolation = "core"`` is somebody's decision, and each record says what was in force.

How the walls are built is told by the modules ``jail_*``; they run in the process that is
jailed (`flux.sandbox.jail_main`).
"""

import contextlib
import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

import attrs

from flux.errors import OperatorError
from flux.sandbox import cgroups
from flux.sandbox.addresses import describe_addresses
from flux.sandbox.jail_arenas import describe_folding
from flux.sandbox.jail_plan import Plan
from flux.sandbox.jail_privileges import CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, has_capabilities

ENVIRONMENT: Mapping[str, str] = {
    "PYTHONHASHSEED": "0",  # Fixed, so that sets and dicts of text repeat their order.
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    # With restartable sequences a process sees on which processor it is, and whenever it is interrupted.
    "GLIBC_TUNABLES": "glibc.pthread.rseq=0",
}
"""What the interpreter in the jail starts with; most of it is forgotten before user code runs."""

PROBE_PATIENCE_S = 60.0
CLOCK = "clock"
"""The finding that tells how the clock is held."""
UID_FIRST, UID_COUNT = 0x70000000, 0x0FFFFFFE
"""User ids that nobody gives to people, containers or services (systemd's UIDS-GIDS leaves them unused)."""

REMEDIES: Mapping[str, str] = {
    "landlock": "Landlock needs Linux 5.13 or newer, built with it and booted with it: see `lsm=` in "
    "/proc/cmdline. No level works without it",
    "seccomp": "seccomp filters need a kernel built with CONFIG_SECCOMP_FILTER, on x86_64. No level works without them",
    "namespaces": "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns, or the container's seccomp profile), or start as root, "
    'or choose less: isolation = "core" under [sandbox] in flux.toml',
    "cgroups": f"{cgroups.REMEDY}, or take the line cgroups from [sandbox] in flux.toml",
    "user": "the guest's user must be able to read Python, its packages and the project's copy under .flux: "
    "chmod -R o+rX there, or start as an ordinary user",
}


class IsolationUnavailableError(OperatorError):
    """A layer that the chosen isolation needs can't be put on here."""

    code = "FLX420"


@attrs.frozen
class LayerFinding:
    """One layer, tried from inside."""

    name: str
    """``descriptors``, ``environment``, ``limits``, ``privileges``, ``landlock``, ``seccomp``; in strict
    also ``namespaces`` and ``user``. Of a process of wasm guests then ``code``; of Python functions ``clock``, which
    is no layer: it is as good as can be had."""
    ok: bool
    """Whether it refused what it is there to refuse."""
    detail: str
    """What was seen."""


def make_command(plan: Plan) -> list[str]:
    """Return the command that starts ``plan``; its environment is `ENVIRONMENT`."""
    start = "jail_main" if plan.runs_wasm else "jail_start"
    return [sys.executable, "-s", "-P", "-m", f"flux.sandbox.{start}", plan.encode()]


def find_tenant_uid(tenant: str) -> int | None:
    """Return the user id that a tenant's guests get, or None when we may not give one away.

    It follows from the name, so that it is the same after every start. Two tenants among thousands may
    get the same one; they are still apart by every other layer.
    """
    if os.geteuid() != 0 or not has_capabilities(CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID, CAP_KILL):
        return None
    uid = UID_FIRST + int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:8]) % UID_COUNT
    # Root in a container without root has some ids only.
    return uid if _is_mapped("uid", uid) and _is_mapped("gid", uid) else None


def _is_mapped(kind: str, number: int) -> bool:
    with open(f"/proc/self/{kind}_map") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    return any(first <= number < first + count for first, _, count in ranges)


def find_guest_uid(isolation: str, tenant: str) -> int | None:
    """Return who a tenant's guests are, or None for who we are.

    Somebody else can read only what is open to all, so a user of its own belongs to the strict jail, which has
    the guest's files and no others, wherever they lie outside.
    """
    return find_tenant_uid(tenant) if isolation == "strict" else None


def make_refusal(isolation: str, told: object) -> IsolationUnavailableError:
    """Return the error for what a process that could not build its jail told."""
    match told:
        case {"layer": str(layer), "call": str(call), "errno": int(number), "detail": str(detail)}:
            reason = detail or f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"
            return IsolationUnavailableError(
                f'isolation "{isolation}" can\'t be had here: layer {layer}, {call}: {reason}',
                remedy=REMEDIES.get(layer, "flux explain FLX420"),
            )
    return IsolationUnavailableError(
        f'isolation "{isolation}" can\'t be had here: the process that builds it said {told!r:.200}',
        remedy="flux explain FLX420",
    )


def probe_jail(isolation: str, uid: int | None, *, runs_wasm: bool = False) -> tuple[LayerFinding, ...]:
    """Build the jail in a process that is thrown away and try each wall from inside.

    It is the jail of Python functions or, with ``runs_wasm``, that of a process of wasm guests.

    Waits, half a second at most as a rule: for a thread. Raises `IsolationUnavailableError` when a layer
    can't be put on, or does not hold.
    """
    try:
        ours, theirs = socket.socketpair()
        with ours, ours.makefile("rb") as control:
            with theirs:
                program = "wasm-probe" if runs_wasm else "probe"
                plan = Plan(isolation, os.getpid(), theirs.fileno(), program, uid=uid)
                with _without_ctrl_c():
                    process = subprocess.Popen(
                        make_command(plan),
                        env=dict(ENVIRONMENT),
                        cwd="/",
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        start_new_session=True,
                    )
            with process:
                try:
                    _, printed = process.communicate(timeout=PROBE_PATIENCE_S)
                except BaseException:
                    process.kill()
                    raise
            lines = control.read().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IsolationUnavailableError(
            f'isolation "{isolation}" can\'t be tried: {error}', remedy="flux explain FLX420"
        ) from error
    findings = _read_findings(isolation, lines, printed)
    for finding in findings:
        if not finding.ok:
            told = {"layer": finding.name, "call": "the wall was tried from inside", "errno": 0}
            raise make_refusal(isolation, {**told, "detail": finding.detail})
    return findings


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """A process that is started here hears no ctrl-c, neither before it has a session of its own nor later.

    A terminal's ctrl-c is for whoever asked: a process that it ended would be told as a refusal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read_findings(isolation: str, lines: list[bytes], printed: bytes) -> tuple[LayerFinding, ...]:
    for line in lines:
        match json.loads(line):
            case {"layers": list(layers), "clock": {"level": str(level), "detail": str(detail)}}:
                clock = LayerFinding(CLOCK, ok=True, detail=describe_clock(level, detail))
                return (*(LayerFinding(**layer) for layer in layers), clock)
            case {"layers": list(layers)}:
                return tuple(LayerFinding(**layer) for layer in layers)
            case {"refused": told}:
                raise make_refusal(isolation, told)
            case {"unusable": {"message": str(message), "remedy": str(remedy)}}:
                raise IsolationUnavailableError(message, remedy=remedy)
    raise make_refusal(isolation, printed.decode(errors="replace").strip()[-200:])


def describe_clock(level: str, seen: str) -> str:
    """Return what ``flux doctor`` says of the clock."""
    if level == "vdso":
        return f"vdso: time stands still between calls, for C code as for Python; {seen}"
    return (
        f"python: time stands still between calls; C code that asks the system sees the real one, as {seen}"
    )


def describe_findings(
    isolation: str, findings: tuple[LayerFinding, ...], wasm: tuple[LayerFinding, ...] = ()
) -> list[dict[str, str | bool]]:
    """Return the table that ``flux doctor`` prints: the level, then each layer.

    ``wasm`` is what was seen in a process of wasm guests. Where there are Python functions too it has the same
    layers and gets one line.
    """
    lines: list[dict[str, str | bool]] = []
    if findings or not wasm:
        lines.append(_line("isolation", _describe_level(isolation, "Python functions are", findings)))
    if wasm:
        told = _describe_level(isolation, "JavaScript, TypeScript and wasm functions run", wasm)
        within = next((f"; {finding.detail}" for finding in wasm if finding.name == "code"), "")
        lines.append(_line("wasm", told + within) if findings else _line("isolation", told))
    lines += [_line(finding.name, finding.detail, ok=finding.ok) for finding in findings or wasm]
    if findings or not wasm:
        # No wall, so it may be missing; it is told all the same. Wasm guests see no address.
        lines.append(_line("addresses", describe_addresses()))
        # Nor does anything but the cost of a fork depend on this.
        lines.append(_line("pages", describe_folding()))
    return lines


def _describe_level(isolation: str, who: str, findings: tuple[LayerFinding, ...]) -> str:
    layers = sum(finding.name != CLOCK for finding in findings)
    return f"{isolation}: {who} in a jail of {layers} layers, each tried at the start"


def _line(name: str, detail: str, *, ok: bool = True) -> dict[str, str | bool]:
    return {"name": name, "ok": ok, "detail": detail, "remedy": ""}
