"""A guarded deploy: the last executions are replayed on the new code before it is served.

A `Guard` stands between a candidate and the switch (`flux.supervisor.deploy`). It chooses executions, replays each on
the candidate, with nothing leaving and in worlds that they share, and hands what it saw to `flux.guard`, which
decides. What is accepted is read from the candidate's own `flux.accept.toml`, so it is reviewed with the code.

Where a replay differs from its record, the record alone does not tell why: the function may not repeat itself, or the
database may not have been rebuilt faithfully. So the execution is run once more, in the same world, on the code that
is *served*; what differs there as well is not the candidate's doing. Where the record is of older code, that is done
in any case, and the two replays are compared: what counts is what a deploy would change. And before a group of
changes is held against the candidate, some of its executions are run on the served code again: if these do not
repeat themselves, nothing was shown.

These replays are not stored. ``flux trace diff`` runs any of them again.
"""

import contextlib
import datetime
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import attrs
import trio

from flux.accepted import ACCEPT_NAME, Acceptance, AcceptFileError, parse_acceptances
from flux.commit import read_commit_file
from flux.errors import BrokenInvariantError, FluxError
from flux.execution import Execution
from flux.filter import Filter
from flux.guard import WORSE, Change, Finding, Judged, Report, choose, decide, gone, group, judge, undecided
from flux.hostcall import Effect
from flux.hostcalls import all_kinds
from flux.message import RawPath
from flux.project import Migration
from flux.routes import Match
from flux.store import reading
from flux.store.postgres import Pool
from flux.store.queries import QUERIES
from flux.supervisor.deploy import BeforeSwitch, Candidate, Gate
from flux.supervisor.deployments import LiveDeployment
from flux.supervisor.present_guard import report_json
from flux.supervisor.replay import Replay, Replayer
from flux.supervisor.replay_diff import compare_sides, find_unfaithful, side_of_replay
from flux.supervisor.replay_many import ask_many
from flux.supervisor.shelf import HELD, Shelf
from flux.trace_diff import Side
from flux.verdict import judge as judge_replay

EXECUTIONS_MAX = 2000
"""More are not replayed for one deploy."""
LOOKED_AT_MIN = 2000
LOOKED_AT_FACTOR = 20
"""So many of the latest executions, or so many times what is asked for, are chosen from."""
UNFAITHFUL = "the rebuilt database answers otherwise than it answered then"
CONFIRMED_GROUPS = 20
CONFIRMED_MEMBERS = 3
CONFIRMATIONS = 2
"""Of so many groups, so many executions are run on the served code so many times more."""


Progress = Callable[[int, int], Awaitable[None]]
"""Hears how many executions were judged, and of how many."""


@attrs.frozen
class GuardOrder:
    """What is asked for."""

    last: int
    """How many executions are to be replayed."""
    undecided_share_max: float
    """Of them, so many may be undecided."""


@attrs.frozen
class Chosen:
    """Executions that are to be replayed, and what of the latest is not among them."""

    summaries: tuple[reading.Summary, ...]
    """The latest first."""
    strata: int
    """How many kinds of executions there are among the latest."""
    looked_at: int
    not_whole: int
    """Of those looked at, so many were left aside: they were cut off, or their records are not whole."""


