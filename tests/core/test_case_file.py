"""Case files: what is written is read, twice the same bytes; what is cut, altered or made to harm is refused."""

import hashlib
from collections.abc import Callable

import attrs
import msgspec
import pytest
import zstandard

from flux import case_file, codec
from flux.case_file import (
    Case,
    CaseFile,
    CaseFileError,
    CaseTooLargeError,
    Made,
    decode_case,
    encode_case,
    encode_content,
)
from flux.cli.replay import CASE_SUFFIX
from flux.execution import Returned
from tests.failing_executions import call, execution, query

MADE = Made("0.1.0", "cpython-3.11", "linux-x86_64", "", b"/srv/shop/.flux/artifacts/0123456789abcdef")
FILES = (
    CaseFile(b"flux.toml", b'[project]\nname = "shop"\n'),
    CaseFile(b"functions/pay.py", b"def pay(): ...\n"),
    CaseFile(b"functions/n\xe4me\xff.py", b""),
)


def make_case(files: tuple[CaseFile, ...] = FILES, **changes: object) -> Case:
    """A case whose execution says that it ran on ``files``."""
    calls = (
        query(1, "select 1", [], ["a"], [[1]]),
        call(2, "http.request", ["GET", "https://a.example/", {}], {}),
    )
    record = attrs.evolve(
        execution(Returned(201, (), b"x" * 70_000), *calls), deployment=case_file.hash_files(files)[:16]
    )
    return attrs.evolve(Case(record, files, MADE), **changes)  # type: ignore[arg-type]


def pack(content: bytes, *, claims: int | None = None, version: int = 1, frame: bytes | None = None) -> bytes:
    """A file of any content, its head as the parameters say."""
    stored = zstandard.compress(content) if frame is None else frame
    first = b"fluxcase %d\n" % version
    digest = hashlib.sha256(first + stored).hexdigest().encode()
    return first + b"%b %d %d\n" % (digest, len(content) if claims is None else claims, len(stored)) + stored


def content_of(case: Case, **changes: object) -> bytes:
    """The content of ``case`` with other fields."""
    fields = msgspec.msgpack.decode(encode_content(case))
    names = ("record_format", "execution", "files", "made", "hidden")
    return msgspec.msgpack.encode(
        [changes.get(name, field) for name, field in zip(names, fields, strict=True)]
    )


def test_a_case_reads_back_as_it_was_and_is_the_same_bytes_each_time() -> None:
    case = make_case()
    data = encode_case(case)
    assert decode_case(data) == case
    assert encode_case(decode_case(data)) == data == encode_case(make_case())
    assert data.startswith(b"fluxcase 1\n")


def test_a_file_whose_password_was_left_out_may_differ_from_the_deployments() -> None:
    case = make_case()
    other = (CaseFile(b"flux.toml", b'[project]\nname = "chop"\n'), *FILES[1:])
    with pytest.raises(CaseFileError, match="not those of deployment"):
        decode_case(encode_case(attrs.evolve(case, files=other)))
    told = attrs.evolve(case, files=other, hidden=("flux.toml is without the password in an address",))
    assert decode_case(encode_case(told)) == told


def test_a_case_that_is_cut_anywhere_is_refused() -> None:
    data = encode_case(make_case())
    for end in range(len(data)):
        with pytest.raises(CaseFileError):
            decode_case(data[:end])
    with pytest.raises(CaseFileError, match="it is cut"):
        decode_case(data[:-1])
    with pytest.raises(CaseFileError, match="follow its end"):
        decode_case(data + b"\n")


