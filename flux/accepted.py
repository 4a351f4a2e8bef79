"""``flux.accept.toml``: changes of behaviour that are meant, so that a guarded deploy lets them pass.

The file stands beside ``flux.toml`` and is committed with the change that it is about::

    [[accept]]
    signature = "9f2c51d0a7b3"
    what = "quote: answer body.total, another number"
    reason = "prices include VAT since ticket 812"
    until = 2026-12-31

A ``signature`` is that of a group of executions that changed in the same way (`flux.guard`), as a refused deploy prints
it. An entry without a reason is refused, and so is one without an end: what was meant once must not cover, a year
later, what nobody meant. On the day after ``until`` the entry covers nothing; it is told then, and not an error.
``what`` is for readers.

That an execution begins to fail is never accepted this way.
"""

import datetime
import json
import re
import tomllib
from collections.abc import Mapping

import attrs

from flux.errors import OperatorError
from flux.sanitize import sanitize
from flux.toml_lines import find_key_lines

ACCEPT_NAME = "flux.accept.toml"
REASON_CHARACTERS_MAX = 500
DAYS_PROPOSED = 30
"""How long the entry holds that is proposed."""
_SIGNATURE = re.compile(r"[0-9a-f]{12}")
_KEYS = frozenset({"signature", "what", "reason", "until"})


class AcceptFileError(OperatorError):
    """The file of accepted changes says something that has no meaning."""

    code = "FLX560"


@attrs.frozen
class Acceptance:
    """An entry."""

    signature: str
    """Of the group of executions that it covers, 12 hexadecimal digits."""
    reason: str
    until: datetime.date
    """The last day on which it holds."""
    what: str = ""
    """What the change is, in the words of whoever wrote the entry."""

    def holds(self, today: datetime.date) -> bool:
        """Whether it covers anything today."""
        return today <= self.until


def parse_acceptances(text: str, name: str = ACCEPT_NAME) -> tuple[Acceptance, ...]:
    """Return the entries of the file called ``name``; raise `AcceptFileError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AcceptFileError(f"{name} is not TOML: {error}", remedy="correct it there") from error
    lines = find_key_lines(text)
    for key in document:
        if key != "accept":
            raise AcceptFileError(
                f"{name}:{lines.get((key,), 1)}  there is no {sanitize(key)} here",
                remedy="entries begin with [[accept]]",
            )
    entries = document.get("accept", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AcceptFileError(
            f"{name}:{lines.get(('accept',), 1)}  accept is no list of tables",
            remedy="begin each entry with [[accept]]",
        )
    found: dict[str, Acceptance] = {}
    for number, entry in enumerate(entries):
        place = f"{name}:{lines.get(('accept', number), 1)}"
        acceptance = _read_entry(entry, place)
        if acceptance.signature in found:
            raise AcceptFileError(
                f"{place}  there is another entry for {acceptance.signature}",
                remedy="keep the one that is meant",
            )
        found[acceptance.signature] = acceptance
    return tuple(found.values())


def _read_entry(entry: Mapping[str, object], place: str) -> Acceptance:
    for key in entry:
        if key not in _KEYS:
            raise AcceptFileError(
                f"{place}  an entry has no {sanitize(key)}", remedy=f"it has {', '.join(sorted(_KEYS))}"
            )
    signature, reason, until, what = (entry.get(key) for key in ("signature", "reason", "until", "what"))
    if not isinstance(signature, str) or _SIGNATURE.fullmatch(signature) is None:
        raise AcceptFileError(
            f"{place}  the signature is 12 hexadecimal digits",
            remedy="flux deploy --guard N --accept prints the entry",
        )
    if not isinstance(reason, str) or not reason.strip() or len(reason) > REASON_CHARACTERS_MAX:
        raise AcceptFileError(
            f"{place}  the entry for {signature} has no reason", remedy='reason = "why this change is meant"'
        )
    # A time of day would raise the question whose.
    if not isinstance(until, datetime.date) or isinstance(until, datetime.datetime):
        raise AcceptFileError(
            f"{place}  the entry for {signature} has no end",
            remedy="until = 2026-12-31, a date without quotes",
        )
    if what is not None and not isinstance(what, str):
        raise AcceptFileError(f"{place}  what is no text", remedy='what = "..."')
    return Acceptance(signature, reason.strip(), until, what or "")


def write_entry(signature: str, what: str, today: datetime.date) -> str:
    """Return the entry that would cover a change, but for its reason, which somebody has to write."""
    until = today + datetime.timedelta(days=DAYS_PROPOSED)
    return (
        "[[accept]]\n"
        f'signature = "{signature}"\n'
        f"what = {json.dumps(sanitize(what), ensure_ascii=False)}\n"
        'reason = ""  # say why: without a reason the file is refused\n'
        f"until = {until.isoformat()}\n"
    )
