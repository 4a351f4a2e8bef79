"""The console's questions about what is kept, and what is kept out."""

import secrets
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import msgspec

from flux.config import RecordingConfig
from flux.errors import OperatorError
from flux.filter import parse
from flux.message import HttpResponse
from flux.redact import RedactionRules
from flux.store import reading
from flux.store.database_errors import ConnectionLost
from flux.store.forgetting import forget_row
from flux.store.postgres import Pool
from flux.store.retention import Retention, prune
from flux.supervisor.console_query import BadQueryError, Query, flag, needed
from flux.supervisor.in_flight import Unrest
from flux.supervisor.present import Document, show_json, show_moment
from flux.supervisor.record_stream import RecordStream, list_page
from flux.supervisor.redact_trial import Tested, try_document, try_execution


class NotAllStoredError(OperatorError):
    """What is to be read whole is not all there yet."""

    code = "FLX617"
    exit_code = 6


class RecordsDesk:
    """Answers them."""

    def __init__(
        self,
        pool: Pool,
        tenant: str,
        schema: str,
        recording: Callable[[], RecordingConfig],
        find: Callable[[str], Awaitable[reading.Summary]],
        settle: Callable[[], Awaitable[int]],
        now: Callable[[], datetime],
        unheard: Callable[[], Sequence[int]],
        rest: Callable[[], Awaitable[Unrest]],
        forgotten: Callable[[], None],
    ) -> None:
        """``find`` returns the execution that a text means; ``settle`` waits until records are stored, and after it
        ``unheard`` returns the workers that did not say; ``rest`` waits until what runs now has ended and is stored.
        ``forgotten`` is told once a row was taken out: whoever still has what was read before that gives it up."""
        self._forgotten = forgotten
        self._unheard = unheard
        self._rest = rest
        self._pool = pool
        self._tenant = tenant
        self._schema = schema
        self._settle = settle
        self._now = now
        self._recording = recording
        self._find = find

    async def prune(self, query: Query) -> Document:
        """Take out what is old, as the server does by itself each day; with ``dry_run`` only count it."""
        dry_run = flag(query, "dry_run", default=False)
        retention = retention_of(self._recording())
        pruned = await prune(self._pool, retention, datetime.now(UTC), dry_run=dry_run)
        return {
            "schema": "flux.records-pruned/1",
            "dry_run": dry_run,
            "retention_days": retention.days,
            "error_retention_days": retention.error_days,
            "executions": pruned.executions,
            "kept_errors": pruned.kept_errors,
            "kept_pinned": pruned.kept_pinned,
            "log_days": pruned.log_days,
            "log_rows": pruned.log_rows,
            "log_since": None if pruned.log_since is None else show_moment(pruned.log_since),
            "blobs": pruned.blobs,
            "waiting": pruned.waiting,
        }

    async def export(self, query: Query) -> HttpResponse:
        """Answer with whole records, a line each, the oldest first."""
        filter_ = parse(query.get("q", ""), self._now())
        after = None
        if text := query.get("after"):
            try:
                after = uuid.UUID(text)  # Of a record that may be gone by now.
            except ValueError:
                after = (await self._find(text)).id
        not_stored = await self._settle()
        unheard = self._unheard()
        first = await list_page(self._pool, filter_, after)
        problem = _not_all_stored([_tell_unheard(unheard)], "records of there may be missing") if unheard else None
        stream = RecordStream(self._pool, filter_, first, after, not_stored, problem)
        return HttpResponse(200, _LINES, stream)

    async def forget(self, query: Query) -> Document:
        """Take a row out of the records; with ``dry_run`` only count what would go."""
        table, key = (needed(query, name) for name in ("table", "key"))
        dry_run = flag(query, "dry_run", default=False)
        waiting = 0
        if dry_run:
            waiting = await self._settle()
        elif unrest := await self._rest():
            raise _not_all_stored(_tell_unrest(unrest), "nothing was forgotten")
        # Nobody knows the secret of the tokens once this is done.
        secret = secrets.token_bytes(32)
        takes_out = not dry_run
        try:
            done = await forget_row(self._pool, self._tenant, self._schema, table, key, secret, dry_run=dry_run)
        except OperatorError as error:
            # A refusal takes nothing out. How it ended where the connection was lost, nobody knows.
            takes_out = takes_out and isinstance(error, ConnectionLost)
            raise
        finally:
            if takes_out:
                self._forgotten()
        return {
            "schema": "flux.records-forgotten/1",
            "dry_run": dry_run,
            "table": str(done.table),
            "key": show_json(done.key.encode()),
            "exists": done.is_there,
            "values": done.values,
            "values_shared": done.shared,
            "executions": done.executions,
            "calls": done.calls,
            "replays": done.replays,
            "changes": done.changes,
            "elsewhere": dict(done.elsewhere),
            "blobs": done.blobs,
            "jobs": done.jobs,
            "jobs_waiting": done.jobs_waiting,
            "pinned": list(done.pinned),
            "not_stored": waiting,
        }

    async def redact(self, body: bytes) -> Document:
        """Answer with what the rules of redaction would take out of a document, or of an execution on record."""
        try:
            said = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            name = msgspec.json.decode(said["execution"], type=str) if "execution" in said else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadQueryError(f"the body can't be read: {error}", remedy=_REMEDY) from error
        if len(said) != 1 or not said.keys() <= {"document", "execution"}:
            raise BadQueryError("the body names neither a document nor an execution", remedy=_REMEDY)
        rules = RedactionRules.parse(self._recording().redact)
        tested: Tested
        if name is None:
            tested = try_document(rules, bytes(said["document"]))
        else:
            summary = await self._find(name)
            _, execution = await reading.get_execution(self._pool, summary.id)
            tested, name = try_execution(rules, execution), summary.name
        return {
            "schema": "flux.redact-test/1",
            "rules": list(self._recording().redact),
            "execution": name,
            "document": None if tested.document is None else show_json(tested.document),
            "taken": [{"part": each.part, "path": each.path} for each in tested.taken],
        }


def _not_all_stored(reasons: Sequence[str], so: str) -> NotAllStoredError:
    return NotAllStoredError(
        f"{'; '.join(reasons)}: {so}", remedy="try again in a moment; flux doctor says what the database has"
    )


def _tell_unrest(unrest: Unrest) -> list[str]:
    """Return what keeps the records from being all there, a phrase each."""
    reasons = []
    if unrest.running:
        noun = "execution still runs" if unrest.running == 1 else "executions still run"
        reasons.append(f"{unrest.running:,} {noun} that began before")
    if unrest.not_stored:
        noun = "execution has ended and is" if unrest.not_stored == 1 else "executions have ended and are"
        reasons.append(f"{unrest.not_stored:,} {noun} not stored yet")
    if unrest.unheard:
        reasons.append(_tell_unheard(unrest.unheard))
    return reasons


def _tell_unheard(unheard: Sequence[int]) -> str:
    workers = "worker " if len(unheard) == 1 else "workers "
    return f"{workers}{', '.join(map(str, unheard))} did not say what is not stored there"


_LINES = (("content-type", "application/x-ndjson"), ("cache-control", "no-store"))
_REMEDY = 'send {"document": ...} or {"execution": "ID"}'


def retention_of(recording: RecordingConfig) -> Retention:
    """Return how long records are to be kept."""
    return Retention(recording.retention_days, recording.error_retention_days)
