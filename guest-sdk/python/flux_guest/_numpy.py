"""numpy's random numbers, for projects that use it. It is never imported from here.

A generator that is made without a seed while an execution runs needs nothing: numpy asks the module
``secrets``, whose bytes follow from the execution's seed by then. One that a module makes when it is
imported has drawn real randomness, and each execution would begin with the same numbers, known to no
record. Such generators are given a new beginning for each execution, as are the global functions
(``numpy.random.rand``). What a module has seeded itself keeps the numbers that its author chose.
"""

import gc
import hashlib
import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

_ENTROPY_BITS = 128
"""What numpy draws for a generator that nobody has seeded: `SeedSequence.pool_size` words of 32 bits."""


class NumpyGenerators:
    """Those that are to begin anew with each execution."""

    def __init__(self, is_running: Callable[[], bool]) -> None:
        self._drawn: dict[int, int] = {}
        """What may have seeded a generator at import, with its place in the order of drawing."""
        self._unseeded: list[tuple[Any, bytes]] = []
        """Bit generators, with what tells each one's numbers from the others'."""
        self._legacy: list[tuple[Any, bytes]] = []
        """Likewise objects that keep half of a pair of numbers beside their bit generator."""
        real = random.SystemRandom.getrandbits

        def getrandbits(generator: random.SystemRandom, k: int) -> int:
            bits = real(generator, k)
            if k == _ENTROPY_BITS and not is_running():
                self._drawn.setdefault(bits, len(self._drawn))
            return bits

        random.SystemRandom.getrandbits = getrandbits  # type: ignore[method-assign, assignment]

    def attach(self) -> None:
        """Find the generators of the imported modules; to be called once, before the garbage collector's freeze."""
        module = sys.modules.get("numpy.random")
        if module is not None:
            objects = gc.get_objects()
            self._legacy = self._find_unseeded(
                (found, found._bit_generator) for found in objects if isinstance(found, module.RandomState)
            )
            self._unseeded = self._find_unseeded(
                (found, found) for found in objects if isinstance(found, module.BitGenerator)
            )
        self._drawn.clear()  # A key may be among it.

    def _find_unseeded(self, found: Iterable[tuple[Any, Any]]) -> list[tuple[Any, bytes]]:
        unseeded = []
        for owner, generator in found:
            # `seed_seq` since numpy 1.25. None once a legacy generator has been seeded by its owner.
            sequence: Any = getattr(generator, "seed_seq", None) or getattr(generator, "_seed_seq", None)
            entropy = getattr(sequence, "entropy", None)
            place = self._drawn.get(entropy) if isinstance(entropy, int) else None
            if place is not None:
                # What was spawned from it has its entropy, and a key of its own.
                unseeded.append((owner, repr((place, sequence.spawn_key)).encode()))
        return unseeded

    def begin(self, seed: bytes) -> None:
        """Give all of them the numbers of an execution with ``seed``."""
        module = sys.modules.get("numpy.random")
        if module is None:
            return
        for generator, name in self._unseeded:
            generator.state = _make_state(module, generator, seed, name)
        # The last is what numpy.random.rand and its like draw from.
        for legacy, name in (*self._legacy, (module.mtrand._rand, b"global")):
            state = legacy.get_state(legacy=False)
            state |= _make_state(module, legacy._bit_generator, seed, name)
            state["has_gauss"], state["gauss"] = 0, 0.0
            legacy.set_state(state)


def _make_state(module: Any, generator: Any, seed: bytes, name: bytes) -> Any:
    entropy = int.from_bytes(hashlib.sha256(seed + b"numpy" + name).digest())
    return type(generator)(module.SeedSequence(entropy)).state
