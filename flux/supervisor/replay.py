"""Running a recorded execution again, with nothing leaving.

A replay is `drive` with another session and a host that refuses: the guest asks, the
recording answers, nobody performs anything. So it needs no network and changes nothing,
and there is no switch that could be forgotten: what would act is not there. Where statements
go to a world, that is PostgreSQL's word, and docs/limits.md has what it lets happen all the same.

On the code that made it, a recording is followed to the letter (`flux.session.ReplaySession`);
every difference is a divergence, and a mistake of ours or something that the function takes from
its machine. On other code it answers what is still asked (`flux.matching_session`), statements go
to the database as the execution saw it (`flux.supervisor.world`), and the replay stops at the first
question that nothing can answer.

What the outcome means is `flux.verdict`'s business. That a recording can't be replayed at all
(it is cut, its code is gone) is an error with its reason, never a verdict.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import attrs
import trio

from flux import ids
from flux.brought import BroughtAnswer
from flux.deployment import Deployment
from flux.errors import OperatorError
from flux.execution import Execution, Interrupted, Killed, Outcome, Raised, Returned, Trigger
from flux.failure import find_failure
from flux.hostcall import HostCall, HostCallResult
from flux.hostcalls.base import CallContext
from flux.hostcalls.clock import SteadyClock, SystemClock
from flux.hostcalls.entropy import SystemEntropy
from flux.hostcalls.secret import TenantSecrets
from flux.limits import format_duration
from flux.matching_session import MatchingSession, Source
from flux.mutation import Mutation
from flux.project import Migration
from flux.redact import Redactor
from flux.session import Divergence, ReplaySession, Session
from flux.store.queries import QUERIES
from flux.store.reading import LOG_GONE, ROWS_GONE
from flux.store.restored import FROM_ELSEWHERE
from flux.store.world import WorldError, WorldPlan
from flux.supervisor.case_export import export_case
from flux.supervisor.deployments import LiveDeployment
from flux.supervisor.drive import REPLAY_PATIENCE_S_MIN, Bounds, Driven, Host, drive
from flux.supervisor.execute import Backing
from flux.supervisor.inputs import UnreadableInputError, parse_json, read_input
from flux.supervisor.replay_hosts import AnswerHost, LiveRequests, OpenHost, RefusingHost
from flux.supervisor.replay_redaction import RulesInForce, find_by_number, redact_again
from flux.supervisor.replay_secrets import ReplayedSecrets
from flux.supervisor.runnable import Runnable
from flux.supervisor.shelf import HELD, Shelf
from flux.supervisor.start_document import make_document
from flux.supervisor.statements import commit_failed
from flux.supervisor.tapped import TappedWorker
from flux.supervisor.world import TRIES_MAX, WorldDatabase, open_world
from flux.supervisor.world_build import check_log, plan_world
from flux.supervisor.world_keeper import WorldKeeper
from flux.supervisor.world_timeline import Timeline
from flux.synthetic import list_synthetic
from flux.travel import Tap
from flux.verdict import Judgement, Replayed, Verdict, judge

WORKER_S_MAX = 60.0
"""How long a replay waits for a worker."""
COMMIT_FAILED = "CommitFailed"
"""The error of a function that has returned and whose transaction could not be committed: it has no frames."""
WORKING_TREE = "."
"""The folder as it is now, in the words of the command line."""
_NO_WORLD = frozenset({ROWS_GONE, LOG_GONE, FROM_ELSEWHERE})
"""What a record may say without which the database of then can't be rebuilt."""
NO_DATABASE = "there is no database here: statements are answered as they were, and no other one is"
TELLING_RUNTIMES = frozenset({"python", "javascript", "typescript"})
"""Those whose SDK says when it waits. A WebAssembly module does one thing at a time."""


class UnreplayableError(OperatorError):
    """The recording can't be run again, and no verdict would be true."""

    code = "FLX312"
    exit_code = 6


@attrs.frozen
class Replay:
    """One replay and what it shows."""

    original: Execution
    on: str | None
    """The code that it ran on, as asked for: `WORKING_TREE`, a commit, or None for the code that made the recording."""
    deployment: Deployment
    replayed: Replayed
    judgement: Judgement
    sources: Mapping[int, Source]
    """Where each answer came from, by the call's number in the replay."""
    notes: tuple[str, ...] = ()
    """What of the database was not as it was, a sentence each; or why there was none."""
    recorded_as: Execution | None = None
    """The execution that it is itself; None while it is not stored."""
    sent: int = 0
    """Requests that it sent for real, because its caller said so."""


