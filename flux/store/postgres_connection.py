"""One session with a database: statements, transactions, notifications, and how each of them ends.

A `Connection` keeps statements prepared, learns types when it meets them and
turns every failure into one of `flux.store.database_errors`. After a cancelled
statement it is usable, and whether it is inside a transaction is what the server
last said, not what we hoped: a cancelled BEGIN may well have run.
"""

import contextlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
import trio

from flux.errors import BrokenInvariantError
from flux.store.asyncpg_seam import (
    DataError,
    InterfaceError,
    InternalClientError,
    InvalidCachedStatementError,
    InvalidSQLStatementNameError,
    OutdatedSchemaCacheError,
    PostgresError,
)
from flux.store.database_errors import (
    AnswerTooLarge,
    BadQueryArgument,
    CommitUnknown,
    ConnectionBusy,
    ConnectionLost,
    DatabaseError,
    Notice,
    StatementRefused,
    UnreadableAnswer,
)
from flux.store.postgres_answers import Column, Isolation, Notification, Result, Row
from flux.store.postgres_bracket import CommitBehind
from flux.store.postgres_limits import arguments_sending_s, limit_transaction
from flux.store.postgres_messages import CopyFeed, CopyRefusal, FirstTag, MarkedValue, RowDescription
from flux.store.postgres_reports import check_committed, is_about_arguments, lost_connection, translate
from flux.store.postgres_reset import RESET, RESET_IN_TRANSACTION
from flux.store.postgres_snapshots import SNAPSHOT_SQL, SnapshotBracket
from flux.store.postgres_types import DESCRIBE_TYPES, TypeRegistry, set_codecs
from flux.store.postgres_wire import CANCEL_GRACE_S, Wire

COMMIT_S_MAX = 60.0
"""How long COMMIT may take, beside the time that the bytes have which travel along. It is not interrupted."""

NAMED_STATEMENT_CHARS_MAX = 32768
"""A longer statement is not kept prepared: it is hardly the one that comes again."""

_COPY_WITH_CLIENT = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*copy\b.*\b(?:from\s+stdin|to\s+stdout)\b", re.IGNORECASE | re.DOTALL
)

@attrs.frozen
class _Statement:
    """A prepared statement."""

    state: Any
    """asyncpg's side of it."""

    columns: tuple[Column, ...]
    """What it returns."""


