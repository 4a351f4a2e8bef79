"""Times as people read and write them on a command line."""

from datetime import UTC, datetime, timedelta, tzinfo

from flux.cli.failures import MalformedAnswer


class LocalZone(tzinfo):
    """This machine's time zone, with its changes over the year.

    ``datetime.astimezone()`` gives a fixed offset, that of one moment: yesterday's 14:00
    would be an hour off when the clocks changed last night.
    """

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return moment.replace(tzinfo=None).astimezone().utcoffset() if moment else None

    def dst(self, moment: datetime | None) -> timedelta | None:  # noqa: ARG002 - the interface's signature
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return moment.replace(tzinfo=None).astimezone().tzname() if moment else None

    def fromutc(self, moment: datetime) -> datetime:
        local = moment.replace(tzinfo=UTC).astimezone()
        return local.replace(tzinfo=self)


def local_now() -> datetime:
    """Now, in the reader's time zone."""
    return datetime.now(LocalZone())


def read_moment(text: str, where: str) -> datetime:
    """A time that the server wrote, in the reader's zone."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone()
    except (ValueError, OverflowError):
        pass
    raise MalformedAnswer(
        f'the server\'s answer has "{text[:40]}" at {where}, where an RFC 3339 time belongs',
        remedy="compare versions (flux --version, flux doctor)",
    )


def utc_text(moment: datetime) -> str:
    """The time for the server: RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def clock(moment: datetime, now: datetime, *, milliseconds: bool = False) -> str:
    """The time of day, with the date when it is not today's."""
    text = moment.strftime("%H:%M:%S")
    if milliseconds:
        text += f".{moment.microsecond // 1000:03d}"
    if moment.date() == now.date():
        return text
    return moment.strftime("%m-%d " if moment.year == now.year else "%Y-%m-%d ") + text


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, in one unit: ``22 min ago``."""
    seconds = (now - moment).total_seconds()
    if seconds < 0:
        return "just now" if seconds > -5 else f"in {one_unit(-seconds)}"
    return "just now" if seconds < 1 else f"{one_unit(seconds)} ago"


def one_unit(seconds: float) -> str:
    """A length of time in one unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def duration(elapsed_ms: float) -> str:
    """How long it took: ``0.4 ms``, ``14 ms``, ``1.42 s``, ``3 min 20 s``."""
    if elapsed_ms < 0.95:
        return f"{elapsed_ms:.1f} ms" if elapsed_ms > 0 else "0 ms"
    if elapsed_ms < 999.5:
        return f"{elapsed_ms:.0f} ms"
    seconds = elapsed_ms / 1000
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
