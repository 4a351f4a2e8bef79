"""What a bisect asks of the server: where to begin, which commits there are, and what an execution does on one.

The search itself is `flux.bisect`, and whoever asks drives it: the command line, or a run that a page has begun. Each
question is answered for itself, and what was run before is on record (`flux.store.bisects`), which makes the second
search of an incident a matter of looking things up.

A *probe* replays one execution on one commit, with nothing leaving. A commit that can't be made ready is an answer
about that commit, and no error: not built, so nothing is known of it. An error is what stands in the way of every
commit.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from flux.bisect_graph import Graph
from flux.bisect_hunks import Line, RunHunks, changed_any, choose_hunks, parse_diff
from flux.commit import NoSuchCommitError, UnusableCommitError, find_commit
from flux.config import CONFIG_NAME, ConfigError
from flux.errors import FluxError, GuestError, OperatorError
from flux.execution import Execution, Raised
from flux.failure import find_failure
from flux.history import (
    ChangedFile,
    CommitHead,
    find_first_commits,
    find_merge_base,
    is_ancestor,
    list_changed_files,
    list_touching,
    read_diff,
    read_graph,
    read_heads,
)
from flux.project import NoProjectError, UnnumberedMigrationError, UnreadableProjectError
from flux.requirements import PYPROJECT_NAME, REQUIREMENTS_NAME, RequirementsError
from flux.routes import RouteConflictError, RoutePatternError
from flux.store.bisects import BisectRun, RunKey, add_run, find_run, list_passing_shas
from flux.store.erasures import ForgottenMeanwhileError
from flux.supervisor.bisect_candidates import Candidates, Overlay, Ready
from flux.supervisor.deployments import Deployments, UnknownFunctionError
from flux.supervisor.environment_build import InstallFailedError
from flux.supervisor.environment_installer import SourcePackageError
from flux.supervisor.environment_tree import RefusedPackageError
from flux.supervisor.execute import Backing
from flux.supervisor.present import encode, show_stack
from flux.supervisor.present import summary_of_execution as summarise
from flux.supervisor.present_replay import replay_json
from flux.supervisor.replay import Replay, Replayer, UnreplayableError, check_whole, read_value
from flux.supervisor.replay_record import ToReplay, keep_replay, to_replay
from flux.supervisor.runtime import describe_runtime
from flux.supervisor.shelf import HELD, Shelf
from flux.verdict import Verdict

GOODS_MAX = 5
"""Commits of passing executions that are tried as the good end."""
GITS_AT_ONCE = 2
"""Questions to git that one tenant's bisects, and those who look at them, ask at the same time."""
SHA_DIGITS = (40, 64)

Answer = TypeVar("Answer")

NOT_BUILT = (
    GuestError, ConfigError, InstallFailedError, NoProjectError, NoSuchCommitError, RefusedPackageError,
    RequirementsError, RouteConflictError, RoutePatternError, SourcePackageError, UnknownFunctionError,
    UnnumberedMigrationError, UnreadableProjectError, UnusableCommitError,
)  # fmt: skip
"""What is wrong with one commit, and says nothing of any other."""
KEPT_VERDICTS = frozenset(
    {Verdict.SAME_FAILURE, Verdict.PASSED, Verdict.PAST_IT, Verdict.OTHER_FAILURE, Verdict.OUTSIDE, Verdict.DIVERGED,
     Verdict.IDENTICAL, Verdict.CHANGED}
)  # fmt: skip
"""What comes out again. Where the database could not be rebuilt, another time may show more."""


class NotAncestorError(OperatorError):
    """The good end is no ancestor of the bad one."""

    code = "FLX551"


class NothingToBisectError(OperatorError):
    """There is no commit to begin from, or no execution."""

    code = "FLX559"


@attrs.frozen
class GoodEnd:
    """A commit that may be the good end."""

    sha: str
    source: str
    """``given``, ``records`` or ``first``."""
    name: str | None = None
    """Of an execution that passed there."""


@attrs.frozen
class Plan:
    """Where a search begins."""

    bad: str
    is_bad_given: bool
    is_dirty: bool
    """What was recorded ran on changed files, and the commit is what they were changed from."""
    is_recorded: bool
    """What is looked for was recorded on the bad end, so it has been seen there once."""
    goods: tuple[GoodEnd, ...]
    overlay: Overlay | None
    originals: tuple[Execution, ...]
    """Those that can be replayed, the latest first."""
    left_out: Mapping[str, str]
    """Names of the others, and why."""


@attrs.frozen
class Probed:
    """What one run of an execution on a commit shows."""

    verdict: str
    """In the words of `flux.verdict.Verdict`."""
    reason: str
    is_built: bool
    is_cached: bool
    """It was run before, and nothing was run now."""
    elapsed_ns: int
    """Of the run, the making ready of its commit included."""
    replay: str | None
    """Name of the replay's own execution."""
    document: str | None
    """JSON: the replay, as the console answers it."""


