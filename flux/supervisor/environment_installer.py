"""The program that installs packages, and what it is told.

uv when there is one, else pip: the user's own, with the user's own settings (indexes,
proxies, certificates). It sees no other variable: a token of somebody's is not for what a
package may run while it is built. Installed for a tenant, who is not the user, it has none of
the user's indexes, passwords and caches, and is asked for nothing that names a variable or a
file of the machine. Here is decided which lines it gets, what it may write
and whether it may start programs; `flux.supervisor.environment_build` runs it.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import attrs

import flux
from flux.errors import OperatorError
from flux.requirements import Requirement, Requirements
from flux.sandbox.install_main import Job
from flux.sandbox.jail_plan import SDK_PACKAGES
from flux.supervisor.environment_tree import PACKAGES_NAME

_KEPT = re.compile(
    r"PATH|HOME|LANG|LC_[A-Z]+|XDG_[A-Z_]+|NETRC|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(?:HTTPS?|NO|ALL)_PROXY|(?:https?|no|all)_proxy"
    r"|PIP_(?:INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|TIMEOUT|RETRIES"
    r"|DEFAULT_TIMEOUT|CONFIG_FILE|CACHE_DIR|NO_CACHE_DIR|KEYRING_PROVIDER)"
    r"|UV_(?:INDEX(?:_[A-Z0-9_]+)?|DEFAULT_INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|INSECURE_HOST"
    r"|NATIVE_TLS|SYSTEM_CERTS|HTTP_TIMEOUT|HTTP_RETRIES|OFFLINE|CACHE_DIR|NO_CACHE|KEYRING_PROVIDER|CONCURRENT_[A-Z]+)"
)
"""Variables that say where packages come from, and how to get there."""
_KEPT_FOR_TENANTS = re.compile(
    r"PATH|LANG|LC_[A-Z]+|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?:HTTPS?|NO|ALL)_PROXY"
    r"|(?:https?|no|all)_proxy|PIP_(?:CERT|PROXY|TIMEOUT|RETRIES|DEFAULT_TIMEOUT)"
    r"|UV_(?:NATIVE_TLS|SYSTEM_CERTS|HTTP_TIMEOUT|HTTP_RETRIES|OFFLINE|CONCURRENT_[A-Z]+)"
)
"""Those that say how to get anywhere, and give nothing to whoever is there."""
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_KEPT_FOR_BUILDS = re.compile(r"CC|CXX|AR|LD|(?:C|CXX|CPP|LD)FLAGS|MAKEFLAGS|PKG_CONFIG_[A-Z_]+|RUSTFLAGS")


_PT_INTERP = 3


class NotAProgramError(Exception):
    """A file that can be started is not machine code."""


class InstallerMissingError(OperatorError):
    """There is neither uv nor pip."""

    code = "FLX531"


class SourcePackageError(OperatorError):
    """A package comes as source only, and building it would run its code."""

    code = "FLX533"


_WITH_ADDRESS = ("--index-url", "--extra-index-url", "--find-links")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class NotForTenantsError(OperatorError):
    """A tenant's line about packages speaks of what is the server's: its environment, its files."""

    code = "FLX818"


@attrs.frozen
class Installer:
    """The program that finds, fetches and unpacks packages."""

    name: str
    """``uv`` or ``pip``."""

    version: str

    program: str
    """Path of uv; ``pip`` runs from Flux's own Python."""

    loader: str | None = None
    """What the system starts uv by, unless it needs nothing."""

    @property
    def text(self) -> str:
        """As people read it: ``pip 26.3``."""
        return f"{self.name} {self.version}"


def find_installer(name: str | None = None) -> Installer:
    """Return the installer of this name, or the best there is; raise `InstallerMissingError`."""
    if name in (None, "uv"):
        for folder in [str(Path(sys.executable).parent), *os.get_exec_path()]:
            program = Path(folder, "uv")
            # A script of that name starts another program, and is to be the only one that can be started.
            with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError, NotAProgramError):
                loader = find_loader(program)
                told = subprocess.run(
                    [program, "--version"], capture_output=True, text=True, timeout=30, check=True
                )
                return Installer("uv", told.stdout.split()[1], str(program), loader)
    if name in (None, "pip") and importlib.util.find_spec("pip") is not None:
        return Installer("pip", importlib.metadata.version("pip"), "pip")
    raise InstallerMissingError(
        f"the project needs packages, and there is no {name or 'uv and no pip'} to install them with",
        remedy=f"install one beside Flux: {sys.executable} -m ensurepip, or get uv onto PATH",
    )


