"""Hostile guests of every kind, run by the real executor beside neighbours, and run again from their records.

The guests are in ``faults/hostile/``, functions like a user's, each under a comment that says what it is to come to::

    # Expect: killed memory or raised RecursionError
    # Limits: {"timeout_s": 1}
    # Answer: {"made": 0}

`Kind` says where a kind's guests are and how they are run. `run_kind` runs all of them, several at once, while
neighbours in the same sandbox double numbers: what these get is compared with what they asked for, here. Then it reads
each record back from the database and lets another sandbox replay it, with a host that performs nothing.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from flux.deployment import Function
from flux.execution import Execution, Interrupted, Killed, Level, Outcome, Raised, Returned
from flux.grants import Grants
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.base import Sandbox, Worker
from flux.sandbox.jail import find_guest_uid
from flux.sandbox.process import ProcessSandbox
from flux.sandbox.wasm import WasmSandbox, default_folder
from flux.session import Divergence, ReplaySession
from flux.store.reading import get_execution
from flux.supervisor.drive import Bounds, Driven, drive
from flux.supervisor.execute import Executed
from flux.supervisor.runnable import Runnable
from flux.supervisor.start_document import make_document
from tests.conftest import Database
from tests.execution_world import DEPLOYMENT, INVOKE, NO_CHAIN, ExecutionWorld, open_world
from tests.faults.hostile.modules import MODULES, NEIGHBOUR
from tests.guests.record_and_replay import RefusingHost, describe
from tests.wasm_guests import assemble_text

GUESTS = Path(__file__).parent / "faults" / "hostile"
PATIENCE_S = 900.0
MEMORY_BYTES_MAX = 96 * 2**20
AT_ONCE = 12
"""Hostile guests of one kind at a time."""
WARM = 1000
"""Executions that a worker of the warm kind may serve."""
NEIGHBOURS = 2
"""Tasks that ask the neighbour again and again meanwhile."""
QUESTIONS_MIN = 20
"""That each of them asks at least, however soon the guests are over."""
PAUSE_S = 0.02
"""Between the questions after those: without it the neighbours have most of the processor."""
GUEST = re.compile(
    r"(?:#|//) Expect: (?P<expect>.*)\n(?P<notes>(?:(?:#|//) \w+: .*\n)*)"
    r"(?:@function.*\n(?:async )?def|export const) (?P<name>\w+)"
)


@attrs.frozen
class Guest:
    """One hostile function."""

    function: str
    expected: frozenset[str]
    """Outcomes that are right, in the words of `describe`."""
    limits: Limits
    answer: object = None
    """Body of its answer, as JSON; None: whatever it is."""
    repeats_its_way: bool = True
    """Its replay does all that it did, and does not only end so."""


@attrs.frozen
class Kind:
    """A kind of sandbox and its guests."""

    name: str
    guests: tuple[Guest, ...]
    make_sandbox: Callable[[Path], "ProcessSandbox | WasmSandbox"]
    """Given a folder, which is not there yet, for what is built."""
    warm: bool = False
    doubled: Callable[[Any], object] = lambda body: body["doubled"]
    """Finds the number in a neighbour's answer."""


@attrs.frozen
class Replayed:
    """How the replay of one record went."""

    driven: Driven
    missing: Divergence | None
    """What it never came to, or that it ended elsewhere."""


@attrs.frozen
class Seen:
    """What became of one guest."""

    executed: Executed
    recorded: Execution
    """As the database has it."""
    replayed: Replayed


@attrs.define
class Neighbours:
    """What those next door asked and got."""

    questions: int = 0
    wrong: list[str] = attrs.field(factory=list)


@attrs.frozen
class Report:
    """A kind, run whole."""

    seen: Mapping[str, Seen]
    neighbours: Neighbours
    restarts: int
    """How often a sandbox lost what it runs in: nobody's guest may do that."""
    reports: tuple[BaseException, ...]
    """What Flux's own parts complained of."""


def _make_limits(**given: Any) -> Limits:
    return Limits(**{"memory_bytes_max": MEMORY_BYTES_MAX, **given})