@attrs.frozen
class Finding:
    """What there is to say of the commit that was found."""

    head: CommitHead
    files: tuple[ChangedFile, ...]
    hunks: RunHunks | None
    """None: nothing that is on record of the request stands in a file that the commit changed."""
    changed_path: bool
    """The commit changed a line in the stack of the failure, or one that asked something."""


class Bisector:
    """Answers for one tenant."""

    def __init__(
        self, deployments: Deployments, shelf: Shelf, replayer: Replayer, backing: Backing, root: Path
    ) -> None:
        """``root`` is the project's folder."""
        self._deployments = deployments
        self._shelf = shelf
        self._replayer = replayer
        self._backing = backing
        self._root = root
        self._candidates = Candidates(deployments, root)
        self._gits = trio.CapacityLimiter(GITS_AT_ONCE)

    async def _ask_git(self, question: Callable[..., Answer], *arguments: object) -> Answer:
        """Ask in a thread: few at a time, since a question to a long history may take all of git's limit, and journals
        and files wait for threads of the same pool."""
        return await trio.to_thread.run_sync(question, *arguments, limiter=self._gits)

    # --- where to begin ------------------------------------------------------------------------

    async def plan(
        self,
        originals: Sequence[Execution],
        good: str | None,
        bad: str | None,
        functions_from: str | None,
        *,
        is_judged: bool,
        is_begun: bool = True,
    ) -> Plan:
        """Return where to begin; raise what keeps these executions from being bisected at all.

        Each has its committed mutations too. ``is_judged``: whoever asks says himself what is wrong; else only an
        execution that failed can show what is. ``is_begun``: probes follow, and their worlds are made ready.
        """
        if not originals:
            raise NothingToBisectError("there is no execution to bisect", remedy="a wider window: last:1h")
        usable, left_out = [], {}
        for original in sorted(originals, key=lambda original: original.started_at_ns, reverse=True):
            try:
                check_whole(original, needs_rows=False)
                read_value(original.trigger)
                if not is_judged:
                    _check_failed(original)
                usable.append(original)
            except OperatorError as error:
                if len(originals) == 1:
                    raise
                left_out[original.name] = f"{error.code} {error.message}"
        if not usable:
            name, reason = next(iter(left_out.items()))
            raise NothingToBisectError(
                f"none of {len(originals)} executions can be bisected; {name}: {reason}",
                remedy=f"flux trace {name} shows what there is",
            )
        if is_begun:
            self._replayer.expect(usable)
        overlay = await self.find_overlay(usable[0], functions_from)
        bad_sha = await self._find_bad(usable[0], bad)
        goods = await self._find_goods(usable[0], good, bad_sha, overlay)
        is_dirty = usable[0].dirty and bad is None
        # What is bad in the eyes of a program or an expression, nobody has asked of the record.
        is_recorded = (
            not is_judged
            and overlay is None
            and all((original.sha, original.dirty) == (bad_sha, False) for original in usable)
        )
        return Plan(bad_sha, bad is not None, is_dirty, is_recorded, goods, overlay, tuple(usable), left_out)

    async def _find_bad(self, original: Execution, bad: str | None) -> str:
        if bad is None and (len(original.sha) not in SHA_DIGITS or original.sha.startswith("nogit-")):
            raise NothingToBisectError(
                f"{original.name} ran on code that was in no commit",
                remedy="name a commit on which it fails: --bad REF",
            )
        return await self._shelf.find_commit(original.sha if bad is None else bad)

    async def _find_goods(
        self, original: Execution, good: str | None, bad: str, overlay: Overlay | None
    ) -> tuple[GoodEnd, ...]:
        if good is not None:
            sha = await self._shelf.find_commit(good)
            await self._ask_git(self._check_ancestor, good, sha, bad)
            return (GoodEnd(sha, "given"),)
        passing = await list_passing_shas(self._backing.owner, original.function, GOODS_MAX * 4)

        def find() -> tuple[GoodEnd, ...]:
            goods: dict[str, GoodEnd] = {}
            for one in passing:
                if len(one.sha) in SHA_DIGITS and len(goods) < GOODS_MAX and self._is_before(one.sha, bad):
                    goods[one.sha] = GoodEnd(one.sha, "records", one.name)
            if overlay is not None:
                firsts = find_first_commits(self._root, bad)
            else:
                path = self._find_function_file(original)
                firsts = find_first_commits(self._root, bad, original.function, path) if path else []
            for sha in firsts[:1]:
                if sha != bad:
                    goods.setdefault(sha, GoodEnd(sha, "first"))
            return tuple(goods.values())

        goods = await self._ask_git(find)
        if not goods:
            raise NothingToBisectError(
                f"no commit before {bad[:7]} is known on which {original.function} has passed, and none that has it",
                remedy="name one on which it passed: --good REF",
            )
        return goods

    def _is_before(self, sha: str, bad: str) -> bool:
        try:
            return sha != bad and is_ancestor(self._root, find_commit(self._root, sha), bad)
        except NoSuchCommitError:
            return False  # It was rewritten or belongs to another clone: it is no end of this history.

    def _check_ancestor(self, good: str, sha: str, bad: str) -> None:
        if sha == bad:
            raise NotAncestorError(
                f"{good} is {bad[:7]}, the bad end itself", remedy="name a commit before it: --good REF"
            )
        if is_ancestor(self._root, sha, bad):
            return
        base = find_merge_base(self._root, sha, bad)
        if base == bad:
            raise NotAncestorError(
                f"{good} ({sha[:7]}) comes after the bad end {bad[:7]}, and a bisect finds what broke it, not what "
                "mended it",
                remedy="name a commit before the bad end: --good REF",
            )
        remedy = "name a commit that the bad end comes from: --good REF"
        if base is not None:
            remedy = f"the last commit that both come from: --good {base[:12]}"
        raise NotAncestorError(f"{good} ({sha[:7]}) is no ancestor of the bad end {bad[:7]}", remedy=remedy)

    async def find_overlay(self, original: Execution, functions_from: str | None) -> Overlay | None:
        """Return what is laid over each candidate; None for nothing."""
        if functions_from is None:
            return None
        path = self._find_function_file(original)
        if path is None:
            raise NothingToBisectError(
                f"which file has {original.function} is not on record", remedy="serve code that has it: flux dev"
            )
        return Overlay(await self._shelf.find_commit(functions_from), path)

    def _find_function_file(self, original: Execution) -> str | None:
        """Return the file that declares an execution's function: as it is served, else as its record shows."""
        current = self._deployments.current
        if current is not None and (runnable := current.runnables.get(original.function)) is not None:
            return runnable.function.position.file
        frames = original.outcome.frames if isinstance(original.outcome, Raised) else ()
        return next((frame.file for frame in frames if frame.user), None)

    async def read_graph(
        self, good: str, bad: str, original: Execution | None, *, first_parent: bool
    ) -> Graph:
        """Return the commits between two; likelier are those that changed files which ``original`` was in."""
        ends = [await self._shelf.find_commit(ref) for ref in (good, bad)]
        # What is installed, and what the tables are like, is no line that a record can show.
        paths = {CONFIG_NAME, REQUIREMENTS_NAME, PYPROJECT_NAME, "migrations"}
        if original is not None:
            paths |= {path for path, _ in _list_lines(original)}

        def read() -> Graph:
            graph = read_graph(self._root, *ends, first_parent=first_parent)
            if original is None:
                return graph
            touching = list_touching(self._root, ends[0], ends[1], paths, first_parent=first_parent)
            return attrs.evolve(graph, likelier=frozenset(touching))

        return await self._ask_git(read)

    async def find_commit(self, ref: str) -> str:
        """Return the commit that ``ref`` names; raise `NoSuchCommitError`."""
        return await self._shelf.find_commit(ref)

    async def read_heads(self, shas: Sequence[str]) -> Mapping[str, CommitHead]:
        """Return what commits, as `find_commit` names them, say of themselves."""
        return await self._ask_git(read_heads, self._root, shas)

    # --- runs ----------------------------------------------------------------------------------

    async def probe(
        self, original: Execution, sha: str, overlay: Overlay | None, run: int, *, is_fresh: bool
    ) -> Probed:
        """Run ``original`` on a commit, for the ``run``-th time; with ``is_fresh`` also if that was done before."""
        try:
            source = await self._candidates.identify(sha, overlay)
        except NoSuchCommitError as error:
            return _make_probed(_describe_not_built(error, None), is_cached=False)
        key = RunKey(original.id, source.key, self._describe_runtime(), run)
        if not is_fresh and (found := await find_run(self._backing.owner, key)) is not None:
            return _make_probed(found, is_cached=True)
        began = time.perf_counter_ns()
        now = await to_replay(self._backing, self._replayer, original.id)
        keep = partial(add_run, self._backing.owner, key, tenant=self._backing.tenant, erasures=now.erasures)
        code: str | None = None
        try:
            with self._candidates.borrow_kept(source) as kept:
                if kept is not None:
                    made, is_kept = await self._run(now, kept, sha)
            if kept is None:
                async with self._candidates.write(source) as written:
                    code = written.code
                    if not is_fresh and (found := await find_run(self._backing.owner, key, code)) is not None:
                        await keep(found)
                        return _make_probed(found, is_cached=True)
                    async with self._candidates.borrow(source, written) as ready:
                        made, is_kept = await self._run(now, ready, sha)
        except NOT_BUILT as error:
            made = _describe_not_built(error, code)
            is_kept = not isinstance(error, InstallFailedError)
        made = attrs.evolve(made, elapsed_ns=time.perf_counter_ns() - began)
        if is_kept:
            await keep(made)
        return _make_probed(made, is_cached=False)

    def _describe_runtime(self) -> str:
        """What runs candidates: with another one, another thing may come out."""
        current = self._deployments.current
        walls = "" if current is None else f" {current.level.isolation} {current.level.clock}"
        return " ".join(f"{name}={value}" for name, value in describe_runtime().items()) + walls

    async def _run(self, now: ToReplay, ready: Ready, sha: str) -> tuple[BisectRun, bool]:
        """Replay on code that is ready; say whether the same would come out again."""
        original, code = now.execution, ready.code
        if original.function not in ready.live.runnables:
            reason = f"it has no function {original.function}"
            return BisectRun(code, Verdict.UNREPLAYABLE.value, reason, None, 0, None), True
        with self._shelf.hold(ready.live, ready.migrations):
            try:
                replay = await self._replayer.replay(original, HELD + ready.live.deployment.id, {})
                replay = await keep_replay(self._backing, attrs.evolve(replay, on=sha), now.erasures)
            except (UnreplayableError, ForgottenMeanwhileError) as error:
                reason = f"{error.code} {error.message}"
                return BisectRun(code, Verdict.UNREPLAYABLE.value, reason, None, 0, None), False
        assert replay.recorded_as is not None, "it was kept"
        judgement = replay.judgement
        made = BisectRun(
            code,
            judgement.verdict.value,
            judgement.reason,
            replay.recorded_as.name,
            0,
            _encode_replay(replay),
        )
        return made, judgement.verdict in KEPT_VERDICTS and not any(
            "could not be rebuilt" in n for n in replay.notes
        )

    # --- what was found ------------------------------------------------------------------------

    async def describe(
        self, commit: str, parent: str, failing: Execution, passing: Execution | None
    ) -> Finding:
        """Say what a commit changed, and which part of that ran.

        ``failing`` is a replay on it, ``passing`` one on its parent.
        """
        lines = frozenset(_list_lines(failing))
        before = frozenset() if passing is None else frozenset(_list_lines(passing))
        # What is logged shows where a run has been, and changes nothing on its way.
        path = frozenset(_list_lines(failing, logged=False))
        path_before = frozenset() if passing is None else frozenset(_list_lines(passing, logged=False))

        def read() -> Finding:
            head = read_heads(self._root, [commit])[commit]
            files = list_changed_files(self._root, parent, commit)
            paths = {path for path, _ in lines | before} & {file.path for file in files}
            diff = read_diff(self._root, parent, commit, paths) if paths else ""
            changed = parse_diff(diff or "")
            return Finding(
                head, files, choose_hunks(changed, lines, before), changed_any(changed, path, path_before)
            )

        return await self._ask_git(read)


