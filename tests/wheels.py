"""Wheels and source archives that tests make, so that installing them needs no index and no network.

A wheel is a zip file with three files of its own beside the package's. `write_wheel` writes
one, also one that no honest tool would write; `pack_installed` makes one of a distribution that
is installed here, for a package with compiled code. `write_source` makes an archive whose build
runs code, as builds do.
"""

import base64
import hashlib
import importlib.metadata
import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

Content = str | bytes


def write_wheel(
    folder: Path,
    name: str,
    files: Mapping[str, Content],
    *,
    version: str = "1.0",
    requires: Sequence[str] = (),
    modes: Mapping[str, int] | None = None,
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel with ``files`` into ``folder``, return its path; ``modes`` are of single files, types included."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {required}\n" for required in requires)
    wheel = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    whole: dict[str, Content] = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel}
    record = "".join(
        f"{path},sha256={_digest(_encode(content))},{len(_encode(content))}\n"
        for path, content in whole.items()
    )
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content in {**whole, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            entry = zipfile.ZipInfo(inside, (2026, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (modes or {}).get(inside, stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, _encode(content))
    return path


def pack_installed(folder: Path, name: str) -> Path:
    """Make a wheel of the installed distribution ``name``."""
    distribution = importlib.metadata.distribution(name)
    told = distribution.read_text("WHEEL")
    assert told is not None
    tags = [line.partition(": ")[2] for line in told.splitlines() if line.startswith("Tag: ")]
    files = {}
    for file in distribution.files or ():
        inside = str(file)
        if not inside.startswith("..") and ".dist-info/" not in inside and not inside.endswith(".pyc"):
            files[inside] = Path(str(distribution.locate_file(file))).read_bytes()
    return write_wheel(folder, name.replace("-", "_"), files, version=distribution.version, tag=tags[0])


BACKEND = """
import base64, hashlib, os, zipfile

{code}

def get_requires_for_build_wheel(config_settings=None):
    return []

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "{name}-{version}-py3-none-any.whl"
    info = "{name}-{version}.dist-info"
    files = {{
        "{name}.py": "built = True\\nseen = " + repr(globals().get("seen")) + "\\n",
        info + "/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    record = "".join(path + ",,\\n" for path in files) + info + "/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as archive:
        for path, text in {{**files, info + "/RECORD": record}}.items():
            archive.writestr(path, text)
    return name
"""


def write_source(folder: Path, name: str, code: str, *, version: str = "1.0") -> Path:
    """Write a source archive whose build runs ``code``. What that leaves in ``seen`` can be imported afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n',
        "backend.py": BACKEND.format(code=code, name=name, version=version),
    }
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inside, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{inside}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def _encode(content: Content) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