def _read_guests(folder: str) -> Iterator[Guest]:
    for path in sorted((GUESTS / folder).iterdir()):
        if path.suffix in (".py", ".js", ".ts"):
            for found in GUEST.finditer(path.read_text(encoding="utf-8")):
                notes = dict(re.findall(r"(?:#|//) (\w+): (.*)\n", found["notes"]))
                yield Guest(
                    found["name"],
                    frozenset(found["expect"].split(" or ")),
                    _make_limits(**json.loads(notes.get("Limits", "{}"))),
                    json.loads(notes.get("Answer", "null")),
                    "Repeats" not in notes,
                )


def _make_process(_built: Path, *, warm: int) -> ProcessSandbox:
    uid = find_guest_uid("strict", "hostile")
    return ProcessSandbox(GUESTS, "python", uid=uid, warm=warm, idle_target=AT_ONCE)


def _make_scripts(_built: Path, *, folder: str) -> WasmSandbox:
    return WasmSandbox(GUESTS, folder, cache=default_folder())


def _make_modules(built: Path) -> WasmSandbox:
    built.mkdir()
    for name, body in {"neighbour": NEIGHBOUR, **{name: one.body for name, one in MODULES.items()}}.items():
        (built / f"{name}.wasm").write_bytes(assemble_text(body))
    return WasmSandbox(built.parent, built.name)


def _is_worth_a_warm_worker(guest: Guest) -> bool:
    """A worker whose guest was killed serves nobody again, warm or not: one of those is enough."""
    return guest.limits.timeout_s >= Limits().timeout_s or guest.function == "spins"


_PYTHON = tuple(_read_guests("python"))
KINDS = (
    Kind("process", _PYTHON, partial(_make_process, warm=1)),
    Kind(
        "warm",
        tuple(filter(_is_worth_a_warm_worker, _PYTHON)),
        partial(_make_process, warm=WARM),
        warm=True,
    ),
    Kind("javascript", tuple(_read_guests("javascript")), partial(_make_scripts, folder="javascript")),
    Kind("typescript", tuple(_read_guests("typescript")), partial(_make_scripts, folder="typescript")),
    Kind(
        "wasi",
        tuple(
            Guest(name, frozenset(one.expect.split(" or ")), _make_limits(**one.limits))
            for name, one in MODULES.items()
        ),
        _make_modules,
        doubled=lambda body: body[2]["rows"][0][0],
    ),
)


def describe_end(outcome: Outcome | None) -> str:
    """Return an outcome in the words of the guests' comments."""
    return "interrupted" if isinstance(outcome, Interrupted) else describe(outcome)


@asynccontextmanager
async def _running(kind: Kind, folder: Path) -> AsyncIterator["ProcessSandbox | WasmSandbox"]:
    async with trio.open_nursery() as nursery:
        sandbox = kind.make_sandbox(folder)
        await nursery.start(sandbox.run)
        yield sandbox
        nursery.cancel_scope.cancel()


@attrs.frozen
class _Held:
    """A sandbox with one worker, which is there already: how long one waits for it is not what is tried here."""

    sandbox: Sandbox
    worker: Worker

    @property
    def functions(self) -> tuple[Function, ...]:
        return self.sandbox.functions

    @property
    def level(self) -> Level:
        return self.sandbox.level

    async def acquire(self, *, fresh: bool = False) -> Worker:
        # Without a checkpoint: a machine that is held up for as long as the guest may run would take it for a wait.
        assert not fresh, "a record is made on whatever worker there is"
        return self.worker

    async def release(self, worker: Worker, *, reusable: bool) -> None:
        await self.sandbox.release(worker, reusable=reusable)


