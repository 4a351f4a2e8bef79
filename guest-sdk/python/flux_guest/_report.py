"""What is told of an exception that ended a function: its class, its message, its stack.

An exception is the user's object: its ``__str__`` may fail, its message may have a
hundred megabytes, its stack a thousand frames. None of it may hide the failure.
"""

import linecache
import traceback
from collections.abc import Iterator
from typing import Any

from flux_guest import _values
from flux_guest._channel import Channel
from flux_guest._errors import HostCallError, HTTPError, ValidationError
from flux_guest._registry import Registered

FRAMES_MAX = 60
"""Frames of a stack that are reported; the middle of a deeper one is left out."""
MESSAGE_CHARACTERS_MAX = 8_000
SOURCE_CHARACTERS_MAX = 300
VIOLATIONS_MAX = 100
LEAVES_MAX = 10
"""Exceptions of a group that are told one by one."""
CHAIN_MAX = 20


def describe_error(error: BaseException, channel: Channel, registered: Registered | None) -> dict[str, Any]:
    """Return the report that ends the execution."""
    try:
        return _describe(error, channel, registered)
    except Exception as problem:
        kind = _values.printable(type(error).__qualname__)
        return {"type": kind, "message": f"(it can't be reported: {type(problem).__name__})"}


def _describe(error: BaseException, channel: Channel, registered: Registered | None) -> dict[str, Any]:
    leaves = list(_list_leaves(error))
    outer = error
    if len(leaves) == 1:
        error = leaves[0]  # A task group around one failure says nothing that the failure does not.
    message = message_of(error)
    frames = _frames_of(outer, channel)
    if leaves and leaves[0] is not outer:
        frames += _frames_of(leaves[0], channel)
        if len(leaves) > 1:
            told = "; ".join(_shorten(leaf, channel) for leaf in leaves[:LEAVES_MAX])
            message = f"{message}: {told}"[:MESSAGE_CHARACTERS_MAX]
    report: dict[str, Any] = {"type": _values.printable(type(error).__qualname__), "message": message}
    report["frames"] = _cut(frames)
    if registered is not None and not any(frame[3] for frame in frames):
        # It failed outside of the user's code, for what that returned or asked for: point at the function.
        file = channel.relative(registered.file)
        source = _values.printable(linecache.getline(registered.file, registered.line).strip())
        report["frames"].append([file, registered.line, registered.name, True, source[:SOURCE_CHARACTERS_MAX]])
    chosen = _find_http_error(error, leaves)
    if chosen is not None:
        status = chosen.status if type(chosen.status) is int and 400 <= chosen.status <= 599 else 500
        code = _shown(chosen.code)
        report.update(status=status, code=code, message=_shown(chosen.message) or code)
        if isinstance(chosen, ValidationError):
            report["violations"] = [
                {_shown(key): _shown(value) for key, value in item.items()}
                for item in chosen.violations[:VIOLATIONS_MAX]
            ]
    call = _find_call(error, channel)
    if call is not None:
        report["call"] = call
    causes = list(_chain(error))[1:2]
    if causes:
        text = f"{_values.printable(type(causes[0]).__qualname__)}: {message_of(causes[0])}"
        report["cause"] = text[:MESSAGE_CHARACTERS_MAX]
    return report


def _list_leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of a group, those of groups in it included; of another exception, itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _list_leaves(inner)
    else:
        yield error


def _find_http_error(error: BaseException, leaves: list[BaseException]) -> HTTPError | None:
    """Return the `HTTPError` that chooses the answer: the exception itself, or a group of nothing else."""
    if isinstance(error, HTTPError):
        return error
    chosen = [leaf for leaf in leaves if isinstance(leaf, HTTPError)]
    return chosen[0] if chosen and len(chosen) == len(leaves) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, what it was raised from, and so on."""
    seen: BaseException | None = error
    for _ in range(CHAIN_MAX):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _find_call(error: BaseException, channel: Channel) -> int | None:
    """Return the host call whose error this is, or was raised from.

    ``raise ... from None`` in the function's own code says that what was before does not matter. Libraries write it
    to keep tracebacks short (httpcore does, for each failed connection), and what was before is the reason.
    """
    seen: BaseException | None = error
    for _ in range(CHAIN_MAX):
        if seen is None or isinstance(seen, HostCallError):
            break
        hidden = seen.__suppress_context__ and _is_of_function(seen, channel)
        seen = seen.__cause__ or (None if hidden else seen.__context__)
    return seen.call if isinstance(seen, HostCallError) else None


def _is_of_function(error: BaseException, channel: Channel) -> bool:
    """Whether the function's own code raised it, as far as can be told."""
    last = None
    for frame, _line in traceback.walk_tb(error.__traceback__):
        last = frame.f_code.co_filename
    return last is None or channel.is_user_file(last)


def _shorten(error: BaseException, channel: Channel) -> str:
    place = channel.find_place(error)
    text = f"{_values.printable(type(error).__qualname__)}: {message_of(error)[:500]}"
    return f"{text} ({place})" if place else text


def _frames_of(error: BaseException, channel: Channel) -> list[list[Any]]:
    frames: list[list[Any]] = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        user = channel.is_user_file(code.co_filename)
        frames.append([channel.relative(code.co_filename), line, _values.printable(code.co_qualname), user, code])
    # How the SDK and its event loop came to call the function says nothing about the failure.
    first = next((index for index, frame in enumerate(frames) if frame[3]), 0)
    return frames[first:]


def _cut(frames: list[list[Any]]) -> list[list[Any]]:
    """Leave out the middle of a deep stack, and give each of the others its line of source."""
    kept = frames
    if len(frames) > FRAMES_MAX:
        half = FRAMES_MAX // 2
        gap = ["...", 0, f"{len(frames) - FRAMES_MAX} frames", False, None]
        kept = [*frames[:half], gap, *frames[-half:]]
    for frame in kept:
        code, line = frame[4], frame[1]
        text = linecache.getline(code.co_filename, line).strip() if code is not None else ""
        frame[4] = _values.printable(text[:SOURCE_CHARACTERS_MAX])
    return kept


def message_of(error: BaseException) -> str:
    """Return what the exception says, as text that can be shown."""
    try:
        return _shown(error)
    except Exception as problem:  # a __str__ of the user's that fails must not hide the failure
        return f"(its message can't be shown: {type(problem).__name__})"


def _shown(value: Any) -> str:
    return _values.printable(str(value)[:MESSAGE_CHARACTERS_MAX])[:MESSAGE_CHARACTERS_MAX]