class Replayer:
    """Replays executions of one tenant."""

    def __init__(
        self, shelf: Shelf, backing: Backing | None, schema: str, worlds: WorldKeeper | None = None
    ) -> None:
        """``schema`` is where the tenant's tables are. Without ``backing`` records alone answer: there is neither a
        database nor the value of any secret. ``worlds`` keeps the worlds of one replay for the next."""
        self._shelf = shelf
        self._backing = backing
        self._schema = schema
        self._worlds = worlds

    def expect(self, originals: Sequence[Execution]) -> None:
        """Prepare to replay these soon: those that saw much the same database share a world."""
        if self._worlds is not None:
            self._worlds.expect(
                [original for original in originals if _NO_WORLD.isdisjoint(original.completeness)]
            )

    def take_erasures(self, erasures: int) -> None:
        """Hear how often rows were forgotten: no world from before the last time serves a replay."""
        if self._worlds is not None:
            self._worlds.take_erasures(erasures)

    async def replay(
        self,
        original: Execution,
        on: str | None,
        answers: Mapping[int, BroughtAnswer],
        live: frozenset[str] = frozenset(),
        *,
        rehearses: bool = False,
        given: Mapping[int, HostCallResult] | None = None,
        lends: Sequence[HostCall] = (),
    ) -> Replay:
        """Run ``original`` again: on its own code, on the folder as it is (``on`` is `WORKING_TREE`), on a commit, or
        on code that somebody holds and that is not served yet (`flux.supervisor.shelf.HELD` and its id).

        ``original`` has its committed mutations too. ``answers`` are brought, by the call's number in the replay.
        ``live`` names hosts, as `flux.calls.find_host` does, that may be asked what the record does not answer.
        ``rehearses``: its own code is run as other code is, in the database as it was, to show what differs by itself.
        ``given`` and ``lends`` are an experiment's: see `flux.matching_session`.
        """
        check_whole(original, needs_rows=False)
        value = read_value(original.trigger)
        held = on if on is not None and on.startswith(HELD) else None
        sha = None if held or on in (None, WORKING_TREE) else await self._shelf.find_commit(str(on))
        async with self._borrow(original, sha, held, is_recorded=on is None) as borrowed:
            deployment = borrowed.deployment
            if sha is not None:
                # The same files may have been served as another commit, or as none.
                deployment = attrs.evolve(deployment, sha=sha, dirty=False)
            runnable = borrowed.runnables.get(original.function)
            if runnable is None:
                raise UnreplayableError(
                    f"there is no function {original.function} in the code to replay it on",
                    remedy="flux function list shows what there is",
                )
            requests = LiveRequests(live, runnable.grants)
            is_same = borrowed.deployment.id == original.deployment and not (answers or live or rehearses)
            has_world = not is_same and self._backing is not None and bool(original.transactions)
            migrations: Sequence[Migration] = ()
            if has_world and on is not None:
                migrations = (
                    await self._shelf.list_migrations(sha)
                    if held is None
                    else self._shelf.list_held_migrations(held)
                )
            run = _Run(
                original,
                runnable,
                value,
                self._backing,
                self._schema,
                answers,
                requests,
                self._worlds,
                migrations,
            )
            run.given, run.lends = given or {}, lends
            if not is_same:
                run.redact_by(await self._shelf.find_rules(original))
            replayed = await (run.run_strictly() if is_same else run.run_changed())
        has_secrets = self._backing is not None and run.secrets.are_whole
        replayed = attrs.evolve(replayed, synthetic=list_synthetic(original, has_secrets=has_secrets))
        judgement = judge(run.recorded, replayed)
        notes = (*run.notes, *_list_doubts(original, judgement))
        if self._backing is not None:
            # Without, nobody expects a secret to have a value.
            notes, judgement = (*notes, *run.secrets.tell()), run.secrets.explain(judgement)
        return Replay(run.recorded, on, deployment, replayed, judgement, run.sources, notes, sent=requests.sent)

    async def follow(self, original: Execution, tap: Tap) -> Replay:
        """Run ``original`` again on its own code, to the letter, with a guest that tells ``tap`` of each step."""
        check_whole(original, needs_rows=False)
        value = read_value(original.trigger)
        async with self._shelf.borrow_recorded(original) as borrowed:
            runnable = borrowed.runnables[original.function]
            nobody = LiveRequests(frozenset(), runnable.grants)
            run = _Run(original, runnable, value, self._backing, self._schema, {}, nobody, None, ())
            run.tap = tap
            replayed = await run.run_strictly()
        synthetic = list_synthetic(original, has_secrets=False)
        replayed = attrs.evolve(replayed, synthetic=synthetic)
        judgement = judge(original, replayed)
        notes = _list_doubts(original, judgement)
        return Replay(original, None, borrowed.deployment, replayed, judgement, run.sources, notes)

    def without_backing(self) -> "Replayer":
        """Return one that has neither database nor secrets: records alone answer."""
        return Replayer(self._shelf, None, self._schema)

    async def describe(self, original: Execution) -> tuple[tuple[str, ...], float]:
        """Return the middleware that ran around ``original``, and the seconds that its function may take."""
        async with self._shelf.borrow_recorded(original) as borrowed:
            runnable = borrowed.runnables[original.function]
            return runnable.chain.list_for(original.trigger.kind), runnable.bounds.limits.timeout_s

    async def observe(self, original: Execution, live: LiveDeployment) -> Divergence | None:
        """Run ``original`` again on ``live``, the code that made it; return where it left its record, if it did."""
        runnable = live.runnables[original.function]
        nobody = LiveRequests(frozenset(), runnable.grants)
        value = read_value(original.trigger)
        run = _Run(original, runnable, value, self._backing, self._schema, {}, nobody, None, ())
        return (await run.run_strictly()).divergence

    async def export(self, original: Execution) -> bytes:
        """Return ``original``, which has its committed mutations too, as a case file."""
        check_whole(original, needs_rows=False)
        assert self._backing is not None, "what is to be exported was stored"
        return await export_case(original, self._shelf.deployments, self._backing.secrets)

    def _borrow(
        self, original: Execution, sha: str | None, held: str | None, *, is_recorded: bool
    ) -> AbstractAsyncContextManager[LiveDeployment]:
        if is_recorded:
            return self._shelf.borrow_recorded(original)
        if held is not None:
            return self._shelf.borrow_held(held)
        return self._shelf.borrow_working_tree() if sha is None else self._shelf.borrow_commit(sha)


