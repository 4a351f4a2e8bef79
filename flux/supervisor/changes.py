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

import functools
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

KEYS_MAX = 1024
"""So many primary keys are remembered, as their columns are written; who has more tables pays a little more."""

IMAGE_BYTES_MAX = 32 * 2**20
"""So much of the rows that an execution changes is kept for the case that they are rolled back. The log
has all rows that stay."""


class _Header(msgspec.Struct, array_like=True):
    """What the trigger function says about a statement, in this order; more at its end is a newer trigger's."""

    version: int
    op: str
    xid: int
    ordinal: int
    seq: int
    relid: int
    depth: int
    rows: int
    cut: bool
    key: list[str]
    """Names of the primary key's columns, sorted."""
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
    signed, _, mac = notice.message.rpartition(',"')
    text = f"{secret}{signed}{len(befores)} {len(afters)}"
    expected = hashlib.sha256(text.encode()).hexdigest()[:32] + '"]'
    if not hmac.compare_digest(expected.encode(), mac.encode()):
        return None
    header = _header_decoder.decode(notice.message)
    old, new = _split_images(befores), _split_images(afters)
    write_key = _key_writer(tuple(header.key))
    schema, table = notice.schema or "", notice.table or ""

    def make(op: Operation, key: str | None, before: str | None, after: str | None) -> Mutation:
        return Mutation(
            schema, table, key, op, before, after, committed=False, xid=header.xid, ordinal=header.ordinal,
            depth=header.depth, call=call, at_ns=now_ns,
        )  # fmt: skip

    operation = OPERATION_OF_LETTER[header.op]
    if operation is not Operation.UPDATE:
        mutations = [make(operation, write_key(image), image, None) for image in old]
        mutations += [make(operation, write_key(image), None, image) for image in new]
    else:
        old_keys, new_keys = [write_key(image) for image in old], [write_key(image) for image in new]
        if header.key and old_keys != new_keys and not (header.cut and _agree(old_keys, new_keys)):
            # As the log has it: a changed key is a delete and an insert, all the deletes first.
            mutations = [make(Operation.DELETE, key, image, None) for key, image in zip(old_keys, old, strict=True)]
            mutations += [make(Operation.INSERT, key, None, image) for key, image in zip(new_keys, new, strict=True)]
        else:
            mutations = [make(operation, *each) for each in zip(new_keys, old, new, strict=False)]
    return CapturedStatement(
        call, header.xid, header.ordinal, header.seq, header.depth, header.rows, header.cut, tuple(mutations)
    )


def _split_images(text: str) -> list[str]:
    """The elements of a JSON array as they are written, since parsing would lose -0 and spaces."""
    return [bytes(image).decode() for image in _images_decoder.decode(text)] if text else []


@functools.lru_cache(KEYS_MAX)
def _key_writer(columns: tuple[str, ...]) -> Callable[[str], str | None]:
    """How to write the primary key of an image as the log does: ``{"id":42}``."""
    if not columns:
        return lambda _image: None
    # The trigger's to_json() writes non-ASCII as it is.
    heads = [(column, json.dumps(column, ensure_ascii=False)) for column in columns]

    def write(image: str) -> str:
        row = _row_decoder.decode(image)
        return "{" + ",".join([f"{head}:{bytes(row[column]).decode()}" for column, head in heads]) + "}"

    return write


def _agree(old_keys: list[str | None], new_keys: list[str | None]) -> bool:
    """Of images that were cut, fewer may have come of one kind; the rows that came of both have the same keys."""
    return all(old == new for old, new in zip(old_keys, new_keys, strict=False))


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
        self._open.append(statement if kept == statement.mutations else attrs.evolve(statement, mutations=kept))
        self._tell(self.call, redacted)

    def ran(self, affected: int | None) -> None:
        """The statement of this call has run; ``affected`` are its own rows, None when it may hold other statements.

        What was captured beyond them was done by functions that it called.
        """
        rows: int | None = None
        for statement in reversed(self._open):  # Its own are the last: those before may be many.
            if statement.call != self.call:
                break
            rows = statement.rows + (rows or 0)
        if rows is not None and rows != affected:
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
