"""Who code belongs to."""

import re

import attrs

NAME = re.compile(r"[a-z][a-z0-9_]{0,40}\Z")
"""What a tenant may be called: it becomes part of a database role's name."""


@attrs.frozen
class Tenant:
    """Who code belongs to, and where its tables are."""

    name: str = "main"
    schema: str = "public"
    """The database schema that its functions read and write."""

    @property
    def role(self) -> str:
        """The database role that its functions' SQL runs under."""
        return f"flux_guest_{self.name}"