class _Run:
    def __init__(
        self,
        original: Execution,
        runnable: Runnable,
        value: object,
        backing: Backing | None,
        schema: str,
        answers: Mapping[int, BroughtAnswer],
        live: LiveRequests,
        worlds: WorldKeeper | None,
        migrations: Sequence[Migration],
    ) -> None:
        self._worlds = worlds
        self._migrations = migrations
        self._original = original
        self._runnable = runnable
        self._value = value
        self._backing = backing
        self._schema = schema
        self._answers = answers
        self._live = live
        secrets = TenantSecrets({}, b"") if backing is None else backing.secrets
        self._secrets = secrets.of_execution(original.seed)
        self._redactor = Redactor(runnable.rules, original.seed, self._secrets.stand_ins())
        self.secrets = ReplayedSecrets(self._secrets, self._redactor)
        self.recorded = original
        """What the replay is laid beside: ``original``, redacted by all rules that hold for the replay."""
        self.given: Mapping[int, HostCallResult] = {}
        self.lends: Sequence[HostCall] = ()
        self.sources: Mapping[int, Source] = {}
        self.notes: tuple[str, ...] = ()
        self.tap: Tap | None = None
        """Hears of each step of the guest, which then gets no secret's value: what its names hold is shown."""

    def redact_by(self, rules: RulesInForce) -> None:
        """Redact by ``rules`` as well, before anything has run."""
        own, seed, stand_ins = self._runnable.rules, self._original.seed, self._secrets.stand_ins()
        every = rules.add(own)
        self._redactor = Redactor(every, seed, stand_ins)
        if rules.are_newer(own):
            self.recorded = redact_again(self._original, Redactor(every, seed, stand_ins))
            # What stood in the request is looked for in all that comes behind it, as it was for the record.
            self._redactor.trigger(self._original.trigger)
        self.secrets = ReplayedSecrets(self._secrets, self._redactor)

    async def run_strictly(self) -> Replayed:
        original = self._original
        outcome = original.outcome
        session = ReplaySession(
            original.calls,
            original.logs,
            ended=isinstance(outcome, Returned | Raised),
            cut=outcome if isinstance(outcome, Killed) and outcome.limit == "timeout" else None,
            fuel=original.fuel,
            compares_fuel=original.level.meter == self._runnable.sandbox.level.meter,
        )
        driven = await self._drive(session, RefusingHost(), tells_waits=False)
        divergence = driven.divergence
        if divergence is None and driven.outcome is not None:
            divergence = session.find_missing(driven.fuel)
        # Stopped where the recording was cut: it has done all that is on record.
        ended = outcome if driven.outcome is None else driven.outcome
        is_out_of_time = self.tap is not None and _ran_out_of_time(outcome) and _ran_out_of_time(ended)
        if is_out_of_time:
            # It had more time, for what it tells, and none of it was enough: it ends as it did, by another number.
            ended = outcome
        if isinstance(ended, Returned) and _failed_to_commit(outcome):
            # The function had returned; what failed is what came behind that, and is on record.
            ended = outcome
        execution = self._describe_run(driven, session, ended)
        if is_out_of_time or (session.stalled and divergence is None and ended == outcome):
            # How long it waited for a call is how its failure is told from a loop's; this run was ended at the call.
            execution = attrs.evolve(execution, elapsed_ns=original.elapsed_ns)
        if divergence is None and execution.outcome != outcome:
            divergence = Divergence("outcome", 0, _describe(original), _describe(execution))
        self.sources = {call.request.seq: Source.RECORDED for call in session.calls}
        return Replayed(execution, divergence)

    async def run_changed(self) -> Replayed:
        if self._backing is None:
            replayed = await self._run_in(None)
            self.notes = (NO_DATABASE, *self.notes)
            return replayed
        if gone := [sentence for sentence in self._original.completeness if sentence in _NO_WORLD]:
            replayed = await self._run_in(None)
            self.notes = (f"the database could not be rebuilt: {gone[0]}", *self.notes)
            return replayed
        written: frozenset[str] = frozenset()
        whole: frozenset[str] = frozenset()
        aside: frozenset[str] = frozenset()
        why_none: tuple[str, ...] = ()
        for _ in range(TRIES_MAX):
            plan = plan_world(self._original, self._schema, written, whole, aside)
            if plan is None:
                break
            plan = attrs.evolve(plan, migrations=await self._list_pending(self._backing, plan))
            try:
                async with self._open_world(self._backing, plan) as world:
                    # The log was whole when the record was read, and may have been pruned since.
                    await check_log(self._backing.owner, world.since)
                    replayed = await self._run_in(world)
                    self.notes += world.notes
            except WorldError as error:
                # Without a world, what the record has of the database still answers.
                why_none = (f"the database could not be rebuilt: {error.code} {error.message}",)
                break
            if world.refusal is not None:
                why_none = (f"the database could not be rebuilt: {world.refusal}",)
                break
            if world.trespass is not None:
                why_none = ("a statement writes where a replay must not, and was refused by PostgreSQL",)
                break
            if not (world.needed or world.needed_whole or world.needed_aside):
                return replayed
            written, whole = plan.written | world.needed, plan.whole | world.needed_whole
            aside = plan.aside | world.needed_aside
        replayed = await self._run_in(None)
        self.notes = why_none + self.notes
        return replayed

    async def _list_pending(self, backing: Backing, plan: WorldPlan) -> tuple[Migration, ...]:
        """Return the migrations of the code that had not been applied then."""
        if not self._migrations:
            return ()
        async with backing.guests.acquire() as connection:
            rows = await connection.fetch(QUERIES.world_migrations, backing.token, plan.snapshot)
        applied = {row["name"] for row in rows}
        return tuple(migration for migration in self._migrations if migration.path not in applied)

    def _open_world(self, backing: Backing, plan: WorldPlan) -> AbstractAsyncContextManager[WorldDatabase]:
        atomic, isolation = self._runnable.function.atomic, self._runnable.isolation
        if self._worlds is not None and not plan.migrations:
            return self._worlds.lend(
                self._original, plan.written, plan.whole, plan.aside, atomic=atomic, isolation=isolation
            )
        timeline = Timeline(self._original, self._schema)
        return open_world(backing.guests, backing.token, plan, timeline, atomic=atomic, isolation=isolation)

    async def _run_in(self, world: WorldDatabase | None) -> Replayed:
        original, runnable = self._original, self._runnable
        limits = runnable.bounds.limits
        tells_waits = runnable.function.runtime in TELLING_RUNTIMES
        session = MatchingSession(
            self.recorded.calls,
            heard=original.calls if self.recorded is not original else (),
            started_at_ns=original.started_at_ns,
            seed=original.seed,
            has_world=world is not None,
            tells_waits=tells_waits,
            timeout_s=limits.timeout_s,
            brought=self._answers,
            live=self._live.hosts,
            given=self.given,
            lends=self.lends,
            functions=frozenset(runnable.siblings),
            is_comparable=lambda: world is None or world.is_comparable,
        )
        if world is not None:
            world.follow(lambda seq: find_by_number(original.calls, session.find_counterpart(seq)))
        self._live.start_over()
        host: Host = RefusingHost()
        if world is not None or self._live.hosts:
            host = OpenHost(self._make_context(world), self._live, has_world=world is not None)
        host = AnswerHost(host, self._make_context(world), answers_http=original.trigger.kind == "http")
        driven = await self._drive(session, host, tells_waits=tells_waits)
        waited_for = session.stalled_on if driven.outcome is None and driven.divergence is None else None
        outcome = driven.outcome or runnable.bounds.kill("timeout", format_duration(limits.timeout_s))
        if (
            world is not None
            and isinstance(outcome, Returned)
            and (error := await world.finish()) is not None
        ):
            outcome = commit_failed(error.code, error.message)
        rows = await self._list_rows(world, outcome)
        self.sources = session.sources
        self.notes = tuple(
            f"call {seq} was never made, so its answer was not needed" for seq in session.left_over
        )
        if world is None and isinstance(outcome, Returned) and _failed_to_commit(original.outcome):
            # All that it asked of the database is what was asked then, so nothing speaks for another end.
            outcome = self.recorded.outcome
            self.notes += (
                "it was the commit that failed, and there is none here: its failure is that of then",
            )
        return Replayed(
            self._describe_run(driven, session, outcome, rows),
            driven.divergence,
            waited_for,
            session.fidelity,
            frozenset(self._answers) - frozenset(session.left_over),
        )

    async def _list_rows(self, world: WorldDatabase | None, outcome: Outcome) -> tuple[Mutation, ...] | None:
        """Return the rows that the replay changed in its world; None where that is not known."""
        changes = None if world is None else await world.list_changes()
        if changes is None:
            return None
        is_kept = isinstance(outcome, Returned) or not self._runnable.function.atomic
        return tuple(attrs.evolve(self._redactor.mutation(change), committed=is_kept) for change in changes)

    def _make_context(self, world: WorldDatabase | None) -> CallContext:
        backing, runnable = self._backing, self._runnable
        return CallContext(
            tenant=self._original.tenant,
            function=runnable.function.name,
            grants=self._live.grants,
            limits=runnable.bounds.limits,
            clock=SteadyClock(SystemClock() if backing is None else backing.clock),
            entropy=SystemEntropy() if backing is None else backing.entropy,
            database=world,
            http=backing.http if backing is not None and self._live.hosts else None,
            secrets=self._secrets,
        )

    async def _drive(self, session: Session, host: Host, *, tells_waits: bool) -> Driven:
        runnable = self._runnable
        return await drive_again(
            self._original, runnable, self._value, session, host, runnable.bounds, self._redactor, self.secrets,
            tells_waits=tells_waits, tap=self.tap,
        )  # fmt: skip

    def _describe_run(
        self,
        driven: Driven,
        session: Session,
        outcome: Outcome,
        rows: tuple[Mutation, ...] | None = None,
    ) -> Execution:
        described = describe_again(
            self.recorded, self._runnable, driven, session, self._redactor.outcome(outcome)
        )
        if rows is None:
            return described
        # Whoever has them knows which rows were changed.
        transactions = tuple(attrs.evolve(each, xid=None) for each in self._original.transactions)
        return attrs.evolve(
            described, mutations=rows, mutation_count=len(rows), transactions=transactions
        )


