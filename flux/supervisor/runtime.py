"""What runs deployments here: Python, the guest SDK, the WebAssembly engine, each with its version.

A deployment's id names its files. What runs them comes with Flux and with the machine, and may be another one after
an upgrade: so each deploy on record says what ran it, and going back to old code says what is not as it was.
"""

import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from flux import __version__

SDK = "flux_guest"
_DIGITS = 12


@cache
def describe_runtime() -> Mapping[str, str]:
    """Return what runs deployments in this process, by name."""
    return {
        "flux": __version__,
        "python": f"{sys.implementation.name} {platform.python_version()}",
        "sdk": _hash_sdk(),
        "engine": f"wasmtime {importlib.metadata.version('wasmtime')}",
        "machine": sysconfig.get_platform(),
    }


def compare_runtimes(then: Mapping[str, str], now: Mapping[str, str]) -> Sequence[str]:
    """Return what is not as it was, a sentence each."""
    return [
        f"{name}: it ran on {then[name]}, and runs on {now[name]} now"
        for name in now
        if name in then and then[name] != now[name]
    ]


def _hash_sdk() -> str:
    """Return a hash of the guest SDK's files: between releases its version says too little."""
    # Of a package at the top find_spec imports nothing.
    found = importlib.util.find_spec(SDK)
    assert found is not None and found.submodule_search_locations, "guests could not be run without it"
    digest = hashlib.sha256()
    for place in found.submodule_search_locations:
        for path in sorted(Path(place).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = path.read_bytes()
                digest.update(b"%s %d\n" % (path.relative_to(place).as_posix().encode(), len(content)))
                digest.update(content)
    return digest.hexdigest()[:_DIGITS]
