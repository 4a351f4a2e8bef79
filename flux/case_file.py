"""Case files: one recorded execution and all that is needed to run it again, as bytes.

A *case* is what ``flux export ID --case`` writes and ``flux replay FILE`` runs, on a machine that has neither the
database nor the server. It holds the execution as it was stored (so redacted, and with the rows it changed), the
files of its deployment, and what ran it: versions, and which packages it had. The values of secrets are not in it.

The bytes, in this order::

    fluxcase 1                      the format's version, a line
    <sha256> <content> <stored>     a digest, and two sizes in bytes, a line
    ...                             the content, as one zstd frame of so many stored bytes

The digest covers the first line and the frame. The content is MessagePack, of fixed shape. The same execution
exported by the same Flux gives the same bytes: nothing in it says when or by whom it was made.

Whoever wrote a case may be nobody's friend. `decode_case` takes bytes of unknown origin and returns a `Case` that is
whole and of this format, or raises `CaseFileError`; it looks at sizes before it makes room, and lets no file's name
lead out of a folder. What it returns is still hostile code and hostile text: the first goes into the jail, the second
through the sanitiser, as everything recorded does.
"""

import hashlib
import re

import attrs
import msgspec
import zstandard

from flux import codec
from flux.codec import CodecError
from flux.errors import OperatorError
from flux.execution import Execution
from flux.limits import MIB

CASE_FORMAT = 1
SUFFIX = ".fluxcase"
FILE_BYTES_MAX = 256 * MIB
CONTENT_BYTES_MAX = 256 * MIB
"""A case is held in memory, by who writes it and by who reads it."""
FILES_MAX = 10_000
PATH_BYTES_MAX = 1024
NAME_BYTES_MAX = 255
"""What Linux allows one part of a path."""
HEAD_BYTES_MAX = 200
TEXT_CHARACTERS_MAX = 200
_FOLDER = re.compile(rb"/[^\x00-\x1f\x7f]{1,1024}")

_FIRST_LINE = re.compile(rb"fluxcase ([1-9][0-9]{0,8})", re.ASCII)
_SECOND_LINE = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,12}) ([0-9]{1,12})", re.ASCII)
_COMPRESSION_LEVEL = 9


class CaseFileError(OperatorError):
    """Bytes that are no case of this format, or not whole."""

    code = "FLX340"
    exit_code = 6


class CaseTooLargeError(OperatorError):
    """An execution with its code is larger than a case may be."""

    code = "FLX341"
    exit_code = 6


class CaseFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One file of the deployment."""

    path: bytes
    """Relative to the project's folder, with ``/``. Bytes, as a name on Linux may be no text."""
    content: bytes