async def drive_again(
    original: Execution,
    runnable: Runnable,
    value: object,
    session: Session,
    host: Host,
    bounds: Bounds,
    redactor: Redactor,
    secrets: ReplayedSecrets,
    *,
    tells_waits: bool,
    tap: Tap | None = None,
) -> Driven:
    """Run ``original`` again in a worker that has served nobody: ``session`` and ``host`` answer it within ``bounds``.

    ``value`` is its input. The limits that the function is told are its own, whatever ``bounds`` are. With a ``tap``
    it tells of each step, has time for that, and hears of no secret more than is on record.
    """
    limits = runnable.bounds.limits
    document = make_document(
        original, original.trigger, limits, runnable.chain, value,
        tells_waits=tells_waits, trace=None if tap is None else tap.plan.document(),
    )  # fmt: skip
    if tap is not None:
        bounds = attrs.evolve(
            bounds, limits=attrs.evolve(bounds.limits, timeout_s=max(bounds.limits.timeout_s, REPLAY_PATIENCE_S_MIN))
        )
    try:
        with trio.fail_after(WORKER_S_MAX):
            worker = await runnable.sandbox.acquire(fresh=True)
    except trio.TooSlowError:
        raise UnreplayableError(
            f"no worker was free within {WORKER_S_MAX:g} s", remedy="the machine is busy: try again"
        ) from None
    try:
        return await drive(
            worker if tap is None else TappedWorker(worker, tap), document, session, host, bounds,
            redactor=redactor, tells_waits=tells_waits, hears=secrets.hear if tap is None else None,
        )  # fmt: skip
    finally:
        await runnable.sandbox.release(worker, reusable=False)


