"""The example function in C, compiled once and kept.

Whoever links it first on a machine waits a minute: the compiler builds WASI's library for it. So the tests take the
module that is kept beside this file, under a name with the SHA-256 of its source: after a change of the source there
is none, and the tests say so. What needs no library, the compiler's own word on the source, they ask for each time::

    python -m tests.c_module    # links it anew; the compiler that is installed may well come to other bytes
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "guest-sdk" / "wasm" / "examples" / "order_total.c"
OPTIONS = ("--target=wasm32-wasi", "-Os", "-Wall", "-Werror")


def kept_path() -> Path:
    """Where the module of the source as it is now is kept."""
    return Path(__file__).with_name(
        f"order_total-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.wasm"
    )


def read_module() -> bytes:
    """Return the module of the source as it is now."""
    path = kept_path()
    assert path.exists(), f"{SOURCE.name} has changed: python -m tests.c_module, and add {path.name}"
    return path.read_bytes()


def compile_object() -> bytes:
    """Return what the compiler that is installed makes of the source, not linked; warnings are errors."""
    return _compile("-c")


def build() -> bytes:
    """Return the module, linked with WASI's library."""
    return _compile()


def _compile(*more: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "built"
        subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *OPTIONS, *more, "-o", str(built), str(SOURCE)],
            check=True, timeout=600, env={**os.environ, "ZIG_LOCAL_CACHE_DIR": folder},
        )  # fmt: skip
        return built.read_bytes()


if __name__ == "__main__":
    made, kept = build(), kept_path()
    if kept.exists() and kept.read_bytes() == made:
        print(f"{kept.name}: the same bytes")
    else:
        for old in kept.parent.glob("order_total-*.wasm"):
            old.unlink()
        kept.write_bytes(made)
        print(f"{kept.name}: {len(made)} bytes")
