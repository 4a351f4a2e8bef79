"""The interpreter as a function finds it: its clocks, its randomness and its doors are the host's.

`take_over` runs once, before the project's modules are imported, so that a module
which says ``from time import time`` has the right one. What it replaces asks the
channel whether an execution is running. If so, time is the time of the host's
last answer (it stands still between two), and random bytes follow from the
execution's seed; so a replay sees the same. While a module is imported, both are
the real ones: a key that is drawn there must be a secret.

This is done from Python and holds what Python code asks. C code that reads a
clock or draws randomness by itself is not reached from here; the record says
``python`` for it (docs/design/015-python-clock.md lists what is and what is not).
"""

import _posixsubprocess
import _thread
import asyncio
import ctypes
import datetime
import gc
import hashlib
import io
import operator
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, SupportsIndex

from flux_guest._channel import Channel
from flux_guest._loop import HostLoop

_CLOCK_REALTIME_COARSE = 5
"""Of linux/time.h; the module `time` has no name for it."""
_NO_THREADS = (
    "a function can't start threads: their order is nobody's, so no record could repeat it; "
    "use async def with asyncio.gather, or asyncio.to_thread, which runs in place"
)
_NO_PROCESSES = "a function can't start processes: what they do would not be on record"
_NO_NETWORK = "a function has no sockets of its own, so that all it does is on record: use ctx.http or ctx.db"


class Entropy:
    """Bytes that follow from an execution's seed: SHAKE-256 in counter mode."""

    def __init__(self) -> None:
        self._seed = b""
        self._count = 0

    def reset(self, seed: bytes) -> None:
        """Begin a new execution."""
        self._seed, self._count = seed, 0

    def take(self, size: SupportsIndex) -> bytes:
        """Return the next ``size`` bytes."""
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8)).digest(operator.index(size))


