"""WASI preview 1, ours from end to end.

Every function here is a table entry: its signature in the ABI, and what it does. All of
them see the guest's `World` and nothing of this machine. What is not in the table (folders
to be made, sockets to be opened) answers with an errno and is noted among what the guest
printed.

What one call costs us has a bound as well. A guest pays with fuel for its own steps only, so it
could otherwise keep the thread that all share with one that is cheap for it and dear for us. For
the same reason each of them may take a breath (`flux.sandbox.wasm_calls`).

Addresses and lengths come from the guest: `Isolate.read` and `write` check each one
against its memory, and what is held on its behalf has a bound.

https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md is the text.
"""

import hashlib
import struct
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs
import trio

from flux.sandbox.wasm_calls import HostFunction, Wait
from flux.sandbox.wasm_engine import Import, Linker
from flux.sandbox.wasm_isolate import Isolate
from flux.sandbox.wasm_world import (
    DEVICE,
    OUTGOING_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    ROOT,
    WIRE,
    OpenFile,
    World,
)

MODULE = "wasi_snapshot_preview1"
BADF, FBIG, INVAL, ISDIR, MFILE, NAMETOOLONG, NOENT, NOTDIR, NOTSUP, ROFS, SPIPE, NOTCAPABLE = (
    8, 22, 28, 31, 33, 37, 44, 54, 58, 69, 70, 76,
)  # fmt: skip
DIRECTORY, REGULAR_FILE, SOCKET_STREAM, UNKNOWN = 3, 4, 6, 0
BUFFERS_MAX = 1024
"""IOV_MAX."""
READ_BYTES_MAX = 1 << 20
"""One read's at most: the guest reads again for more."""
WRITE_BYTES_MAX = 1 << 20
"""One write's; the guest writes again what is left. Buffers may overlap: a thousand are more than its memory."""
WRITE_LINES_MAX = 256
"""On the wire, where each line is looked at."""
FILES_MAX = 1024
"""That a guest may have open."""
RANDOM_BYTES_MAX = 1 << 18
SUBSCRIPTIONS_MAX = 256
PATH_BYTES_MAX = 4096
RIGHT_READ, RIGHT_SEEK, RIGHT_TELL, RIGHT_WRITE, RIGHT_POLL = 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 27
RIGHTS_ALL = (1 << 29) - 1
OPEN_DIRECTORY = 2
TICK_NS = 1_000_000
LOOK_S = 0.05
"""How often a guest that sleeps hears whether anybody still wants it."""


