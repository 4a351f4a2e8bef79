"""Which packages a project's functions need: ``requirements.txt``, or ``pyproject.toml``.

A project names packages where Python projects do. `parse_requirements` reads the first,
with the files that it refers to, `parse_pyproject` the second (``[project].dependencies``);
both give one flat list that depends on the text only. Files are read by whoever calls.

The list is for an installer, and an installer does more than it is asked: it builds what
comes as source, which runs a stranger's code; it follows links to folders and repositories.
So what a line may say is named here, and everything else is refused with its place. Which
lines would have to be built is said of each, and decided elsewhere.

https://packaging.python.org/en/latest/specifications/dependency-specifiers/
https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

import posixpath
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator

import attrs

from flux.errors import OperatorError

REQUIREMENTS_NAME = "requirements.txt"
PYPROJECT_NAME = "pyproject.toml"
FILES_MAX = 100
"""Files that refer to each other; more are a circle."""


class RequirementsError(OperatorError):
    """A line about packages that can't be used."""

    code = "FLX530"


@attrs.frozen
class Requirement:
    """One package that is asked for."""

    text: str
    """As an installer reads it: ``numpy>=2; python_version < "3.14"``; of a wheel on this machine the path."""

    origin: str
    """Where it stands: ``requirements.txt:3``."""

    needs_building: bool = False
    """It points at source, so that code of the package's own would have to run."""

    wheel: str | None = None
    """Path of a wheel that lies in the project, relative to it."""

    hashes: tuple[str, ...] = ()
    """One of which the file that is installed must have: ``sha256:...``."""

    name: str = ""
    """The package's name in its normal form, ``typing-extensions``; empty when a path does not say it."""

    @property
    def path(self) -> str | None:
        """Of the file in the project that it is, wheel or source."""
        is_file = self.needs_building and " @ " not in self.text and _SCHEME.match(self.text) is None
        return self.text if is_file else self.wheel


@attrs.frozen
class Requirements:
    """Everything that an installer is told."""

    packages: tuple[Requirement, ...]

    constraints: tuple[Requirement, ...] = ()
    """What these and the packages that they need must agree with."""

    options: tuple[tuple[str, ...], ...] = ()
    """Where packages come from: ``("--index-url", "https://...")``. A path is relative to the project."""

    files: tuple[str, ...] = ()
    """The files that say all this, relative to the project."""

    variables: tuple[str, ...] = ()
    """Environment variables that lines speak of, as ``${TOKEN}``; installers put them in."""

    @property
    def source(self) -> str:
        """The file that people edit."""
        return self.files[0]


_PLACES = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--pypi-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
    "--trusted-host": "--trusted-host",
}
_FLAGS = ("--no-index", "--pre", "--prefer-binary", "--require-hashes")
_MOOT = ("--only-binary", "--use-feature")
"""Wheels are all that is taken anyway; features are the installer's own."""
_REFUSED = {
    "-e": "an environment is a copy that never changes, so nothing in it can be editable",
    "--editable": "an environment is a copy that never changes, so nothing in it can be editable",
    "--no-binary": "it asks for source where there are wheels, and building runs the package's own code",
}

_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<extras>\[[A-Za-z0-9._,\s-]*\])?\s*(?P<rest>.*)",
    re.DOTALL,
)
_VERSIONS = re.compile(r"\(?[=<>!~][^;@]*(?:;.*)?|;.*|", re.DOTALL)
_HASH = re.compile(r"\s--hash[= ](?P<hash>[a-z0-9]+:[0-9a-f]+)(?=\s|$)")
_OPTION = re.compile(r"\s(?P<option>-[^\s=]*)")
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)\}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SOURCE_SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")


def parse_requirements(read: Callable[[str], str], name: str = REQUIREMENTS_NAME) -> Requirements:
    """Return what the file ``name``, and those that it refers to, ask for; raise `RequirementsError`.

    ``read`` gives the text of a file by its path, relative to the project.
    """
    reader = _Reader(read)
    reader.take_file(name, constrains=False)
    return reader.finish()