class Interpreter:
    """What was taken over. `begin` before each execution."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._entropy = Entropy()
        self._unseeded: list[weakref.ref[random.Random]] = []
        """Generators that modules made without a seed, in order."""
        _take_clock(channel)
        self._take_entropy()
        _take_doors(channel)
        asyncio.set_event_loop_policy(_Policy(channel))
        _take_task_order()
        sys.stdin = io.StringIO()  # Descriptor 0 is the host's; a function has no input but its own.

    def begin(self, seed: bytes) -> None:
        """Put everything random at its beginning for an execution with ``seed``."""
        self._entropy.reset(seed)
        random.seed(hashlib.sha256(seed + b"random").digest())
        for index, reference in enumerate(self._unseeded):
            generator = reference()
            if generator is not None:
                generator.seed(hashlib.sha256(seed + b"module" + index.to_bytes(4)).digest())
        # uuid1 looks for a network card's address, and remembers the last time.
        uuid._node = int.from_bytes(hashlib.sha256(seed + b"node").digest()[:6]) | 1 << 40  # type: ignore[attr-defined]
        uuid._last_timestamp = None  # type: ignore[attr-defined]

    def _take_entropy(self) -> None:
        channel, entropy = self._channel, self._entropy
        real_urandom, real_getrandom, real_seed = os.urandom, os.getrandom, random.Random.seed

        def urandom(size: int, /) -> bytes:
            return entropy.take(size) if channel.running else real_urandom(size)

        def getrandom(size: int, flags: int = 0) -> bytes:
            return entropy.take(size) if channel.running else real_getrandom(size, flags)

        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
            if a is None:
                if channel.running:
                    a = entropy.take(32)
                else:
                    self._unseeded.append(weakref.ref(generator))
            real_seed(generator, a, version)

        os.urandom = urandom
        random._urandom = urandom  # type: ignore[attr-defined]
        os.getrandom = getrandom
        random.Random.seed = seed  # type: ignore[method-assign, assignment]
        uuid._generate_time_safe = uuid._UuidCreate = None  # type: ignore[attr-defined]


def _take_clock(channel: Channel) -> None:
    real = {name: getattr(time, name) for name in dir(time)}

    def monotonic_ns() -> int:
        return channel.now_ns - channel.started_ns if channel.running else real["monotonic_ns"]()

    def clock_gettime_ns(clock: int) -> int:
        if not channel.running:
            return real["clock_gettime_ns"](clock)  # type: ignore[no-any-return]
        if clock in (time.CLOCK_REALTIME, time.CLOCK_TAI, _CLOCK_REALTIME_COARSE):
            return channel.now_ns
        if clock in (time.CLOCK_PROCESS_CPUTIME_ID, time.CLOCK_THREAD_CPUTIME_ID):
            return 0
        return monotonic_ns()

    def sleep(seconds: float | SupportsIndex, /) -> None:
        if not channel.running:
            real["sleep"](seconds)
            return
        duration_s = float(seconds)
        if not duration_s >= 0:
            raise ValueError("sleep length must be non-negative")
        channel.sleep(duration_s)

    def of_now(name: str) -> Callable[..., Any]:
        def with_default(seconds: float | None = None, /) -> Any:
            return real[name](channel.now_ns // 10**9 if seconds is None and channel.running else seconds)

        return with_default

    time.time_ns = lambda: channel.now_ns if channel.running else real["time_ns"]()
    time.time = lambda: channel.now_ns / 1e9 if channel.running else real["time"]()
    time.monotonic_ns = time.perf_counter_ns = monotonic_ns
    time.monotonic = time.perf_counter = lambda: monotonic_ns() / 1e9
    # How long the processor took is not the function's to know: it is never the same twice.
    time.process_time_ns = lambda: 0 if channel.running else real["process_time_ns"]()
    time.process_time = lambda: 0.0 if channel.running else real["process_time"]()
    time.thread_time_ns = lambda: 0 if channel.running else real["thread_time_ns"]()
    time.thread_time = lambda: 0.0 if channel.running else real["thread_time"]()
    time.clock_gettime_ns = clock_gettime_ns
    time.clock_gettime = lambda clock: clock_gettime_ns(clock) / 1e9
    time.sleep = sleep
    time.localtime, time.gmtime, time.ctime = of_now("localtime"), of_now("gmtime"), of_now("ctime")
    time.asctime = lambda t=None, /: real["asctime"](time.localtime() if t is None else t)
    time.strftime = lambda form, t=None, /: real["strftime"](form, time.localtime() if t is None else t)
    _take_datetime(channel)


def _take_datetime(channel: Channel) -> None:
    """Replace ``datetime.now`` and ``utcnow`` in the class itself.

    They ask the C library, not `time.time`. The class is C code's and refuses to have an attribute set, but
    the dictionary behind it does not: so it stays one class, for isinstance, pickle and subclasses alike.
    (``today`` asks `time.time`, which is ours.)
    """
    real = {name: datetime.datetime.__dict__[name] for name in ("now", "utcnow")}

    def now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
        if not channel.running:
            return real["now"].__get__(None, cls)(tz)  # type: ignore[no-any-return]
        seconds, rest_ns = divmod(channel.now_ns, 10**9)
        return cls.fromtimestamp(seconds, tz).replace(microsecond=rest_ns // 1000)

    def utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
        if not channel.running:
            return real["utcnow"].__get__(None, cls)()  # type: ignore[no-any-return]
        return now(cls, datetime.UTC).replace(tzinfo=None)

    dictionary = gc.get_referents(datetime.datetime.__dict__)[0]
    dictionary["now"], dictionary["utcnow"] = classmethod(now), classmethod(utcnow)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))


def _take_doors(channel: Channel) -> None:
    def no_threads(*_arguments: Any, **_options: Any) -> NoReturn:
        # At import as well: a worker is forked, and a thread does not come along.
        raise RuntimeError(_NO_THREADS)

    for module in (_thread, threading):
        for name in (
            *("start_new_thread", "start_new", "start_joinable_thread"),
            *("_start_new_thread", "_start_joinable_thread"),
        ):
            if hasattr(module, name):
                setattr(module, name, no_threads)

    def close(owner: Any, names: Iterable[str], message: str) -> None:
        for name in names:
            if hasattr(owner, name):
                setattr(owner, name, _closed(channel, getattr(owner, name), message))

    processes = (
        *("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen"),
        *("execv", "execve", "execl", "execle", "execlp", "execlpe", "execvp", "execvpe"),
    )
    close(os, processes, _NO_PROCESSES)
    close(_posixsubprocess, ["fork_exec"], _NO_PROCESSES)
    close(subprocess, ["_fork_exec"], _NO_PROCESSES)
    close(socket.socket, ["connect", "connect_ex", "bind", "listen", "sendto", "sendmsg"], _NO_NETWORK)
    close(socket, ["getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"], _NO_NETWORK)


def _closed(channel: Channel, real: Callable[..., Any], message: str) -> Callable[..., Any]:
    """Return ``real``, refused while an execution runs. (Modules may look for libraries when imported.)"""

    def refusing(*arguments: Any, **options: Any) -> Any:
        if channel.running:
            raise PermissionError(message)
        return real(*arguments, **options)

    return refusing


class _Policy(asyncio.DefaultEventLoopPolicy):
    """Makes `asyncio.run` in a ``def`` handler use the host's loop."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return HostLoop(self._channel) if self._channel.running else super().new_event_loop()


def _take_task_order() -> None:
    """Have `asyncio.as_completed` make its tasks in the order of its argument, not of their addresses."""
    real = asyncio.as_completed

    def as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
        return real([asyncio.ensure_future(one) for one in fs], timeout=timeout)

    asyncio.as_completed = asyncio.tasks.as_completed = as_completed