class Guard:
    """See the module."""

    def __init__(
        self,
        pool: Pool,
        replayer: Replayer,
        shelf: Shelf,
        root: Path,
        tenant: str,
        today: Callable[[], datetime.date] = lambda: datetime.datetime.now(datetime.UTC).date(),
    ) -> None:
        """``root`` is the project's folder, ``tenant`` whose migrations are looked for. ``today`` is asked when an
        entry of the accept file is held against the date."""
        self._pool = pool
        self._replayer = replayer
        self._shelf = shelf
        self._root = root
        self._tenant = tenant
        self._today = today

    def make_gate(self, on: str | None, order: GuardOrder, progress: Progress) -> BeforeSwitch:
        """Return what looks at the candidate of a deploy of ``on``, as `flux.supervisor.deploy.Deployer` takes it.

        ``progress`` hears how many were judged, and of how many, each time. Whoever is cancelled meanwhile has not
        deployed anything.
        """

        async def look(candidate: Candidate) -> Gate:
            # First of all, before anything waits: nobody is to end what is served as long as replays run on it.
            with _in_use(candidate.current):
                migrations = await self._list_applied(candidate)
                acceptances = await self._read_acceptances(on, candidate)
                chosen = await self._choose(order.last)
                trial = _Trial(self._pool, self._replayer, candidate)
                with self._held(candidate.current, migrations):
                    judged = await trial.run(chosen.summaries, progress)
            report = decide(judged, acceptances, self._today(), order.undecided_share_max)
            not_seen = sorted(candidate.live.runnables.keys() - trial.ran)
            return Gate(report.passes, self._describe(order, chosen, report, not_seen))

        return look

    @contextlib.contextmanager
    def _held(self, live: LiveDeployment | None, migrations: Sequence[Migration]) -> Iterator[None]:
        if live is None:
            yield
            return
        with self._shelf.hold(live, migrations):
            yield

    async def _list_applied(self, candidate: Candidate) -> tuple[Migration, ...]:
        """Return those of the candidate's migrations that the code which is served has as well."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(QUERIES.list_migrations_applied, self._tenant)
        applied = {row["name"] for row in rows}
        return tuple(migration for migration in candidate.migrations if migration.path in applied)

    async def _read_acceptances(self, on: str | None, candidate: Candidate) -> tuple[Acceptance, ...]:
        """Return what the candidate's own code says; raise `AcceptFileError`."""

        def read() -> bytes | None:
            if on is not None:
                return read_commit_file(self._root, candidate.live.deployment.sha, ACCEPT_NAME)
            try:
                return (self._root / ACCEPT_NAME).read_bytes()
            except FileNotFoundError:
                return None

        try:
            content = await trio.to_thread.run_sync(read)
            return () if content is None else parse_acceptances(content.decode().replace("\r\n", "\n"))
        except OSError as error:
            raise AcceptFileError(
                f"{ACCEPT_NAME} can't be read: {error.strerror}", remedy=f"ls -l {self._root / ACCEPT_NAME}"
            ) from error
        except UnicodeDecodeError as error:
            raise AcceptFileError(f"{ACCEPT_NAME} is not UTF-8 text", remedy="save it as UTF-8") from error

    async def _choose(self, limit: int) -> Chosen:
        looked_at = max(LOOKED_AT_MIN, LOOKED_AT_FACTOR * limit)
        found = await reading.list_summaries(self._pool, Filter(), looked_at)
        whole = [each for each in found if each.outcome != "interrupted" and not each.completeness]
        return Chosen(
            choose(whole, _name_stratum, limit), len({_name_stratum(each) for each in whole}),
            len(found), len(found) - len(whole),
        )  # fmt: skip

    def _describe(
        self, order: GuardOrder, chosen: Chosen, report: Report, not_seen: Sequence[str]
    ) -> dict[str, object]:
        return {
            **report_json(report, {each.id: each for each in chosen.summaries}, self._today()),
            "asked": order.last,
            "looked_at": chosen.looked_at,
            "strata": chosen.strata,
            "not_whole": chosen.not_whole,
            "not_seen": list(not_seen),
        }


@contextlib.contextmanager
def _in_use(live: LiveDeployment | None) -> Iterator[None]:
    if live is None:
        yield
        return
    live.enter()
    try:
        yield
    finally:
        live.leave()


def _name_stratum(summary: reading.Summary) -> tuple[object, ...]:
    """What kind of execution it is: its route, and how it ended."""
    return summary.function, summary.method, summary.route, summary.outcome, summary.status, summary.signature


