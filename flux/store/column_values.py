"""What a column's value is in Python, and back, without any I/O.

The rule is that a value read and written back is the same value. Python's own
types are used where they can hold what Postgres holds; where they cannot, the
value keeps Postgres's own text rather than being bent into something near it.

| Postgres | Python |
|---|---|
| bool, int2/4/8, oid, xid8, float4/8, text and its kin, bytea, uuid | bool, int, float, str, bytes, UUID |
| numeric | Decimal, with its trailing zeros, NaN and infinities |
| date, timestamp, timestamptz | date, naive datetime, aware (UTC) datetime; infinity, BC, past 9999: str |
| time, timetz | time; 24:00:00 is a str |
| interval | timedelta; `Interval` if it has months, which no timedelta can hold |
| json, jsonb | what `json.loads` makes of it, or the exact text with ``json_as_text`` |
| arrays | list (of lists); ranges `Range`; multiranges a list of `Range` |
| enum | str; domain: as its base type; composite: dict; anonymous record: tuple |
| inet, cidr | the classes of `ipaddress`; tid and "char": (block, offset) and bytes |
| money, bit, point, box, tsvector, macaddr, pg_lsn, pg_snapshot, extensions' types | Postgres's text |

JSON numbers with a fraction become float, as in every other client, so 1.10
comes back as 1.1, and a JSON ``null`` becomes None, like SQL's NULL. Whoever
must keep each digit opens the connection with ``json_as_text``.

Times travel in Postgres's binary form: days or microseconds since 2000-01-01.
"""

import json
import re
from datetime import UTC, date, datetime, time, timedelta

import attrs

EPOCH_DATE = date(2000, 1, 1)
EPOCH = datetime(2000, 1, 1)
EPOCH_UTC = datetime(2000, 1, 1, tzinfo=UTC)
EPOCH_ORDINAL = EPOCH_DATE.toordinal()
MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000
CYCLE_DAYS = 146_097
"""Days in 400 years: the Gregorian calendar repeats after them, weekdays included."""

DAYS_INFINITY, DAYS_MINUS_INFINITY = 2**31 - 1, -(2**31)
MICROSECONDS_INFINITY, MICROSECONDS_MINUS_INFINITY = 2**63 - 1, -(2**63)

_AS_POSTGRES_WRITES = re.compile(
    r"(\d{4,7})-(\d\d)-(\d\d)(?: ([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,6}))?(\+00)?)?( BC)?", re.ASCII
)


@attrs.frozen(order=False)
class Interval:
    """A Postgres interval that has months: "1 mon" is no number of days."""

    months: int = 0
    """Years and months, in months."""

    days: int = 0
    """Days; not folded into months or hours, since neither has a fixed length."""

    microseconds: int = 0
    """Hours and less, in microseconds."""


# What Postgres calls date, timestamp, timestamptz and time, as (number,) of its binary form.


def decode_date(wire: tuple[int]) -> date | str:
    """A date from days since 2000-01-01."""
    days = wire[0]
    try:
        return date.fromordinal(days + EPOCH_ORDINAL)
    except (ValueError, OverflowError):
        if days == DAYS_INFINITY:
            return "infinity"
        if days == DAYS_MINUS_INFINITY:
            return "-infinity"
        return _beyond_python(days, None, "")


def encode_date(value: object) -> tuple[int]:
    """A date, or text as Postgres writes it: Python cannot hold every one."""
    if isinstance(value, str):
        if value in ("infinity", "-infinity"):
            return (DAYS_INFINITY if value == "infinity" else DAYS_MINUS_INFINITY,)
        return (_from_text(value, "YYYY-MM-DD", has_time=False, has_zone=False)[0],)
    if not isinstance(value, date):
        raise TypeError(f"a date is wanted, this is {_article(value)}")
    return (value.toordinal() - EPOCH_ORDINAL,)


def decode_timestamp(wire: tuple[int]) -> datetime | str:
    """A naive datetime from microseconds since 2000-01-01."""
    try:
        return EPOCH + timedelta(0, 0, wire[0])
    except OverflowError:
        return _special_timestamp(wire[0], "")


