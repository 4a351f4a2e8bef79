"""Where objects lie, so that the order of sets of them repeats.

An object without a hash of its own hashes by its address, and a set of such objects is
iterated in the order of their hashes. An address follows from everything that was ever
allocated and given back before: Python's allocator hands out the block that was freed last.
Two workers would differ by what the zygote did between forking them.

So the allocator is brought to a state that has no past, three times:

- `settle` before the project is imported and again before the first fork. It takes every
  free block that there is, for good. What comes next is carved from fresh memory, in order.
- Then a few blocks of each size are given back as *scratch*: they are what the fork loop
  lives on. As long as it can, the allocator does not touch the fresh memory.
- `take_scratch` in each worker, first thing. Whatever order the loop left the scratch in, it
  is gone, and each worker begins at the same block of the same fresh memory.

With the same code, what an execution allocates then follows from what it does. If the system
maps memory at the same addresses as well (the host asks it to), the addresses themselves are equal.

Only blocks up to 512 bytes are meant; larger ones, classes among them, are the C library's.

The other way round, ``shuffle`` puts the free blocks in another order. What an execution does differently
then depends on addresses, which is how such a function is told from others (docs/design/021-addresses.md).
"""

import functools
import gc
import os
import random
import re
import sys
from collections.abc import Callable

_POOL_BYTES = 16 * 1024
_ARENA_POOLS_LEFT = 50
"""CPython's obmalloc.c: memory comes in arenas, an arena is cut into 63 or 64 pools, a pool into blocks of one
size. In so many of the pools of a new arena nobody has been."""
_SIZES = tuple(range(16, 513, 16))
_BYTES_OVERHEAD = sys.getsizeof(b"")
_POOL_HEADER_BYTES = 48
_SCRATCH_BLOCKS: dict[int, int] = {size: 40 if size <= 96 else 15 for size in _SIZES if size <= 256}
"""How many of each size: more than the fork loop has in hand at one time, Python's own lists of objects to use
again included, and few enough to lie in a pool's first page: a worker pays a fault for each page. Larger blocks
it gives back in the order in which it takes them."""
SMALL_BYTES = 128
"""Objects of classes without many fields are no larger, and an execution makes hundreds before it comes to its own."""
SHUFFLED_POOLS = 3
"""Of each size up to that, one of each other size: all of them must be in the new arena."""
_SPARE_SLOTS = 60
"""For blocks that the zygote gives back though it had them before."""
_LEFT_BLOCKS_MAX = 100
"""Free blocks of one size that `settle` leaves, by far."""
_TAKEN_BLOCKS_MAX = 2000
"""Should the allocator be another than the one that this is written for: an end, and nothing worse."""
_CLASS_LINE = re.compile(rb"^ *\d+ +(\d+) +\d+ +\d+ +(\d+)$", re.MULTILINE)
_UNUSED_LINE = re.compile(rb"^(\d+) unused pools \* (\d+) bytes", re.MULTILINE)


def _make_block(size: int) -> Callable[[], object]:
    """Return what makes an object that is one block of ``size``, and nothing else."""
    if size == 16:
        return object
    if size == 32:
        return complex
    # No Python function: what calls one writes to it and to its code.
    return functools.partial(bytes, size - _BYTES_OVERHEAD)


_MAKERS = tuple(_make_block(size) for size in _SIZES)