def find_loader(program: Path) -> str | None:
    """Return the loader that ``program`` names, None when it needs none; raise `NotAProgramError` or OSError.

    By elf(5): a header that says where the table of segments is, and one of them that holds the loader's path.
    """
    with open(program, "rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            raise NotAProgramError(str(program))
        (table,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(table)
        segments = file.read(size * count)
        for index in range(count):
            kind, _flags, place, _address, _physical, length = struct.unpack_from(
                "<IIQQQQ", segments, index * size
            )
            if kind == _PT_INTERP:
                file.seek(place)
                return file.read(length).rstrip(b"\0").decode()
    return None


def name_python() -> str:
    """Return what wheels with compiled code are made for: ``cpython-311-x86_64-linux-gnu``."""
    return str(sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag)


def check_sources(requirements: Requirements, *, allow_sdist: bool) -> None:
    """Refuse lines that ask for source; raise `SourcePackageError`."""
    for package in requirements.packages:
        if package.needs_building and not allow_sdist:
            raise SourcePackageError(
                f"{package.origin}  {hide_passwords(package.text)} is source: to build it is to run its code",
                remedy="name a wheel instead, or trust it: flux build --allow-sdist",
            )


def check_tenant(requirements: Requirements) -> None:
    """Refuse what a tenant may not ask an installer for, which runs outside of the jail; raise `NotForTenantsError`.

    What an installer is given is looked at, as well as what the files say: quotes and paths are undone in between.
    """
    written = [(requirements.source, word) for option in requirements.options for word in option[1:]]
    for package in (*requirements.packages, *requirements.constraints):
        written.append((package.origin, package.text))
    named = next(((origin, text) for origin, text in written if "${" in text), None)
    if named is not None or requirements.variables:
        origin, text = named or (requirements.source, "${" + requirements.variables[0] + "}")
        raise NotForTenantsError(
            f"{origin}  {hide_passwords(text)}: it would put a variable of the server's environment in",
            remedy="write the address out, without a variable",
        )
    places = [(requirements.source, option[1]) for option in requirements.options if option[0] in _WITH_ADDRESS]
    for package in (*requirements.packages, *requirements.constraints):
        where = package.text.partition(" @ ")[2] or package.text
        if package.wheel is None and _ADDRESS.match(where):
            places.append((package.origin, where))
    for origin, place in places:
        if not place.lower().startswith(("https://", "http://")):
            raise NotForTenantsError(
                f"{origin}  {hide_passwords(place)}: it would be looked for among the server's files",
                remedy="name an index by https://, or a wheel in the project: ./wheels/NAME.whl",
            )


def list_sdk_pins() -> list[str]:
    """Return the versions that a project can't choose."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in SDK_PACKAGES]


def make_jobs(
    requirements: Requirements,
    root: Path,
    work: Path,
    installer: Installer,
    *,
    allow_sdist: bool,
    for_tenant: bool = False,
) -> list[Job]:
    """Return what is to be done one after the other, each only if the one before it was."""
    wanted, agreed = work / "requirements.txt", work / "constraints.txt"
    # An index may have a password in its address.
    for path, lines in (
        (
            wanted,
            [*_write_options(requirements, root), *(_write(one, root) for one in requirements.packages)],
        ),
        (agreed, [*list_sdk_pins(), *(_write(one, root) for one in requirements.constraints)]),
    ):
        path.touch(mode=0o600)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    writable = [str(work), os.devnull]
    cache = None if allow_sdist or for_tenant else find_cache(installer.name)
    if cache is not None:
        writable.append(str(cache))
    arguments = ["--target", str(work / "environment" / PACKAGES_NAME), "-r", str(wanted), "-c", str(agreed)]
    readable = list_readable(root, work, installer) if for_tenant else None
    if installer.name == "uv":
        cache = cache or work / "cache"
        # The project's own settings are not the user's: in a uv.toml of its own it could ask for source to be built.
        own = ["--python", sys.executable, "--cache-dir", str(cache), "--color", "never"]
        own += ["--no-config"] if for_tenant else _choose_settings()
        # Copied, as a file that uv links into its cache can be changed from there.
        install = ["pip", "install", *own, "--link-mode", "copy", "--no-progress", *arguments]
        if allow_sdist:
            return [Job(os.getpid(), writable, installer.program, install, programs=None)]
        # uv starts Python to learn about it, and keeps what it has learned: asked before, it has no need to later.
        learn = ["python", "find", *own[1:], "--no-python-downloads"]
        alone = [installer.program, *([] if installer.loader is None else [installer.loader])]
        return [
            Job(os.getpid(), writable, installer.program, learn, programs=None, readable=readable),
            Job(os.getpid(), writable, installer.program, [*install, "--no-build"], alone, readable),
        ]
    own = ["install", "--no-input", "--disable-pip-version-check", "--root-user-action", "ignore"]
    own += ["--no-compile", "--no-warn-script-location", "--progress-bar", "off", "--no-color"]
    own += [] if cache is not None else ["--no-cache-dir"]
    own += [] if allow_sdist else ["--only-binary", ":all:"]
    return [Job(os.getpid(), writable, "pip", [*own, *arguments], None if allow_sdist else [], readable)]


def list_readable(root: Path, work: Path, installer: Installer) -> list[str]:
    """Return what an installer reads for a tenant: the project in ``root``, and what is the same for everybody."""
    programs = [] if installer.name == "pip" else [installer.program, installer.loader or installer.program]
    system = ["/usr", "/lib", "/lib64", "/nix/store", "/etc", "/dev/null", "/dev/urandom"]
    named = [os.environ.get(name, "") for name in _CERTIFICATES]
    paths = [
        *system, *named, *programs, sys.prefix, sys.base_prefix, str(Path(flux.__file__).parent), str(root), str(work)
    ]  # fmt: skip
    # Where they are, as links lead: /etc/resolv.conf is one to /run mostly.
    found = dict.fromkeys(os.path.realpath(path) for path in [*paths, "/etc/resolv.conf"] if path)
    return [path for path in found if Path(path).exists()]


def _choose_settings() -> list[str]:
    """Return the option that names uv's settings: the user's or the system's."""
    places = [
        os.environ.get("UV_CONFIG_FILE", ""),
        f"{os.environ.get('XDG_CONFIG_HOME') or Path('~/.config').expanduser()}/uv/uv.toml",
        "/etc/uv/uv.toml",
    ]
    found = next((place for place in places if place and Path(place).is_file()), None)
    return ["--no-config"] if found is None else ["--config-file", found]


def _write(package: Requirement, root: Path) -> str:
    text = package.text
    if package.wheel is not None:
        text = (root / package.wheel).absolute().as_uri()
    elif package.needs_building and (root / text).is_file():
        text = (root / text).absolute().as_uri()
    return " ".join([text, *(f"--hash={one}" for one in package.hashes)])


def _write_options(requirements: Requirements, root: Path) -> list[str]:
    lines = []
    for name, *values in requirements.options:
        if name == "--find-links" and "://" not in values[0]:
            values = [(root / values[0]).absolute().as_uri()]
        lines.append(" ".join([name, *values]))
    return lines


def find_cache(installer: str) -> Path | None:
    """Return the installer's cache, made if it is not there, or None when it can have none."""
    for name in (f"{installer.upper()}_NO_CACHE_DIR", f"{installer.upper()}_NO_CACHE"):
        if os.environ.get(name, "0") not in ("", "0", "false", "no", "off"):
            return None
    chosen = os.environ.get(f"{installer.upper()}_CACHE_DIR")
    shared = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    cache = Path(chosen or f"{shared}/{installer}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # Without one everything is fetched anew, which is slower and no worse.
    return cache if os.access(cache, os.W_OK) else None


def list_variables(
    requirements: Requirements,
    work: Path,
    installer: Installer,
    *,
    allow_sdist: bool,
    for_tenant: bool = False,
) -> dict[str, str]:
    if for_tenant:
        # A proxy's password is one too, and what uv puts in for ${NAME} in a package's own list is for nobody to check.
        alone = {
            name: value
            for name, value in os.environ.items()
            if _KEPT_FOR_TENANTS.fullmatch(name) and "@" not in value
        }
        # Settings, passwords and keys that are found by a folder are not found there: it is empty, and goes.
        alone |= {"HOME": str(work / "tmp"), "TMPDIR": str(work / "tmp"), "NETRC": os.devnull}
        # pip reads no file of settings then, the system's included.
        return alone | {
            "PIP_CONFIG_FILE": os.devnull, "PIP_KEYRING_PROVIDER": "disabled", "UV_KEYRING_PROVIDER": "disabled"
        }  # fmt: skip
    kept = {
        name: value
        for name, value in os.environ.items()
        if _KEPT.fullmatch(name)
        or name in requirements.variables
        or (allow_sdist and _KEPT_FOR_BUILDS.fullmatch(name))
    }
    kept["TMPDIR"] = str(work / "tmp")
    if installer.name == "pip":
        kept["PIP_USER"] = "0"  # Where somebody's settings say so; it can't be had together with --target.
    return kept


def hide_passwords(text: str) -> str:
    """Return ``text`` without what stands before the host in an address."""
    return re.sub(r"(://)[^/\s@]+@", r"\1****@", text)
