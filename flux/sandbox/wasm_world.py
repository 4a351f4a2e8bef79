"""All that a wasm guest can observe, and what it says.

A guest sees a clock that moves with its host calls only, random numbers that follow
from its seed, the files of its deployment, and four descriptors:

    0    what to run: the start document
    1    its response, if it does not give one on the wire
    2    what it prints; kept as the last words of a guest that dies
    3    the wire

A `World` decides all of it and waits for nothing: bytes that the guest writes go in by
`submit` and come out of `take_outgoing`; frames from the host go in by `deliver`. Waiting
is its `Door`'s business, which a test replaces by a list of answers.

Between the process that runs guests and the supervisor the wire carries more than what
the guest says. Each line begins with its kind, so nothing that a guest writes can be taken
for what its host says:

    1482113 [1,"clock.now",[]]     a line of the guest's, which had burnt 482,113 units of fuel as it began it
    2"text"                        it has printed this
    3{"fuel": 500120}              it is over, and came so far; "memory" is a hash, if that was asked for
    0{"exit_code": 3}              it has ended without an answer
    0{"signal": 11}                and so has this one, by a trap
    0{"stopped": true}             and this one was stopped where it was to be
    0{"evicted": "why", "bytes_max": 1073741824}    all of them held more than that, and it had to go

The other way, the start document may have an *order* in front, a line ``O{...}`` of what the
supervisor wants of this guest's host: "stop_fuel", where it is to be stopped; "memory", to
have that hashed at the end; "slice_fuel", the length of its slices.
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import attrs

OUTPUT_BYTES_MAX = 64 * 1024
"""What is kept of what a guest prints; the last of it counts."""
RESPONSE_BYTES_MAX = 16 * 2**20
"""What a guest may write on descriptor 1; the limit on responses speaks much earlier."""
OUTGOING_BYTES_MAX = 2**20
"""A guest that has written more than this waits until it is sent."""
HEAD_BYTES = 120
"""Of each line that the guest writes, what is looked at here."""
ORDER = b"O"
WIRE = 3
ROOT = 4
"""Descriptor of the deployment's files: the first one that a C library finds, as 3 is taken."""
DEVICE = "dev/flux"
"""The wire by name, for programs whose own library has a use for 3."""

_CALL = re.compile(rb'\s*\[\s*([0-9]+)\s*,\s*"([^"]*)"\s*,\s*\[\s*([0-9.eE+-]*)')
_END = re.compile(rb'\s*\[\s*"(?:return|raise)"')
_NOW = re.compile(rb",\s*([0-9]+)\s*\]\s*\Z")
_ANSWER = re.compile(rb"\s*\[\s*([0-9]+)\s*,\s*(null)?")


@attrs.frozen
class Start:
    """What to run, and with what: the start document, as far as it concerns a guest's surroundings."""

    document: bytes
    """All of it: what the guest reads from descriptor 0."""
    function: str
    now_ns: int
    """The guest's clock at its start."""
    seed: bytes
    """All of its randomness follows from it."""
    memory_bytes_max: int
    stop_fuel: int | None = None
    """Where the guest is to be stopped."""
    wants_memory: bool = False
    """Its memory is to be hashed when it is over."""
    slice_fuel: int | None = None
    """How much it may burn in one go, if that is not to be the engine's usual."""

    @classmethod
    def read(cls, document: bytes, order: bytes = b"{}") -> "Start":
        """Return what ``document`` and ``order`` say. They are the supervisor's: there is nothing wrong with them."""
        said, ordered = json.loads(document), json.loads(order)
        return cls(
            document + b"\n", said["function"], said["now_ns"], bytes.fromhex(said["seed"]), said["memory_bytes_max"],
            ordered.get("stop_fuel"), ordered.get("memory", False), ordered.get("slice_fuel"),
        )  # fmt: skip


NOTHING = Start(b"", "", 0, bytes(32), 0)
"""What code sees that is loaded, and not run: always the same."""


class DoorClosedError(Exception):
    """Nobody listens to the guest any more."""


