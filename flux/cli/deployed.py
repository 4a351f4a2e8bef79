"""How a deployment, and the switch to one, look on a terminal: for `flux deploy`, `rollback`, `deployments`."""

from pathlib import PurePosixPath

from flux.cli import moments
from flux.cli.record import Record
from flux.cli.screen import Line, Piece


def code_text(code: Record) -> str:
    """A commit as people read it: ``3f9c1e2+``, with a plus where there were changes."""
    return code.text("sha").removeprefix("nogit-")[:7] + "+" * code.flag("dirty")


def texts(record: Record, key: str) -> list[str]:
    """A field that is a list of text."""
    return [str(item) for item in record.items(key)]


def switch_lines(switch: Record, done: str, *, verbose: bool) -> list[Line]:
    """What was switched to, from what, and what to know about it; ``done`` is the word for it."""
    before, functions = switch.maybe_record("before"), texts(switch, "functions")
    code = Piece(code_text(switch), "bold")
    id = switch.text("deployment")[: None if verbose else 8]
    was = f" · before: {code_text(before)}" if before is not None else ""
    if not switch.flag("deployed"):
        mark, said = Piece("✗ ", "bold red"), f"not {done}"
    elif switch.flag("unchanged"):
        mark, said, was = Piece("= ", "dim"), "served already", ""
    else:
        mark, said = Piece("✓ ", "green"), f"{done} in {moments.duration(switch.number('elapsed_ms'))}"
    count = f"{len(functions)} function{'s' * (len(functions) != 1)}"
    lines: list[Line] = [[mark, code, f"  {said} · {count} · {id}{was}"]]
    if migrations := texts(switch, "migrations"):
        lines.append([f"  applied: {', '.join(PurePosixPath(path).name for path in migrations)}"])
    lines += [
        [Piece("  ! ", "yellow"), f"{loss.text('path')}:{loss.number('line'):g}  {loss.text('what')}"]
        for loss in switch.records("destructive")
    ]
    lines += [[Piece("  ! ", "yellow"), note] for note in texts(switch, "notes")]
    if verbose:
        lines.append([Piece(f"  {', '.join(functions)}", "dim")])
    return lines
