"""One worker process: reads what to run from descriptor 0, runs it, answers on 3.

It is forked from the zygote with the user's modules already imported. Before the
handler runs, what would differ between two runs is put under the host's control:
the interpreter's clock functions read the host's time, and its randomness follows
from the execution's seed. (C code that reads clocks by itself is not reached from
here; the record says so with clock level ``python``.)
"""

import asyncio
import hashlib
import io
import linecache
import os
import random
import resource
import sys
import time
import traceback
from typing import Any, SupportsIndex

from flux_guest import _values
from flux_guest._channel import Channel
from flux_guest._context import Context, Response, make_async_door, make_sync_door
from flux_guest._errors import HostCallError, HTTPError, ValidationError
from flux_guest._loop import HostLoop
from flux_guest._registry import FUNCTIONS, MIDDLEWARE, Registered

FRAMES_MAX = 60
"""Frames of a stack that are reported; the middle of a deeper one is left out."""
MESSAGE_CHARACTERS_MAX = 8_000


class _LineStream(io.TextIOBase):
    """``sys.stdout`` and ``sys.stderr`` of a function: each line becomes a log line in its place."""

    def __init__(self, channel: Channel, level: str) -> None:
        self._channel = channel
        self._level = level
        self._pending = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + _values.printable(text)).split("\n")
        for line in lines:
            self._channel.tell("log.write", [self._level, line, {}])
        return len(text)

    def finish(self) -> None:
        """Send what was printed without a newline."""
        if self._pending:
            self._channel.tell("log.write", [self._level, self._pending, {}])
            self._pending = ""


class _Entropy:
    """A stream of bytes that follows from a seed: SHAKE-256 in counter mode."""

    def __init__(self) -> None:
        self.seed = b""
        self.count = 0

    def take(self, size: int) -> bytes:
        self.count += 1
        return hashlib.shake_256(self.seed + self.count.to_bytes(8)).digest(size)


def _patch_clock(channel: Channel) -> None:
    real = time.clock_gettime_ns

    def monotonic_ns() -> int:
        return channel.now_ns - channel.started_ns

    time.time_ns = lambda: channel.now_ns
    time.time = lambda: channel.now_ns / 1e9
    time.monotonic_ns = time.perf_counter_ns = monotonic_ns
    time.monotonic = time.perf_counter = lambda: monotonic_ns() / 1e9
    time.process_time_ns = time.thread_time_ns = lambda: 0
    time.process_time = time.thread_time = lambda: 0.0

    def clock_gettime_ns(clock: int) -> int:
        if clock == time.CLOCK_REALTIME:
            return channel.now_ns
        if clock == time.CLOCK_MONOTONIC:
            return monotonic_ns()
        return real(clock)

    time.clock_gettime_ns = clock_gettime_ns
    time.clock_gettime = lambda clock: clock_gettime_ns(clock) / 1e9

    def sleep(seconds: float | SupportsIndex) -> None:
        duration_s = float(seconds)
        if duration_s < 0:
            raise ValueError("sleep length must be non-negative")
        channel.call("clock.sleep", [duration_s])

    time.sleep = sleep


def _patch_entropy(entropy: _Entropy) -> None:
    os.urandom = entropy.take
    random._urandom = entropy.take  # type: ignore[attr-defined]
    if hasattr(os, "getrandom"):
        os.getrandom = lambda size, flags=0: entropy.take(size)  # noqa: ARG005 - the original's signature


