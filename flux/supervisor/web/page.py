"""What a page is before it is HTML: a template, what the template is given, and the command that shows the same."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs


@attrs.frozen
class Asked:
    """What was asked for, and when: all that a page knows beside the API's documents."""

    path: str
    """Below ``/_flux/``, without ``.json``."""
    query: Mapping[str, str]
    """As it was sent."""
    now: datetime
    """When, in UTC."""
    has_tenants: bool = False
    """Whether the server is an installation's, which may serve tenants."""


@attrs.frozen
class Page:
    """A page that is still to be rendered."""

    title: str
    template: str
    area: str
    """Which entry of the navigation it belongs to."""
    context: Mapping[str, Any]
    """What the template is given."""
    command: str = ""
    """The command of ``flux`` that says what this page says."""
    scripts: Sequence[str] = ()
    """Modules of ``flux/web/static`` that it needs besides the frame's."""
    filter: str = ""
    """What stands in the filter's field."""


@attrs.frozen
class Area:
    """An entry of the navigation."""

    name: str
    address: str
    title: str
    is_installations: bool = False
    """It is there on an installation's server alone."""


AREAS = (
    Area("executions", "/_flux/", "Executions"),
    Area("errors", "/_flux/errors", "Errors"),
    Area("incidents", "/_flux/i", "Incidents"),
    Area("bisect", "/_flux/b", "Bisect"),
    Area("state", "/_flux/state", "State"),
    Area("deployments", "/_flux/deployments", "Deployments"),
    Area("queue", "/_flux/queue", "Queue and cron"),
    Area("tenants", "/_flux/tenants", "Tenants", is_installations=True),
    Area("doctor", "/_flux/doctor", "Doctor"),
)
