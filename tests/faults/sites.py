"""Where operations fail: a *site* counts the operations of one kind, and makes the n-th of them fail.

All have one shape. `arm` says which one is to fail and how, and begins to count; afterwards `struck` says whether it
came to that, and `seen` how many there were. Sites do not know what is true then: `tests.faults.ledger` does.
"""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol
from unittest import mock

import attrs
import trio

from flux.hostcalls import clock
from flux.sandbox.scripted import Script, ScriptedExit, ScriptedGuest
from flux.supervisor import journal
from tests.execution_world import served_on_loopback
from tests.faults.chaos_proxy import REFUSED, ChaosProxy, Direction, Harm
from tests.faults.ledger import ASKS, ATOMIC, BLOCK, RAISES


class Site(Protocol):
    """See the module."""

    name: str
    """What the operations are."""
    harms: tuple[str, ...]
    """How one may fail."""
    flavours: tuple[str, ...]
    """Of trades that meet it: see `tests.faults.ledger`."""

    @property
    def seen(self) -> int:
        """Operations since `arm`."""

    @property
    def struck(self) -> bool:
        """Whether one has failed since."""

    def arm(self, harm: str, at: int) -> None:
        """Let the ``at``-th operation from here fail; 0: none."""

    def disarm(self) -> None:
        """Let nothing fail any more."""

    def wrap(self, script: Script) -> Script:
        """Return what plays the function, where the site is in the function's process."""


@attrs.define
class _Counting:
    """What a site has that counts for itself; see `Site`."""

    seen: int = 0
    struck: bool = False
    _harm: str = ""
    _at: int = 0

    def arm(self, harm: str, at: int) -> None:
        """See `Site.arm`."""
        self._harm, self._at, self.seen, self.struck = harm, at, 0, False

    def disarm(self) -> None:
        """See `Site.disarm`."""
        self._at = 0

    def wrap(self, script: Script) -> Script:
        """See `Site.wrap`."""
        return script


@attrs.define
class WireSite:
    """Messages between Flux and Postgres, or statements that Postgres refuses."""

    proxy: ChaosProxy
    role: bytes
    direction: Direction
    name: str
    harms: tuple[str, ...]
    flavours: tuple[str, ...]

    @property
    def seen(self) -> int:
        """See `Site.seen`."""
        return self.proxy.seen

    @property
    def struck(self) -> bool:
        """See `Site.struck`."""
        return self.proxy.struck

    def arm(self, harm: str, at: int) -> None:
        """See `Site.arm`."""
        self.proxy.arm(self.role, self.direction, Harm(harm), at)

    def disarm(self) -> None:
        """See `Site.disarm`."""
        self.proxy.disarm()

    def wrap(self, script: Script) -> Script:
        """See `Site.wrap`."""
        return script


def make_wire_sites(proxy: ChaosProxy, owner: str) -> list[WireSite]:
    """Return the wires of functions and of Flux's own role ``owner``, in both directions, and their statements."""
    line = tuple(each.value for each in Harm if each not in REFUSED)
    refusals = tuple(each.value for each in REFUSED)
    guest, own = b"user\0flux_guest_", b"user\0" + owner.encode() + b"\0"
    ours = (ATOMIC, BLOCK, RAISES)
    return [
        WireSite(proxy, guest, Direction.OUT, "driver: a message to the server", line, ours),
        WireSite(proxy, guest, Direction.IN, "driver: a message from the server", line, ours),
        WireSite(proxy, guest, Direction.OUT, "driver: a statement", refusals, ours),
        WireSite(proxy, own, Direction.OUT, "store: a message to the server", line, (RAISES,)),
        WireSite(proxy, own, Direction.IN, "store: a message from the server", line, (RAISES,)),
        WireSite(proxy, own, Direction.OUT, "store: a statement", refusals, (RAISES,)),
    ]


class _FailingSystem:
    """A module of the system's calls, of which some are counted and fail."""

    def __init__(self, real: Any, site: "JournalSite") -> None:
        self._real = real
        self._site = site

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        return self._site.make(name, call) if name in JOURNAL_CALLS else call


JOURNAL_CALLS = frozenset({"write", "ftruncate", "open", "flock", "fstat", "unlink"})
EIO, NO_ROOM, SHORT, NO_FILES = "EIO", "ENOSPC", "a part, then ENOSPC", "EMFILE"
LASTING_EIO, LASTING_NO_ROOM = "EIO from there on", "ENOSPC from there on"
_CODES = {
    EIO: errno.EIO, NO_ROOM: errno.ENOSPC, SHORT: errno.ENOSPC, NO_FILES: errno.EMFILE, LASTING_EIO: errno.EIO,
    LASTING_NO_ROOM: errno.ENOSPC,
}  # fmt: skip


