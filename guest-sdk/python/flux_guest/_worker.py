"""One worker process: reads what to run from descriptor 0, runs it, answers on 3.

It is made in the zygote before the project's modules are imported, as they must
find the interpreter taken over (`flux_guest._interpreter`), and serves in each
process that is forked from it.

While a function runs the world is the host's (`Channel.running`). It ends with one
frame, ``return`` or ``raise``, and with nothing in flight: what the function left
running has ended before.
"""

import asyncio
import gc
import mmap
import os
import resource
import socket
import sys
import traceback
from typing import Any

from flux_guest import _values
from flux_guest._answer import describe_answer, write_answer, write_answer_blocking
from flux_guest._bodies import AnswerError
from flux_guest._chain import Chain, call_async, call_blocking, make_chain
from flux_guest._channel import FRAME_BYTES_MAX, Channel
from flux_guest._context import Context
from flux_guest._doors import AsyncDoor, SyncDoor
from flux_guest._interpreter import Interpreter
from flux_guest._leftovers import Leftovers
from flux_guest._lines import LineReader
from flux_guest._loop import HostLoop
from flux_guest._machine import Machine
from flux_guest._registry import FUNCTIONS, Registered
from flux_guest._report import describe_error
from flux_guest._streams import LineStream

_WIRE = 3
REHEARSALS = 10
"""Python rewrites code for what it is used for when it has run a few times. More change nothing more."""
_REHEARSAL: dict[str, Any] = {
    "function": "",
    "execution": "",
    "now_ns": 10**18,
    "seed": "00" * 32,
    "middleware": [],
    "request": {"method": "POST", "path": "/", "params": [], "query": [], "headers": [], "body": ""},
    "input": {},
}
_REHEARSAL_ANSWER = b"[1,null,1000000000000000001,1000000000000000001]\n"
RESERVE_BYTES = 1 << 20
"""Kept for telling of an execution that has used up its memory."""
CONTEXTS_MAX = 20
"""Errors behind an error whose stacks are let go of."""


