"""Random bytes that follow from an execution's seed, for Python and for C libraries.

`Entropy` makes them. C code that asks the C library has them from there (`flux_guest._machine`), but
two libraries have generators of their own that outlive a fork with what they were seeded with:
OpenSSL's, which signs, encrypts and answers ``ssl.RAND_bytes``, and sqlite's, behind ``random()`` and
``randomblob()``. `Generators` gives both of them a source of ours, by what the two offer for that.

It is done after the project's modules are imported: until then all randomness is real.
"""

import contextlib
import ctypes
import hashlib
import importlib.machinery
import operator
import sys
from types import ModuleType
from typing import SupportsIndex

_OPENSSL_MODULES, _SQLITE_MODULES = ("_hashlib", "_ssl"), ("_sqlite3",)
"""Modules of the standard library that bring the two in."""
_DRAWN_BYTES_MAX = 1 << 20


class Entropy:
    """Bytes that follow from an execution's seed: SHAKE-256 in counter mode."""

    def __init__(self, stream: bytes = b"") -> None:
        self._stream = stream
        """Tells one series of bytes of the same seed from another."""
        self._seed = b""
        self._count = 0

    def reset(self, seed: bytes) -> None:
        """Begin a new execution."""
        self._seed, self._count = seed + self._stream, 0

    def take(self, size: SupportsIndex) -> bytes:
        """Return the next ``size`` bytes."""
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8)).digest(operator.index(size))


class _RandMethod(ctypes.Structure):
    """OpenSSL's RAND_METHOD, rand.h. What is left out is allowed to be."""

    _fields_ = [
        ("seed", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("add", ctypes.c_void_p),
        ("pseudorand", ctypes.c_void_p),
        ("status", ctypes.c_void_p),
    ]


_RAND_BYTES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_RAND_STATUS = ctypes.CFUNCTYPE(ctypes.c_int)
_SQLITE_RANDOMNESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_SQLITE_VFS_RANDOMNESS_AT = 104
"""Of xRandomness in a sqlite3_vfs, sqlite3.h; the same since version 1 of that structure."""


class Generators:
    """The generators of C libraries, once they are in this process."""

    def __init__(self) -> None:
        self.entropy = Entropy(b"C")
        """What all C code draws from."""
        self._libraries: dict[str, ctypes.CDLL] = {}
        self._method: _RandMethod | None = None
        self._kept: list[object] = []
        """What C code calls and nobody else refers to."""

    def attach(self) -> None:
        """Give a source to each generator that is here, and to those that come later."""
        for name in (*_OPENSSL_MODULES, *_SQLITE_MODULES):
            if name in sys.modules:
                self._attach(sys.modules[name])
        load = importlib.machinery.ExtensionFileLoader.exec_module

        def load_and_attach(loader: importlib.machinery.ExtensionFileLoader, module: ModuleType) -> None:
            load(loader, module)
            self._attach(module)

        importlib.machinery.ExtensionFileLoader.exec_module = load_and_attach  # type: ignore[method-assign, assignment]

    def begin(self, seed: bytes) -> None:
        """Put all of them at their beginning for an execution with ``seed``."""
        self.entropy.reset(seed)
        if (sqlite := self._libraries.get("sqlite")) is not None:
            sqlite.sqlite3_randomness(0, None)  # "If N is less than one [...] the internal state is reset."

    def _attach(self, module: ModuleType) -> None:
        if module.__name__ in _OPENSSL_MODULES and "openssl" not in self._libraries:
            self._attach_openssl(ctypes.CDLL(module.__file__))
        elif module.__name__ in _SQLITE_MODULES and "sqlite" not in self._libraries:
            self._attach_sqlite(ctypes.CDLL(module.__file__))

    def _attach_openssl(self, library: ctypes.CDLL) -> None:
        # Absent where OpenSSL is built into the module with its names hidden: docs/design/015-python-clock.md.
        with contextlib.suppress(AttributeError):
            set_method = library.RAND_set_rand_method
            draw, status = _RAND_BYTES(self._draw), _RAND_STATUS(lambda: 1)
            self._kept += (draw, status)
            address = ctypes.cast(draw, ctypes.c_void_p).value
            self._method = _RandMethod(
                bytes=address, pseudorand=address, status=ctypes.cast(status, ctypes.c_void_p).value
            )
            set_method(ctypes.byref(self._method))
            self._libraries["openssl"] = library

    def _attach_sqlite(self, library: ctypes.CDLL) -> None:
        with contextlib.suppress(AttributeError):
            find = library.sqlite3_vfs_find
            library.sqlite3_randomness.argtypes = [ctypes.c_int, ctypes.c_void_p]
            find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
            vfs = find(None)
            draw = _SQLITE_RANDOMNESS(lambda _vfs, size, address: size if self._draw(address, size) else 0)
            self._kept.append(draw)
            ctypes.c_void_p.from_address(vfs + _SQLITE_VFS_RANDOMNESS_AT).value = ctypes.cast(
                draw, ctypes.c_void_p
            ).value
            self._libraries["sqlite"] = library
            library.sqlite3_randomness(0, None)

    def _draw(self, address: int, size: int) -> int:
        for at in range(0, size, _DRAWN_BYTES_MAX):
            part = min(_DRAWN_BYTES_MAX, size - at)
            ctypes.memmove(address + at, self.entropy.take(part), part)
        return 1
