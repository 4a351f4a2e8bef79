"""How executions are named."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.ids import (
    ALPHABET,
    FIRST,
    first_id_of,
    get_unix_ms,
    make_execution_id,
    make_name,
    shortest_unique,
)

MILLISECONDS = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


def test_an_id_is_a_uuid_of_version_7() -> None:
    """The example of RFC 9562, appendix A.6."""
    entropy = bytes.fromhex("0cc318c4dc0c0c07398f")
    entropy = (0xCC3 << 68 | 0x18C4DC0C0C07398F).to_bytes(10)
    found = make_execution_id(0x017F22E279B0, entropy)
    assert str(found) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    assert found.version == 7
    assert found.variant == uuid.RFC_4122


@given(MILLISECONDS, ENTROPY)
def test_every_id_keeps_its_millisecond_and_its_version(unix_ms: int, entropy: bytes) -> None:
    found = make_execution_id(unix_ms, entropy)
    assert get_unix_ms(found) == unix_ms
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found >= first_id_of(unix_ms)


@given(MILLISECONDS, MILLISECONDS, ENTROPY, ENTROPY)
def test_ids_sort_by_time(first: int, second: int, one: bytes, other: bytes) -> None:
    if first < second:
        assert make_execution_id(first, one) < first_id_of(second) <= make_execution_id(second, other)


@given(MILLISECONDS, ENTROPY)
def test_a_name_is_never_mistaken_for_a_sha(unix_ms: int, entropy: bytes) -> None:
    name = make_name(make_execution_id(unix_ms, entropy))
    assert re.fullmatch(r"[ghjkmnpqrstvwxyz][0-9abcdefghjkmnpqrstvwxyz]{7}", name)
    assert not re.fullmatch(r"[0-9a-f]+", name[:1])


@given(MILLISECONDS, MILLISECONDS, ENTROPY)
def test_a_name_follows_from_the_random_tail_alone(first: int, second: int, entropy: bytes) -> None:
    assert make_name(make_execution_id(first, entropy)) == make_name(make_execution_id(second, entropy))


@given(st.integers(0, 2**39 - 1), st.integers(0, 2**39 - 1))
def test_different_tails_have_different_names(first: int, second: int) -> None:
    names = {make_name(uuid.UUID(int=tail)) for tail in (first, second)}
    assert len(names) == len({first, second})


def test_the_letters_are_crockfords() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 32
    assert not set("ilou") & set(ALPHABET)
    assert set(FIRST) == set(ALPHABET) - set("0123456789abcdef")
    assert len(FIRST) == 16


@pytest.mark.parametrize("size", [0, 9, 11])
def test_an_id_takes_exactly_ten_bytes_of_entropy(size: int) -> None:
    with pytest.raises(ValueError, match="10 bytes"):
        make_execution_id(0, bytes(size))


@given(st.lists(st.text("gh01", min_size=8, max_size=8), max_size=20))
def test_the_shortest_prefix_belongs_to_one_name_and_is_the_shortest(names: list[str]) -> None:
    found = shortest_unique(names)
    assert set(found) == set(names)
    for name, length in found.items():
        others = set(names) - {name}
        assert not any(other.startswith(name[:length]) for other in others)
        if length > 1:
            assert any(other.startswith(name[: length - 1]) for other in others)
