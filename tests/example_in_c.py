"""The example function in C, as a module: what the suite runs, and the command that makes it.

On a machine where nobody has built for WASI before, a C compiler first makes WASI's whole library: a minute of a
processor, for thirty lines. So the module stands in ``wasm/`` and ends in the hash of the source that it was made of.
The suite holds the two together, and compiles the source against the library's headers alone.

``python -m tests.example_in_c`` makes the module anew and says whether that changed it.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "guest-sdk" / "wasm" / "examples" / "order_total.c"
MODULE = Path(__file__).parent / "wasm" / "order_total.wasm"


def compile_source(built: Path, *options: str) -> None:
    """Compile the source as its first lines say, with ``options``; a warning is an error."""
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "--target=wasm32-wasi", "-Os", "-Wall", "-Werror", *options),
        *("-o", str(built), str(SOURCE)),
    ]
    subprocess.run(command, check=True, timeout=900, env={**os.environ, "ZIG_LOCAL_CACHE_DIR": str(built.parent)})


def make_mark() -> bytes:
    """Return a custom section ``source`` with the source's hash."""
    body = b"\x06source" + hashlib.sha256(SOURCE.read_bytes()).digest()
    return bytes([0, len(body)]) + body


def main() -> int:
    """Make the module anew."""
    before = MODULE.read_bytes() if MODULE.exists() else b""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "order_total.wasm"
        compile_source(built)
        MODULE.write_bytes(built.read_bytes() + make_mark())
    same = MODULE.read_bytes() == before
    print(f"{MODULE.name}: {MODULE.stat().st_size:,} bytes, {'as before' if same else 'changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
