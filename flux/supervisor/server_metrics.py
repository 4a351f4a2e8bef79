"""What a server counts: of itself, and of what all servers of its database share.

A process counts what it does. What is in the database (jobs that wait, say) is the same for every process, so only the
one that answers asks for it, and no ``worker`` stands beside it. Each metric is described in ``docs/metrics.md``.
"""

import platform
from collections import Counter
from collections.abc import Callable, Sequence

import attrs
import trio

from flux import __version__
from flux.errors import FluxError
from flux.sandbox.residency import Residency
from flux.store import jobs
from flux.supervisor.audiences import ExecutionCounts
from flux.supervisor.cron import Cron
from flux.supervisor.execute import Backing, Executor
from flux.supervisor.gate import Gate
from flux.supervisor.metrics import Metric, Sample, each, one
from flux.supervisor.self_check import SelfCheck
from flux.verdict import Verdict

SHARED_S = 3.0
"""How long the database may take to say what waits in it. Scrapers give up after ten seconds."""


@attrs.define
class ReplayCounts:
    """Replays that somebody asked for."""

    by_verdict: Counter[Verdict] = attrs.field(factory=Counter)

    def count(self, verdict: Verdict) -> None:
        """Count one."""
        self.by_verdict[verdict] += 1


@attrs.define
class ServerMetrics:
    """Whom to ask."""

    backing: Backing
    executor: Executor
    executions: ExecutionCounts
    residency: Residency
    gate: Gate
    cron: Cron
    self_check: SelfCheck
    replays: ReplayCounts
    more: Sequence[Callable[[], Sequence[Metric]]] = ()
    """Whoever else counts here."""

    def read(self) -> Sequence[Metric]:
        """Return what this process counts."""
        replays = {verdict.value: float(self.replays.by_verdict[verdict]) for verdict in Verdict}
        return [
            Metric("build_info", "Which Flux this is; always 1.",
                   (Sample(1, {"version": __version__, "python": platform.python_version()}),)),
            *self.executions.read(),
            one("executions_running", "Executions in progress.", len(self.executor.in_flight)),
            each("requests_refused_total", "Requests that the gateway refused before any function, by why.", "code",
                 self.gate.refused),
            *self._recording(),
            *self._database(),
            *self._workers(),
            each("cron_ticks_total", "Ticks of schedules that this process decided on, by what became of them.", "fate",
                 self.cron.counts),
            each("replays_total", "Replays that somebody asked for, by their verdict.", "verdict", replays),
            each("self_checks_total", "Executions that Flux has replayed by itself, by whether they did the same.",
                 "result", self.self_check.counts),
            *(metric for ask in self.more for metric in ask()),
        ]  # fmt: skip

    def _recording(self) -> Sequence[Metric]:
        writer, journal = self.backing.writer.counts, self.backing.journal.counts
        stalled_s = 0.0 if writer.stalled_since is None else trio.current_time() - writer.stalled_since
        return [
            one("records_waiting", "Records that are not stored yet.", writer.waiting),
            one("records_waiting_bytes", "Their size.", writer.waiting_bytes),
            one("records_stalled_seconds", "For how long writing records has failed or hung.", stalled_s),
            one("records_stored_total", "Records stored.", writer.stored),
            one("records_reduced_total", "Records that the database refused whole, stored with less.", writer.reduced),
            one("record_write_retries_total", "Writes of records that failed and were tried again.", writer.retries),
            one("journal_executions", "Executions in the journal: begun, and not stored.", journal.executions),
            one("journal_kept_bytes", "What the journal's files hold on the disk.", journal.kept_bytes),
            one("journal_written_bytes_total", "Bytes written to the journal.", journal.written_bytes),
            one("journal_failures_total", "Events that could not be written to the journal.", journal.failures),
        ]

    def _database(self) -> Sequence[Metric]:
        pools = {"owner": self.backing.owner.counts, "guests": self.backing.guests.counts}
        connections = [
            Sample(number, {"pool": name, "state": state})
            for name, counts in pools.items()
            for state, number in (("idle", counts.idle), ("used", counts.open - counts.idle))
        ]
        return [
            Metric("database_connections", "Connections: Flux's own, and those of functions.", connections),
            each("database_waiting", "Tasks that wait for a connection.", "pool",
                 {name: counts.waiting for name, counts in pools.items()}),
        ]  # fmt: skip

    def _workers(self) -> Sequence[Metric]:
        counts = self.residency.counts
        workers = {"idle": counts.idle, "used": counts.workers - counts.idle}
        return [
            one("zygotes", "Processes with a deployment's Python code loaded, from which workers are forked.",
                counts.zygotes),
            one("zygote_starts_total", "Such processes that were started, again or for the first time.", counts.starts),
            each("workers", "Processes that run Python functions, or wait for one.", "state", workers),
            one("worker_forks_total", "Such processes that were forked.", counts.forks),
        ]  # fmt: skip

    async def read_shared(self) -> Sequence[Metric]:
        """Return what the database holds for all; when it can't be asked, that and nothing else."""
        depths: Sequence[jobs.Depth] = ()
        is_up = False
        with trio.move_on_after(SHARED_S):
            try:
                depths = await jobs.list_depths(self.backing.owner, self.backing.tenant)
                is_up = True
            except FluxError:
                pass  # Told as database_up 0; the reason is on the server's terminal and in /_flux/health.
        waiting = [
            Sample(number, {"function": depth.function, "state": state})
            for depth in depths
            for state, number in (("due", depth.due), ("delayed", depth.delayed), ("running", depth.running))
        ]
        return [
            one("database_up", "1 when the database said what waits in it, 0 when it did not.", float(is_up)),
            Metric("queue_jobs", "Jobs that are due, wait for their time, or run.", waiting),
            each("queue_oldest_due_seconds", "For how long the job has been due that has been due longest.", "function",
                 {depth.function: depth.oldest_due_s for depth in depths}),
            each("queue_dead_jobs", "Jobs that failed too often, and that nobody has retried.", "function",
                 {depth.function: depth.dead for depth in depths}),
        ]  # fmt: skip