class Worker:
    """A worker's life: one execution, or several when the project sets ``warm``."""

    def __init__(self, project: str, *, warm: bool, machine: Machine) -> None:
        self._warm = warm
        self._machine = machine
        self._next_loop: HostLoop | None = None
        """Made before there is somebody who waits for it."""
        self._documents = LineReader(0)
        self._channel = Channel(_WIRE, project, machine)
        self._leftovers = Leftovers(self._channel)
        self._interpreter = Interpreter(self._channel, machine)
        sys.stdout = self._out = LineStream(self._channel, "stdout", 1)
        sys.stderr = self._err = LineStream(self._channel, "stderr", 2)

    def attach(self) -> None:
        """Take over what the imported modules have brought with them."""
        self._interpreter.attach()
        self._leftovers.attach()

    def serve(self) -> None:
        """Run executions until the host closes descriptor 0, or one leaves what the next one must not meet."""
        while (line := self._documents.read()).endswith(b"\n"):
            document = _values.decode(line.decode())
            if "ready" not in document:
                self._run(document)
            elif left := self._leftovers.clear():
                os.write(2, f"flux: this worker serves no more; an execution has left {left}\n".encode())
                return
            else:
                self._channel.say_ready(document["ready"])

    def rehearse(self) -> None:
        """Run two functions that do next to nothing, in the process that workers are forked from.

        What is made when it is first used (specialised code, caches, lists of free objects) is then made once
        and shared, and not by each worker anew in pages of its own. What the two leave behind, the beginning
        of an execution undoes. They talk to nobody: in the wire's place is a socket of our own, and the one
        answer that each of them waits for lies ready there.
        """
        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        start = {**_REHEARSAL, "memory_bytes_max": limit}
        kept = os.dup(_WIRE)
        try:
            for handler, is_async in ((_rehearse_def, False), (_rehearse_async, True)) * REHEARSALS:
                FUNCTIONS[""] = Registered("", handler, None, True, None, None, 0, None, None, None, "", 0, is_async)
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    ours.sendall(_REHEARSAL_ANSWER)
                    os.dup2(theirs.fileno(), _WIRE)
                    self._run(start)
        finally:
            FUNCTIONS.pop("", None)
            self._machine.end()
            os.dup2(kept, _WIRE)
            os.close(kept)
        self._next_loop = HostLoop(self._channel)

    def _run(self, start: dict[str, Any]) -> None:
        channel = self._channel
        registered = FUNCTIONS.get(start["function"])
        call = self._call
        if "trace" in start:  # Of a replay that somebody steps through. No other has this module in its memory.
            from flux_guest._trace import traced

            call = traced(call, channel, start["trace"])
        limit = start["memory_bytes_max"]
        # A hard limit can't be raised again, and the next execution's may be higher.
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1] if self._warm else limit
        # Collecting starts from zero, so that it comes at the same points of the same execution.
        gc.collect()
        # Counted against the limit from here on, and never touched: each page that is costs a fault.
        reserve = mmap.mmap(-1, RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        channel.reset(start["now_ns"])
        self._interpreter.begin(bytes.fromhex(start["seed"]))
        channel.tells_waits = start.get("tell_waits", False)
        channel.running = True
        try:
            if registered is None:
                raise LookupError(f"there is no function named {start['function']!r}")
            word, answer = "return", _values.encode(describe_answer(call(registered, start)))
            if len(answer) * 4 > FRAME_BYTES_MAX and len(answer.encode()) > FRAME_BYTES_MAX - 100:
                raise AnswerError(f"the answer has {len(answer.encode()):,} bytes; {FRAME_BYTES_MAX:,} can travel")
        except SystemExit as request:
            self._exit(request)
        except BaseException as error:
            reserve.close()
            if isinstance(error, MemoryError):
                _let_go(error)
            word, answer = "raise", _values.encode(describe_error(error, channel, registered))
        reserve.close()
        self._out.finish()
        self._err.finish()
        channel.running = False
        channel.finish(word, answer)

    def _exit(self, request: SystemExit) -> None:
        """End the process as Python does: with its number, or with 1 and its words on stderr."""
        if request.code is not None and not isinstance(request.code, int):
            self._err.write(f"{request.code}\n")
        self._out.finish()
        self._err.finish()
        code = request.code if isinstance(request.code, int) else 0 if request.code is None else 1
        os._exit(code & 0xFF)

    def _call(self, registered: Registered, start: dict[str, Any]) -> Any:
        channel = self._channel
        seed = bytes.fromhex(start["seed"])
        described = {**start["request"], "execution": start["execution"], "user": start.get("user")}
        chain = make_chain(registered, start["middleware"])
        value = _values.from_json(start["input"])
        if chain.blocking_from == 0:
            door: Any = SyncDoor(channel)
            context = Context(channel, door, described, seed)
            return write_answer_blocking(door, call_blocking(chain, context, value))
        loop, self._next_loop = self._next_loop or HostLoop(channel), None
        asyncio.set_event_loop(loop)
        door = AsyncDoor(loop, channel)
        context = Context(channel, door, described, seed)
        try:
            answer = loop.run_until_complete(_answer(chain, context, value, door))
        except SystemExit:
            raise  # Nothing is ended in order then, as with os._exit.
        except BaseException:
            loop.finish(well=False)
            raise
        loop.finish(well=True)
        asyncio.set_event_loop(None)
        return answer


async def _answer(chain: Chain, context: Context, value: Any, door: AsyncDoor) -> Any:
    return await write_answer(door, await call_async(chain, context, value, door))


def _let_go(error: BaseException) -> None:
    """Free what the functions on the stack hold: an error keeps all of it alive, and telling of it takes memory.

    Else it would depend on a few bytes whether the report can be made.
    """
    seen: BaseException | None = error
    for _ in range(CONTEXTS_MAX):
        if seen is None:
            break
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__context__
    gc.collect()


def _rehearse_def(ctx: Context, _input: Any) -> Any:
    return {"at": ctx.clock.fresh()}


async def _rehearse_async(ctx: Context, _input: Any) -> Any:
    return {"at": await ctx.clock.fresh()}
