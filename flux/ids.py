"""How executions are named.

An execution's id is a UUIDv7: it sorts by time, and days are ranges of it. Its
*name*, what people see and type, is eight characters of base32 drawn from the
id's random tail, the first one between g and z, so that no name is ever mistaken
for a git SHA. Prefixes of a UUIDv7 are useless as names: ten thousand requests
within minutes share theirs.

No clock and no randomness in here: the caller brings both.
"""

import uuid

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32: no i, l, o, u."""
FIRST = "ghjkmnpqrstvwxyz"
"""What a name begins with: the letters of `ALPHABET` beyond the hexadecimal ones."""
NAME_LENGTH = 8
ENTROPY_BYTES = 10


def make_execution_id(unix_ms: int, entropy: bytes) -> uuid.UUID:
    """Return the UUIDv7 of the millisecond ``unix_ms`` with 74 bits of ``entropy`` (10 bytes)."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"an id takes {ENTROPY_BYTES} bytes of entropy, not {len(entropy)}")
    random = int.from_bytes(entropy)
    time_and_version = (unix_ms & (2**48 - 1)) << 80 | 0x7 << 76
    return uuid.UUID(int=time_and_version | (random >> 68) << 64 | 0b10 << 62 | random & (2**62 - 1))


def get_unix_ms(execution_id: uuid.UUID) -> int:
    """Return the millisecond of ``execution_id``."""
    return execution_id.int >> 80


def make_name(execution_id: uuid.UUID) -> str:
    """Return the name of ``execution_id``: a function of its random tail, so the two never part."""
    tail = execution_id.int & (2**39 - 1)
    name = FIRST[tail >> 35]
    for shift in range(30, -1, -5):
        name += ALPHABET[tail >> shift & 31]
    return name


def first_id_of(unix_ms: int) -> uuid.UUID:
    """Return the smallest id of the millisecond ``unix_ms``: the bound of a partition or of a time range."""
    return uuid.UUID(int=(unix_ms & (2**48 - 1)) << 80)


def shortest_unique(names: list[str]) -> dict[str, int]:
    """Return for each name the length of its shortest prefix that no other of ``names`` has."""
    result: dict[str, int] = {}
    ordered = sorted(set(names))
    for index, name in enumerate(ordered):
        length = 1
        before = ordered[index - 1] if index else ""
        after = ordered[index + 1] if index + 1 < len(ordered) else ""
        for neighbour in (before, after):
            while length < len(name) and neighbour[:length] == name[:length]:
                length += 1
        result[name] = length
    return result
