"""Which rows are told to be undone, and that no guest decides it.

Notices are made here as the capture triggers make them; integration tests hold the triggers to it.
"""

import hashlib
import json

import pytest

from flux.mutation import Mutation
from flux.redact import RedactionRules, Redactor
from flux.store.postgres import Notice
from flux.supervisor.changes import CAPTURE_SQLSTATE, Changes, read_notice

SECRET = "5ec7e7" * 10


def notice(
    seq: int, ordinal: int, *, op: str = "I", old: list[object] | None = None, new: list[object] | None = None,
    depth: int = 1, secret: str = SECRET, rows: int | None = None, cut: bool = False, xid: int = 900,
) -> Notice:  # fmt: skip
    """A notice as `flux.capture()` raises it."""
    if old is None and new is None:
        new = [{"id": seq}]
    befores, afters = ("" if images is None else json.dumps(images) for images in (old, new))
    count = max(len(old or ()), len(new or ())) if rows is None else rows
    header = f'[1,"{op}",{xid},{ordinal},{seq},1,{depth},{count},{json.dumps(cut)},["id"]'
    signed = f"{secret}{header}{len(befores)} {len(afters)}"
    mac = hashlib.sha256(signed.encode()).hexdigest()[:32]
    return raised(f'{header},"{mac}"]', befores or None, afters or None)


def raised(
    message: str, detail: str | None = None, hint: str | None = None, code: str = CAPTURE_SQLSTATE
) -> Notice:
    """A notice that says so."""
    return Notice(
        severity="NOTICE",
        sqlstate=code,
        message=message,
        detail=detail,
        hint=hint,
        schema="public",
        table="notes",
    )


class Told:
    """Changes, and what they told the journal."""

    def __init__(self) -> None:
        self.journal: list[tuple[int, tuple[Mutation, ...]]] = []
        redactor = Redactor(RedactionRules(), b"seed")
        self.changes = Changes(SECRET, redactor, lambda call, rows: self.journal.append((call, rows)))

    def change(self, call: int, *notices: Notice, affected: int | None = 1) -> None:
        """A statement that a guest ran."""
        self.changes.call = call
        for one in notices:
            self.changes.take(one, 1)
        self.changes.ran(affected)

    def keys(self) -> list[str | None]:
        """The keys of the rows that are told to be rolled back."""
        return [mutation.key for mutation in self.changes.rolled_back]


def test_a_savepoint_that_is_rolled_back_undoes_what_came_behind_it() -> None:
    told = Told()
    told.change(1, notice(10, 1))
    outer = told.changes.mark()
    told.change(2, notice(11, 2))
    inner = told.changes.mark()
    told.change(3, notice(12, 3))
    told.changes.undo_to(inner)
    told.change(4, notice(13, 3))
    told.changes.undo_to(outer)
    assert told.keys() == ['{"id":12}', '{"id":11}', '{"id":13}']
    assert told.changes.keep(told.changes.set_aside()) == ()
    assert told.changes.ordinals == [(900, 1, 1)]


@pytest.mark.parametrize("ordinal", [1, 2, 99_999_999])
def test_a_counter_that_a_guest_has_set_hides_no_row_that_was_rolled_back(ordinal: int) -> None:
    told = Told()
    told.change(1, notice(10, 1), notice(11, 2), affected=2)
    mark = told.changes.mark()
    told.change(2, notice(12, ordinal))
    told.changes.undo_to(mark)
    assert len(told.keys()) == 1
    assert told.changes.row_count == 3


@pytest.mark.parametrize(
    ("notices", "affected", "is_doubtful"),
    [
        ([notice(10, 1)], 1, False),
        ([notice(10, 1)], None, True),  # select f()
        ([notice(10, 1)], 0, True),  # insert ... where f(): it did nothing itself, so somebody else did
        ([notice(10, 1, depth=2)], 1, True),
        ([notice(10, 1, depth=2), notice(11, 2)], 1, True),
        ([notice(10, 1, new=[{"id": 1}, {"id": 2}])], 2, False),
        ([notice(10, 1, rows=5000, cut=True)], 5000, False),
        ([], None, False),
    ],
)
def test_what_may_have_been_undone_out_of_sight_is_asked_of_the_log(
    notices: list[Notice], affected: int | None, is_doubtful: bool
) -> None:
    told = Told()
    told.change(0, notice(1, 9, rows=3), affected=3)  # Not of the statement that is asked about.
    told.change(1, *notices, affected=affected)
    doubtful = told.changes.keep(told.changes.set_aside())
    assert len(doubtful) == (len(notices) if is_doubtful else 0)
    assert told.keys() == []


def test_a_transaction_that_is_rolled_back_undoes_what_is_in_doubt_too() -> None:
    told = Told()
    told.change(1, notice(10, 1), affected=None)
    told.change(2, notice(11, 2))
    told.changes.undo_all()
    assert len(told.keys()) == 2
    assert not told.changes.has_any and told.changes.xid is None
    told.changes.undo_all()
    assert len(told.keys()) == 2


@pytest.mark.parametrize(
    "forged",
    [
        notice(10, 1, secret="guessed"),
        raised("hello"),
        raised('[1,"ü"]'),
        raised(',"'),
        raised("[]"),
        raised(notice(10, 1).message.replace('"I"', '"U"'), None, notice(10, 1).hint),
        raised(notice(10, 1).message.replace(",10,", ",11,"), None, notice(10, 1).hint),
        raised(notice(10, 1).message, None, notice(10, 1).hint, code="00000"),
        raised(notice(10, 1).message, "[{}]", notice(10, 1).hint),
    ],
)
def test_a_notice_of_somebody_else_is_no_row_change(forged: Notice) -> None:
    assert read_notice(forged, SECRET, 1, 1) is None


def test_an_update_of_a_key_is_a_delete_and_an_insert_as_in_the_log() -> None:
    told = Told()
    old: list[object] = [{"id": 1}, {"id": 2}]
    new: list[object] = [{"id": 2}, {"id": 3}]
    told.change(1, notice(10, 1, op="U", old=old, new=new), affected=2)
    ((call, rows),) = told.journal
    assert call == 1 and [row.op.value for row in rows] == ["delete", "delete", "insert", "insert"]