def describe_again(
    original: Execution, runnable: Runnable, driven: Driven, session: Session, outcome: Outcome
) -> Execution:
    """Return what ran again as it would have been recorded, but for what it did to the database."""
    return attrs.evolve(
        original,
        deployment=runnable.deployment.id,
        sha=runnable.deployment.sha,
        dirty=runnable.deployment.dirty,
        outcome=outcome,
        elapsed_ns=driven.elapsed_ns,
        calls=session.calls,
        logs=session.logs,
        mutations=(),
        mutation_count=0,
        transactions=(),
        level=runnable.sandbox.level,
        limits=runnable.limits,
        fuel=driven.fuel,
        served_before=0,
        user=driven.user,
    )


def check_whole(execution: Execution, *, needs_rows: bool = True) -> None:
    """Raise `UnreplayableError` unless all is on record that a replay needs.

    Without ``needs_rows`` the rows that it changed may be gone: its own code does without them.
    """
    if execution.replay_of is not None:
        raise UnreplayableError(
            "it is a replay itself",
            remedy=f"flux replay {ids.make_name(execution.replay_of)} replays what it replayed",
        )
    if isinstance(execution.outcome, Interrupted):
        raise UnreplayableError(
            f"it was cut off, and where it would have gone from there is not on record: {execution.outcome.reason}",
            remedy=f"flux trace {execution.name} shows what it had done",
        )
    missing = [sentence for sentence in execution.completeness if needs_rows or sentence not in _NO_WORLD]
    if missing:
        raise UnreplayableError(
            f"its record is not whole: {'; '.join(missing)}",
            remedy=f"flux trace {execution.name} shows what there is",
        )


