"""Sandbox kind ``process``: each execution in an operating system process of its own.

A *zygote* imports the deployment's code once and forks a worker whenever it is
asked; that takes a millisecond or two, so `ProcessSandbox` keeps workers forked
ahead, as many as the last seconds had a use for (`flux.sandbox.demand`). Workers are
interchangeable until they have run something, so the pool is two queues: workers who
wait for work, and callers who wait for a worker. At most one of them is not empty.

Who ends with whom: workers die with the zygote and the zygote dies with us (each
asks the kernel for that before it runs anything), so a ``kill -9`` of the
supervisor leaves no process behind. A zygote that dies is replaced, after a pause that
grows when it keeps dying; callers who wait do not notice. One that nobody has asked for
anything in a while, or whose memory others have a better use for, is ended
(`flux.sandbox.residency`) and started again by the next caller.
"""

import contextlib
import math
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from flux.deployment import Function
from flux.errors import FluxError
from flux.execution import Level
from flux.hostcall import Position
from flux.limits import Limits
from flux.sandbox.base import ImportFailedError, SandboxUnavailableError, Worker
from flux.sandbox.cgroups import Cgroups, Group
from flux.sandbox.declared import Declared
from flux.sandbox.demand import Demand
from flux.sandbox.process_worker import ProcessWorker
from flux.sandbox.processor import ProcessorTime
from flux.sandbox.residency import Residency
from flux.sandbox.zygote import (
    ClockTaken,
    Exited,
    Failed,
    Forked,
    Importing,
    Message,
    NotForked,
    Ready,
    Zygote,
)

IMPORT_DEADLINE_S = 60.0
"""Importing a project may be slow; an import that takes longer hangs."""
FORKING_MAX = 16
"""Workers asked for and not yet forked. The zygote forks one at a time: more would only wait elsewhere."""
IDLE_MAX = 32
"""Workers that wait for work, however much is asked for. Each has a megabyte or two of its own."""
SURPLUS_PATIENCE_S = 1.0
"""How long a worker that is one too many may go on waiting."""
RESTART_PAUSE_S = 0.2
"""Before a zygote that died is replaced; doubles up to the next while it can't be, or keeps dying."""
RESTART_PAUSE_S_MAX = 5.0
STEADY_S = 10.0
"""A zygote that has lived so long did not die of what it begins with: the pauses start over."""
CPU_S_MAX = 2**31 - 1
CPU_GRACE_S = 5
"""Processor time that a worker may use beyond what its executions may last. Its deadline is the supervisor's."""
DATA_BYTES_MAX = 2**30
"""Memory of any process of a jail, the one that imports included, unless a function may have more."""
REST_S = 2.0
"""How long a worker that has served may take until it can serve again; garbage is collected meanwhile."""
STACK_GRACE_S = 0.5
"""How long a zygote may take to print where it hangs."""


@attrs.define(eq=False)
class _Place:
    """A caller's place in the queue."""

    fresh: bool = False
    """It takes no worker that has run something."""
    called: trio.Event = attrs.Factory(trio.Event)
    worker: ProcessWorker | None = None
    error: FluxError | None = None


