"""What a guest may ask: one file an interface, found by themselves.

Every module in this package may define `HostCallKind` objects; `all_kinds`
collects them by name. Adding an interface is adding a file.
"""

import functools
import importlib
import pkgutil

from flux.errors import BrokenInvariantError
from flux.hostcalls.base import HostCallKind


@functools.cache
def all_kinds() -> dict[str, HostCallKind]:
    """Return every kind of host call by its name."""
    kinds: dict[str, HostCallKind] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, HostCallKind) and kinds.setdefault(value.name, value) is not value:
                raise BrokenInvariantError(f"two host calls are named {value.name}")
    return kinds
