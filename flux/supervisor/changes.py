"""Which rows an execution changed, as its own connection tells.

The capture triggers send the images of each changed row as a NOTICE, before the
statement that changed them has even answered. So rows are known also when the
transaction is rolled back afterwards, which is the whole point: the log table
forgets them, we don't.

What is *committed* is never decided here: the log table is the truth, and a
record stores only what was rolled back. A savepoint or a transaction that we ended
ourselves is certain. A subtransaction that we did not see (an exception block inside
a function) may have undone a part of a call; whose call could hold one, is in doubt
until the log has been asked (`find_surviving_mutations`).

Nothing here trusts what a guest can set. The order of statements is that of their
``seq``, drawn from a sequence that guests can't touch and told under a MAC; the
``ordinal`` in a notice comes from a setting of the session, which any guest can
overwrite, and only serves to find the call of a row in the log.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable

import attrs
import msgspec

from flux.mutation import OPERATION_OF_LETTER, Mutation, Operation
from flux.redact import Redactor
from flux.store.postgres import Notice

CAPTURE_SQLSTATE = "FX001"

IMAGE_BYTES_MAX = 32 * 2**20
"""So much of the rows that an execution changes is kept for the case that they are rolled back. The log
has all rows that stay."""


class _Header(msgspec.Struct):
    """What the trigger function says about a statement; unknown keys are a newer trigger's."""

    version: int
    op: str
    xid: str
    ordinal: int
    seq: int
    depth: int
    rows: int
    cut: bool
    key: list[str]
    mac: str


_header_decoder = msgspec.json.Decoder(_Header)
_images_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_row_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@attrs.frozen
class CapturedStatement:
    """One statement's row changes."""

    call: int
    """Seq of the host call during which they were made."""
    xid: int
    ordinal: int
    """Number of the capturing statement within its transaction; undone with a subtransaction."""
    seq: int
    """The last one of its rows in the log."""
    depth: int
    rows: int
    """How many rows there are, also when not all images came."""
    cut: bool
    """There are more rows than images."""
    mutations: tuple[Mutation, ...]


def read_notice(notice: Notice, secret: str, call: int, now_ns: int) -> CapturedStatement | None:
    """Return what a capture NOTICE says; None when it is not one of ours.

    A guest can raise NOTICEs too, with any text. Ours carry a MAC under a secret that guests can't read.
    """
    if notice.sqlstate != CAPTURE_SQLSTATE:
        return None
    befores, afters = notice.detail or "", notice.hint or ""
    signed, separator, rest = notice.message.rpartition(',"mac":"')
    if not separator:
        return None
    text = f"{secret}{signed}}}{len(befores.encode())} {len(afters.encode())}"
    expected = hashlib.sha256(text.encode()).hexdigest()[:32]
    if not hmac.compare_digest(expected.encode(), rest.removesuffix('"}').encode()):
        return None
    header = _header_decoder.decode(notice.message)
    old = [bytes(image).decode() for image in _images_decoder.decode(befores)] if befores else []
    new = [bytes(image).decode() for image in _images_decoder.decode(afters)] if afters else []
    xid = int(header.xid)

    def make(op: Operation, before: str | None, after: str | None) -> Mutation:
        return Mutation(
            schema=notice.schema or "", table=notice.table or "", key=_key_text(after or before or "{}", header.key),
            op=op, before=before, after=after, committed=False, xid=xid, ordinal=header.ordinal,
            depth=header.depth, call=call, at_ns=now_ns,
        )  # fmt: skip

    mutations: list[Mutation]
    operation = OPERATION_OF_LETTER[header.op]
    if operation is not Operation.UPDATE:
        images: list[tuple[str | None, str | None]] = [(image, None) for image in old]
        images += [(None, image) for image in new]
        mutations = [make(operation, before, after) for before, after in images]
    else:
        pairs = list(zip(old, new, strict=False))
        keys_changed = len(old) != len(new) and not header.cut
        keys_changed |= any(_key_text(before, header.key) != _key_text(after, header.key) for before, after in pairs)
        if keys_changed and header.key:
            # As the log has it: a changed key is a delete and an insert, all the deletes first.
            mutations = [make(Operation.DELETE, image, None) for image in old]
            mutations += [make(Operation.INSERT, None, image) for image in new]
        else:
            mutations = [make(operation, before, after) for before, after in pairs]
    return CapturedStatement(
        call, xid, header.ordinal, header.seq, header.depth, header.rows, header.cut, tuple(mutations)
    )


def _key_text(image: str, columns: list[str]) -> str | None:
    """The primary key as the log writes it: ``{"id":42}``."""
    if not columns:
        return None
    row = _row_decoder.decode(image)
    # The trigger's to_json() writes non-ASCII as it is.
    parts = (f"{json.dumps(column, ensure_ascii=False)}:{bytes(row[column]).decode()}" for column in columns)
    return "{" + ",".join(parts) + "}"