class Worker:
    """A worker's life: one execution, or several when the project sets ``warm``."""

    def __init__(self, project: str, *, warm: bool) -> None:
        self._project = project
        self._warm = warm
        self._channel = Channel(3, project)
        self._entropy = _Entropy()

    def serve(self) -> None:
        """Run executions until the host closes descriptor 0."""
        _patch_clock(self._channel)
        _patch_entropy(self._entropy)
        buffer = b""
        while True:
            while b"\n" not in buffer:
                data = os.read(0, 1 << 20)
                if not data:
                    return
                buffer = buffer + data if buffer else data
            line, _, buffer = buffer.partition(b"\n")
            self._run(_values.decode(line.decode()))

    def _run(self, start: dict[str, Any]) -> None:
        channel = self._channel
        channel.reset(start["now_ns"])
        seed = bytes.fromhex(start["seed"])
        self._entropy.seed, self._entropy.count = seed, 0
        random.seed(hashlib.sha256(seed + b"random").digest())
        limit = start["memory_bytes_max"]
        # A hard limit can't be raised again, and the next execution's may be higher.
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1] if self._warm else limit
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        out, err = _LineStream(channel, "stdout"), _LineStream(channel, "stderr")
        sys.stdout, sys.stderr = out, err
        try:
            answer = _values.encode(_describe_answer(self._call(start, seed)))
            word = "return"
        except SystemExit as request:
            out.finish()
            err.finish()
            os._exit(request.code if isinstance(request.code, int) else 1 if request.code else 0)
        except BaseException as error:
            answer, word = _values.encode(self._describe_error(error, start["function"])), "raise"
        out.finish()
        err.finish()
        channel.finish(word, answer)
        while channel.waiting:  # The host answers every call, were it only to say that it is over.
            channel.receive()

    def _call(self, start: dict[str, Any], seed: bytes) -> Any:
        registered = FUNCTIONS[start["function"]]
        generator = random.Random(hashlib.sha256(seed + b"ctx").digest())
        described = {**start["request"], "execution": start["execution"]}
        channel = self._channel
        names = start["middleware"]
        unknown = [name for name in names if name not in MIDDLEWARE]
        if unknown:
            known = ", ".join(MIDDLEWARE) or "none"
            raise LookupError(f"no middleware is named {unknown[0]!r}; there is {known}")
        value = _values.from_json(start["input"])
        if not registered.is_async:
            channel.task_of = lambda: 0
            context = Context(channel, make_sync_door(channel), described, generator)
            return self._call_sync(registered, context, value, names)
        loop = HostLoop(channel)
        context = Context(channel, make_async_door(loop), described, generator)
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(self._call_async(registered, context, value, names))
        finally:
            asyncio.set_event_loop(None)

    def _call_sync(self, registered: Registered, context: Context, value: Any, names: list[str]) -> Any:
        def call_next(index: int) -> Any:
            if index == len(names):
                return registered.handler(context, _accept(registered, value))
            return MIDDLEWARE[names[index]](context, lambda: call_next(index + 1))

        return call_next(0)

    async def _call_async(
        self, registered: Registered, context: Context, value: Any, names: list[str]
    ) -> Any:
        async def call_next(index: int) -> Any:
            if index == len(names):
                return await registered.handler(context, _accept(registered, value))
            return await MIDDLEWARE[names[index]](context, lambda: call_next(index + 1))

        return await call_next(0)

    def _describe_error(self, error: BaseException, function: str) -> dict[str, Any]:
        report: dict[str, Any] = {
            "type": _values.printable(type(error).__qualname__),
            "message": message_of(error),
            "frames": self._frames_of(error),
        }
        if not any(frame[3] for frame in report["frames"]):
            registered = FUNCTIONS[function]
            report["frames"].append([self._relative(registered.file), registered.line, function, True, ""])
        if isinstance(error, HTTPError):
            code = _shown(error.code)
            report.update(status=error.status, code=code, message=_shown(error.message) or code)
        if isinstance(error, ValidationError):
            report["violations"] = [
                {_shown(key): _shown(value) for key, value in item.items()} for item in error.violations
            ]
        seen: BaseException | None = error
        for _ in range(20):
            if isinstance(seen, HostCallError):
                report["call"] = seen.call
                break
            if seen is None:
                break
            seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            report["cause"] = f"{type(cause).__qualname__}: {message_of(cause)}"[:MESSAGE_CHARACTERS_MAX]
        return report

    def _relative(self, file: str) -> str:
        prefix = self._project.rstrip(os.sep) + os.sep
        return file[len(prefix) :] if file.startswith(prefix) else file

    def _frames_of(self, error: BaseException) -> list[list[Any]]:
        frames: list[list[Any]] = []
        sdk = os.path.dirname(os.path.abspath(__file__)) + os.sep
        for frame, line in traceback.walk_tb(error.__traceback__):
            code = frame.f_code
            file = code.co_filename
            if file.startswith(sdk) and not frames:
                continue  # how the SDK came to call the handler says nothing about the failure
            relative = self._relative(file)
            user = relative != file and not relative.startswith((".", "venv"))
            source = linecache.getline(file, line).strip()[:300]
            frames.append([_values.printable(relative), line, code.co_qualname, user, source])
        if len(frames) > FRAMES_MAX:
            half = FRAMES_MAX // 2
            gap = ["...", 0, f"{len(frames) - FRAMES_MAX} frames", False, ""]
            frames = [*frames[:half], gap, *frames[-half:]]
        return frames


def message_of(error: BaseException) -> str:
    """Return what the exception says, as text that can be shown."""
    try:
        text = str(error)
    except Exception as problem:  # a __str__ of the user's that fails must not hide the failure
        text = f"(its message can't be shown: {type(problem).__name__})"
    return _shown(text)


def _shown(value: Any) -> str:
    return _values.printable(str(value))[:MESSAGE_CHARACTERS_MAX]


def _accept(registered: Registered, value: Any) -> Any:
    if registered.input is None:
        return value
    from flux_guest._validation import make_input

    return make_input(registered.input, value)


def _describe_answer(value: Any) -> dict[str, Any]:
    status, headers = 200, {}
    if isinstance(value, Response):
        status, headers, value = value.status, value.headers, value.body
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"a response has a status from 200 to 599, not {status!r}")
    elif value is None:
        status = 204
    names = {name.lower() for name in headers}
    body: Any
    if value is None:
        body = ""
    elif isinstance(value, bytes | bytearray | memoryview):
        body, content_type = bytes(value), "application/octet-stream"
    elif isinstance(value, str):
        body, content_type = value, "text/plain; charset=utf-8"
    else:
        body, content_type = _values.encode_body(value), "application/json"
    fields = [[str(name).lower(), str(item)] for name, item in headers.items()]
    if value is not None and "content-type" not in names:
        fields.append(["content-type", content_type])
    return {"status": status, "headers": fields, "body": body}