def parse_pyproject(text: str, name: str = PYPROJECT_NAME) -> Requirements | None:
    """Return what ``[project].dependencies`` asks for, or None when there are none; raise `RequirementsError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequirementsError(f"{name} is not TOML: {error}", remedy="correct it there") from error
    project = document.get("project", {})
    if not isinstance(project, dict):
        raise RequirementsError(f"{name}  project is no table", remedy="write [project]")
    listed, dynamic = project.get("dependencies"), project.get("dynamic", [])
    if listed is None and isinstance(dynamic, list) and "dependencies" in dynamic:
        raise RequirementsError(
            f"{name}  [project] says that dependencies are dynamic: only running its build would tell them",
            remedy=f"write them there, or into {REQUIREMENTS_NAME}, which goes before",
        )
    if listed is None or listed == []:
        return None
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise RequirementsError(
            f"{name}  dependencies is no list of text", remedy='write: dependencies = ["httpx>=0.28"]'
        )
    packages = [
        _parse_requirement(item.strip(), f"{name} dependencies[{index}]", folder="")
        for index, item in enumerate(listed)
    ]
    return Requirements(tuple(packages), files=(name,))


class _Reader:
    """Walks the files, in the order in which they refer to each other."""

    def __init__(self, read: Callable[[str], str]) -> None:
        self._read = read
        self._packages: list[Requirement] = []
        self._constraints: list[Requirement] = []
        self._options: list[tuple[str, ...]] = []
        self._files: dict[str, None] = {}
        self._variables: dict[str, None] = {}

    def finish(self) -> Requirements:
        return Requirements(
            tuple(self._packages),
            tuple(self._constraints),
            tuple(dict.fromkeys(self._options)),
            tuple(self._files),
            tuple(self._variables),
        )

    def take_file(self, name: str, *, constrains: bool) -> None:
        if name in self._files:
            return  # Each file says its part once, also where two refer to each other.
        self._files[name] = None
        if len(self._files) > FILES_MAX:
            raise RequirementsError(f"{name}: more than {FILES_MAX} files refer to each other")
        for number, line in _join_lines(self._read(name)):
            self._take_line(line, f"{name}:{number}", posixpath.dirname(name), constrains=constrains)

    def _take_line(self, line: str, origin: str, folder: str, *, constrains: bool) -> None:
        self._variables.update(dict.fromkeys(_VARIABLE.findall(line)))
        if not line.startswith("-"):
            target = self._constraints if constrains else self._packages
            target.append(_parse_requirement(line, origin, folder))
            return
        option, value = _split_option(line, origin)
        if option in ("-r", "--requirement", "-c", "--constraint"):
            nested = _join(folder, value, origin)
            self.take_file(nested, constrains=constrains or option in ("-c", "--constraint"))
        elif option in _PLACES and value:
            if _PLACES[option] == "--find-links" and not _SCHEME.match(value):
                value = posixpath.normpath(posixpath.join(folder, value))
            self._options.append((_PLACES[option], value))
        elif option in _FLAGS and not value:
            self._options.append((option,))
        elif option not in _MOOT:
            reason = _REFUSED.get(option, "Flux does not know this option")
            raise RequirementsError(f"{origin}  {line}: {reason}", remedy="remove the line")


def _join_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines with the numbers at which they begin: continued ones in one piece, without comments."""
    begun, first = "", 0
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        first = first if begun else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun += line[:-1].strip() + " "
            continue
        # A comment inside a continued line ends it there, as for pip.
        whole, begun = _COMMENT.sub("", begun + line).strip(), ""
        if whole:
            yield first, whole
    if begun.strip():
        yield first, begun.strip()


