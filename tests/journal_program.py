"""Executions for journals: what is told of them, and a program that tells it until it is killed.

`make_story` makes the same endless list of events for the same seed, so a test knows
what a process had told its journal when it knows how many events that were.
`Model` is the plain account of such a list: what recovery should find. It keeps
the nouns themselves and owes nothing to the journal's own code.

As a program (``Forks("tests.journal_program")``) it takes ``FOLDER SEED SEGMENT_BYTES_MAX`` lines. The
child opens a journal and writes a dot for each event that the journal has taken, until it is killed.
"""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from flux import ids
from flux.execution import Execution, Level, LogLine, Raised, Returned, Transaction, Trigger
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation
from flux.supervisor.journal import Journal
from flux.supervisor.left_behind import LeftBehind

START_NS = 1_760_000_000_000_000_000


def make_execution(seed: int, **changes: Any) -> Execution:
    """An execution at its start, different for each seed."""
    rng = random.Random(seed)
    known = Execution(
        id=ids.make_execution_id(START_NS // 1_000_000 + seed, rng.randbytes(10)),
        tenant="main",
        function=f"function_{seed % 7}",
        deployment="deployment-1",
        sha=rng.randbytes(20).hex(),
        dirty=bool(seed % 2),
        trigger=Trigger("http", "POST", "/orders/7", "/orders/{id}", body=rng.randbytes(seed % 300)),
        started_at_ns=START_NS + seed * 1_000_000,
        seed=rng.randbytes(32),
        level=Level("process", "process", "python"),
    )
    return attrs.evolve(known, **changes)


def make_mutation(rng: random.Random, xid: int, ordinal: int = 1) -> Mutation:
    """A row that was updated."""
    key = rng.randrange(1000)
    return Mutation(
        schema="public",
        table="orders",
        key=f'{{"id":{key}}}',
        op=Operation.UPDATE,
        before=f'{{"id":{key},"total":1}}',
        after=f'{{"id":{key},"total":{rng.randrange(100)}}}',
        committed=False,
        xid=xid,
        ordinal=ordinal,
        at_ns=START_NS + ordinal,
    )


@attrs.define
class Model:
    """What was told of one execution."""

    head: Execution
    calls: dict[int, HostCall] = attrs.field(factory=dict)
    logs: list[LogLine] = attrs.field(factory=list)
    transactions: list[Transaction] = attrs.field(factory=list)
    mutations: list[Mutation] = attrs.field(factory=list)
    ended: Execution | None = None
    in_transaction: bool = False
    is_stored: bool = False

    def as_left_behind(self, pid: int) -> LeftBehind:
        """What reading the journal should give."""
        return LeftBehind(
            id=self.head.id,
            pid=pid,
            head=self.head,
            calls=tuple(self.calls[seq] for seq in sorted(self.calls)),
            logs=tuple(self.logs),
            transactions=tuple(self.transactions),
            mutations=tuple(self.mutations),
            ended=self.ended,
            in_transaction=self.in_transaction,
            is_stored=self.is_stored,
        )


@attrs.frozen
class Event:
    """One thing that is told."""

    method: str
    """Of the journal."""
    execution_id: uuid.UUID
    arguments: tuple[object, ...]
    """Without the id."""

    def tell(self, journal: Journal) -> None:
        """Tell a journal."""
        first = () if self.method == "begin" else (self.execution_id.bytes,)
        getattr(journal, self.method)(*first, *self.arguments)

    def apply(self, models: dict[uuid.UUID, Model]) -> None:
        """Tell the account."""
        if self.method == "begin":
            (head,) = self.arguments
            assert isinstance(head, Execution)
            models[self.execution_id] = Model(head)
            return
        model = models[self.execution_id]
        match self.method, self.arguments:
            case "asked", (HostCallRequest() as request, int(started_ns)):
                model.calls[request.seq] = HostCall(request, None, started_ns)
            case "answered", (int(seq), HostCallResult() as result, int(answered)):
                call = model.calls[seq]
                model.calls[seq] = HostCall(call.request, result, call.started_ns, answered)
            case "logged", (LogLine() as line,):
                model.logs.append(line)
            case "transaction", (Transaction() as transaction,):
                if transaction.ended_ns:
                    model.transactions.pop()
                model.transactions.append(transaction)
            case "mutated", (int(call_seq), tuple(mutations)):
                model.mutations += [attrs.evolve(mutation, call=call_seq) for mutation in mutations]
            case "ended", (Execution() as execution, bool(in_transaction)):
                model.ended, model.in_transaction = execution, in_transaction
            case "stored", ():
                model.is_stored = True
            case other:
                raise AssertionError(other)


def make_life(seed: int) -> Iterator[Event]:
    """All that is told of one execution."""
    rng = random.Random(seed)
    head = make_execution(seed)
    models: dict[uuid.UUID, Model] = {}

    def tell(method: str, *arguments: object) -> Event:
        event = Event(method, head.id, arguments)
        event.apply(models)
        return event

    yield tell("begin", head)
    begun: Transaction | None = None
    for seq in range(1, rng.randrange(1, 6)):
        request = HostCallRequest(seq, "db.query", rng.randbytes(rng.choice([0, 20, 700])), rng.randrange(3),
                                  Position("functions/orders.py", seq, "place_order"))  # fmt: skip
        yield tell("asked", request, seq * 1000)
        if begun is None:
            begun = Transaction("repeatable read", "1:1:", None, False, seq)
            yield tell("transaction", begun)
        if rng.random() < 0.5:
            yield tell(
                "mutated", seq, tuple(make_mutation(rng, 700 + seed, n) for n in range(rng.randrange(3)))
            )
        error = HostCallError("DatabaseError", "no such table", "42P01") if rng.random() < 0.2 else None
        result = HostCallResult(rng.randbytes(rng.choice([4, 90])), error, 300, START_NS + seq)
        if rng.random() < 0.9:
            yield tell("answered", seq, result, seq)
        if rng.random() < 0.5:
            yield tell("logged", LogLine(seq * 1500, "info", f"line {seq}", b'{"n":1}'))
    if begun is not None and rng.random() < 0.7:
        yield tell(
            "transaction", attrs.evolve(begun, xid=700 + seed, committed=rng.random() < 0.5, ended_ns=9000)
        )
    outcome = Returned(200, body=rng.randbytes(50)) if rng.random() < 0.7 else Raised("KeyError", "'plan'")
    model = models[head.id]
    ended = attrs.evolve(head, outcome=outcome, elapsed_ns=9999, logs=tuple(model.logs),
                         calls=tuple(model.calls[seq] for seq in sorted(model.calls)))  # fmt: skip
    yield tell("ended", ended, rng.random() < 0.5)
    if rng.random() < 0.8:
        yield tell("stored")


def make_story(seed: int) -> Iterator[Event]:
    """Executions one after another and several at a time, without end."""
    rng = random.Random(seed)
    numbers = itertools.count(seed * 1_000_000)
    lives: list[Iterator[Event]] = []
    while True:
        while len(lives) < 4:
            lives.append(make_life(next(numbers)))
        life = rng.choice(lives)
        event = next(life, None)
        if event is None:
            lives.remove(life)
        else:
            yield event


def account_of(events: Iterator[Event]) -> dict[uuid.UUID, Model]:
    """What should be known after ``events``."""
    models: dict[uuid.UUID, Model] = {}
    for event in events:
        event.apply(models)
    return models


class Forks:
    """A program that forks a child for each line it is given, so that a round costs no start of Python.

    A child writes its process id on a line once it is at work, and a dot for each step if it likes.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._child: int | None = None

    def __enter__(self) -> "Forks":
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module], cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._child is not None:
            self.kill(self._child)
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, *words: object) -> int:
        """Start a child and return its process id once it is at work."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self._child = int(self._process.stdout.readline())
        return self._child

    def wait_step(self) -> None:
        """Wait until the child has written a dot that nobody has waited for."""
        assert self._process.stdout is not None
        assert (said := self._process.stdout.read(1)) == b".", said

    def kill(self, pid: int) -> None:
        """Kill the child, if it has not ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def wait_end(self) -> tuple[int, int]:
        """Wait for the child's end; return how many dots are left of those it wrote, and its exit code.

        The code is negative for a signal.
        """
        assert self._process.stdout is not None
        dots, _, exit_code = self._process.stdout.readline().partition(b"=")
        self._child = None
        return len(dots), int(exit_code)


def serve_forks(run: Callable[[list[str]], None]) -> None:
    """Be the program of `Forks`: ``run`` gets each line's words, in a child."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(line.split())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os.write(1, b"=%d\n" % os.waitstatus_to_exitcode(status))


def say_step() -> None:
    """Tell the test that this child has done a step."""
    os.write(1, b".")


def say_at_work() -> None:
    """Tell the test that this child is at work."""
    os.write(1, b"%d\n" % os.getpid())


def write_until_killed(words: list[str]) -> None:
    """See the module's docstring."""
    folder, seed, segment_bytes_max = words
    journal = Journal(Path(folder), segment_bytes_max=int(segment_bytes_max))
    say_at_work()
    for event in make_story(int(seed)):
        event.tell(journal)
        say_step()


if __name__ == "__main__":
    serve_forks(write_until_killed)
