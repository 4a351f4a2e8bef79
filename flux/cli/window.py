"""A window of time, as people write it: ``14:00..14:05``, ``last:15m``, or the name of a pinned incident."""

import re
from datetime import datetime, timedelta

from flux.cli import moments
from flux.cli.client import Client
from flux.cli.failures import UsageError
from flux.cli.trace_list import canonical_filter

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?", re.ASCII)


def window_terms(window: str, asked_by: str) -> str:
    """The terms of a filter that mean ``window``, with times as the server is to read them."""
    first, dots, last = window.partition("..")
    if window.startswith("last:"):
        terms = f"since:{window.removeprefix('last:')}"
    elif dots and first and last:
        terms = f"since:{first} until:{last}"
    else:
        raise UsageError(f"{asked_by}: {window} is no window", remedy="14:00..14:05, or last:15m")
    text = canonical_filter(terms)
    assert text is not None, "there is a term at least"
    if any(not term.startswith(("since:", "until:")) for term in text.split()):
        raise UsageError(f"{asked_by}: {window} is no window", remedy="14:00..14:05, or last:15m; -q takes a filter")
    times = [datetime.fromisoformat(term.partition(":")[2]) for term in text.split()]
    if times == sorted(times):
        return text
    if _CLOCK.fullmatch(last) is None:
        raise UsageError(f"{asked_by}: {window} ends before it begins", remedy="14:00..14:05, or last:15m")
    # A time of day alone is the last one of that name. Here it is the first that comes after the beginning.
    return f"{text.split()[0]} until:{moments.utc_text(times[1] + timedelta(days=1))}"


def find_window(client: Client, window: str, asked_by: str) -> str:
    """The same, where ``window`` may be an incident's name; it is looked up."""
    if _NAME.fullmatch(window) is None:
        return window_terms(window, asked_by)
    incident = client.get("incidents", window).record.of_schema("flux.incident/1")
    return f"since:{incident.text('since')} until:{incident.text('until')}"
