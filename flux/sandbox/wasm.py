"""Sandbox kind ``wasm``: each execution in a WebAssembly isolate of its own.

One process (`flux.sandbox.wasm_main`) holds a deployment's JavaScript, TypeScript and
wasm modules and runs all their executions, each with its own memory. A worker is a
socket to it; there is no pool, as an isolate is made in less time than a pooled one
would take to hand over.

The process is in the same jail as Python functions are, but for what wasm needs
(`flux.sandbox.wasm_filter`). Its guests are walled off from each other and from it by
WebAssembly, and it is walled off from everything else by the jail.

Three bounds keep all of a deployment's guests together from using the machine up. There is
a number of them beyond which callers wait. The process itself sees to it that their memories
stay within a sum (`flux.sandbox.wasm_ledger`). And whatever it may be doing, we look from
outside at how much memory it really has, and kill one that is far beyond.

Who ends with whom: the process dies with us (it asks the kernel for that before it
loads anything), and guests die with the process. A process that dies is replaced;
callers who wait do not notice. One that does not let go of a guest whose worker was
released is taken for broken, and killed.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from flux.deployment import Function
from flux.errors import FluxError
from flux.execution import Level
from flux.hostcall import Position
from flux.sandbox.base import ImportFailedError, SandboxUnavailableError, Worker
from flux.sandbox.cgroups import Cgroups, Group
from flux.sandbox.declared import Declared
from flux.sandbox.jail_plan import Plan
from flux.sandbox.processor import ProcessorTime
from flux.sandbox.wasm_cache import CompiledCode
from flux.sandbox.wasm_process import Compiled, Failed, Importing, Ready, WasmProcess, keep_compiled
from flux.sandbox.wasm_worker import WasmWorker, make_pair

LOAD_DEADLINE_S = 60.0
"""Loading compiles, and may be slow; one that takes longer hangs."""
RESTART_PAUSE_S = 0.2
"""Before a process that died is replaced; doubles up to the next while it can't be."""
RESTART_PAUSE_S_MAX = 5.0
RELEASE_GRACE_S = 30.0
"""How long a guest may stay in its process after its worker was released."""
GUESTS_MAX = 1000
"""Of one process, at a time. Each has a descriptor there, and a stack."""
GUEST_STACK_BYTES = 10 * 2**20
"""What is set aside for a guest's stack, most of it never used."""
PLACE_PATIENCE_S = 10.0
"""How long somebody waits for one of these places."""
MEMORY_BYTES_MAX = 256 * 2**20
"""Of one guest, unless a function may have more."""
FULL_GUESTS = 32
"""So many guests may have all the memory that a function may use, if the machine has twice that."""
OWN_BYTES = 3 * 2**30
"""What the process may use for itself: the interpreter, and what it takes to load and compile a project."""
RESIDENT_LOOK_S = 0.25
"""How often we look at how much memory it has, while it has guests."""


