"""Performing host calls: from a question in bytes to an answer in bytes.

`HostTable.perform` never raises for what a guest did: an unknown call, arguments
of the wrong shape and a failure of the world are all answers. What it does raise
is Flux's own fault, which ends the execution and is reported.
"""

import time

import trio

from flux import hostcalls, values
from flux.errors import BrokenInvariantError
from flux.hostcall import HostCallError, HostCallRequest, HostCallResult
from flux.hostcalls.base import CallContext, HostCallFailed
from flux.session import CANCELLED
from flux.supervisor.journal import JournalError
from flux.wire import FRAME_BYTES_MAX

ANSWER_BYTES_MAX = FRAME_BYTES_MAX - 4096
"""What an answer's value may take on the wire, so that the line around it still fits a frame."""


class HostCallCrashedError(BrokenInvariantError):
    """Performing a host call failed in a way that Flux does not know."""

    code = "FLX910"


class HostTable:
    """What one execution may ask, and the answers of the real world."""

    def __init__(self, context: CallContext) -> None:
        self._context = context
        self._kinds = hostcalls.all_kinds()

    def __enter__(self) -> "HostTable":
        return self

    def __exit__(self, *_failure: object) -> None:
        """The execution is over, and with it what it held of the world."""
        if self._context.connections is not None:
            self._context.connections.close_nowait()

    def is_immediate(self, name: str) -> bool:
        """Whether it is performed in place, without a task of its own."""
        kind = self._kinds.get(name)
        return kind is None or kind.immediate

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Do what the guest asks; raise `HostCallCrashedError` only where Flux is wrong."""
        started_ns = time.perf_counter_ns()
        value, error = b"null", None
        kind = self._kinds.get(request.name)
        try:
            if kind is None:
                raise HostCallFailed(
                    "UnknownHostCall", f"this host offers no call named {request.name!r}", code="FLX426"
                )
            arguments = values.decode(request.arguments)
            assert isinstance(arguments, list), "the wire lets only arrays through"
            value = values.encode(await kind.perform(self._context, arguments, request.seq))
            if len(value) > ANSWER_BYTES_MAX:
                raise HostCallFailed(
                    "AnswerTooLarge",
                    f"the answer of {request.name} has {len(value):,} bytes; {ANSWER_BYTES_MAX:,} fit the door",
                    code="FLX427",
                    details={"answer_bytes": len(value), "answer_bytes_max": ANSWER_BYTES_MAX},
                )
        except HostCallFailed as failed:
            value, error = b"null", failed.error
        except values.ValueFormatError as problem:
            value, error = b"null", HostCallError("InvalidArguments", f"{request.name}: {problem}", "FLX425")
        except (trio.Cancelled, KeyboardInterrupt):
            raise
        except JournalError:
            raise  # The operator's disk, which has an error of its own.
        except Exception as crash:
            raise HostCallCrashedError(
                f"performing {request.name} (call {request.seq}) failed: {type(crash).__name__}: {crash}",
                remedy="please report this, with the traceback above",
            ) from crash
        elapsed_ns = time.perf_counter_ns() - started_ns
        return HostCallResult(value, error, elapsed_ns, self._context.clock.now_ns())

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        """Return the answer to a call that the guest gave up."""
        error = HostCallError(CANCELLED, f"{request.name} was cancelled by the function")
        return HostCallResult(b"null", error, elapsed_ns, self._context.clock.now_ns())