class _Street:
    """One kind's sandbox, with everybody who lives in it."""

    def __init__(self, world: ExecutionWorld, kind: Kind, sandbox: "ProcessSandbox | WasmSandbox") -> None:
        self._world = world
        self._kind = kind
        self._sandbox = sandbox
        self.neighbours = Neighbours()
        self.executed: dict[str, Executed] = {}

    async def execute(self, name: str, limits: Limits, value: Mapping[str, Any]) -> Executed:
        """Run one function through the executor."""
        function: Function = next(one for one in self._sandbox.functions if one.name == name)
        runnable = Runnable(
            function=function,
            deployment=DEPLOYMENT,
            sandbox=_Held(self._sandbox, await self._sandbox.acquire()),
            bounds=Bounds(limits, {}),
            limits=(),
            grants=Grants.parse([]),
            isolation="read committed",
            chain=NO_CHAIN,
            rules=RedactionRules(),
            warm=WARM if self._kind.warm else 1,
        )
        return await self._world.executor.execute(runnable, INVOKE, value)

    async def run_hostile(self, guest: Guest, room: trio.CapacityLimiter) -> None:
        """Let a hostile guest do what it does."""
        async with room:
            self.executed[guest.function] = await self.execute(guest.function, guest.limits, {})

    async def be_neighbourly(self, first: int, over: trio.Event) -> None:
        """Ask the neighbour until the hostile guests are over, each time for something else."""
        number = first
        while not over.is_set() or number < first + QUESTIONS_MIN:
            executed = await self.execute("neighbour", Limits(), {"number": number})
            self.neighbours.questions += 1
            outcome = executed.outcome
            body = json.loads(outcome.body) if isinstance(outcome, Returned) and outcome.body else None
            if body is None or self._kind.doubled(body) != 2 * number:
                self.neighbours.wrong.append(f"{number}: {outcome}")
            number += 1
            if number > first + QUESTIONS_MIN:
                await trio.sleep(PAUSE_S)


async def replay(sandbox: Sandbox, execution: Execution, limits: Limits) -> Replayed:
    """Run a record again."""
    outcome = execution.outcome
    session = ReplaySession(
        execution.calls,
        execution.logs,
        ended=isinstance(outcome, Returned | Raised),
        cut=outcome if isinstance(outcome, Killed) and outcome.limit == "timeout" else None,
        fuel=execution.fuel,
    )
    worker = await sandbox.acquire()
    try:
        driven = await drive(
            worker,
            make_document(execution, INVOKE, limits, NO_CHAIN, {}),
            session,
            RefusingHost(),
            Bounds(limits, {}),
            redactor=Redactor(RedactionRules(), execution.seed),
        )
    finally:
        await sandbox.release(worker, reusable=False)
    return Replayed(driven, session.find_missing(driven.fuel))


async def run_kind(kind: Kind, database: Database, folder: Path) -> Report:
    """Run a kind's guests beside their neighbours, then each from its record."""
    with trio.fail_after(PATIENCE_S):
        async with open_world(database, folder / "journal") as world:
            async with _running(kind, folder / "first") as first:
                street = _Street(world, kind, first)
                over, room = trio.Event(), trio.CapacityLimiter(AT_ONCE)
                async with trio.open_nursery() as neighbours:
                    for number in range(NEIGHBOURS):
                        neighbours.start_soon(street.be_neighbourly, 1_000_000 * number, over)
                    async with trio.open_nursery() as nursery:
                        for guest in kind.guests:
                            nursery.start_soon(street.run_hostile, guest, room)
                    over.set()
                restarts = first.restarts
            await world.settle()
            recorded: dict[str, Execution] = {}
            for name, executed in street.executed.items():
                _, recorded[name] = await get_execution(world.backing.owner, executed.execution.id)
            replayed: dict[str, Replayed] = {}

            async def run_again(guest: Guest, sandbox: Sandbox) -> None:
                async with room:
                    replayed[guest.function] = await replay(sandbox, recorded[guest.function], guest.limits)

            async with _running(kind, folder / "second") as second, trio.open_nursery() as nursery:
                for guest in kind.guests:
                    nursery.start_soon(run_again, guest, second)
            reports = tuple(world.reports)
    seen = {name: Seen(street.executed[name], recorded[name], replayed[name]) for name in recorded}
    return Report(seen, street.neighbours, restarts + second.restarts, reports)


def list_recorded(database: Database) -> dict[uuid.UUID, tuple[str, str]]:
    """Return function and outcome of each record but the neighbours', as psql has them."""
    rows = database.psql("select id, function, outcome from flux.execution where function <> 'neighbour'")
    return {uuid.UUID(one): (two, three) for one, two, three in (row.split("|") for row in rows.splitlines())}
