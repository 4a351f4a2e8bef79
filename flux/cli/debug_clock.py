"""What the record adds to a step of an execution: when it was, the host calls by then, the rows as they were.

Steps have no time of their own, as the run that shows them is another one. But each knows the last host call that had
been made by then, and the record says when that was made, and when the next: the step was between the two.
"""

from collections.abc import Sequence

from flux.cli import render
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, cut

CALLS_AROUND = 10
"""Calls before and after the last one that are listed."""


class Clock:
    """The record of an execution, as its steps see it."""

    def __init__(self, trace: Record) -> None:
        self._calls: list[Record] = sorted(trace.records("calls"), key=lambda call: call.number("seq"))
        self._elapsed_ms = trace.maybe_number("elapsed_ms")
        self._mutations = trace.records("mutations")

    def tell(self, asked: int) -> str:
        """Return when a step was, behind which host call ``asked`` had been made."""
        began = max((call.number("started_ms") for call in self._calls if call.number("seq") <= asked), default=0.0)
        later = [call.number("started_ms") for call in self._calls if call.number("seq") > asked]
        ended = min(later, default=self._elapsed_ms)
        total = "" if self._elapsed_ms is None else f" of {self._elapsed_ms:,.1f} ms"
        when = f"{began:,.1f} ms or later" if ended is None else f"{began:,.1f} to {max(began, ended):,.1f}{total}"
        return f"{'before any call' if asked == 0 else f'call {asked}'} · {when}"

    def _is_heard(self, call: Record, asked: int, heard: int) -> bool:
        """Whether its answer had come when ``asked`` calls had been made and ``heard`` been answered."""
        answered = call.maybe_number("answered")
        return call.number("seq") <= asked and answered is not None and answered <= heard

    def call_lines(self, asked: int, heard: int, width: int) -> list[Line]:
        """The calls around the last one that had been made; those that were still to come are dim."""
        made = sum(call.number("seq") <= asked for call in self._calls)
        first, last = max(0, made - CALLS_AROUND), made + CALLS_AROUND
        result: list[Line] = [[Piece(f"  … {first:,} before", "dim")]] if first else []
        for call in self._calls[first:last]:
            seq = int(call.number("seq"))
            title = cut(render.call_title(call.text("kind"), call.get("arguments")), max(20, width - 40))
            style = "dim" if seq > asked else "bold" if seq == asked else ""
            is_heard = self._is_heard(call, asked, heard)
            wrong = "  ✗" if is_heard and call.data.get("error") is not None else ""
            if seq <= asked and not is_heard:
                wrong = "  not answered yet"
            when = f"{call.number('started_ms'):>10,.1f} ms  "
            place = render.place(call.data.get("location"))
            mark = " → " if seq == asked else "   "
            number = Piece(f"{seq:<5}{when}", "dim")
            result.append([Piece(mark, "bold"), number, Piece(f"{title}{wrong}  ", style), place])
        if len(self._calls) > last:
            result.append([Piece(f"  … {len(self._calls) - last:,} more", "dim")])
        return result or [["  ", Piece("it made no host call", "dim")]]

    def row_lines(self, asked: int, heard: int) -> list[Line]:
        """The rows that it changed, as they were when ``asked`` calls had been made and ``heard`` been answered."""
        done = {int(call.number("seq")) for call in self._calls if self._is_heard(call, asked, heard)}
        result: list[Line] = []
        for name, changes in self._by_row().items():
            if any(change.maybe_number("call") is None for change in changes):
                result.append(["  ", Piece(name, "bold"), Piece("  by which call it was changed is not known", "dim")])
                continue
            made = [change for change in changes if change.number("call") <= asked]
            if made and (last := int(made[-1].number("call"))) not in done:
                pending = f"  call {last} had been made, which changes it, and had not been answered"
                result.append(["  ", Piece(name, "bold"), Piece(pending, "dim")])
                continue
            row = made[-1].data.get("after") if made else changes[0].data.get("before")
            text = "no such row" if row is None else render.fields_text(row, whole=False)
            fate = "" if all(change.flag("committed") for change in changes) else "   rolled back in the end"
            since = f"   since call {made[-1].number('call'):.0f}" if made else "   not changed yet"
            result.append(["  ", Piece(name, "bold"), f"  {text}", Piece(since, "dim"), Piece(fate, "yellow")])
        if others := sum(not _has_row(change) for change in self._mutations):
            result.append([Piece(f"  … {others:,} changes of rows without a key, or of whole tables", "dim")])
        return result or [["  ", Piece("it changed no row that is on record", "dim")]]

    def _by_row(self) -> dict[str, Sequence[Record]]:
        found: dict[str, list[Record]] = {}
        for change in filter(_has_row, self._mutations):
            found.setdefault(render.row_name(change.text("table"), change.get("key")), []).append(change)
        return dict(found)


def _has_row(change: Record) -> bool:
    return change.data.get("key") is not None and change.text("op") != "truncate"
