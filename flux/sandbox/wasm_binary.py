"""WebAssembly's binary form, as far as we change it ourselves.

A module is a list of *sections*, each an id and bytes. Three things are done to them
here, and none of it needs to understand code:

`relink`          turns an interpreter's module into one that imports its memory and
                  exports those of its functions that we call, by their names;
`make_image`      makes a module that is nothing but a memory with given contents. The
                  engine maps it copy-on-write: a hundred guests share what they don't change;
`read_custom`     reads a custom section, where a function file says how it wants to be served.

https://webassembly.github.io/spec/core/binary/ is the text. Whatever is not as expected is
a `FormatError` which says what: an interpreter that has changed must be noticed here, and
not by what it does later.
"""

from collections.abc import Iterator, Mapping

MAGIC = b"\0asm\1\0\0\0"
PAGE_BYTES = 65536
RUN_BYTES = 4096
"""Memory contents are kept in runs of whole pages of the operating system, zero pages left out."""

CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, DATA, DATA_COUNT = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12,
)  # fmt: skip
_LETTERS = {0x7F: "i", 0x7E: "l", 0x7D: "f", 0x7C: "d"}


class FormatError(ValueError):
    """A module that is not as it should be."""


def split(binary: bytes) -> list[tuple[int, bytes]]:
    """Return a module's sections; raise `FormatError`."""
    if binary[:8] != MAGIC:
        raise FormatError("it does not begin as a WebAssembly module does")
    sections, at = [], 8
    while at < len(binary):
        kind = binary[at]
        size, start = read_number(binary, at + 1)
        if start + size > len(binary):
            raise FormatError("it is cut off within a section")
        sections.append((kind, binary[start : start + size]))
        at = start + size
    return sections


def join(sections: list[tuple[int, bytes]]) -> bytes:
    """Return the module of these sections."""
    return MAGIC + b"".join(bytes([kind]) + number(len(data)) + data for kind, data in sections)


def number(value: int) -> bytes:
    """Return an unsigned integer in LEB128."""
    out = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        out.append(low | 0x80 if value else low)
        if not value:
            return bytes(out)


def _address(value: int) -> bytes:
    """Return an instruction ``i32.const``: signed LEB128."""
    if value & 0x80000000:
        value -= 1 << 32
    out = bytearray(b"\x41")
    while True:
        low, value = value & 0x7F, value >> 7
        if (value == 0 and not low & 0x40) or (value == -1 and low & 0x40):
            return bytes([*out, low])
        out.append(low | 0x80)


