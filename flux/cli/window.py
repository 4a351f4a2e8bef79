"""A window of time in the reader's zone, with errors that name the command. See `flux.window`."""

from flux.cli import moments
from flux.cli.client import Client
from flux.cli.failures import UsageError


def window_terms(window: str, asked_by: str) -> str:
    """The terms of a filter that mean ``window``, with times as the server is to read them."""
    from flux.window import WindowError, read_window

    try:
        return str(read_window(window, moments.local_now()))
    except WindowError as error:
        raise UsageError(f"{asked_by}: {error.message}", remedy=error.remedy) from error


def find_window(client: Client, window: str, asked_by: str) -> str:
    """The same, where ``window`` may be an incident's name; it is looked up."""
    from flux.window import may_be_name

    if not may_be_name(window):
        return window_terms(window, asked_by)
    incident = client.get("incidents", window).record.of_schema("flux.incident/1")
    return f"since:{incident.text('since')} until:{incident.text('until')}"
