"""The interpreter as a function finds it: its clocks, its randomness and its doors are the host's.

`take_over` runs once, before the project's modules are imported, so that a module
which says ``from time import time`` has the right one. What it replaces asks the
channel whether an execution is running. If so, time is the time of the host's
last answer (it stands still between two), and random bytes follow from the
execution's seed; so a replay sees the same. While a module is imported, both are
the real ones: a key that is drawn there must be a secret.

C code that reads a clock or draws randomness by itself is held where the machine is
(`flux_guest._machine`); docs/design/015-python-clock.md lists what is and what is not.
"""

import _posixsubprocess
import _thread
import asyncio
import io
import os
import random
import subprocess
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from flux_guest import _sockets_names, _sockets_select, _sockets_tls
from flux_guest._channel import Channel
from flux_guest._clock import take_clock
from flux_guest._digests import sha256
from flux_guest._entropy import Entropy, Generators
from flux_guest._loop import HostLoop
from flux_guest._machine import Machine
from flux_guest._numpy import NumpyGenerators

_NO_THREADS = (
    "a function can't start threads: their order is nobody's, so no record could repeat it; "
    "use async def with asyncio.gather, or asyncio.to_thread, which runs in place"
)
_NO_PROCESSES = "a function can't start processes: what they do would not be on record"


class Interpreter:
    """What was taken over. `begin` before each execution."""

    def __init__(self, channel: Channel, machine: Machine) -> None:
        self._channel = channel
        self._entropy = Entropy()
        self._generators = Generators()
        self._numpy = NumpyGenerators(lambda: channel.running)
        machine.fill = self._generators.entropy.take
        self._unseeded: list[weakref.ref[random.Random]] = []
        """Generators that modules made without a seed, in order."""
        take_clock(channel, is_held_below=machine.is_held)
        self._take_entropy()
        _take_doors(channel)
        self._network = _sockets_names.take_over(channel)
        _sockets_tls.take_over(channel)
        _sockets_select.take_over(channel, self._network)
        asyncio.set_event_loop_policy(_Policy(channel))
        _take_task_order()
        sys.stdin = io.StringIO()  # Descriptor 0 is the host's; a function has no input but its own.

    def attach(self) -> None:
        """Take over what the imported modules have brought with them. To be called before the first `begin`."""
        self._generators.attach()
        self._numpy.attach()

    def begin(self, seed: bytes) -> None:
        """Put everything random at its beginning for an execution with ``seed``."""
        self._entropy.reset(seed)
        self._network.begin()
        self._generators.begin(seed)
        self._numpy.begin(seed)
        random.seed(sha256(seed + b"random").digest())
        for index, reference in enumerate(self._unseeded):
            generator = reference()
            if generator is not None:
                generator.seed(sha256(seed + b"module" + index.to_bytes(4)).digest())
        # uuid1 looks for a network card's address, and remembers the last time.
        uuid._node = int.from_bytes(sha256(seed + b"node").digest()[:6]) | 1 << 40  # type: ignore[attr-defined]
        uuid._last_timestamp = None  # type: ignore[attr-defined]
        if (tempfile := sys.modules.get("tempfile")) is not None:
            # A generator that an execution before this one may have made.
            tempfile._name_sequence = None  # type: ignore[attr-defined]
        if (logging := sys.modules.get("logging")) is not None:
            # Lines may tell how long ago it was imported. (It counts in nanoseconds since Python 3.13.)
            now_ns = self._channel.now_ns
            logging._startTime = now_ns if isinstance(logging._startTime, int) else now_ns / 1e9  # type: ignore[attr-defined]

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
        random.seed = random._inst.seed  # Bound to the real one until now.
        uuid._generate_time_safe = uuid._UuidCreate = None  # type: ignore[attr-defined]


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
