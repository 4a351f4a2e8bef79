"""What a server starts before it serves: its database, its secrets, the project's migrations; each step is told."""

import contextlib
import os
import shlex
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import trio

from flux.config import CONFIG_NAME, Config
from flux.dotenv import parse_dotenv
from flux.hidden import HIDDEN_CHARACTERS_MIN
from flux.project import CONFIG_BYTES_MAX, Project, UnreadableProjectError, list_migrations, read_inside
from flux.redact import RedactionRules
from flux.store.embedded import open_embedded_postgres
from flux.store.migrate import Prepared, apply_user_migrations
from flux.store.postgres import ConnectOptions, connect, parse_url
from flux.supervisor.backing import OpenedBacking
from flux.supervisor.database_migrate import check_losses, plan_migrations
from flux.supervisor.execute import Backing
from flux.supervisor.flux_folder import UnwritableFluxFolderError
from flux.supervisor.recovery import Recovered
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.story import Story
from flux.tenant import Tenant
from flux.toml_lines import find_key_lines


@contextlib.asynccontextmanager
async def open_database(
    options: ServerOptions, config: Config, flux_folder: Path, story: Story
) -> AsyncIterator[ConnectOptions]:
    """Give the options of Flux's own role, with the embedded server running if that is the one."""
    began = trio.current_time()
    url = options.database_url or config.database.url
    isolation = config.database.isolation
    if url:
        connect_options = parse_url(url)
        # A database of somebody else's may be away. It is told of once it has been seen.
        version = await _ask_version(connect_options)
        story.step("postgres", f"{version} at {connect_options.place} · {isolation}", trio.current_time() - began)
        yield connect_options
        return
    async with open_embedded_postgres(
        flux_folder / "pg", clean=options.clean, user=options.pg_user
    ) as server:
        address = server.address
        first = " (initdb)" if server.first_run else ""
        detail = f"{server.version} embedded, .flux/pg{first} · {isolation}"
        story.step("postgres", detail, trio.current_time() - began)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_postgres, server, story)
            yield ConnectOptions(
                host=address.host, port=address.port, user=address.user, password=address.password,
                database=address.database,
            )  # fmt: skip
            nursery.cancel_scope.cancel()


async def _ask_version(options: ConnectOptions) -> str:
    """Return which PostgreSQL answers there: ``16.4``; raise what keeps it from answering."""
    connection = await connect(options)
    try:
        return connection.server_version.partition(" ")[0]  # Debian's says in brackets which package it is.
    finally:
        await connection.aclose()


async def _keep_postgres(server: Any, story: Story) -> None:
    """Start the embedded server again when it dies; connections notice by themselves."""
    while True:
        exited = await server.wait_died()
        if exited.asked:
            return
        story.note(f"PostgreSQL ended by itself ({exited.status}); starting it again")
        await server.restart()
        story.note("PostgreSQL is back")


def tell_backing(story: Story, project: Project, opened: OpenedBacking, elapsed_s: float) -> None:
    """Say how the database stands."""
    prepared: Prepared = opened.prepared
    story.step("recorder", f"whole requests · {describe_redaction(project)}", elapsed_s)
    if prepared.adopted is not None:
        story.note(prepared.adopted.describe())
    for schema, table, reason in prepared.coverage:
        story.note(f"changes of {schema}.{table} are not wholly recorded: {reason}")
    for sentence in prepared.rights.describe_missing():
        story.note(f'role "{prepared.rights.role}": {sentence}')


def tell_recovered(story: Story, recovered: Recovered) -> None:
    """Say what the journal of an earlier server held."""
    if recovered.completed:
        story.note(
            f"recovered from the journal: {_count(recovered.completed)} that had ended, not yet stored"
        )
    if recovered.interrupted:
        story.note(
            f"recovered from the journal: {_count(recovered.interrupted)} that the end of the last server cut: "
            "flux trace list -q outcome:interrupted"
        )
    for sentence in recovered.damage:
        story.note(f"journal: {sentence}")


def _count(executions: Sequence[object]) -> str:
    return f"{len(executions)} execution{'s' * (len(executions) != 1)}"


def describe_redaction(project: Project) -> str:
    """How much records leave out, and where that is said: ``redacting 4 fields (flux.toml:18)``."""
    rules = RedactionRules.parse(project.config.recording.redact)
    count = len(rules.headers) + len(rules.json_paths) + len(rules.columns)
    try:
        text = read_inside(project.root, CONFIG_NAME, CONFIG_BYTES_MAX).decode("utf-8", "replace")
        line = find_key_lines(text).get(("recording", "redact"))
    except (ValueError, UnreadableProjectError):  # It was saved in the meantime: its time comes when it is read.
        line = None
    return f"redacting {count} fields ({f'{CONFIG_NAME}:{line}' if line else 'the usual ones'})"


async def migrate(project: Project, backing: Backing, tenant: Tenant, story: Story, *, is_own: bool) -> None:
    """Apply the project's migrations that are missing; raise what is wrong with one.

    What takes data away is applied where the database is Flux's own (``is_own``), and said. Any other may hold what
    somebody needs.
    """
    began = trio.current_time()
    migrations = await trio.to_thread.run_sync(list_migrations, project)
    async with backing.owner.acquire() as connection:
        losses = (await plan_migrations(connection, tenant, migrations)).losses
        if not is_own:
            check_losses(losses, "if that is meant: flux db migrate --allow-destructive; then save, or start again")
        applied = await apply_user_migrations(connection, tenant.name, migrations)
    backing.tables.forget()
    if migrations:
        names = ", ".join(Path(path).name for path in applied)
        detail = f"{names} applied" if applied else f"{len(migrations)} applied before"
        story.step("migrations", detail, trio.current_time() - began)
    for loss in losses:
        story.note(f"{loss} (applied: the embedded database is this project's own)")


def tell_short_secrets(story: Story, backing: Backing) -> None:
    """Name the secrets whose values records can't be searched for."""
    short = backing.secrets.list_too_short()
    if short:
        story.note(
            f"{', '.join(short)} in .env.local: too short to be found in what is recorded "
            f"(fewer than {HIDDEN_CHARACTERS_MIN} characters)"
        )


def read_secrets(root: Path, *, for_tenant: bool = False) -> dict[str, str]:
    """Return what ``.env.local`` holds; nothing when it is not there.

    Whoever serves a project of his own may have it come from anywhere, a pipe of a password manager's included. A
    tenant's is a file in the tenant's folder: a link would make somebody else's secrets the tenant's.
    """
    path = root / ".env.local"
    try:
        if for_tenant and os.path.lexists(path):
            return parse_dotenv(read_inside(root, path.name, CONFIG_BYTES_MAX).decode("utf-8"))
        return parse_dotenv(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UnwritableFluxFolderError(
            f"{path} can't be read: {error}", remedy=f"look at it: ls -l {shlex.quote(str(path))}"
        ) from error