class ProcessSandbox:
    """A deployment's zygote and its workers. Run `run` in a nursery, then `acquire`."""

    def __init__(
        self,
        project: Path,
        functions_folder: str,
        *,
        environment: Path | None = None,
        isolation: str = "strict",
        uid: int | None = None,
        data_bytes_max: int = DATA_BYTES_MAX,
        timeout_s_max: float = Limits().timeout_s,
        idle_target: int = 4,
        idle_max: int = IDLE_MAX,
        warm: int = 1,
        shuffle: int = 0,
        residency: Residency | None = None,
        cgroups: Cgroups | None = None,
        processor: ProcessorTime | None = None,
        on_output: Callable[[str], None] = lambda _text: None,
        import_deadline_s: float = IMPORT_DEADLINE_S,
    ) -> None:
        """``environment`` is the folder of the project's packages (`flux.supervisor.environments`), None when it
        has none; ``isolation`` is the jail's level, ``uid`` who its guests are (`flux.sandbox.jail.find_tenant_uid`)
        and ``data_bytes_max`` the memory that no limit of a function may exceed; ``timeout_s_max`` the longest
        time that a function may have, but for what its decorator says; ``idle_target`` and ``idle_max`` how many
        workers may wait at least and at most; ``warm`` is how many executions a worker may serve; with
        ``shuffle``, objects lie in another order (`flux.escapes`); ``residency`` says how long a zygote may be
        idle (without: for ever); ``cgroups`` is where it gets a group of its own, if anywhere; ``processor``
        counts the time of its processes; ``on_output`` hears what modules print."""
        self.level = Level("process", isolation, "python")
        """The clock's is the zygote's to say, when it is started."""
        self._project = project
        self._environment = environment
        self._uid = uid
        self._data_bytes_max = data_bytes_max
        self._functions_folder = functions_folder
        self._timeout_s_max = timeout_s_max
        self._demand = Demand(idle_target, max(idle_target, idle_max))
        self._warm = warm
        self._shuffle = shuffle
        self._on_output = on_output
        self._import_deadline_s = import_deadline_s
        self._residency = Residency(zygotes_max=2**31, idle_s_max=math.inf) if residency is None else residency
        self._cgroups = cgroups
        self._processor = ProcessorTime() if processor is None else processor
        self._zygote: Zygote | None = None
        self._forking: deque[ProcessWorker] = deque()
        """Asked for, in the order in which the zygote will answer."""
        self._idle: deque[ProcessWorker] = deque()
        self._waiting: deque[_Place] = deque()
        self._workers: dict[int, ProcessWorker] = {}
        """All that have been forked and have not ended, by the zygote's number."""
        self._lent = 0
        """Workers that callers have."""
        self._nursery: trio.Nursery | None = None
        """Of the zygote's tasks."""
        self.resting = 0
        """Workers that have served and have not said yet that they can serve again."""
        self._used_at_s = 0.0
        """When a worker was last asked for or given back."""
        self._wanted = trio.Event()
        """Somebody needs a zygote."""
        self._evicted = trio.Event()
        """The zygote that there is must go."""
        self._many = trio.Event()
        """More workers wait than have to."""
        self._declared: Declared | None = None
        self._closing = False
        self._failure: FluxError | None = None
        """Why there is no zygote at the moment."""
        self.restarts = 0
        """How often the zygote died and was started again."""

    @property
    def functions(self) -> tuple[Function, ...]:
        """See `flux.sandbox.base.Sandbox.functions`."""
        return () if self._declared is None else self._declared.functions

    @property
    def middleware(self) -> tuple[Position, ...]:
        """See `flux.sandbox.declared.Declared.middleware`."""
        return () if self._declared is None else self._declared.middleware

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id while it lives."""
        return None if self._zygote is None else self._zygote.pid

    def count_workers(self) -> tuple[int, int]:
        """See `flux.sandbox.residency.Resident.count_workers`."""
        return len(self._workers), len(self._idle)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a zygote alive until cancelled; started once the code is imported.

        Before that, raises `ImportFailedError`, `BadFunctionError` or `SandboxUnavailableError`. Later a
        zygote that can't be started again is such an error to those who `acquire`, and is tried again.
        """
        pause_s = RESTART_PAUSE_S
        try:
            while True:
                began_s = trio.current_time()
                failure = await self._run_zygote(task_status)
                if self._evicted.is_set():
                    pause_s = RESTART_PAUSE_S
                    await self._wait_wanted()
                    continue
                if failure is not None:
                    if self._declared is None:
                        raise failure
                    self._failure = failure
                    self._refuse_all(_down(failure))
                elif trio.current_time() - began_s >= STEADY_S:
                    pause_s = RESTART_PAUSE_S
                self.restarts += 1
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RESTART_PAUSE_S_MAX)
        finally:
            self._closing = True
            self._refuse_all(_closed())

    async def _wait_wanted(self) -> None:
        """Wait until there is a use for a zygote again."""
        self._evicted = trio.Event()
        if not self._waiting:
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def _run_zygote(self, task_status: trio.TaskStatus[None]) -> FluxError | None:
        """Live through one zygote; return why it could not be started, or None when it was and has died."""
        group: Group | None = None
        try:
            if self._cgroups is not None:
                group = self._cgroups.make()
            zygote = Zygote.spawn(
                self._project,
                self._functions_folder,
                environment=self._environment,
                isolation=self.level.isolation,
                uid=self._uid,
                warm=self._warm > 1,
                data_bytes_max=self._data_bytes_max,
                group=group,
                shuffle=self._shuffle,
                on_output=self._on_output,
            )
        except OSError as error:
            return SandboxUnavailableError(
                f"no control group can be made for the deployment: {error.filename}: {error.strerror}",
                remedy="see the cgroups that flux doctor names: is the tree still ours, and not full?",
            )
        except FluxError as error:
            if group is not None:
                await group.remove()
            return error
        failure: FluxError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(zygote.pump_output)
                nursery.start_soon(zygote.end_with_leader)
                # Caught in here: what leaves a nursery's block leaves it in a group, and our callers
                # want to know the error by its class.
                with self._processor.counted(lambda: zygote.spawned_pid):
                    try:
                        declared = await self._wait_ready(zygote)
                        self._zygote, self._nursery, self._failure = zygote, nursery, None
                        self._used_at_s = trio.current_time()
                        self._residency.enter(self)
                        nursery.start_soon(self._end_surplus)
                        nursery.start_soon(self._leave_when_idle)
                        nursery.start_soon(self._leave_when_told, nursery)
                        if self._declared is None:
                            self._declared = declared
                            task_status.started()
                        self._fill()
                        await self._serve(zygote, nursery)
                    except FluxError as error:
                        failure = error
                nursery.cancel_scope.cancel()
        finally:
            self._zygote = self._nursery = None
            self._residency.leave(self)
            self._bury_workers()
            await zygote.end()
        return failure

    async def _wait_ready(self, zygote: Zygote) -> Declared:
        module = f"{self._functions_folder}/"
        is_first = True
        with trio.move_on_after(self._import_deadline_s) as deadline:
            while (message := await zygote.receive()) is not None:
                match message:
                    case ClockTaken(level) if is_first:
                        self.level = attrs.evolve(self.level, clock=level)
                    case Importing(name):
                        module = name
                    case Ready(declared):
                        return declared
                    case Failed(failures):
                        raise ImportFailedError(failures)
                    case other:
                        raise _out_of_turn(other)
                is_first = False
        if not deadline.cancelled_caught:
            raise SandboxUnavailableError(
                f"importing {module} ended the process: {await zygote.wait_end()}",
                remedy="what it printed stands above; does it exit, or crash the interpreter?",
            )
        zygote.print_stack()
        await trio.sleep(STACK_GRACE_S)
        raise SandboxUnavailableError(
            f"importing {module} took more than {self._import_deadline_s:g} s; where it stood is printed above",
            remedy="something at module level waits or computes: move it into a function",
        )

    async def _serve(self, zygote: Zygote, nursery: trio.Nursery) -> None:
        """Take the zygote's messages until it dies."""
        while (message := await zygote.receive()) is not None:
            match message:
                case Forked(pid, handle, host_pid) if self._forking and pid not in self._workers:
                    worker = self._forking.popleft()
                    worker.forked(host_pid, handle, zygote.ask_exits)
                    if handle < 0:
                        worker.close()  # We are out of descriptors; one that can't be killed is not used.
                    elif self._zygote is not zygote:
                        # Evicted a moment ago: it takes its workers along, and who waits has one of the next zygote's.
                        worker.kill()
                        worker.close()
                    else:
                        self._workers[pid] = worker
                        self._residency.count_fork()
                        nursery.start_soon(worker.pump_output)
                        self._offer(worker)
                    self._fill()
                case NotForked(reason) if self._forking:
                    self._forking.popleft().close()
                    if self._zygote is zygote:
                        self._refuse_one(reason)
                case Exited(pid, status):
                    exited = self._workers.pop(pid, None)
                    if exited is not None:
                        exited.exited(status)
                        if exited in self._idle:
                            self._idle.remove(exited)
                            exited.close()
                            self._fill()
                case other:
                    raise _out_of_turn(other)

    def _bury_workers(self) -> None:
        """The zygote is dying, and its workers with it."""
        for worker in self._workers.values():
            worker.kill()  # The kernel has been asked to, but a guest may have asked it otherwise.
            worker.exited(None)
        for worker in (*self._forking, *self._idle):
            worker.close()
        self._forking.clear()
        self._idle.clear()
        self._workers.clear()

    # Filling the pool

    def _fill(self) -> None:
        """Ask for as many workers as there should be: one for each caller who waits, and some ahead."""
        ahead = self._demand.count_wanted(trio.current_time())
        if ahead + len(self._waiting) > self._demand.least:
            self._many.set()
        while (
            self._zygote is not None
            and len(self._forking) < FORKING_MAX
            # Those who wait have no use for the idle ones, or they would have them.
            and len(self._forking) < len(self._waiting) + max(0, ahead - len(self._idle))
        ):
            try:
                self._forking.append(_request_worker(self._zygote, self._count_cpu_s()))
            except OSError as error:
                # A dying zygote is noticed by whoever hears it, and callers wait for the next one.
                if not isinstance(error, BrokenPipeError | ConnectionError | BlockingIOError):
                    self._refuse_one(error.strerror or str(error))
                return

    async def _end_surplus(self) -> None:
        """End workers for whom there is no use any more, the latest first."""
        while True:
            await self._many.wait()
            self._many = trio.Event()
            while len(self._idle) + len(self._forking) > self._demand.least:
                await trio.sleep(SURPLUS_PATIENCE_S)
                wanted = self._demand.count_wanted(trio.current_time())
                while len(self._idle) > wanted:
                    worker = self._idle.pop()
                    worker.kill()
                    worker.close()

    def _count_cpu_s(self) -> int:
        """Return how much processor time a worker may use: a backstop to the deadlines of its executions."""
        longest_s = max(self._timeout_s_max, *(function.timeout_s or 0.0 for function in self.functions), 0.0)
        return min(math.ceil(longest_s) * self._warm + CPU_GRACE_S, CPU_S_MAX)

    def _offer(self, worker: ProcessWorker, *, first: bool = False) -> None:
        """Give a worker to whoever has waited longest, or let it wait; ``first``: before the others."""
        place = self._find_place(worker)
        if place is not None:
            self._waiting.remove(place)
            place.worker = worker
            # From now on, not from when its task runs again: in between we would seem idle, and be made to leave.
            self._lent += 1
            place.called.set()
        elif first:
            self._idle.appendleft(worker)
        else:
            self._idle.append(worker)

    def _find_place(self, worker: ProcessWorker) -> _Place | None:
        """Return who has waited longest for such a worker."""
        return next((place for place in self._waiting if worker.served == 0 or not place.fresh), None)

    def _refuse_one(self, reason: str) -> None:
        """A worker could not be made. Whoever has waited longest hears so: waiting on would not help."""
        if self._waiting:
            place = self._waiting.popleft()
            place.error = SandboxUnavailableError(
                f"no worker can be started: {reason}",
                remedy="the system is out of processes, descriptors or memory: see ulimit -a",
            )
            place.called.set()

    def _refuse_all(self, error: FluxError) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            place.error = error
            place.called.set()

    # Workers

    async def acquire(self, *, fresh: bool = False) -> ProcessWorker:
        """See `flux.sandbox.base.Sandbox.acquire`; raise `SandboxUnavailableError`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closing:
            raise _closed()
        if self._failure is not None:
            raise _down(self._failure)
        self._use()
        # Those that have served stand first in the row.
        while worker := next((one for one in self._idle if one.served == 0 or not fresh), None):
            self._idle.remove(worker)
            if worker.is_running():
                self._lent += 1
                if worker.served == 0:  # One that comes back (``warm``) needs no other in its place.
                    self._demand.take(self._used_at_s)
                self._fill()
                return worker
            worker.close()  # Killed while it waited, and the zygote has not told us yet.
        self._demand.take(self._used_at_s)
        place = _Place(fresh)
        self._waiting.append(place)
        self._wanted.set()
        self._fill()
        try:
            await place.called.wait()
        except trio.Cancelled:
            if place.worker is not None:  # Given to us after we were cancelled and before we noticed.
                self._lent -= 1
                if not self._take_back(place.worker):
                    place.worker.kill()
                    place.worker.close()
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(place)
            raise
        if place.error is not None:
            raise place.error
        assert place.worker is not None
        return place.worker

    async def release(self, worker: Worker, *, reusable: bool) -> None:
        """See `flux.sandbox.base.Sandbox.release`."""
        assert isinstance(worker, ProcessWorker), "a worker goes back to the sandbox that it came from"
        worker.served += 1
        self._lent -= 1
        self._use()
        if reusable and worker.served < self._warm and self._zygote is not None:
            assert self._nursery is not None, "a zygote has a nursery"
            self.resting += 1
            self._nursery.start_soon(self._rest, worker)
        else:
            worker.kill()
            worker.close()
        self._residency.settle()

    async def _rest(self, worker: ProcessWorker) -> None:
        """Take a worker back once it says that nothing is left of what it has run; nobody waits for that."""
        is_ready = False
        try:
            with trio.move_on_after(REST_S):
                is_ready = await worker.rest()
        finally:
            self.resting -= 1
            if not (is_ready and self._take_back(worker)):
                worker.kill()
                worker.close()

    def _take_back(self, worker: ProcessWorker) -> bool:
        """Offer a worker again if there is a use for it."""
        if self._closing or self._zygote is None or not worker.is_running():
            return False
        if self._find_place(worker) is None:
            if len(self._idle) >= self._demand.most:
                return False  # The rush is over.
            if len(self._idle) >= self._demand.least:
                self._many.set()
        self._offer(worker, first=True)
        return True


    # Leaving

    def _use(self) -> None:
        self._used_at_s = trio.current_time()
        self._residency.use(self)

    @property
    def is_busy(self) -> bool:
        """See `flux.sandbox.residency.Resident.is_busy`."""
        return self._lent > 0 or bool(self._waiting)

    def evict(self) -> None:
        """See `flux.sandbox.residency.Resident.evict`."""
        # Nobody is given one of its workers from now on: whoever comes waits for the next zygote.
        self._zygote = None
        self._residency.leave(self)
        while self._idle:
            self._idle.popleft().close()
        self._evicted.set()

    async def _leave_when_told(self, nursery: trio.Nursery) -> None:
        await self._evicted.wait()
        nursery.cancel_scope.cancel()

    async def _leave_when_idle(self) -> None:
        idle_s_max = self._residency.idle_s_max
        while (left_s := self._used_at_s + idle_s_max - trio.current_time()) > 0 or self.is_busy:  # noqa: ASYNC110 - nothing happens that one could wait for
            await trio.sleep(left_s if left_s > 0 else idle_s_max)
        self.evict()


def _out_of_turn(message: Message) -> SandboxUnavailableError:
    if isinstance(message, Forked) and message.handle >= 0:
        os.close(message.handle)
    return SandboxUnavailableError(f"the zygote spoke out of turn: {message}")


def _closed() -> SandboxUnavailableError:
    return SandboxUnavailableError("this deployment is being taken down", remedy="send the request again")


def _down(failure: FluxError) -> SandboxUnavailableError:
    # A new one for each caller: an exception that is raised again and again collects all their stacks.
    return SandboxUnavailableError(
        f"this deployment's process died and can't be started again: {failure.message}", remedy=failure.remedy
    )


def _request_worker(zygote: Zygote, cpu_s: int) -> ProcessWorker:
    """Ask ``zygote`` for a worker that may use so much processor time; raise OSError."""
    with contextlib.ExitStack() as both, contextlib.ExitStack() as theirs:
        start_theirs, start_ours = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, start_theirs)
        both.callback(os.close, start_ours)
        # No pipe: on many kernels writing to one sets a time, which fstat would tell the guest.
        output_ours, output_theirs = (end.detach() for end in socket.socketpair())
        theirs.callback(os.close, output_theirs)
        both.callback(os.close, output_ours)
        wire_ours, wire_theirs = socket.socketpair()
        theirs.callback(wire_theirs.close)
        both.callback(wire_ours.close)
        os.set_blocking(start_ours, False)
        os.set_blocking(output_ours, False)
        wire_ours.setblocking(False)
        zygote.request_worker(start_theirs, output_theirs, wire_theirs.fileno(), cpu_s)
        both.pop_all()  # They are the worker's now.
        return ProcessWorker(start_ours, output_ours, wire_ours)