def _list_doubts(original: Execution, judgement: Judgement) -> tuple[str, ...]:
    """Return what a difference may come from that is neither in the record nor in the code, a sentence each."""
    if not original.served_before or judgement.verdict in (Verdict.IDENTICAL, Verdict.SAME_FAILURE):
        return ()
    before = "an execution" if original.served_before == 1 else f"{original.served_before:,} executions"
    return (
        f"the recorded worker was warm: it had served {before} before, and what they left in module state "
        "is in no record",
    )


def read_value(trigger: Trigger) -> object:
    """Return the function's input as it was made of the request; raise `UnreplayableError` where there was none."""
    try:
        if trigger.kind != "http":
            return parse_json(trigger.body)
        content_type = next((value for name, value in trigger.headers if name == "content-type"), "")
        return read_input(dict(trigger.params), trigger.query, content_type, trigger.body)
    except UnreadableInputError as error:
        raise UnreplayableError(
            f"its function never ran: {error}", remedy="the request was refused as it came; send another"
        ) from error


def _failed_to_commit(outcome: Outcome) -> bool:
    """Whether the function had returned and its transaction could not be committed."""
    return isinstance(outcome, Raised) and outcome.type == COMMIT_FAILED and not outcome.frames


def _ran_out_of_time(outcome: Outcome | None) -> bool:
    return isinstance(outcome, Killed) and outcome.limit == "timeout"


def _describe(execution: Execution) -> str:
    failure = find_failure(execution)
    return f"answered {execution.status}" if failure is None else f"{failure.type}: {failure.message}"