class Door(Protocol):
    """The way out of a guest's process."""

    async def exchange(self, data: bytes) -> bytes:
        """Send, then wait for bytes; empty when the other side is gone."""

    async def send(self, data: bytes) -> None:
        """Send; raise `DoorClosedError` when the other side is gone."""

    def send_nowait(self, data: bytes) -> int:
        """Send what goes without waiting; return how many bytes."""

    async def send_last(self, data: bytes) -> None:
        """Send to whom no longer speaks, but may listen; nothing happens when nobody does."""

    def check_open(self) -> None:
        """Raise `DoorClosedError` when the other side is gone."""


@attrs.define
class OpenFile:
    """A descriptor above `ROOT`."""

    path: str
    data: bytes | None
    """None for a folder, and for the wire."""
    position: int = 0
    is_wire: bool = False


class FileTree:
    """A read-only tree of files; paths have no slash at the start."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.folders: dict[str, list[str]] = {"": []}
        """Names in each folder, in order."""
        for path in files:
            parts = path.split("/")
            for depth in range(len(parts)):
                folder, name = "/".join(parts[:depth]), parts[depth]
                names = self.folders.setdefault(folder, [])
                if name not in names:
                    names.append(name)
        for names in self.folders.values():
            names.sort()


class World:
    """One guest's surroundings. See the module."""

    def __init__(self, door: Door, start: Start, tree: FileTree) -> None:
        self.door = door
        self.tree = tree
        self.arguments: tuple[str, ...] = ("function",)
        self.stdin = start.document
        self.stdin_position = 0
        self.stdout = bytearray()
        self.wants_memory = start.wants_memory
        self.now_ns = self.started_ns = start.now_ns
        self.files: dict[int, OpenFile] = {}
        self.refused: set[str] = set()
        """What it has asked of WASI that is not there."""
        self.outstanding = 0
        """Calls that have had no answer yet."""
        self.ended = False
        """It has returned or raised."""
        self._seed = start.seed
        self._draws = 0
        self._output = bytearray()
        self._outgoing = bytearray()
        self._head = bytearray()
        self._in_line = False
        self._arriving = bytearray()
        self.frames: deque[bytes] = deque()
        """From the host, whole, each with its newline."""
        self._frame_position = 0
        self._is_noticed = False
        """The guest knows of the first frame."""
        self._sleeps: dict[int, int] = {}
        """Until when, by the numbers of sleeps that have had no answer yet."""

    # What surrounds it

    def draw(self, count: int) -> bytes:
        """Return random bytes: a function of the seed and of what was drawn before."""
        self._draws += 1
        return hashlib.shake_256(self._seed + b"wasi%d" % self._draws).digest(count)

    def open_file(self, file: OpenFile) -> int:
        """Return the lowest descriptor that is free, now the file's."""
        number = ROOT + 1
        while number in self.files:
            number += 1
        self.files[number] = file
        return number

    def is_wire(self, descriptor: int) -> bool:
        """Whether ``descriptor`` is the wire, under its number or another."""
        return descriptor == WIRE or (descriptor in self.files and self.files[descriptor].is_wire)

    # What it prints

    def print(self, data: bytes) -> None:
        """It writes on descriptor 2."""
        self._output += data
        if len(self._output) > 2 * OUTPUT_BYTES_MAX:
            del self._output[:-OUTPUT_BYTES_MAX]

    def note_refused(self, name: str, why: str) -> None:
        """It asked for what is not there; once is enough to say so."""
        if name not in self.refused:
            self.refused.add(name)
            self.print(f"flux: {name} was refused: {why}\n".encode())

    def _emit_output(self) -> None:
        if self._output:
            text = bytes(self._output[-OUTPUT_BYTES_MAX:]).decode(errors="backslashreplace")
            self._outgoing += b"2%b\n" % json.dumps(text).encode()
            self._output.clear()

    # What it says on the wire

    def submit(self, data: bytes, fuel: int) -> None:
        """It writes on the wire, having burnt ``fuel``."""
        start = 0
        while start < len(data):
            if not self._in_line:
                # In its place: what was printed before a call comes before it.
                self._emit_output()
                self._in_line = True
                self._outgoing += b"1%d " % fuel
            end = data.find(b"\n", start) + 1 or len(data)
            if len(self._head) < HEAD_BYTES:
                self._head += data[start : min(end, start + HEAD_BYTES)]
            self._outgoing += data[start:end]
            if data[end - 1] == 10:
                self._look(bytes(self._head))
                self._head.clear()
                self._in_line = False
            start = end

    def _look(self, head: bytes) -> None:
        """Take from a line what its surroundings depend on: a call will have an answer, an end is one."""
        call = _CALL.match(head)
        if call is None:
            self.ended = self.ended or _END.match(head) is not None
            return
        seq, name, first = call.groups()
        if int(seq) == 0:
            return
        self.outstanding += 1
        if name == b"clock.sleep":
            try:
                self._sleeps[int(seq)] = self.now_ns + round(float(first) * 1e9)
            except (ValueError, OverflowError):
                return  # The host refuses it, and no time passes.

    @property
    def outgoing_bytes(self) -> int:
        """How much waits to be sent."""
        return len(self._outgoing)

    def take_outgoing(self) -> bytes:
        """Return what is to be sent."""
        if not self._in_line:
            self._emit_output()
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def push(self) -> None:
        """Send what can be sent at once: the guest computes, and may be ended before it comes to waiting.

        What it has printed stays: where that is cut must not depend on how long its turns are.
        """
        if self._outgoing:
            del self._outgoing[: self.door.send_nowait(bytes(self._outgoing))]
        self.door.check_open()

    def _end_line(self) -> None:
        if self._in_line:
            self._outgoing += b"\n"  # It died within a line.
            self._in_line = False
        self._emit_output()

    def say_over(self, fuel: int, hash_memory: Callable[[], str] | None) -> None:
        """It is over, and has come to ``fuel``."""
        self._end_line()
        over: dict[str, Any] = {"fuel": fuel}
        if hash_memory is not None:
            over["memory"] = hash_memory()
        self._outgoing += b"3%b\n" % json.dumps(over).encode()

    def say_exit(self, **how: Any) -> None:
        """It has ended without an answer. The last that is said of it."""
        self._end_line()
        self._outgoing += b"0%b\n" % json.dumps(how).encode()

    # What it hears

    def deliver(self, data: bytes) -> None:
        """The host has sent bytes."""
        self._arriving += data
        if b"\n" in data:
            *lines, rest = bytes(self._arriving).split(b"\n")
            self.frames.extend(line + b"\n" for line in lines)
            self._arriving = bytearray(rest)

    async def wait_frame(self) -> None:
        """Wait until a frame is there; raise `DoorClosedError` if none will come."""
        while not self.frames:
            data = await self.door.exchange(self.take_outgoing())
            if not data:
                raise DoorClosedError
            self.deliver(data)

    def notice_frame(self) -> bool:
        """Whether the guest hears only now that the frame is there."""
        before, self._is_noticed = self._is_noticed, True
        return not before

    def read_wire(self, count: int) -> bytes:
        """Return at most ``count`` bytes of the frame that is there, never of the one behind it."""
        if not self.frames:
            return b""
        frame, start = self.frames[0], self._frame_position
        if start == 0:
            self._hear(frame)
        if start + count >= len(frame):
            self.frames.popleft()
            self._frame_position = 0
            self._is_noticed = False
            return frame[start:]
        self._frame_position = start + count
        return frame[start : start + count]

    def _hear(self, frame: bytes) -> None:
        """The guest begins to read an answer: time has come to where that says."""
        self.outstanding -= 1
        if (now := _NOW.search(frame, max(0, len(frame) - 40))) is not None:
            self.now_ns = max(self.now_ns, int(now[1]))
        if self._sleeps and (answer := _ANSWER.match(frame)) is not None:
            until = self._sleeps.pop(int(answer[1]), 0)
            if answer[2]:
                # The host measures a sleep by another clock than the one it tells. One that was refused, or
                # cancelled, has not lasted.
                self.now_ns = max(self.now_ns, until)