def _split_option(line: str, origin: str) -> tuple[str, str]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequirementsError(f"{origin}  {line}: {error}", remedy="close the quotes") from error
    option, joined, value = words[0].partition("=")
    if not joined and option[:2] != "--" and len(option) > 2:
        option, value = option[:2], option[2:]  # -rbase.txt
    values = [value] * bool(joined or value) + words[1:]
    if len(values) > 1 or any(found.startswith("-") or len(found.split()) != 1 for found in values):
        # One that is written as it stands would be several words, and the second an option of its own.
        raise RequirementsError(
            f"{origin}  {line}: it takes one word", remedy="write each option into a line of its own"
        )
    return option, values[0] if values else ""


def _parse_requirement(line: str, origin: str, folder: str) -> Requirement:
    # In one line, whatever it was: an installer takes the next one for another request.
    text = " ".join(_HASH.sub("", line).split())
    if (option := _OPTION.search(text)) is not None:
        raise RequirementsError(
            f"{origin}  {text}: {option['option']} is not taken here",
            remedy="only --hash= may follow a package",
        )
    return attrs.evolve(_parse_text(text, origin, folder), hashes=tuple(_HASH.findall(line)))


def _parse_text(text: str, origin: str, folder: str) -> Requirement:
    named = _NAME.fullmatch(text)
    if named is not None and named["rest"].startswith("@"):
        where, _, marker = named["rest"][1:].strip().partition(" ;")
        if not _is_place(where):
            raise _not_understood(text, origin)
        found = _parse_place(where, origin, folder)
        condition = f" ; {marker.strip()}" if marker.strip() else ""
        whole = f"{named['name']}{named['extras'] or ''} @ {found.text}{condition}"
        return attrs.evolve(found, text=found.text if found.wheel else whole, name=_normal(named["name"]))
    if _is_place(text):
        return _parse_place(text, origin, folder)
    if named is None or _VERSIONS.fullmatch(named["rest"]) is None:
        raise _not_understood(text, origin)
    return Requirement(text, origin, name=_normal(named["name"]))


def _is_place(text: str) -> bool:
    """Whether it is a path or an address, and no name."""
    bare = text.partition("#")[0].rstrip()
    return (
        text.startswith((".", "/", "~"))
        or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) is not None
        or bare.endswith((".whl", *_SOURCE_SUFFIXES))
        or "/" in re.split(r"[\s\[;@<>=!~(]", text, maxsplit=1)[0]
    )


def _parse_place(text: str, origin: str, folder: str) -> Requirement:
    is_address = _SCHEME.match(text) is not None
    bare = re.split(r"[?#]", text, maxsplit=1)[0]
    if not is_address and bare.endswith((".whl", *_SOURCE_SUFFIXES)):
        text = bare = _join(folder, bare, origin)
    if bare.endswith(".whl"):
        # The name in a wheel's file name has no hyphens.
        name = _normal(posixpath.basename(bare).partition("-")[0])
        return Requirement(text, origin, wheel=None if is_address else text, name=name)
    if not is_address and not bare.endswith(_SOURCE_SUFFIXES):
        raise RequirementsError(
            f"{origin}  {text}: a folder can't be installed, as nothing says when it has changed",
            remedy="build a wheel of it (pip wheel --no-deps -w wheels FOLDER) and name that: ./wheels/NAME.whl",
        )
    return Requirement(text, origin, needs_building=True)


def _join(folder: str, path: str, origin: str) -> str:
    """Return the path of a file of the project that a file in ``folder`` names."""
    whole = posixpath.normpath(posixpath.join(folder, path))
    if not path or whole.startswith(("/", "..")) or _SCHEME.match(path):
        raise RequirementsError(
            f"{origin}  {path}: what a deployment consists of lies in the project's folder",
            remedy="name a file in it, relative to this one",
        )
    return whole


def _normal(name: str) -> str:
    """Return a name as packages are compared: ``Typing_Extensions`` is ``typing-extensions``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _not_understood(text: str, origin: str) -> RequirementsError:
    return RequirementsError(
        f"{origin}  {text!r} names no package", remedy='write a name and its versions: "httpx==0.28.1"'
    )