class Made(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What exported the case; the server that records runs functions with the same."""

    flux: str
    """Version of Flux, and with it of the guest SDKs."""
    python: str
    """Name and minor version of the interpreter of Python functions: ``cpython-3.13``."""
    machine: str
    """What the interpreter is built for: ``linux-x86_64``."""
    environment: str
    """Key of the environment that holds the deployment's packages; empty when it needs none."""
    folder: bytes
    """Where the deployment's files were, as Python functions saw it: absolute, and it ends with the deployment's id."""


@attrs.frozen
class Case:
    """One execution and what is needed to run it again."""

    execution: Execution
    """With all of its mutations."""
    files: tuple[CaseFile, ...]
    """Of its deployment, in the order in which an artifact is hashed."""
    made: Made
    hidden: tuple[str, ...] = ()
    """What stands otherwise in ``files`` than in the deployment, a sentence each."""

    @property
    def artifact(self) -> str:
        """Id of a deployment of exactly these files."""
        return hash_files(self.files)[:16]


class _Content(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    record_format: int
    execution: bytes
    files: tuple[CaseFile, ...]
    made: Made
    hidden: tuple[str, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Content)


def hash_files(files: tuple[CaseFile, ...]) -> str:
    """Return the hash of an artifact that consists of ``files``, as `flux.project.hash_artifact` makes it."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"%d %d\n" % (len(file.path), len(file.content)))
        digest.update(file.path)
        digest.update(file.content)
    return digest.hexdigest()


# --- writing ---------------------------------------------------------------------------------------


def encode_case(case: Case) -> bytes:
    """Return the bytes of ``case``; raise `CaseTooLargeError`."""
    content = encode_content(case)
    frame = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_checksum=True, write_content_size=True)
    stored = frame.compress(content)
    first = b"fluxcase %d\n" % CASE_FORMAT
    second = b"%s %d %d\n" % (_digest(first, stored), len(content), len(stored))
    return first + second + stored


def encode_content(case: Case) -> bytes:
    """Return what of a case is compressed: where to look for what must not be in it."""
    size = sum(len(file.path) + len(file.content) for file in case.files)
    # Before the execution is put into one piece as well.
    if size <= CONTENT_BYTES_MAX:
        execution = codec.encode(case.execution)
        content = _encoder.encode(
            _Content(codec.FORMAT_VERSION, execution, case.files, case.made, case.hidden)
        )
        size = len(content)
    if size > CONTENT_BYTES_MAX:
        raise CaseTooLargeError(
            f"execution {case.execution.name} and its code take {size:,} bytes; a case may have "
            f"{CONTENT_BYTES_MAX:,}",
            remedy="replay it where it is: flux replay " + case.execution.name,
        )
    return content


def _digest(first: bytes, stored: bytes) -> bytes:
    return hashlib.sha256(first + stored).hexdigest().encode()


# --- reading ---------------------------------------------------------------------------------------


def decode_case(data: bytes) -> Case:
    """Return the case in ``data``, whole and of this format; raise `CaseFileError`."""
    content = _read_content(data)
    try:
        found = _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _no_case(f"its content is not that of a case: {error}") from error
    if found.record_format != codec.FORMAT_VERSION:
        which = "a newer Flux" if found.record_format > codec.FORMAT_VERSION else "an older Flux"
        raise CaseFileError(
            f"its execution has format {found.record_format}; this Flux reads {codec.FORMAT_VERSION}",
            remedy=f"{which} wrote it: replay it with that one",
        )
    _check_files(found.files)
    for text in (
        found.made.flux,
        found.made.python,
        found.made.machine,
        found.made.environment,
        *found.hidden,
    ):
        if len(text) > TEXT_CHARACTERS_MAX:
            raise _no_case("a text that says what made it is too long")
    if _FOLDER.fullmatch(found.made.folder) is None:
        raise _no_case("the folder that its code was in has no name")
    try:
        execution = codec.decode(Execution, found.execution)
    except CodecError as error:
        # Within a format records grow by fields, which an older Flux does not know.
        raise CaseFileError(
            f"its execution can't be read: {error.message}",
            remedy=f"it says that Flux {found.made.flux} wrote it: replay it with that one, or export it again",
        ) from error
    case = Case(execution, found.files, found.made, found.hidden)
    if case.artifact != execution.deployment and not case.hidden:
        raise _no_case(
            f"its files are not those of deployment {execution.deployment[:16]}, which it says it ran on"
        )
    return case


def _read_content(data: bytes) -> bytes:
    if len(data) > FILE_BYTES_MAX:
        raise CaseFileError(f"it has {len(data):,} bytes; a case has at most {FILE_BYTES_MAX:,}")
    first, newline, rest = data.partition(b"\n")
    version = _FIRST_LINE.fullmatch(first[:HEAD_BYTES_MAX])
    if version is None or not newline:
        raise CaseFileError("it is no case file", remedy="flux export ID --case writes one")
    if int(version[1]) != CASE_FORMAT:
        raise CaseFileError(
            f"it is a case of format {int(version[1])}; this Flux reads {CASE_FORMAT}",
            remedy="a newer Flux wrote it: upgrade this one",
        )
    second, newline, stored = rest.partition(b"\n")
    sizes = _SECOND_LINE.fullmatch(second[:HEAD_BYTES_MAX])
    if sizes is None or not newline:
        raise _no_case("its second line can't be read")
    content_bytes, stored_bytes = int(sizes[2]), int(sizes[3])
    if content_bytes > CONTENT_BYTES_MAX:
        raise CaseFileError(
            f"it claims to hold {content_bytes:,} bytes; a case has at most {CONTENT_BYTES_MAX:,}"
        )
    if len(stored) < stored_bytes:
        raise CaseFileError(
            f"it is cut: {len(stored):,} of {stored_bytes:,} bytes are there",
            remedy="copy it again, or export it again",
        )
    if len(stored) > stored_bytes:
        raise _no_case(f"{len(stored) - stored_bytes:,} bytes follow its end")
    if _digest(first + b"\n", stored) != sizes[1]:
        raise _no_case("its checksum does not fit")
    return _decompress(stored, content_bytes)


def _decompress(stored: bytes, content_bytes: int) -> bytes:
    """The content; never more is unpacked than the head claims, whatever the frame does."""
    try:
        if zstandard.frame_content_size(stored) != content_bytes:
            raise _no_case("its head and its content disagree on how large it is")
        content = zstandard.ZstdDecompressor(max_window_size=2 * CONTENT_BYTES_MAX).decompress(
            stored, max_output_size=content_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise _no_case(f"its content can't be unpacked: {error}") from error
    if len(content) != content_bytes:
        raise _no_case("its head and its content disagree on how large it is")
    return content


def _check_files(files: tuple[CaseFile, ...]) -> None:
    """Refuse names that lead out of a folder or can't be together in one."""
    if len(files) > FILES_MAX:
        raise _no_case(f"it has {len(files):,} files; {FILES_MAX:,} are possible")
    paths: set[bytes] = set()
    folders: set[bytes] = set()
    for file in files:
        parts = file.path.split(b"/")
        is_name = all(0 < len(part) <= NAME_BYTES_MAX and part not in (b".", b"..") for part in parts)
        if not is_name or len(file.path) > PATH_BYTES_MAX or re.search(rb"[\x00-\x1f\x7f\\]", file.path):
            raise _no_case(f"{file.path[:NAME_BYTES_MAX]!r} is no name of a project's file")
        above = [b"/".join(parts[:depth]) for depth in range(1, len(parts))]
        if file.path in paths or file.path in folders or not paths.isdisjoint(above):
            raise _no_case(f"{file.path!r} is in it twice, or is a file and a folder")
        paths.add(file.path)
        folders.update(above)


def _no_case(why: str) -> CaseFileError:
    return CaseFileError(f"it is damaged or was altered: {why}", remedy="copy it again, or export it again")
