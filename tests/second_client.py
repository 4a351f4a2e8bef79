"""psql, kept between questions.

Tests ask ``psql`` what is true: another program, with a connection of its own, which owes nothing to Flux's driver. To
start it takes ten times the processor time of what it is asked, and it is asked thousands of times. So a psql that
has answered waits at its database for the next question, and is as new when it comes:

- The question goes to the server as ``psql -c`` sends it, in one message whatever is in it, and so in one transaction:
  ``\\gexec`` runs what a statement yields, and that statement yields the question itself, as it is written.
- After the answer the session discards what it has: settings, roles, locks, temporary tables. What cannot be
  discarded, a transaction that is still open, ends with psql.
- psql ends at the first error, and is not asked again. One that has lost its connection is found out before the
  question, so that no statement is sent twice.
- Who asks as somebody in particular, or about roles, sessions or the server's settings, has a psql of its own: what it
  may do, and what it begins with, is decided as it connects.

A psql that waits holds no lock and no snapshot, but it is a session: nobody may copy or drop its database meanwhile. So
only the `KEPT_MAX` that were asked last wait, and none at a database that a question names as it makes or drops one.
"""

import os
import re
import secrets
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import attrs

KEPT_MAX = 3
_ABOUT_SESSIONS = re.compile(
    r"\b(alter|create|drop)\s+(role|user|system)\b|\balter\s+database\b|\bpg_(reload_conf|terminate_backend)\b", re.I
)
_ABOUT_DATABASES = re.compile(r"\b(create|drop)\s+database\b", re.I)


@attrs.define(eq=False)
class SecondClient:
    """A running psql. One question at a time."""

    command: Sequence[str | Path]
    """The program and its options, the database among them."""

    process: subprocess.Popen[bytes]
    """What runs."""

    errors: int
    """A file without a name, for its stderr."""

    @classmethod
    def start(cls, command: Sequence[str | Path]) -> Self:
        """Start psql; whether it can connect is found out by the first question."""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            )  # fmt: skip
            return cls(command, process, os.dup(errors.fileno()))

    def ask(self, sql: str, seconds_max: float) -> str:
        """What psql prints for ``sql``; a failing statement raises `subprocess.CalledProcessError`."""
        said_before = os.fstat(self.errors).st_size
        mark = secrets.token_hex(16)
        quote = f"$q{mark}$"
        said = self._say(
            f"select {quote}{sql}{quote} \\gexec\n\\echo {mark}\ndiscard all;\n\\echo end {mark}\n",
            f"end {mark}\n", seconds_max,
        )  # fmt: skip
        answer, is_whole, _ = said.partition(f"{mark}\n")
        if is_whole:
            return answer
        exit_code = self.process.wait(seconds_max)
        complained = os.fstat(self.errors).st_size - said_before
        complaint = os.pread(self.errors, complained, said_before).decode(errors="replace")
        error = subprocess.CalledProcessError(exit_code, "psql", answer, complaint)
        error.add_note(complaint)
        raise error

    def is_there(self, seconds_max: float) -> bool:
        """Tell whether it still runs, and has its connection."""
        end = f"{secrets.token_hex(16)}\n"
        return self._say(f"select 1 \\g /dev/null\n\\echo {end}", end, seconds_max).endswith(end)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        os.close(self.errors)

    def _say(self, words: str, end: str, seconds_max: float) -> str:
        """Say ``words``; return what is printed up to ``end``, with it, or until psql ends."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # More words than fit into the pipe wait for psql, which may wait for its answer to be read.
        unsaid, said = memoryview(words.encode()), bytearray()
        deadline = time.monotonic() + seconds_max
        writing, reading = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(writing, False)
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        poll.register(writing, select.POLLOUT)
        while not said.endswith(end.encode()):
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                raise subprocess.TimeoutExpired(list(map(str, self.command)), seconds_max, bytes(said))
            if any(number == reading for number, _ in ready):
                block = os.read(reading, 1 << 16)
                if not block:
                    break
                said += block
            else:
                # It may end, with words of its own to be read, before it has heard all.
                try:
                    unsaid = unsaid[os.write(writing, unsaid) :]
                except BrokenPipeError:
                    unsaid = unsaid[:0]
                if not unsaid:
                    poll.unregister(writing)
        return said.decode()


@attrs.define
class SecondClients:
    """The psql programs of one server that wait for a question."""

    waiting: list[tuple[str, SecondClient]] = attrs.field(factory=list)
    """Each with the name of its database; the one asked last is the last."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    """Tests ask from several threads."""

    def ask(self, command: Sequence[str | Path], sql: str, database: str | None, seconds_max: float) -> str:
        """What psql prints for ``sql``: one at ``database``, or one of its own; ``command`` starts it."""
        if _ABOUT_SESSIONS.search(sql):
            self.close()
            database = None
        elif _ABOUT_DATABASES.search(sql):
            self.close(set(re.findall(r"\w+", sql)))
        client = (database and self._take(command, seconds_max)) or SecondClient.start(command)
        try:
            answer = client.ask(sql, seconds_max)
        except BaseException:
            client.close()
            raise
        if database is None:
            client.close()
        else:
            self._keep(database, client)
        return answer

    def close(self, databases: set[str] | None = None) -> None:
        """End those that wait at ``databases``, or all."""
        with self.lock:
            ended = [one for one in self.waiting if databases is None or one[0] in databases]
            self.waiting = [one for one in self.waiting if one not in ended]
        for _, client in ended:
            client.close()

    def _take(self, command: Sequence[str | Path], seconds_max: float) -> SecondClient | None:
        """Take one that waits, was started by ``command`` and has its connection, if there is one."""
        while True:
            with self.lock:
                found = next((one for one in self.waiting if one[1].command == command), None)
                if found is None:
                    return None
                self.waiting.remove(found)
            if found[1].is_there(seconds_max):
                return found[1]
            found[1].close()

    def _keep(self, database: str, client: SecondClient) -> None:
        with self.lock:
            self.waiting.append((database, client))
            ended = self.waiting[:-KEPT_MAX]
            del self.waiting[:-KEPT_MAX]
        for _, one in ended:
            one.close()