def _check_failed(original: Execution) -> None:
    """Raise unless the record itself shows what is wrong."""
    failure = find_failure(original)
    if failure is None or failure.is_answer:
        raise NothingToBisectError(
            f"{original.name} did not fail: it answered {original.status}",
            remedy="say what is wrong with the answer: --fail-if 'status != 201', or --check PROGRAM",
        )


def _describe_not_built(error: FluxError, code: str | None) -> BisectRun:
    return BisectRun(code, Verdict.UNREPLAYABLE.value, f"{error.code} {error.message}", None, 0, None)


def _make_probed(run: BisectRun, *, is_cached: bool) -> Probed:
    return Probed(
        run.verdict,
        run.reason,
        run.replay is not None,
        is_cached,
        run.elapsed_ns,
        run.replay,
        run.document,
    )


def _encode_replay(replay: Replay) -> str:
    document = replay_json(summarise(replay.original), replay)
    document["stack"] = (
        [] if replay.replayed.divergence is not None else show_stack(replay.replayed.execution)
    )
    return encode(document).decode()


def _list_lines(execution: Execution, *, logged: bool = True) -> Sequence[Line]:
    """Return the lines of the project's that an execution is known to have run."""
    frames = execution.outcome.frames if isinstance(execution.outcome, Raised) else ()
    lines = [(frame.file, frame.line) for frame in frames if frame.user]
    places = [call.request.position for call in execution.calls]
    if logged:
        places += [log.position for log in execution.logs]
    return [*lines, *((place.file, place.line) for place in places if place is not None)]