class _Trial:
    """The replays of one candidate."""

    def __init__(self, pool: Pool, replayer: Replayer, candidate: Candidate) -> None:
        self._pool = pool
        self._replayer = replayer
        self._on = candidate.on
        self._live = candidate.live
        self.ran: set[str] = set()
        """Functions of the candidate on which an execution was replayed."""
        current = candidate.current
        self._served = None if current is None else current.deployment.id
        # What the database is asked is seen by its rows.
        self._leaving = frozenset(
            name
            for name, kind in all_kinds().items()
            if kind.effect in (Effect.LEAVES, Effect.CHANGES) and not name.startswith("db.")
        )
        self._kept: dict[Change, tuple[tuple[int, int], str]] = {}
        """Of each kind of change, the rank of the smallest example so far: behind it, both sides are not kept."""

    async def run(self, summaries: Sequence[reading.Summary], progress: Progress) -> list[Judged]:
        """Judge all, in their order."""

        async def read(id: uuid.UUID) -> Execution:
            return (await reading.get_execution(self._pool, id))[1]

        found: dict[int, Judged] = {}
        ids = [summary.id for summary in summaries]
        async with ask_many(ids, self._judge, read=read, expect=self._replayer.expect) as answers:
            async for told in answers:
                result = told.result
                if isinstance(result, FluxError):
                    summary = summaries[told.number]
                    result = Judged(summary.id, summary.name, Finding.UNDECIDED, _cannot(result))
                found[told.number] = self._keep_smallest(result)
                await progress(len(found), len(summaries))
        return await self._confirm([found[number] for number in range(len(summaries))])

    def _keep_smallest(self, judged: Judged) -> Judged:
        if judged.change is None or judged.diff is None:
            return judged
        if judged.change in self._kept and self._kept[judged.change] < judged.rank:
            return attrs.evolve(judged, diff=None)
        self._kept[judged.change] = judged.rank
        return judged

    # --- one execution -----------------------------------------------------------------------------

    async def _judge(self, original: Execution) -> Judged:
        counterpart = self._find_counterpart(original)
        if counterpart is None:
            return gone(original)
        try:
            replay = await self._replayer.replay(counterpart, self._on, {})
            self.ran.add(counterpart.function)
        except FluxError as error:
            return _give_up(original, error)
        diff = await compare_sides(Side.of(original), side_of_replay(replay))
        heard_stand_ins = bool(replay.replayed.synthetic)
        found = judge(diff, replay.judgement.verdict, self._leaving, heard_stand_ins=heard_stand_ins)
        is_of_served = self._served in (None, original.deployment)
        if is_of_served and found.finding not in WORSE and find_unfaithful(replay, diff) is None:
            return found
        try:
            served = await self._rehearse(original)
        except FluxError as error:
            return undecided(
                original, f"it can't be replayed on the code that is served: {error.code} {error.message}"
            )
        if is_of_served:
            return await self._judge_beside_own(original, served, replay)
        return await self._judge_beside_served(original, served, replay)

    def _find_counterpart(self, original: Execution) -> Execution | None:
        """Return it as the candidate would run it; None if nothing would.

        Whoever sends a request names its path: a handler may be renamed, and one that keeps its name and not its route
        is gone.
        """
        trigger = original.trigger
        if trigger.kind != "http":
            return original if original.function in self._live.runnables else None
        found = self._live.routes.match(trigger.method, _escape(trigger.path))
        if not isinstance(found, Match):
            return None
        route = found.pattern.partition(" ")[2]
        if route != trigger.route:
            trigger = attrs.evolve(trigger, route=route, params=tuple(found.params.items()))
        return attrs.evolve(original, function=found.target.function.name, trigger=trigger)

    async def _rehearse(self, original: Execution) -> Replay:
        """Run it on the code that is served, in the database as it was."""
        on = None if self._served in (None, original.deployment) else f"{HELD}{self._served}"
        return await self._replayer.replay(original, on, {}, rehearses=True)

    async def _judge_beside_own(self, original: Execution, served: Replay, replay: Replay) -> Judged:
        """Judge a replay that is not as its record, by how the code that made the record does in the same place."""
        own = await compare_sides(Side.of(original), side_of_replay(served))
        if find_unfaithful(served, own) is not None:
            return undecided(original, UNFAITHFUL)
        if judge(own, served.judgement.verdict, self._leaving).finding is not Finding.SAME:
            return undecided(original, "the code that made the record does not do the same again")
        diff = await compare_sides(Side.of(original), side_of_replay(replay), own.learned)
        if find_unfaithful(replay, diff) is not None:
            return undecided(original, UNFAITHFUL)
        stand_ins = bool(replay.replayed.synthetic)
        return judge(diff, replay.judgement.verdict, self._leaving, heard_stand_ins=stand_ins)

    async def _judge_beside_served(self, original: Execution, served: Replay, replay: Replay) -> Judged:
        """Judge an execution of older code by what a deploy would change: the two replays, beside each other."""
        served_side = side_of_replay(served)
        if served_side.stopped is not None:
            return undecided(
                original, "it is of older code, and the code that is served does not come to its end on it"
            )
        # Under the name of what it replays: that is what can be looked at.
        before = attrs.evolve(served_side.execution, id=original.id)
        diff = await compare_sides(attrs.evolve(served_side, execution=before), side_of_replay(replay))
        verdict = judge_replay(before, replay.replayed).verdict
        return judge(diff, verdict, self._leaving, heard_stand_ins=bool(replay.replayed.synthetic))

    # --- groups ------------------------------------------------------------------------------------

    async def _confirm(self, judged: list[Judged]) -> list[Judged]:
        """Take back what rests on executions that the served code does not repeat either."""
        flaky: set[Change] = set()
        for each in group(judged)[:CONFIRMED_GROUPS]:
            if each.example.diff is None:
                continue  # There is nothing that would have run.
            for member in each.members[:CONFIRMED_MEMBERS]:
                if not await self._repeats(member):
                    flaky.add(each.change)
                    break
        return [
            attrs.evolve(
                one,
                finding=Finding.UNDECIDED,
                reason="the served code does not do the same each time on executions that changed like this one",
                change=None,
                diff=None,
            )
            if one.change in flaky
            else one
            for one in judged
        ]

    async def _repeats(self, member: Judged) -> bool:
        _, original = await reading.get_execution(self._pool, member.id)
        first = await self._rehearse(original)
        for _ in range(CONFIRMATIONS):
            again = await self._rehearse(original)
            diff = await compare_sides(side_of_replay(first), side_of_replay(again))
            verdict = judge_replay(first.replayed.execution, again.replayed).verdict
            if judge(diff, verdict, self._leaving).finding not in (Finding.SAME, Finding.UNDECIDED):
                return False
        return True


def _escape(path: str) -> RawPath:
    """Return a path of a record as it may have been sent: in a record a slash alone is still escaped."""
    return RawPath("%2F".join(quote(part, safe="/") for part in path.split("%2F")))


def _give_up(original: Execution, error: FluxError) -> Judged:
    if isinstance(error, BrokenInvariantError):
        raise error
    return undecided(original, _cannot(error))


def _cannot(error: FluxError) -> str:
    return f"it can't be replayed: {error.code} {error.message}"