@attrs.define
class JournalSite(_Counting):
    """The system's calls by which the journal writes."""

    name: str = "journal: a call of the system"
    harms: tuple[str, ...] = (EIO, NO_ROOM, SHORT, NO_FILES, LASTING_EIO, LASTING_NO_ROOM)
    flavours: tuple[str, ...] = (ATOMIC, BLOCK, RAISES)
    _is_short: bool = False

    def arm(self, harm: str, at: int) -> None:
        """See `Site.arm`."""
        super().arm(harm, at)
        self._is_short = False

    def disarm(self) -> None:
        """See `Site.disarm`."""
        super().disarm()
        self._is_short = False

    def make(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call``, counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            self.seen += 1
            is_late = self._at and self.seen > self._at and self._harm in (LASTING_EIO, LASTING_NO_ROOM)
            if self._is_short and name == "write":
                self._is_short = False
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if not is_late and self.seen != self._at:
                return call(*arguments, **options)
            self.struck = True
            if self._harm == SHORT and name == "write":
                descriptor, data = arguments
                self._is_short = True
                return call(descriptor, data[: len(data) // 2])
            code = _CODES[self._harm]
            raise OSError(code, os.strerror(code))

        return counted


@contextlib.contextmanager
def failing_journal() -> Iterator[JournalSite]:
    """Stand between every journal of this process and the system, until the block ends."""
    site = JournalSite()
    with (
        mock.patch.object(journal, "os", _FailingSystem(os, site)),
        mock.patch.object(journal, "fcntl", _FailingSystem(fcntl, site)),
    ):
        yield site


@attrs.define
class WorkerSite(_Counting):
    """What a function says to its host and hears of it: its process ends there."""

    name: str = "worker: a step of its conversation"
    harms: tuple[str, ...] = ("SIGKILL", "exit 0", "exit 3", "closes its wire", "half a line, then SIGKILL")
    flavours: tuple[str, ...] = (ATOMIC, BLOCK)

    def wrap(self, script: Script) -> Script:
        """Have the guest counted at each line it writes or hears, before and after."""

        async def counted(guest: ScriptedGuest, document: dict[str, Any]) -> Any:
            write, hear = guest.write, guest.hear

            async def counted_write(data: bytes) -> None:
                await self._step(guest, data, write)
                await write(data)
                await self._step(guest, b"", write)

            async def counted_hear() -> int:
                heard = await hear()
                await self._step(guest, b"", write)
                return heard

            with mock.patch.object(guest, "write", counted_write), mock.patch.object(guest, "hear", counted_hear):
                return await script(guest, document)

        return counted

    async def _step(self, guest: ScriptedGuest, data: bytes, write: Callable[[bytes], Any]) -> None:
        self.seen += 1
        if self.seen != self._at:
            return
        self.struck = True
        match self._harm:
            case "SIGKILL":
                raise ScriptedExit(signal=signal.SIGKILL)
            case "exit 0":
                raise ScriptedExit(0)
            case "exit 3":
                raise ScriptedExit(3)
            case "closes its wire":
                guest.close_wire()
            case _:
                await write(data[: len(data) // 2])
                raise ScriptedExit(signal=signal.SIGKILL)


ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b'7\r\n{"ok":t\r\n4\r\nrue}\r\n0\r\n\r\n'
)


@attrs.define
class OutboundSite(_Counting):
    """The bytes of an answer of a host outside; those before the n-th come, and then it fails."""

    name: str = "network: a byte of an answer"
    harms: tuple[str, ...] = ("closed", "reset", "never goes on", "reset while it is asked", "a byte at a time")
    flavours: tuple[str, ...] = (ASKS,)
    port: int = 0
    asked: int = 0
    """Requests that came here whole or in part: the oracle for what left Flux."""
    _let_go: trio.Event = attrs.field(factory=trio.Event)

    def disarm(self) -> None:
        """See `Site.disarm`."""
        super().disarm()
        self._let_go.set()
        self._let_go = trio.Event()

    async def serve(self, client: trio.SocketStream) -> None:
        """Answer one request."""
        let_go = self._let_go
        self.asked += 1
        self.seen = len(ANSWER)
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with client:
                cut = self._at - 1 if 0 < self._at <= len(ANSWER) else len(ANSWER)
                self.struck = cut < len(ANSWER)
                if self.struck and self._harm == "reset while it is asked":
                    await client.receive_some(min(self._at, 40))
                    self._reset(client)
                    return
                await client.receive_some(65536)
                if self.struck and self._harm == "a byte at a time":
                    for n in range(len(ANSWER)):
                        await client.send_all(ANSWER[n : n + 1])
                        await trio.lowlevel.checkpoint()
                    return
                if cut:
                    await client.send_all(ANSWER[:cut])
                if self.struck and self._harm == "never goes on":
                    await let_go.wait()
                elif self.struck and self._harm == "reset":
                    self._reset(client)

    @staticmethod
    def _reset(client: trio.SocketStream) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.asynccontextmanager
async def failing_host() -> AsyncIterator[OutboundSite]:
    """A host on loopback that fails in no way yet, until the block ends."""
    site = OutboundSite()
    async with served_on_loopback(site.serve) as site.port:
        yield site


HOUR_NS = 3600 * 10**9


@attrs.define
class ClockSite(_Counting):
    """Readings of the machine's wall clock, which is put back or forward before one of them."""

    name: str = "clock: a reading"
    harms: tuple[str, ...] = ("an hour back", "an hour on", "to 1970")
    flavours: tuple[str, ...] = (ATOMIC, RAISES)

    def time_ns(self) -> int:
        """Say what the wall clock says."""
        self.seen += 1
        now_ns = time.time_ns()
        if not self._at or self.seen < self._at:
            return now_ns
        self.struck = True
        return {"an hour back": now_ns - HOUR_NS, "an hour on": now_ns + HOUR_NS}.get(self._harm, 0)


class _Stepping:
    """The module ``time``, as a machine has it whose clock is set."""

    def __init__(self, site: ClockSite) -> None:
        self.time_ns = site.time_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextlib.contextmanager
def stepping_clock() -> Iterator[ClockSite]:
    """Have the host's clock read through a site, until the block ends."""
    site = ClockSite()
    with mock.patch.object(clock, "time", _Stepping(site)):
        yield site