class Connection:
    """One session with a database. `connect` makes one; one task uses it at a time.

    Statements are prepared once per connection and kept (least recently used go first). Values travel
    as ``$1``, ``$2`` ...; their types are listed in `flux.store.column_values`.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._protocol = wire.protocol
        self._types = TypeRegistry(self._protocol.get_settings())
        self._statements: OrderedDict[str, _Statement] = OrderedDict()
        self._to_close: list[Any] = []
        self._sent_along: dict[str, _Statement] = {}
        """Statements without a name, for `fetch_value_anew`."""
        self._statement_count = 0
        self._savepoint_count = 0
        self._is_busy = False
        self.is_dirty = False
        """Whether the session's settings, locks or channels were touched: the pool then resets it."""
        set_codecs(self._types.settings, json_as_text=wire.options.json_as_text)

    def __repr__(self) -> str:
        return f"<Connection {self.backend_pid} to {self._wire.options.place}>"

    @property
    def backend_pid(self) -> int:
        """Process id of the server's process at the other end."""
        return int(self._protocol.backend_pid)

    @property
    def server_version(self) -> str:
        """As the server says it, ``18.6`` for instance."""
        return str(self._types.settings.server_version)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed ones included, by the server's last word."""
        return bool(self._protocol.is_in_transaction())

    @property
    def is_closed(self) -> bool:
        """Whether this connection is over."""
        return self._wire.is_closed

    @property
    def is_silent(self) -> bool:
        """Whether it is over because the server did not answer."""
        return self._wire.is_silent

    @property
    def uses_tls(self) -> bool:
        """Whether what is said here is encrypted."""
        return self._wire.tls is not None

    @property
    def on_notice(self) -> Callable[[Notice], None] | None:
        """Called with each notice as it arrives, synchronously; what it raises, the statement raises."""
        return self._wire.on_notice

    @on_notice.setter
    def on_notice(self, callback: Callable[[Notice], None] | None) -> None:
        self._wire.on_notice = callback

    @property
    def answer_bytes_max(self) -> int | None:
        """What one answer may take, as the server sends it and notices not counted; None: whatever comes.

        A statement whose answer is larger is ended while it comes, and raises `AnswerTooLarge`.
        """
        return self._wire.answer_bytes_max

    @answer_bytes_max.setter
    def answer_bytes_max(self, bytes_max: int | None) -> None:
        self._wire.answer_bytes_max = bytes_max

    # Statements.

    async def execute(self, sql: str, *args: object) -> str:
        """Run ``sql`` for its effect; returns the command's tag.

        Without arguments it may hold several statements: they are one transaction unless they say
        otherwise, and the tag is the last one's.
        """
        if args:
            return (await self._query(sql, args))[2]
        with self._exclusive():
            if "stdin" in sql.lower():
                self._wire.tap = CopyRefusal(self._wire)
            try:
                tag: str = await self._protocol.query(sql, None)
            except AttributeError as error:
                # asyncpg decodes the tag, and the empty statement has none.
                if error.name != "decode" or error.obj is not None:
                    raise
                tag = ""
            except Exception as error:
                raise self._translated(error) from None
            finally:
                self._wire.tap = None
            self._raise_callback_error()
            return tag

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """All rows of one statement."""
        return (await self._query(sql, args))[1]

    async def fetch_row(self, sql: str, *args: object) -> Row | None:
        """The first row of one statement, or None without one."""
        rows = (await self._query(sql, args))[1]
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, *args: object) -> Any:
        """The first column of the first row of one statement, or None without one."""
        rows = (await self._query(sql, args))[1]
        return rows[0][0] if rows else None

    async def fetch_value_anew(self, sql: str, *args: object) -> Any:
        """As `fetch_value`, but surely with this very ``sql``: it is sent along, in the same packet.

        Statements that are kept prepared have names, and SQL that ran before on this connection may have
        put something else under one. What is kept here is only how values are encoded, for one of Flux's own
        statements: there are few. What they take changes when a newer Flux migrates the schema while this one drains:
        so after a failure it is learned again.
        """
        self._enter()
        try:
            statement = self._sent_along.get(sql)
            if statement is None:
                statement, rows, _ = await self._query_anew(sql, args, keep=False)
                self._sent_along[sql] = statement
            else:
                statement.state.mark_unprepared()  # So asyncpg sends Parse before Bind.
                try:
                    rows, _, _ = await self._protocol.bind_execute(statement.state, args, "", 0, True, None)
                except Exception:
                    self._sent_along.pop(sql, None)
                    raise
                self._raise_callback_error()
            return rows[0][0] if rows else None
        except (PostgresError, InterfaceError, InternalClientError) as error:
            raise self._translated(error) from None
        finally:
            self._is_busy = False

    async def run(self, sql: str, args: Sequence[object] = ()) -> Result:
        """All there is to know about one statement's answer. ``sql`` is exactly one statement."""
        statement, rows, tag = await self._query(sql, args)
        return Result(statement.columns, [tuple(row) for row in rows], tag)

    async def run_between(self, sql: str, args: Sequence[object], bracket: SnapshotBracket) -> Result:
        """As `run`, and see in ``bracket`` between which snapshots; for statements of an open transaction.

        It stays empty where nothing is kept prepared.
        """
        self._enter()
        try:
            question = await self._statement(SNAPSHOT_SQL)
            is_kept = sql in self._statements
            statement = await self._statement(sql)
            if name := question.state.name:
                bracket.set_name(name)
                self._wire.bracket = bracket
            try:
                rows, tag, _ = await self._protocol.bind_execute(statement.state, args, "", 0, True, None)
            except (InvalidCachedStatementError, InvalidSQLStatementNameError):
                self._forget_statements()
                raise
            except (InterfaceError, DataError) as error:
                self._wire.bracket = None
                if is_about_arguments(error) and not is_kept:
                    self._statements.pop(sql, None)
                    await self._protocol.close_statement(statement.state, None)
                raise
            self._raise_callback_error()
            return Result(statement.columns, [tuple(row) for row in rows], tag.decode() if tag else "")
        except (PostgresError, InterfaceError, InternalClientError) as error:
            raise self._translated(error) from None
        except (ArithmeticError, ValueError, LookupError, TypeError, BufferError) as error:
            raise self._translated(error) from error  # A value of the answer could not be decoded.
        finally:
            self._wire.bracket = None
            self._is_busy = False

    async def copy_records(
        self,
        table: str,
        columns: Sequence[str],
        records: Iterable[Sequence[object]],
        *,
        schema: str | None = None,
    ) -> int:
        """Add rows to ``table``, fast; returns their number.

        ``records`` is consumed as the server takes it. All of them are added, or none.
        """
        place = ".".join(quote_identifier(part) for part in (schema, table) if part)
        names = ", ".join(quote_identifier(column) for column in columns)
        with self._exclusive():
            feed = CopyFeed(self._wire, records)
            try:
                statement = await self._statement(f"select {names} from {place}")
                copy = f"copy {place} ({names}) from stdin (format binary)"
                tag = await self._protocol.copy_in(copy, None, None, feed, statement.state, None)
            except Exception as error:
                await self._copy_failed(error, feed, place)
                raise AssertionError("unreachable: _copy_failed() raises") from error
            self._raise_callback_error()
            return int(tag.rpartition(" ")[2])

    # Transactions.

    async def begin(
        self, isolation: Isolation | str | None = None, *, read_only: bool = False, most_s: float | None = None
    ) -> None:
        """Open a transaction. If this is cancelled, it may have been opened: ask `in_transaction`.

        After ``most_s`` seconds the server ends it, with the session where need be (until 17: where a statement takes
        so long, or none comes for so long). A client that is gone without a word can't, and its locks would stay.
        """
        level = f" isolation level {Isolation(isolation)}" if isolation is not None else ""
        limits = limit_transaction(self.server_version, most_s)
        await self.execute(f"begin{level}{' read only' if read_only else ''}{limits}")

    async def begin_and_fetch(self, isolation: Isolation | str, sql: str) -> str:
        """Open a transaction and ask in it, in one round trip; return the text of the only column of the only row.

        ``sql`` is sent along, so it is this very statement whatever ran before, and it is its answer whatever else the
        server had to say. Cancelled, as `begin`.
        """
        answer = MarkedValue()
        script = (
            f"begin isolation level {Isolation(isolation)}; select '{answer.mark}', asked.* from ({sql}) as asked"
        )
        await self._run_script(script, answer)
        told = answer.find_text()
        if told is None:
            raise BrokenInvariantError(f"{sql!r} was answered without a row, or with null")
        return told

    async def commit(self) -> None:
        """Commit. Cancellation waits until the answer is there, at most `COMMIT_S_MAX`: then the server shall stop.

        `CommitUnknown` says that the connection broke before the answer, or that none came; `DatabaseError` that
        nothing was committed: the transaction was rolled back instead, or is still open and failed.
        """
        with self._committing(first := FirstTag()):
            await self._run_script("commit", first)
        check_committed(first.tag)

    async def commit_with(self, sql: str, *args: object) -> Any:
        """Run one more statement, commit, and return the statement's value: as `fetch_value_anew` and then `commit`.

        Both travel in one packet. Where the statement fails, nothing is committed: also where it is that which
        takes more than `COMMIT_S_MAX`, waiting for a lock for instance. The value is None where the transaction was
        committed and its answer was not heard out, or can't be read.
        """
        self._enter()
        try:
            statement = self._sent_along.get(sql)
            if statement is None:
                statement = self._sent_along[sql] = await self._statement(sql, keep=False)
            else:
                statement.state.mark_unprepared()  # So asyncpg sends Parse before Bind.
            behind = self._wire.bracket = CommitBehind()
            rows: list[Row] = []
            with self._committing(behind, COMMIT_S_MAX + arguments_sending_s(args)):
                try:
                    rows, _, _ = await self._protocol.bind_execute(statement.state, args, "", 0, True, None)
                except Exception as error:
                    raise self._translated(error) from None
            self._raise_callback_error()
            check_committed(behind.tag)
            return rows[0][0] if rows else None
        except BaseException as error:
            self._sent_along.pop(sql, None)
            if isinstance(error, PostgresError | InterfaceError | InternalClientError):
                raise self._translated(error) from None
            raise
        finally:
            self._wire.bracket = None
            self._is_busy = False

    async def commit_and_reset(self) -> None:
        """Commit, and make the session as new: as `commit` and then `reset`, in one packet.

        Where the session can't be made as new, the connection is closed, and the COMMIT stands.
        """
        first = FirstTag()
        try:
            with self._committing(first):
                await self._run_script(f"commit; {self._reset_script}", first)
                self._note_reset()
        except (DatabaseError, CommitUnknown):
            if first.tag != "COMMIT":
                raise
            self.terminate()
        check_committed(first.tag)

    @contextlib.contextmanager
    def _committing(self, answer: CommitBehind | FirstTag, commit_s: float | None = None) -> Iterator[None]:
        """Around what holds a COMMIT: not interrupted, and where it is not answered, nobody knows what became of it.

        Where the time is up, or the answer too large (a trigger may say much at COMMIT), and the server has ended the
        statement, what it said last may tell; so too where it can't be read, in an encoding that SQL has given the
        session. What that has notified itself of, behind a COMMIT that took place, is no answer, nor has it the limit
        of an answer's time.
        """
        wire = self._wire
        most_s, wire.answer_s_max = wire.answer_s_max, None
        commit_s = commit_s or COMMIT_S_MAX
        ended, is_unheard = f"took longer than {commit_s:g} s", False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + commit_s) as scope:
            try:
                yield
            except ConnectionLost as error:
                raise CommitUnknown(
                    "the connection broke during COMMIT, so whether it took place is not known: "
                    f"{error.message}",
                    remedy="look whether its rows are there before running it again",
                ) from error
            except (AnswerTooLarge, UnreadableAnswer) as error:
                is_unheard, ended = True, f"was not heard out: {error.message}"
            finally:
                wire.answer_s_max = most_s
        if is_unheard or scope.cancelled_caught:
            if not self.is_closed and answer.tag == "COMMIT":
                return
            if not self.is_closed and self.in_transaction:
                # Behind a COMMIT that was carried out, no transaction is open.
                raise DatabaseError(
                    Notice(
                        severity="ERROR",
                        sqlstate="57014",
                        message=f"nothing was committed: the transaction's end {ended}",
                    )
                )
            self.terminate()
            raise CommitUnknown(
                f"the answer to COMMIT {ended}; so whether it took place is not known",
                remedy="look whether its rows are there before running it again",
            )

    async def rollback(self) -> None:
        """Undo the open transaction."""
        await self.execute("rollback")

    @contextlib.asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation | str | None = None, read_only: bool = False, most_s: float | None = None
    ) -> AsyncIterator[None]:
        """A transaction around a block: committed at its end, rolled back if it raises or is cancelled.

        Inside a transaction it is a savepoint, and then has no isolation and no ``most_s`` (see `begin`) of its own.
        """
        if self.in_transaction:
            if isolation is not None or read_only or most_s is not None:
                raise StatementRefused(
                    "isolation, read only and a limit are a whole transaction's, and this one is inside another",
                    remedy="give them to the outer transaction",
                )
            async with self._savepoint():
                yield
            return
        try:
            await self.begin(isolation, read_only=read_only, most_s=most_s)
            yield
        except BaseException:
            await self.settle()
            raise
        await self.commit()

    async def settle(self) -> None:
        """Leave no transaction open: rolled back, shielded, and the connection is closed if that fails."""
        if self.is_closed or not self.in_transaction:
            return
        deadline = trio.current_time() + CANCEL_GRACE_S
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                await self.rollback()
            except (DatabaseError, ConnectionLost, UnreadableAnswer):
                self.terminate()  # The server rolls back what its client left open.
        if scope.cancelled_caught:
            self.terminate()

    async def reset(self) -> None:
        """Make the session as new: settings, role, locks, channels, temporary tables."""
        await self.execute(self._reset_script)
        self._note_reset()

    @property
    def _reset_script(self) -> str:
        return RESET.format(kept=len(self._statements) + len(self._to_close))

    def _note_reset(self) -> None:
        self._wire.notifications.clear()
        self.is_dirty = False

    async def reset_in_transaction(self) -> None:
        """Make the session as it was at the savepoint that was just gone back to; raise if SQL has put statements
        of its own among ours."""
        await self.execute(RESET_IN_TRANSACTION.format(kept=len(self._statements) + len(self._to_close)))

    # Notifications.

    async def listen(self, channel: str) -> None:
        """Hear what is sent with NOTIFY on ``channel``."""
        self.is_dirty = True
        await self.execute(f"listen {quote_identifier(channel)}")

    async def wait_notification(self) -> Notification:
        """The next notification, in the order they came; where more waited than are kept, the oldest are gone."""
        with self._exclusive():
            if self._wire.notifications:
                await trio.lowlevel.checkpoint()
            while not self._wire.notifications:
                if self.is_closed:
                    raise self._lost()
                await self._wire.wait_message()
            return self._wire.notifications.popleft()

    # The end.

    def terminate(self) -> None:
        """Close at once. What runs, fails with `ConnectionLost`."""
        self._wire.hang_up()

    async def aclose(self) -> None:
        """Close. The server rolls back what is open."""
        self._wire.hang_up()
        await trio.lowlevel.checkpoint()

    def check_alive(self) -> bool:
        """Whether the server is still there, as far as the socket knows; for an idle connection."""
        return self._wire.is_quiet()

    # Inside.

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._is_busy = False

    def _enter(self) -> None:
        if self._is_busy:
            raise ConnectionBusy(
                f"two tasks use one connection at the same time: {self!r}",
                remedy="take a connection of its own from the pool for each task",
            )
        if self._wire.is_closed:
            raise self._lost()
        self._is_busy = True

    async def _run_script(self, script: str, tap: Callable[[bytes], None]) -> None:
        """Run statements without arguments, and let ``tap`` see what the server says of each."""
        with self._exclusive():
            self._wire.tap = tap
            try:
                await self._protocol.query(script, None)
            except Exception as error:
                raise self._translated(error) from None
            finally:
                self._wire.tap = None
            self._raise_callback_error()

    async def _query(self, sql: str, args: Sequence[object]) -> tuple[_Statement, list[Row], str]:
        # The way every statement goes, so written out: no context manager, no helper on the good path.
        self._enter()
        try:
            statement = self._statements.get(sql)
            if statement is None:
                return await self._query_anew(sql, args)
            self._statements.move_to_end(sql)
            try:
                rows, tag, _ = await self._protocol.bind_execute(statement.state, args, "", 0, True, None)
            except (InvalidCachedStatementError, InvalidSQLStatementNameError) as error:
                # The schema has changed under the prepared statement, or somebody deallocated it.
                self._forget_statements()
                if self.in_transaction:
                    raise self._translated(error) from None
                return await self._query_anew(sql, args)
            if self._wire.callback_error is not None:
                self._raise_callback_error()
            return statement, rows, tag.decode() if tag else ""
        except (PostgresError, InterfaceError, InternalClientError) as error:
            raise self._translated(error) from None
        except (ArithmeticError, ValueError, LookupError, TypeError, BufferError) as error:
            raise self._translated(error) from error  # A value of the answer could not be decoded.
        finally:
            self._is_busy = False

    async def _query_anew(
        self, sql: str, args: Sequence[object], *, keep: bool = True
    ) -> tuple[_Statement, list[Row], str]:
        statement = await self._statement(sql, keep=keep)
        try:
            rows, tag, _ = await self._protocol.bind_execute(statement.state, args, "", 0, True, None)
        except (InterfaceError, DataError) as error:
            if is_about_arguments(error):
                # Nothing was sent after Parse: the server is still inside the transaction that Parse
                # began, with its locks and its now(). Close comes with the Sync that ends it.
                if keep:
                    self._statements.pop(sql, None)
                await self._protocol.close_statement(statement.state, None)
            raise
        self._raise_callback_error()
        return statement, rows, tag.decode() if tag else ""

    async def _statement(self, sql: str, *, keep: bool = True) -> _Statement:
        """``sql``, prepared; under a name of its own if it is to be kept and used again."""
        if keep and (statement := self._statements.get(sql)) is not None:
            self._statements.move_to_end(sql)
            return statement
        if _COPY_WITH_CLIENT.match(sql):
            raise StatementRefused(
                "COPY from stdin and to stdout need a stream of rows beside the statement",
                remedy="use copy_records() to write rows, and a SELECT to read them",
            )
        while self._to_close:
            await self._protocol.close_statement(self._to_close.pop(), None)
        is_kept = (
            keep and self._wire.options.statement_cache_size > 0 and len(sql) <= NAMED_STATEMENT_CHARS_MAX
        )
        self._statement_count += 1
        described = RowDescription()
        self._wire.tap = described
        try:
            state = await self._protocol.prepare(
                f"flux_{self._statement_count}" if is_kept else "", sql, None, record_class=Row
            )
        finally:
            self._wire.tap = None
        if await self._learn_types(state) and not is_kept:
            state.mark_unprepared()  # Learning has used the unnamed statement for itself.
        state._init_codecs()
        statement = _Statement(state, described.columns(state._get_attributes()))
        if is_kept:
            self._statements[sql] = statement
            if len(self._statements) > self._wire.options.statement_cache_size:
                self._to_close.append(self._statements.popitem(last=False)[1].state)
        return statement

    async def _learn_types(self, state: Any) -> bool:
        """See to it that ``state`` can be encoded and decoded; whether the server had to be asked."""
        has_asked = False
        for _ in range(8):  # Registering a composite makes asyncpg forget derived types: look again.
            unknown = state._init_types()
            if not unknown:
                return has_asked
            while asked := self._types.undescribed(unknown):
                has_asked = True
                statement = await self._statement(DESCRIBE_TYPES)
                rows, _, _ = await self._protocol.bind_execute(
                    statement.state, [sorted(asked)], "", 0, True, None
                )
                self._types.learn(asked, (dict(row.items()) for row in rows))
            for oid in sorted(unknown):
                self._types.register(oid)
        raise BrokenInvariantError(f"types {sorted(state._init_types())} cannot be resolved: {state.query!r}")

    def _forget_statements(self) -> None:
        self._to_close += [statement.state for statement in self._statements.values()]
        self._statements.clear()
        self._sent_along.clear()

    def _raise_callback_error(self) -> None:
        error, self._wire.callback_error = self._wire.callback_error, None
        if error is not None:
            raise error

    async def _copy_failed(self, error: Exception, feed: CopyFeed, place: str) -> None:
        """End a COPY that went wrong, and raise what it was."""
        if self._wire.is_cancelling:
            await self._wire.finish_cancel()
        if feed.interruption is not None:
            raise feed.interruption
        if isinstance(error, PostgresError):
            raise self._translated(error) from None
        if feed.count:
            raise BadQueryArgument(
                f"record {feed.count} for {place} does not fit its columns, and none was added: {error}",
                remedy="each record holds one value per column; COPY converts no types",
            ) from error
        raise self._translated(error) from error

    @contextlib.asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        self._savepoint_count += 1
        name = f"flux_{self._savepoint_count}"
        await self.execute(f"savepoint {name}")
        try:
            yield
        except BaseException:
            if not self.is_closed and self.in_transaction:
                deadline = trio.current_time() + CANCEL_GRACE_S
                with trio.CancelScope(shield=True, deadline=deadline) as scope:
                    try:
                        await self.execute(f"rollback to savepoint {name}; release savepoint {name}")
                    except (DatabaseError, ConnectionLost, UnreadableAnswer):
                        self.terminate()  # Nothing may be committed of which we do not know what it holds.
                if scope.cancelled_caught:
                    self.terminate()
            raise
        await self.execute(f"release savepoint {name}")

    def _translated(self, error: Exception) -> Exception:
        """``error``, which asyncpg raised, as one of ours."""
        if type(error) is InternalClientError:
            # The protocol takes no statement any more: the server's good-bye came right behind the last
            # answer, so that nobody waited for it. This statement has not been sent.
            self._wire.hang_up()
            return self._lost()
        if isinstance(error, OutdatedSchemaCacheError):
            # A composite type has changed. Nothing to repeat, the statement has run.
            self._types.forget()
            self._forget_statements()
        return translate(error, self._wire.options.place, self._wire.lost_because)

    def _lost(self) -> ConnectionLost:
        return lost_connection(self._wire.options.place, self._wire.lost_because, is_mid_statement=False)


def quote_identifier(name: str) -> str:
    """``name`` as SQL writes it whatever it holds; Postgres allows anything but a zero byte."""
    return '"' + name.replace('"', '""') + '"'
