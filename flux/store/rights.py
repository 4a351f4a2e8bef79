"""What Flux's role may do in a database that somebody else runs, and what goes without the rest.

Managed PostgreSQL gives nobody a superuser. Flux needs `CREATE` on the database and a role for the functions; what it
may do beyond that makes it better, and what is missing is told by name (`Rights.describe_missing`): at the start, and
by ``flux doctor``.
"""

from collections.abc import Sequence

import attrs

from flux.store.postgres import Connection, quote_identifier
from flux.store.queries import QUERIES


@attrs.frozen
class Rights:
    """Of Flux's role, where it is."""

    role: str
    captures_new_tables: bool
    """There are event triggers that have new tables recorded at once; else that is done at the next start."""
    may_create_databases: bool
    notes_commits: bool
    """The server notes when transactions commit."""

    def describe_missing(self) -> Sequence[str]:
        """Return what goes without, a phrase each."""
        missing = []
        if not self.captures_new_tables:
            missing.append("without event triggers, new tables are recorded from the next start on")
        if not self.may_create_databases:
            missing.append("without CREATEDB, neither flux replay --interleave nor flux db diff")
        if not self.notes_commits:
            missing.append("without track_commit_timestamp, a state of then is told only where no commit is in doubt")
        return missing

    def describe_remedy(self) -> str:
        """Return what whoever runs the database can do about it; empty where nothing is missing."""
        steps = []
        if not self.may_create_databases:
            steps.append(f"alter role {quote_identifier(self.role)} createdb")
        if not self.notes_commits:
            steps.append("track_commit_timestamp = on in the server's settings")
        return "; ".join(steps)


async def read_rights(connection: Connection) -> Rights:
    """Ask the database."""
    row = await connection.fetch_row(QUERIES.find_rights)
    assert row is not None, "a role is connected"
    return Rights(**dict(row.items()))