class WasmSandbox:
    """A deployment's host process and its guests. Run `run` in a nursery, then `acquire`."""

    def __init__(
        self,
        project: Path,
        functions_folder: str,
        *,
        isolation: str = "strict",
        uid: int | None = None,
        tenant: str = "",
        cache: Path | None = None,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        all_memory_bytes_max: int | None = None,
        guests_max: int = GUESTS_MAX,
        cgroups: Cgroups | None = None,
        processor: ProcessorTime | None = None,
        on_output: Callable[[str], None] = lambda _text: None,
        load_deadline_s: float = LOAD_DEADLINE_S,
        release_grace_s: float = RELEASE_GRACE_S,
    ) -> None:
        """``isolation`` is the jail's level and ``uid`` who is in it (`flux.sandbox.jail.find_guest_uid`).

        ``cache`` is where compiled code may be kept, and ``tenant`` whose that of modules is.
        ``memory_bytes_max`` is what no limit of a function exceeds; from it and from the machine follows what
        all guests together may hold, unless it is given. ``cgroups`` is where the process gets a group of its own,
        if anywhere, and ``processor`` counts its time. ``on_output`` hears what modules print as they load.
        """
        self.level = Level("wasm", isolation, "wasm")
        if all_memory_bytes_max is None:
            all_memory_bytes_max = max(
                memory_bytes_max, min(FULL_GUESTS * memory_bytes_max, read_machine_bytes() // 2)
            )
        self._plan = Plan(
            isolation=isolation,
            parent=os.getpid(),
            control=-1,
            program="wasm",
            project=str(project.absolute()),
            functions=functions_folder,
            uid=uid,
            data_bytes_max=OWN_BYTES
            + all_memory_bytes_max
            + 2 * memory_bytes_max
            + guests_max * GUEST_STACK_BYTES,
            cache=str(cache or ""),
            owner=tenant,
            guest_memory_bytes_max=all_memory_bytes_max,
        )
        self._resident_bytes_max = OWN_BYTES // 2 + all_memory_bytes_max + 2 * memory_bytes_max
        self._cgroups = cgroups
        self._processor = ProcessorTime() if processor is None else processor
        self._functions_folder = functions_folder
        self._places = trio.Semaphore(guests_max, max_value=guests_max)
        self._guests_max = guests_max
        self._on_output = on_output
        self._load_deadline_s = load_deadline_s
        self._release_grace_s = release_grace_s
        self._process: WasmProcess | None = None
        self._nursery: trio.Nursery | None = None
        self._declared: Declared | None = None
        self._changed = trio.Event()
        """Set, and replaced, when there is a process again, or none will come."""
        self._closing = False
        self._failure: FluxError | None = None
        """Why there is no process at the moment."""
        self.restarts = 0
        """How often the process died and was started again."""

    @property
    def functions(self) -> tuple[Function, ...]:
        """See `flux.sandbox.base.Sandbox.functions`."""
        return () if self._declared is None else self._declared.functions

    @property
    def middleware(self) -> tuple[Position, ...]:
        """See `flux.sandbox.declared.Declared.middleware`."""
        return () if self._declared is None else self._declared.middleware

    @property
    def process_pid(self) -> int | None:
        """The host process's id while it lives."""
        return None if self._process is None else self._process.pid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a process alive until cancelled; started once the code is loaded.

        Before that, raises `ImportFailedError`, `BadFunctionError` or `SandboxUnavailableError`. Later a
        process that can't be started again is such an error to those who `acquire`, and is tried again.
        """
        pause_s = RESTART_PAUSE_S
        try:
            while True:
                failure = await self._run_process(task_status)
                if failure is None:
                    pause_s = RESTART_PAUSE_S
                else:
                    if self._declared is None:
                        raise failure
                    self._failure = failure
                    self._tell()
                    pause_s = min(2 * pause_s, RESTART_PAUSE_S_MAX)
                self.restarts += 1
                await trio.sleep(pause_s)
        finally:
            self._closing = True
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _run_process(self, task_status: trio.TaskStatus[None]) -> FluxError | None:
        """Live through one process; return why it could not be started, or None when it was and has died."""
        group: Group | None = None
        try:
            if self._cgroups is not None:
                group = self._cgroups.make()
            plan = self._plan if group is None else replace(self._plan, cgroup=str(group.folder))
            process = WasmProcess.spawn(plan, self._on_output)
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
                nursery.start_soon(process.pump_output)
                nursery.start_soon(self._watch_memory, process)
                # Caught in here: what leaves a nursery's block leaves it in a group, and our callers
                # want to know the error by its class.
                with self._processor.counted(lambda: process.pid):
                    try:
                        declared = await self._wait_ready(process)
                        self._process, self._nursery, self._failure = process, nursery, None
                        self._tell()
                        if self._declared is None:
                            self._declared = declared
                            task_status.started()
                        if (message := await process.receive()) is not None:
                            raise SandboxUnavailableError(
                                f"the process of wasm functions spoke out of turn: {message}"
                            )
                    except FluxError as error:
                        failure = error
                    finally:
                        # In here, as the nursery takes nobody any more once its block is left.
                        self._process = self._nursery = None
                nursery.cancel_scope.cancel()
        finally:
            await process.end()
            if group is not None:
                with trio.CancelScope(shield=True):
                    await group.remove()
        return failure

    async def _wait_ready(self, process: WasmProcess) -> Declared:
        module = f"{self._functions_folder}/"
        cache: CompiledCode[Any] = CompiledCode(Path(self._plan.cache) if self._plan.cache else None)
        kept: set[str] = set()
        with trio.move_on_after(self._load_deadline_s) as deadline:
            while (message := await process.receive()) is not None:
                match message:
                    case Importing(name):
                        module = name
                    case Compiled() as compiled:
                        keep = partial(keep_compiled, cache, self._plan, process.fingerprint, compiled, kept)
                        await trio.to_thread.run_sync(keep)
                    case Ready(declared, meter):
                        self.level = attrs.evolve(self.level, meter=meter)
                        return declared
                    case Failed(failures):
                        raise ImportFailedError(failures)
        if not deadline.cancelled_caught:
            raise SandboxUnavailableError(
                f"loading {module} ended the process: {await process.wait_end()}",
                remedy="what it printed stands above",
            )
        raise SandboxUnavailableError(
            f"loading {module} took more than {self._load_deadline_s:g} s",
            remedy="something at module level computes, or the module is very large: move it into a function",
        )

    async def _watch_memory(self, process: WasmProcess) -> None:
        """Kill a process that has much more memory than its guests may hold: its own count is only its word."""
        while True:
            await trio.sleep(RESIDENT_LOOK_S)
            if self._places.value < self._guests_max or self._process is not process:
                resident_bytes = read_resident_bytes(process.pid)
                if resident_bytes > self._resident_bytes_max:
                    self._on_output(
                        f"the process of wasm functions has {resident_bytes >> 20} MiB of memory, more than "
                        f"{self._resident_bytes_max >> 20} MiB: it is killed, with the guests in it\n"
                    )
                    process.kill()
                    return

    # Workers

    async def acquire(self, *, fresh: bool = False) -> WasmWorker:
        """See `flux.sandbox.base.Sandbox.acquire`; raise `SandboxUnavailableError`."""
        del fresh  # All of them are.
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._take_place()
        try:
            return await self._send_guest()
        except BaseException:
            self._places.release()
            raise

    async def _send_guest(self) -> WasmWorker:
        process = await self._wait_process()
        try:
            worker, theirs = make_pair(process.pid)
        except OSError as error:
            raise SandboxUnavailableError(
                f"no worker can be started: {error.strerror}",
                remedy="the system is out of descriptors: see ulimit -n",
            ) from error
        try:
            await process.send_guest(theirs)
        except BaseException:
            worker.close()
            raise
        finally:
            os.close(theirs)
        return worker

    async def _wait_process(self) -> WasmProcess:
        # One that has died, and whose end has not reached us yet, would take its guest along.
        while self._process is None or self._closing or not self._process.is_running():
            if self._closing:
                raise SandboxUnavailableError(
                    "this deployment is being taken down", remedy="send the request again"
                )
            if self._failure is not None:
                # A new one for each caller: an exception that is raised again and again collects all their stacks.
                raise SandboxUnavailableError(
                    f"this deployment's process died and can't be started again: {self._failure.message}",
                    remedy=self._failure.remedy,
                )
            await self._changed.wait()
        return self._process

    async def _take_place(self) -> None:
        try:
            self._places.acquire_nowait()
            return
        except trio.WouldBlock:
            pass
        with trio.move_on_after(PLACE_PATIENCE_S) as patience:
            await self._places.acquire()
        if patience.cancelled_caught:
            raise SandboxUnavailableError(
                f"{self._guests_max} executions of this deployment run at once, and none ended in "
                f"{PLACE_PATIENCE_S:g} s",
                remedy="send the request again; if they wait for something, see flux tail for what",
            )

    async def release(self, worker: Worker, *, reusable: bool) -> None:  # noqa: ARG002 - each isolate serves once
        """See `flux.sandbox.base.Sandbox.release`."""
        assert isinstance(worker, WasmWorker), "a worker goes back to the sandbox that it came from"
        worker.kill()
        if self._nursery is None or self._process is None or worker.pid != self._process.pid:
            worker.close()
            self._places.release()
        else:
            self._nursery.start_soon(self._see_off, worker, self._process)

    async def _see_off(self, worker: WasmWorker, process: WasmProcess) -> None:
        """Wait until a guest is over; end its process if it is not."""
        try:
            with trio.move_on_after(self._release_grace_s) as patience:
                await worker.wait_gone()
            if patience.cancelled_caught:
                self._on_output(
                    "a wasm guest could not be ended: its process is killed, with the guests in it\n"
                )
                process.kill()
        finally:
            worker.close()
            self._places.release()


def read_machine_bytes() -> int:
    """Return how much memory this machine has, or the container that we are in."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        said = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return found  # No container's, or of an older kind.
    return min(found, int(said)) if said.isdigit() else found


def read_resident_bytes(pid: int) -> int:
    """Return how much memory a process has, 0 when it has ended."""
    try:
        words = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE")


def default_folder() -> Path | None:
    """Return where the user's caches are, or None for a user who has no home."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "fluxrt" / "wasm"