def encode_timestamp(value: object) -> tuple[int]:
    """A naive datetime (or date, for its midnight), or text as Postgres writes it."""
    if isinstance(value, str):
        return (_timestamp_from_text(value, "YYYY-MM-DD HH:MM:SS", has_zone=False),)
    if type(value) is date:
        return ((value.toordinal() - EPOCH_ORDINAL) * DAY_US,)
    if not isinstance(value, datetime):
        raise TypeError(f"a datetime is wanted, this is {_article(value)}")
    if value.tzinfo is not None:
        raise TypeError("a timestamp without time zone wants a datetime without tzinfo")
    return ((value - EPOCH) // MICROSECOND,)


def decode_timestamptz(wire: tuple[int]) -> datetime | str:
    """An aware datetime in UTC from microseconds since 2000-01-01 UTC."""
    try:
        return EPOCH_UTC + timedelta(0, 0, wire[0])
    except OverflowError:
        return _special_timestamp(wire[0], "+00")


def encode_timestamptz(value: object) -> tuple[int]:
    """An aware datetime, or text as Postgres writes it in UTC.

    A naive one is refused: guessing the machine's time zone gives another answer on another machine.
    """
    if isinstance(value, str):
        return (_timestamp_from_text(value, "YYYY-MM-DD HH:MM:SS+00", has_zone=True),)
    if not isinstance(value, datetime):
        raise TypeError(f"a datetime is wanted, this is {_article(value)}")
    if value.tzinfo is None:
        raise TypeError("a timestamp with time zone wants a datetime with tzinfo, such as datetime.now(UTC)")
    return ((value - EPOCH_UTC) // MICROSECOND,)


def decode_time(wire: tuple[int]) -> time | str:
    """A time of day from microseconds since midnight; Postgres's 24:00:00 is a str."""
    if wire[0] == DAY_US:
        return "24:00:00"
    seconds, microseconds = divmod(wire[0], 1_000_000)
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, microseconds)


def encode_time(value: object) -> tuple[int]:
    """A time without zone, or "24:00:00"."""
    if value == "24:00:00":
        return (DAY_US,)
    if not isinstance(value, time):
        raise TypeError(f"a time is wanted, this is {_article(value)}")
    return (((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond,)


def decode_interval(wire: tuple[int, int, int]) -> timedelta | Interval:
    """A timedelta, or an `Interval` where a timedelta would have to invent the length of a month."""
    months, days, microseconds = wire
    if months:
        return Interval(months, days, microseconds)
    try:
        return timedelta(days, 0, microseconds)
    except OverflowError:
        return Interval(0, days, microseconds)


def encode_interval(value: object) -> tuple[int, int, int]:
    """A timedelta or an `Interval`."""
    if isinstance(value, Interval):
        return (value.months, value.days, value.microseconds)
    if not isinstance(value, timedelta):
        raise TypeError(f"a timedelta or Interval is wanted, this is {_article(value)}")
    # timedelta(hours=-1) is "-1 day, 23:00" inside; Postgres would show it so. Keep one sign.
    microseconds = value // MICROSECOND
    days = abs(microseconds) // DAY_US * (1 if microseconds >= 0 else -1)
    return (0, days, microseconds - days * DAY_US)


def decode_json(wire: bytes) -> object:
    """The value of a ``json``."""
    return json.loads(wire)


def encode_json(value: object) -> bytes:
    """The text of a ``json``; NaN and infinity are not JSON and are refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def decode_jsonb(wire: bytes) -> object:
    """The value of a ``jsonb``, whose binary form is a version byte and the text."""
    if wire[0] != 1:
        raise ValueError(f"jsonb of version {wire[0]} is not known")
    return json.loads(wire[1:])


def encode_jsonb(value: object) -> bytes:
    """The binary form of a ``jsonb``."""
    return b"\x01" + encode_json(value)


def _special_timestamp(microseconds: int, zone: str) -> str:
    if microseconds == MICROSECONDS_INFINITY:
        return "infinity"
    if microseconds == MICROSECONDS_MINUS_INFINITY:
        return "-infinity"
    return _beyond_python(*divmod(microseconds, DAY_US), zone)


def _beyond_python(days: int, microseconds: int | None, zone: str) -> str:
    """ISO text, as Postgres writes it, of a day outside the years 1 to 9999."""
    cycles, days_in_cycle = divmod(days, CYCLE_DAYS)
    day = date.fromordinal(days_in_cycle + EPOCH_ORDINAL)
    year = day.year + 400 * cycles
    text = f"{year if year > 0 else 1 - year:04d}-{day.month:02d}-{day.day:02d}"
    if microseconds is not None:
        seconds, fraction = divmod(microseconds, 1_000_000)
        text += f" {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        text += f".{fraction:06d}".rstrip("0") if fraction else ""
    return text + zone + ("" if year > 0 else " BC")


def _timestamp_from_text(text: str, form: str, *, has_zone: bool) -> int:
    if text in ("infinity", "-infinity"):
        return MICROSECONDS_INFINITY if text == "infinity" else MICROSECONDS_MINUS_INFINITY
    days, microseconds = _from_text(text, form, has_time=True, has_zone=has_zone)
    return days * DAY_US + microseconds


def _from_text(text: str, form: str, *, has_time: bool, has_zone: bool) -> tuple[int, int]:
    """Days since 2000-01-01 and microseconds of the day, of what the decoders above write.

    The time and the zone must be there, or not, as the type has it: what is missing would be guessed, and
    what is too much would be lost.
    """
    match = _AS_POSTGRES_WRITES.fullmatch(text)
    if match is None or (match[4] is not None) != has_time or (match[8] is not None) != has_zone:
        raise ValueError(f"as text it is written as Postgres does: infinity, -infinity or {form}, BC at the end")
    year, month, day = (int(part) for part in match.group(1, 2, 3))
    year = 1 - year if match[9] else year
    cycles, year_in_cycle = divmod(year - 2000, 400)
    days = date(2000 + year_in_cycle, month, day).toordinal() - EPOCH_ORDINAL + cycles * CYCLE_DAYS
    hours, minutes, seconds = (int(part or 0) for part in match.group(4, 5, 6))
    fraction = int((match[7] or "").ljust(6, "0"))
    return days, ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction


def _article(value: object) -> str:
    return f"a {type(value).__name__}"