class GuestExit(BaseException):
    """The guest has called exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code & 0xFF


@attrs.frozen
class Entry:
    """A function of WASI."""

    signature: str
    function: HostFunction


TABLE: dict[str, Entry] = {}


_Function = TypeVar("_Function", bound=HostFunction)


def _define(signature: str) -> Callable[[_Function], _Function]:
    def add(function: _Function) -> _Function:
        TABLE[getattr(function, "__name__", "").removeprefix("_")] = Entry(signature, function)
        return function

    return add


NOT_THERE = {
    "fd_advise": "illi:i", "fd_allocate": "ill:i", "fd_datasync": "i:i", "fd_fdstat_set_rights": "ill:i",
    "fd_filestat_set_size": "il:i", "fd_filestat_set_times": "illi:i", "fd_pwrite": "iiili:i", "fd_renumber": "ii:i",
    "fd_sync": "i:i", "path_create_directory": "iii:i", "path_filestat_set_times": "iiiilli:i",
    "path_link": "iiiiiii:i", "path_remove_directory": "iii:i", "path_rename": "iiiiii:i", "path_symlink": "iiiii:i",
    "path_unlink_file": "iii:i", "proc_raise": "i:i", "sock_accept": "iii:i", "sock_recv": "iiiiii:i",
    "sock_send": "iiiii:i", "sock_shutdown": "ii:i",
}  # fmt: skip
"""What WASI has beside the table, with its signatures."""


def define_all(linker: Linker) -> None:
    """Define everything that WASI preview 1 has."""
    _define_names(linker, {**{name: entry.signature for name, entry in TABLE.items()}, **NOT_THERE})


def define_wasi(linker: Linker, imports: list[Import]) -> None:
    """Define what ``imports`` want of WASI. Several modules may want the same."""
    known = {**{name: entry.signature for name, entry in TABLE.items()}, **NOT_THERE}
    wanted = {item.name for item in imports if item.module == MODULE}
    _define_names(linker, {name: signature for name, signature in known.items() if name in wanted})


def _define_names(linker: Linker, signatures: Mapping[str, str]) -> None:
    for name, signature in signatures.items():
        function = TABLE[name].function if name in TABLE else _refuse(name)
        linker.define(MODULE, name, signature, function, waits=signature.endswith(":i"))


def _refuse(name: str) -> HostFunction:
    is_file = name.startswith(("path_", "fd_"))

    def refuse(isolate: Isolate, *_arguments: int) -> int:
        isolate.world.note_refused(name, "files can be read, not changed" if is_file else "it is not to be had here")
        return ROFS if is_file else NOTSUP

    return refuse


# Buffers


def _buffers(isolate: Isolate, address: int, count: int) -> list[tuple[int, int]]:
    raw = isolate.read(address, 8 * count)
    return list(struct.iter_unpack("<II", raw))


def _scatter(isolate: Isolate, buffers: list[tuple[int, int]], data: bytes) -> int:
    at = 0
    for address, size in buffers:
        part = data[at : at + size]
        if not part:
            break
        isolate.write(address, part)
        at += len(part)
    return at


def _put32(isolate: Isolate, address: int, value: int) -> None:
    isolate.write(address, value.to_bytes(4, "little"))


def _put64(isolate: Isolate, address: int, value: int) -> None:
    isolate.write(address, (value & (2**64 - 1)).to_bytes(8, "little"))


# Reading and writing


async def _send(isolate: Isolate) -> int:
    await isolate.world.door.send(isolate.world.take_outgoing())
    return 0


@_define("iiii:i")
def _fd_write(isolate: Isolate, descriptor: int, address: int, count: int, result: int) -> "int | Wait":
    if not 0 <= count <= BUFFERS_MAX:
        return INVAL
    world: World = isolate.world
    parts, room = [], WRITE_BYTES_MAX
    for start, size in _buffers(isolate, address, count):
        parts.append(isolate.read(start, min(size, room)))
        room -= len(parts[-1])
        if room == 0:
            break
    data = b"".join(parts)
    fuel = isolate.spend_fuel()
    if world.is_wire(descriptor):
        data = _cut_lines(data)
        world.submit(data, fuel)
    elif descriptor == 1:
        if len(world.stdout) + len(data) > RESPONSE_BYTES_MAX:
            return FBIG
        world.stdout += data
    elif descriptor == 2:
        world.print(data)
    elif descriptor in world.files:
        return ROFS
    else:
        return BADF
    _put32(isolate, result, len(data))
    return _send if world.outgoing_bytes > OUTGOING_BYTES_MAX else 0


def _cut_lines(data: bytes) -> bytes:
    """Return ``data`` up to the end of its last line that is taken in one write."""
    if data.count(b"\n") <= WRITE_LINES_MAX:
        return data
    end = 0
    for _ in range(WRITE_LINES_MAX):
        end = data.index(b"\n", end) + 1
    return data[:end]


@_define("iiii:i")
def _fd_read(isolate: Isolate, descriptor: int, address: int, count: int, result: int) -> "int | Wait":
    if not 0 <= count <= BUFFERS_MAX:
        return INVAL
    world: World = isolate.world
    buffers = _buffers(isolate, address, count)
    wanted = min(sum(size for _, size in buffers), READ_BYTES_MAX)
    if world.is_wire(descriptor):

        def take() -> int:
            _put32(isolate, result, _scatter(isolate, buffers, world.read_wire(wanted)))
            return 0

        async def wait(_isolate: Isolate) -> int:
            await world.wait_frame()
            world.notice_frame()
            return take()

        # With nothing to be answered nothing will ever come: the end of the file, not a guest that hangs.
        if not world.frames and world.outstanding > 0 and wanted:
            return wait
        if world.frames and world.notice_frame():
            isolate.holds_breath = True
        return take()
    if descriptor == 0:
        data = world.stdin[world.stdin_position : world.stdin_position + wanted]
        world.stdin_position += len(data)
    elif descriptor in world.files:
        file = world.files[descriptor]
        if file.data is None:
            return ISDIR
        data = file.data[file.position : file.position + wanted]
        file.position += len(data)
    else:
        return BADF
    _put32(isolate, result, _scatter(isolate, buffers, data))
    return 0


@_define("iiili:i")
def _fd_pread(isolate: Isolate, descriptor: int, address: int, count: int, offset: int, result: int) -> int:
    if not 0 <= count <= BUFFERS_MAX or offset < 0:
        return INVAL
    file = isolate.world.files.get(descriptor)
    if file is None or file.data is None:
        return SPIPE if descriptor <= WIRE else BADF if file is None else ISDIR
    buffers = _buffers(isolate, address, count)
    wanted = min(sum(size for _, size in buffers), READ_BYTES_MAX)
    _put32(isolate, result, _scatter(isolate, buffers, file.data[offset : offset + wanted]))
    return 0


@_define("ilii:i")
def _fd_seek(isolate: Isolate, descriptor: int, offset: int, whence: int, result: int) -> int:
    file = isolate.world.files.get(descriptor)
    if file is None or file.data is None:
        return SPIPE if 0 <= descriptor <= WIRE or file is not None else BADF
    base = {0: 0, 1: file.position, 2: len(file.data)}.get(whence)
    if base is None or base + offset < 0:
        return INVAL
    file.position = base + offset
    _put64(isolate, result, file.position)
    return 0


@_define("ii:i")
def _fd_tell(isolate: Isolate, descriptor: int, result: int) -> int:
    return _fd_seek(isolate, descriptor, 0, 1, result)


@_define("i:i")
def _fd_close(isolate: Isolate, descriptor: int) -> int:
    # The four that everyone has stay open: closing them is allowed and changes nothing.
    return 0 if isolate.world.files.pop(descriptor, None) is not None or 0 <= descriptor <= ROOT else BADF


# Time, randomness, waiting


@_define("ili:i")
def _clock_time_get(isolate: Isolate, clock: int, _precision: int, result: int) -> int:
    world: World = isolate.world
    _put64(isolate, result, world.now_ns if clock == 0 else world.now_ns - world.started_ns if clock == 1 else 0)
    return 0 if 0 <= clock <= 3 else INVAL


@_define("ii:i")
def _clock_res_get(isolate: Isolate, clock: int, result: int) -> int:
    _put64(isolate, result, TICK_NS)
    return 0 if 0 <= clock <= 3 else INVAL


@_define("ii:i")
def _random_get(isolate: Isolate, address: int, count: int) -> int:
    if not 0 <= count <= RANDOM_BYTES_MAX:
        return INVAL
    isolate.write(address, isolate.world.draw(count))
    return 0


@_define("iiii:i")
def _poll_oneoff(isolate: Isolate, subscriptions: int, events: int, count: int, result: int) -> "int | Wait":
    """Wait for the wire, or for an amount of time: not for whichever is first, as no record could tell."""
    world: World = isolate.world
    if not 0 < count <= SUBSCRIPTIONS_MAX:
        return INVAL
    timers: list[tuple[int, int]] = []
    wires: list[int] = []
    ready: list[tuple[int, int]] = []
    for number in range(count):
        raw = isolate.read(subscriptions + 48 * number, 48)
        user_data, tag = struct.unpack_from("<QB", raw)
        if tag == 0:
            clock, timeout, flags = struct.unpack_from("<I4xQ8xH", raw, 16)
            now = world.now_ns if clock == 0 else world.now_ns - world.started_ns
            timers.append((timeout - now if flags & 1 else timeout, user_data))
        elif tag == 1 and world.is_wire(struct.unpack_from("<I", raw, 16)[0]):
            wires.append(user_data)
        else:
            ready.append((user_data, tag))

    def answer(happened: list[tuple[int, int]]) -> int:
        for number, (user_data, tag) in enumerate(happened):
            isolate.write(events + 32 * number, struct.pack("<QHB5xQH6x", user_data, 0, tag, 1 if tag else 0, 0))
        _put32(isolate, result, len(happened))
        return 0

    if wires and (world.frames or world.outstanding == 0):
        if world.frames and world.notice_frame():
            isolate.holds_breath = True
        ready += [(user_data, 1) for user_data in wires]
    due = min(timers, default=None)
    if due is not None and due[0] <= 0 and not ready:
        ready = [(due[1], 0)]
    if ready:
        return answer(ready)
    if wires and due is not None:
        world.note_refused("poll_oneoff", "a wait for the wire and a clock at once; ask clock.sleep")
        return NOTSUP

    async def wait_wire(_isolate: Isolate) -> int:
        await world.wait_frame()
        world.notice_frame()
        return answer([(user_data, 1) for user_data in wires])

    async def wait_clock(_isolate: Isolate) -> int:
        assert due is not None
        await world.door.send(world.take_outgoing())
        until = trio.current_time() + due[0] / 1e9
        while (left := until - trio.current_time()) > 0:
            await trio.sleep(min(left, LOOK_S))
            world.door.check_open()
        world.now_ns += due[0]  # Exactly: how late this machine was is nothing that the guest may see.
        return answer([(due[1], 0)])

    return wait_wire if wires else wait_clock


@_define(":i")
def _sched_yield(_isolate: Isolate) -> int:
    return 0


@_define("i:")
def _proc_exit(_isolate: Isolate, code: int) -> None:
    raise GuestExit(code)


# Arguments and environment


@_define("ii:i")
def _args_sizes_get(isolate: Isolate, count: int, size: int) -> int:
    arguments = isolate.world.arguments
    _put32(isolate, count, len(arguments))
    _put32(isolate, size, sum(len(one.encode()) + 1 for one in arguments))
    return 0


@_define("ii:i")
def _args_get(isolate: Isolate, pointers: int, buffer: int) -> int:
    for number, one in enumerate(isolate.world.arguments):
        encoded = one.encode() + b"\0"
        _put32(isolate, pointers + 4 * number, buffer)
        isolate.write(buffer, encoded)
        buffer += len(encoded)
    return 0


@_define("ii:i")
def _environ_sizes_get(isolate: Isolate, count: int, size: int) -> int:
    _put32(isolate, count, 0)
    _put32(isolate, size, 0)
    return 0


@_define("ii:i")
def _environ_get(_isolate: Isolate, _pointers: int, _buffer: int) -> int:
    return 0


# Files


def _inode(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:6], "little")


def _describe(path: str, kind: int, size: int) -> bytes:
    return struct.pack("<QQB7xQQQQQ", 1, _inode(path), kind, 1, size, 0, 0, 0)


def _find(world: World, path: str) -> bytes | None:
    """Return a file and its kind for WASI, or None when there is none."""
    if path in world.tree.files:
        return _describe(path, REGULAR_FILE, len(world.tree.files[path]))
    return _describe(path, DIRECTORY, 0) if path in world.tree.folders else None


def _resolve(isolate: Isolate, folder: int, address: int, size: int) -> str | int:
    """Return a path below the root, or an errno."""
    world: World = isolate.world
    if not 0 <= size <= PATH_BYTES_MAX:
        return NAMETOOLONG
    if folder == ROOT:
        parts: list[str] = []
    elif folder not in world.files:
        return BADF
    elif world.files[folder].path not in world.tree.folders:
        return NOTDIR
    else:
        parts = [part for part in world.files[folder].path.split("/") if part]
    try:
        path = isolate.read(address, size).decode()
    except UnicodeDecodeError:
        return NOENT
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return NOTCAPABLE
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


@_define("iiiiillii:i")
def _path_open(
    isolate: Isolate, folder: int, _lookup: int, address: int, size: int, how: int, rights: int, _inherited: int,
    _flags: int, result: int,
) -> int:  # fmt: skip
    world: World = isolate.world
    path = _resolve(isolate, folder, address, size)
    if isinstance(path, int):
        return path
    if path == DEVICE:
        file = OpenFile(path, None, is_wire=True)
    elif how & ~OPEN_DIRECTORY or rights & RIGHT_WRITE:
        world.note_refused("path_open for writing", "files can be read, not changed")
        return ROFS
    elif path in world.tree.files:
        if how & OPEN_DIRECTORY:
            return NOTDIR
        file = OpenFile(path, world.tree.files[path])
    elif path in world.tree.folders:
        file = OpenFile(path, None)
    else:
        return NOENT
    if len(world.files) >= FILES_MAX:
        return MFILE
    _put32(isolate, result, world.open_file(file))
    return 0


@_define("iiiii:i")
def _path_filestat_get(isolate: Isolate, folder: int, _flags: int, address: int, size: int, result: int) -> int:
    path = _resolve(isolate, folder, address, size)
    if isinstance(path, int):
        return path
    found = _find(isolate.world, path)
    if found is None:
        return NOENT
    isolate.write(result, found)
    return 0


@_define("iiiiii:i")
def _path_readlink(_isolate: Isolate, *_arguments: int) -> int:
    return INVAL  # There are no links: nothing that exists is one.


@_define("ii:i")
def _fd_filestat_get(isolate: Isolate, descriptor: int, result: int) -> int:
    world: World = isolate.world
    if world.is_wire(descriptor):
        isolate.write(result, _describe(DEVICE, SOCKET_STREAM, 0))
    elif 0 <= descriptor < WIRE:
        isolate.write(result, _describe(str(descriptor), UNKNOWN, 0))
    elif descriptor == ROOT or descriptor in world.files:
        path = "" if descriptor == ROOT else world.files[descriptor].path
        found = _find(world, path)
        assert found is not None, "an open file is in the tree"
        isolate.write(result, found)
    else:
        return BADF
    return 0


@_define("ii:i")
def _fd_fdstat_get(isolate: Isolate, descriptor: int, result: int) -> int:
    world: World = isolate.world
    if world.is_wire(descriptor):
        kind, rights = SOCKET_STREAM, RIGHT_READ | RIGHT_WRITE | RIGHT_POLL
    elif 0 <= descriptor < WIRE:
        # No terminal and no file: a C library then buffers lines, not blocks.
        kind, rights = UNKNOWN, RIGHT_READ | RIGHT_WRITE | RIGHT_POLL
    elif descriptor == ROOT or (descriptor in world.files and world.files[descriptor].data is None):
        kind, rights = DIRECTORY, RIGHTS_ALL
    elif descriptor in world.files:
        kind, rights = REGULAR_FILE, RIGHT_READ | RIGHT_SEEK | RIGHT_TELL | RIGHT_POLL | (1 << 21)
    else:
        return BADF
    isolate.write(result, struct.pack("<BxH4xQQ", kind, 0, rights, rights))
    return 0


@_define("ii:i")
def _fd_fdstat_set_flags(_isolate: Isolate, _descriptor: int, _flags: int) -> int:
    return 0  # Non-blocking or not: a read waits for an answer, or there is none to wait for.


@_define("ii:i")
def _fd_prestat_get(isolate: Isolate, descriptor: int, result: int) -> int:
    if descriptor not in (WIRE, ROOT):
        return BADF
    # A library asks from 3 on until it hears BADF: the wire is there, and no folder.
    isolate.write(result, struct.pack("<B3xI", 0 if descriptor == ROOT else 1, 1))
    return 0


@_define("iii:i")
def _fd_prestat_dir_name(isolate: Isolate, descriptor: int, address: int, size: int) -> int:
    if descriptor != ROOT:
        return BADF
    isolate.write(address, b"/"[: max(0, size)])
    return 0


@_define("iiili:i")
def _fd_readdir(isolate: Isolate, descriptor: int, address: int, size: int, cookie: int, result: int) -> int:
    world: World = isolate.world
    if descriptor != ROOT and descriptor not in world.files:
        return BADF
    path = "" if descriptor == ROOT else world.files[descriptor].path
    if path not in world.tree.folders:
        return NOTDIR
    size = min(size & 0xFFFFFFFF, READ_BYTES_MAX)
    out = bytearray()
    for number, name in enumerate(world.tree.folders[path][max(0, cookie) :], max(0, cookie) + 1):
        inside = f"{path}/{name}" if path else name
        kind = DIRECTORY if inside in world.tree.folders else REGULAR_FILE
        encoded = name.encode()
        out += struct.pack("<QQIB3x", number, _inode(inside), len(encoded), kind) + encoded
        if len(out) >= size:
            break
    isolate.write(address, bytes(out[:size]))
    _put32(isolate, result, min(len(out), size))
    return 0