def test_a_case_with_any_byte_altered_is_refused() -> None:
    data = encode_case(make_case())
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 0x20
        with pytest.raises(CaseFileError):
            decode_case(bytes(altered))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no case file"),
        (b"PK\x03\x04", "no case file"),
        (b"fluxcase one\n", "no case file"),
        (b"fluxcase 1" + b" " * 1_000_000, "no case file"),
        (encode_case(make_case()).replace(b"fluxcase 1", b"fluxcase 2", 1), "format 2; this Flux reads 1"),
        (pack(content_of(make_case(), record_format=codec.FORMAT_VERSION + 1)), "its execution has format 2"),
        (pack(content_of(make_case(), record_format=codec.FORMAT_VERSION - 1)), "its execution has format 0"),
        (pack(content_of(make_case(), execution=b"\x90")), "its execution can't be read"),
        (pack(content_of(make_case(), made=["0", "", "", "", b"/x", "more"])), "not that of a case"),
        (pack(content_of(make_case(), made=["0" * 500, "", "", "", b"/x"])), "too long"),
        (pack(content_of(make_case(), made=["0", "", "", "", b"x/\x00"])), "has no name"),
        (pack(content_of(make_case(), files="no list")), "not that of a case"),
        (pack(b"\xdd\xff\xff\xff\xff"), "not that of a case"),
        (pack(b"\x91" * 200_000), "not that of a case"),
        (pack(encode_content(make_case()) + b"\x00"), "not that of a case"),
    ],
)
def test_what_is_no_case_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(CaseFileError, match=reason) as refused:
        decode_case(data)
    assert refused.value.exit_code == 6


@pytest.mark.parametrize(
    "paths",
    [
        [b"/etc/passwd"], [b"../flux.toml"], [b"functions/../../x.py"], [b"functions/./x.py"], [b"functions//x.py"],
        [b""], [b"functions/"], [b"a\x00b"], [b"a\nb"], [b"a\\b"], [b"\x1b[2J"], [b"x" * 256],
        [b"/".join([b"x" * 200] * 6)], [b"a", b"a"], [b"a", b"a/b"], [b"a/b/c", b"a/b"],
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder_or_stands_twice(paths: list[bytes]) -> None:
    case = make_case(tuple(CaseFile(path, b"") for path in paths))
    with pytest.raises(CaseFileError, match=r"no name of a project's file|in it twice"):
        decode_case(encode_case(case))


def test_more_files_than_a_case_may_have_are_refused() -> None:
    many = tuple(CaseFile(b"%d" % n, b"") for n in range(case_file.FILES_MAX + 1))
    with pytest.raises(CaseFileError, match="files;"):
        decode_case(encode_case(make_case(many)))


def bomb(size: int) -> bytes:
    """A frame of very many zeros that does not say how many."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return b"".join(compressor.compress(bytes(2**20)) for _ in range(size // 2**20)) + compressor.flush()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: pack(b"", claims=case_file.CONTENT_BYTES_MAX + 1), "claims to hold"),
        (lambda: pack(b"", claims=10**11), "claims to hold"),
        (lambda: pack(b"", claims=1000, frame=bomb(64 * 2**20)), "disagree"),
        (lambda: pack(b"", claims=1000, frame=zstandard.compress(bytes(64 * 2**20))), "disagree"),
        (lambda: pack(b"ab", frame=zstandard.compress(b"ab") * 2), "disagree|unpacked"),
        (lambda: pack(b"ab", frame=b"no frame"), "unpacked|disagree"),
    ],
)
def test_a_case_that_unpacks_to_more_than_it_says_is_not_unpacked(
    make: Callable[[], bytes], reason: str
) -> None:
    with pytest.raises(CaseFileError, match=reason):
        decode_case(make())


def test_what_is_too_large_is_neither_written_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_case(make_case())
    monkeypatch.setattr(case_file, "CONTENT_BYTES_MAX", 1000)
    with pytest.raises(CaseTooLargeError, match="a case may have 1,000"):
        encode_case(make_case())
    monkeypatch.setattr(case_file, "FILE_BYTES_MAX", len(data) - 1)
    with pytest.raises(CaseFileError, match="a case has at most"):
        decode_case(data)


def test_the_command_line_knows_the_suffix() -> None:
    assert CASE_SUFFIX == case_file.SUFFIX