def read_number(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned integer and where it ends; raise `FormatError`."""
    result = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return result, at
    raise FormatError("a number is cut off or too long")


def _name(text: str) -> bytes:
    return number(len(text.encode())) + text.encode()


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    length, at = read_number(data, at)
    if at + length > len(data):
        raise FormatError("a name is cut off")
    return data[at : at + length].decode("utf-8", "replace"), at + length


def _list(items: list[bytes]) -> bytes:
    return number(len(items)) + b"".join(items)


def read_custom(binary: bytes, name: str) -> bytes | None:
    """Return the content of the custom section ``name``, or None; of several, all together."""
    found = [data for title, data in _customs(binary) if title == name]
    return b"".join(found) if found else None


def _customs(binary: bytes) -> Iterator[tuple[str, bytes]]:
    for kind, data in split(binary):
        if kind == CUSTOM:
            title, at = _read_name(data, 0)
            yield title, data[at:]


class Anatomy:
    """What is where in a module."""

    def __init__(self, binary: bytes) -> None:
        self.sections = split(binary)
        self._by_kind = {kind: data for kind, data in self.sections if kind != CUSTOM}
        self.names = self._read_names(next((data for title, data in _customs(binary) if title == "name"), b""))
        self.exports = self._read_exports()
        self.signatures = self._read_signatures()

    def _items(self, kind: int) -> tuple[bytes, int, int]:
        """Return a section, how many items it has and where they begin."""
        data = self._by_kind.get(kind, b"\0")
        return data, *read_number(data, 0)

    @staticmethod
    def _read_names(data: bytes) -> dict[str, int]:
        """Return functions by the names that the compiler left for debuggers."""
        found: dict[str, int] = {}
        at = 0
        while at < len(data):
            kind = data[at]
            size, at = read_number(data, at + 1)
            end = at + size
            if kind == 1:
                count, at = read_number(data, at)
                for _ in range(count):
                    index, at = read_number(data, at)
                    text, at = _read_name(data, at)
                    found.setdefault(text, index)
            at = end
        return found

    def _read_exports(self) -> dict[str, tuple[int, int]]:
        data, count, at = self._items(EXPORT)
        found = {}
        for _ in range(count):
            text, at = _read_name(data, at)
            index, end = read_number(data, at + 1)
            found[text] = (data[at], index)
            at = end
        return found

    def _read_signatures(self) -> list[str]:
        """Return the signature of each function, by its index: ``"iil:i"``."""
        data, count, at = self._items(TYPE)
        types = []
        for _ in range(count):
            if data[at] != 0x60:
                raise FormatError("a type is no function's")
            parameters, at = read_number(data, at + 1)
            letters = "".join(_LETTERS.get(byte, "?") for byte in data[at : at + parameters])
            results, at = read_number(data, at + parameters)
            types.append(f"{letters}:{''.join(_LETTERS.get(byte, '?') for byte in data[at : at + results])}")
            at += results
        data, count, at = self._items(IMPORT)
        found = []
        for _ in range(count):
            _, at = _read_name(data, at)
            _, at = _read_name(data, at)
            if data[at] != 0:
                raise FormatError("it imports something else than functions")
            index, at = read_number(data, at + 1)
            found.append(types[index])
        data, count, at = self._items(FUNCTION)
        for _ in range(count):
            index, at = read_number(data, at)
            found.append(types[index])
        return found

    def find_function(self, name: str) -> int:
        """Return the index of a function, exported or not; raise `FormatError`."""
        if name in self.exports:
            return self.exports[name][1]
        if name not in self.names:
            raise FormatError(f"it has no function {name}")
        return self.names[name]

    def only_mutable_global(self) -> int:
        """Return the index of the one global that changes, a stack pointer; raise `FormatError`."""
        data, count, at = self._items(GLOBAL)
        found = []
        for index in range(count):
            if data[at + 1]:
                found.append(index)
            at = data.index(b"\x0b", at + 2) + 1
        if len(found) != 1:
            # An image of the memory holds a guest's whole state only if no other global has any.
            raise FormatError(f"it has {len(found)} globals that change, where one is expected")
        return found[0]

    def table_size(self) -> int:
        """Return how many entries the module's one table has."""
        data, count, at = self._items(TABLE)
        if count != 1 or data[at] != 0x70:
            raise FormatError("it has not exactly one table of functions")
        return read_number(data, at + 2)[0]

    def find_slot(self, name: str) -> int:
        """Return the place of a function in the table: what C knows as its address."""
        wanted = self.find_function(name)
        data, count, at = self._items(ELEMENT)
        kind, at = read_number(data, at)
        if count != 1 or kind != 0 or data[at] != 0x41:
            raise FormatError("its table is not filled by exactly one plain segment")
        first, at = read_number(data, at + 1)
        entries, at = read_number(data, at + 1)
        for place in range(entries):
            function, at = read_number(data, at)
            if function == wanted:
                return first + place
        raise FormatError(f"{name} is not in its table")

    def memory_pages(self) -> int:
        """Return how large the module's memory is at the start."""
        data, count, at = self._items(MEMORY)
        if count != 1:
            raise FormatError("it has not exactly one memory")
        return read_number(data, at + 1)[0]

    def data_section(self) -> bytes:
        """Return the initial contents of the memory, as they stand in the file."""
        return self._by_kind.get(DATA, b"\0")


def relink(binary: bytes, functions: Mapping[str, str], *, spare_slots: int) -> bytes:
    """Return the module with its memory imported as ``env.memory``.

    ``functions`` are those to be exported, by name, with their signatures. The stack pointer is exported as
    ``__stack_pointer`` and the table, with ``spare_slots`` more entries, as ``__table``. Initial contents and the
    start function are gone: they are in the image. Raise `FormatError` when something is not as expected.
    """
    anatomy = Anatomy(binary)
    added = []
    for name, signature in functions.items():
        index = anatomy.find_function(name)
        if anatomy.signatures[index] != signature:
            raise FormatError(f"its {name} has the signature {anatomy.signatures[index]}, not {signature}")
        if name not in anatomy.exports:
            added.append(_name(name) + b"\0" + number(index))
    added.append(_name("__stack_pointer") + b"\3" + number(anatomy.only_mutable_global()))
    added.append(_name("__table") + b"\1\0")
    size = number(anatomy.table_size() + spare_slots)
    kept = [
        _name(name) + bytes([kind]) + number(index) for name, (kind, index) in anatomy.exports.items() if kind != 2
    ]
    sections = []
    for kind, data in anatomy.sections:
        match kind:
            case 0 if _read_name(data, 0)[0] != "name":
                continue
            case 2:
                count, at = read_number(data, 0)
                data = number(count + 1) + data[at:] + _name("env") + _name("memory") + b"\2\0" + number(1)
            case 4:
                data = b"\1\x70\1" + size + size
            case 5 | 8 | 11 | 12:
                continue
            case 7:
                data = _list(kept + added)
        sections.append((kind, data))
    return join(sections)


def make_image(memory: bytes) -> bytes:
    """Return a module that exports a memory with these contents."""
    return _image(
        len(memory) // PAGE_BYTES,
        _list([b"\0" + _address(at) + b"\x0b" + number(len(data)) + data for at, data in _runs(memory)]),
    )


def make_first_image(binary: bytes) -> bytes:
    """Return a module that exports the memory which the module in ``binary`` begins with."""
    anatomy = Anatomy(binary)
    return _image(anatomy.memory_pages(), anatomy.data_section())


def _image(pages: int, contents: bytes) -> bytes:
    exported = _list([_name("memory") + b"\2\0"])
    return join([(MEMORY, b"\1\0" + number(pages)), (EXPORT, exported), (DATA, contents)])


def _runs(memory: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of a memory that are not zero."""
    zeros = bytes(RUN_BYTES)
    start: int | None = None
    for at in range(0, len(memory) + 1, RUN_BYTES):
        if memory[at : at + RUN_BYTES] in (zeros, b""):
            if start is not None:
                yield start, memory[start:at]
            start = None
        elif start is None:
            start = at
