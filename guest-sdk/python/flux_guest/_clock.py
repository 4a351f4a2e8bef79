"""The function's clock: it stands still between two answers of the host, and sleeping is a host call.

Where the machine below is held (`flux_guest._machine`), every clock of the C library tells the host's time
and this only has to make sleeping a question to the host. Where it is not, the clocks of Python are replaced one
by one, which holds what Python code asks; C code then sees the real time, and the record says so.

Everything is put in place once, before the project's modules are imported, and is the real thing
while no execution runs.
"""

import ctypes
import datetime
import gc
import threading
import time
from collections.abc import Callable
from typing import Any, SupportsIndex

from flux_guest._channel import Channel

_CLOCK_REALTIME_COARSE = 5
"""Of linux/time.h; the module `time` has no name for it."""


def take_clock(channel: Channel, *, is_held_below: bool) -> None:
    """Make the clock the host's; ``is_held_below``: it is already, but for sleeping."""
    _take_sleep(channel)
    if not is_held_below:
        _take_time(channel)
        _take_datetime(channel)


def _take_sleep(channel: Channel) -> None:
    real_sleep, real_wait = time.sleep, threading.Condition.wait

    def sleep(seconds: float | SupportsIndex, /) -> None:
        if not channel.running:
            real_sleep(seconds)
            return
        duration_s = float(seconds)
        if not duration_s >= 0:
            raise ValueError("sleep length must be non-negative")
        channel.sleep(duration_s)

    def wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        # No other thread will notify. Waiting by the machine's clock, which stands still, would never end.
        if not channel.running or timeout is None:
            return real_wait(condition, timeout)
        if not condition._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot wait on un-acquired lock")
        if timeout > 0:
            channel.sleep(timeout)
        return False

    time.sleep = sleep
    threading.Condition.wait = wait  # type: ignore[method-assign, assignment]


def _take_time(channel: Channel) -> None:
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
    time.localtime, time.gmtime, time.ctime = of_now("localtime"), of_now("gmtime"), of_now("ctime")
    time.asctime = lambda t=None, /: real["asctime"](time.localtime() if t is None else t)
    time.strftime = lambda form, t=None, /: real["strftime"](form, time.localtime() if t is None else t)


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