class Changes:
    """The row changes of one execution, through all its transactions."""

    def __init__(self, secret: str, redactor: Redactor, tell: Callable[[int, tuple[Mutation, ...]], None]) -> None:
        self._secret = secret
        self._redactor = redactor
        self._tell = tell
        self._open: list[CapturedStatement] = []
        """Statements of the transaction in progress, in order."""
        self._image_bytes = 0
        self._doubtful_calls: set[int] = set()
        """Calls of the transaction in progress of which a part may have been undone out of our sight."""
        self.rolled_back: list[Mutation] = []
        """Certainly undone."""
        self.ordinals: list[tuple[int, int, int]] = []
        """(xid, ordinal, call) of what was kept."""
        self.row_count = 0
        """All rows changed, undone ones included."""
        self.cut_calls: set[int] = set()
        """Calls that changed more rows than images are kept of."""
        self.call = 0
        """The host call that is being performed."""

    def take(self, notice: Notice, now_ns: int) -> None:
        """Take a notice from the execution's connection; one that is not ours is left alone."""
        statement = read_notice(notice, self._secret, self.call, now_ns)
        if statement is None:
            return
        redacted = tuple(map(self._redactor.mutation, statement.mutations))
        self._image_bytes += len(notice.detail or "") + len(notice.hint or "")
        if statement.cut or self._image_bytes > IMAGE_BYTES_MAX:
            self.cut_calls.add(self.call)
        kept = redacted if self._image_bytes <= IMAGE_BYTES_MAX else ()
        self.row_count += statement.rows
        if statement.depth > 1 or (self._open and self._open[-1].call == self.call):
            # More happened than the statement itself, so an exception block may have undone a part of it.
            self._doubtful_calls.add(self.call)
        self._open.append(attrs.evolve(statement, mutations=kept))
        self._tell(self.call, redacted)

    def ran(self, affected: int | None) -> None:
        """The statement of this call has run; ``affected`` are its own rows, None when it may hold other statements.

        What was captured beyond them was done by functions that it called.
        """
        mine = [statement for statement in self._open if statement.call == self.call]
        if mine and (affected is None or sum(statement.rows for statement in mine) != affected):
            self._doubtful_calls.add(self.call)

    def mark(self) -> int:
        """Return a place to come back to: where a savepoint stands."""
        return self._open[-1].seq if self._open else 0

    def undo_to(self, mark: int) -> None:
        """A savepoint was rolled back by us: what came after ``mark`` is gone."""
        self._undo([statement for statement in self._open if statement.seq > mark])
        self._open = [statement for statement in self._open if statement.seq <= mark]

    def undo_all(self) -> None:
        """The transaction was rolled back."""
        self.undo(self.set_aside())

    def undo(self, statements: "SetAside") -> None:
        """The transaction of these statements was rolled back."""
        self._undo([*statements.sure, *statements.doubtful])

    def _undo(self, statements: list[CapturedStatement]) -> None:
        ordered = sorted(statements, key=lambda statement: statement.seq)
        self.rolled_back += [mutation for statement in ordered for mutation in statement.mutations]

    def set_aside(self) -> "SetAside":
        """Forget the transaction in progress, and return its statements."""
        doubtful = [statement for statement in self._open if statement.call in self._doubtful_calls]
        sure = [statement for statement in self._open if statement.call not in self._doubtful_calls]
        self._open.clear()
        self._doubtful_calls.clear()
        return SetAside(tuple(sure), tuple(doubtful))

    def keep(self, statements: "SetAside") -> tuple[CapturedStatement, ...]:
        """The transaction of these was committed. Return those of which the log must say what became of them."""
        self.ordinals += _list_ordinals([*statements.sure, *statements.doubtful])
        return statements.doubtful

    def ordinals_with_open(self) -> list[tuple[int, int, int]]:
        """Return `ordinals` as they are once the transaction in progress is committed."""
        return self.ordinals + _list_ordinals(self._open)

    def peek_all(self) -> tuple[Mutation, ...]:
        """Return what will have been undone if the transaction in progress is rolled back."""
        return (*self.rolled_back, *(mutation for statement in self._open for mutation in statement.mutations))

    @property
    def has_any(self) -> bool:
        """The transaction in progress has changed rows that are captured."""
        return bool(self._open)

    @property
    def xid(self) -> int | None:
        """Id of the transaction in progress, when it has changed rows that are captured."""
        return self._open[0].xid if self._open else None


@attrs.frozen
class SetAside:
    """The statements of a transaction that is over."""

    sure: tuple[CapturedStatement, ...]
    """They share the transaction's fate."""
    doubtful: tuple[CapturedStatement, ...]
    """They may have been undone inside it."""


def _list_ordinals(statements: Iterable[CapturedStatement]) -> list[tuple[int, int, int]]:
    ordered = sorted(statements, key=lambda statement: statement.seq)
    return [(statement.xid, statement.ordinal, statement.call) for statement in ordered]