class Layout:
    """The state of the allocator."""

    def __init__(self) -> None:
        self._held: list[list[object]] = []
        """Blocks that are taken for good."""
        self._scratch: list[list[object]] = []
        """For each size, blocks that are the fork loop's to use."""
        self.fresh = range(0)
        """Addresses of the memory that nobody has used; empty with another allocator than Python's own."""

    def settle(self, shuffle: int = 0) -> None:
        """Take every free block; then, with ``shuffle``, leave fresh ones in an order that follows from it."""
        gc.collect()  # It empties Python's own lists of objects to use again, too.
        available, _ = _read_free_blocks()
        if not available:
            return  # Another allocator than Python's own (PYTHONMALLOC=malloc): nothing here is about it.
        self._held += self._scratch
        self._scratch = []
        for size, make in zip(_SIZES, _MAKERS, strict=True):
            self._held.append(_make_blocks(make, available.get(size, 0)))
        for make, (size, count) in zip(_MAKERS, _SCRATCH_BLOCKS.items(), strict=False):
            pool = _make_blocks(make, (_POOL_BYTES - _POOL_HEADER_BYTES) // size)
            self._scratch.append([*pool[:count], *[None] * _SPARE_SLOTS])
            self._held.append(pool[count:])
        available, pools = _read_free_blocks()
        for size, make in zip(_SIZES, _MAKERS, strict=True):
            self._held.append(_make_blocks(make, available.get(size, 0)))
        # Pools that have no size yet are used up with the largest, until what is left of them is one new arena.
        largest: list[object] = []
        while not largest or pools <= _ARENA_POOLS_LEFT:
            largest = _make_blocks(_MAKERS[-1], (pools + 1) * (_POOL_BYTES // _SIZES[-1]))
            self._held.append(largest)
            _, pools = _read_free_blocks()
        first = id(largest[-1]) & -_POOL_BYTES
        self.fresh = range(first, first + _ARENA_POOLS_LEFT * _POOL_BYTES)
        if shuffle:
            self._held.append(_shuffle(shuffle))

    def give_scratch(self) -> None:
        """Let the fork loop have a few blocks of each size that are not fresh, and no others."""
        gc.collect()
        for make in _MAKERS:  # What `settle` gave back as it ended.
            self._held.append(self._take(make, [None] * _LEFT_BLOCKS_MAX))
        for slots in self._scratch:
            for index in range(len(slots)):
                slots[index] = None
        gc.freeze()  # Each collection, of which an execution has two, would look at all that is held.

    def take_scratch(self) -> None:
        """Begin where every worker begins: whatever the fork loop left free is taken."""
        gc.collect()
        # No `for` here: its iterator would lie in a block of the scratch, and be given back after this.
        index = 0
        while index < len(self._scratch):
            self._take(_MAKERS[index], self._scratch[index])
            index += 1

    def _take(self, make: Callable[[], object], slots: list[object]) -> list[object]:
        """Fill ``slots`` with blocks that are not fresh, all there are."""
        index, first, end = 0, self.fresh.start, self.fresh.stop
        while not first <= id(block := make()) < end and index < _TAKEN_BLOCKS_MAX:
            if index == len(slots):
                slots.append(None)  # Not as a rule: a list that grows allocates on the way.
            slots[index] = block
            index += 1
        return slots


def _make_blocks(make: Callable[[], object], count: int) -> list[object]:
    return [make() for _ in range(count)]


def _read_free_blocks() -> tuple[dict[int, int], int]:
    """Return how many blocks of each size are free, and how many pools have no size yet.

    Python tells this on the process's descriptor 2 and nowhere else.
    """
    reader, writer = os.pipe()
    real = os.dup(2)
    try:
        os.dup2(writer, 2)
        sys._debugmallocstats()
    finally:
        os.dup2(real, 2)
        os.close(real)
        os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    available = {int(size): int(free) for size, free in _CLASS_LINE.findall(text)}
    pools = sum(int(count) for count, _ in _UNUSED_LINE.findall(text))
    return available, pools


def _shuffle(number: int) -> list[object]:
    """Leave free blocks of each size in an order that follows from ``number``; return what must be held for it."""
    generator, kept = random.Random(number), list[object]()
    for size, make in zip(_SIZES, _MAKERS, strict=True):
        in_pool = (_POOL_BYTES - _POOL_HEADER_BYTES) // size
        blocks = _make_blocks(make, in_pool * (SHUFFLED_POOLS if size <= SMALL_BYTES else 1))
        # A pool that is empty is given up, and its order with it; so one block of each stays.
        kept += [blocks.pop(index) for index in range(len(blocks) - 1, -1, -in_pool)]
        generator.shuffle(blocks)
        while blocks:
            blocks.pop()
    return kept
