"""``flux records forget``: take a row out of what was recorded, for somebody who wants to be forgotten."""

import sys

import click

from flux.cli.client import INVOKE_TIMEOUT_S, Client, open_client
from flux.cli.failures import UsageError
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen
from flux.cli.settings import settings

ELSEWHERE_MAX = 8
"""So many tables are named."""


@click.command()
@click.argument("table")
@click.argument("key")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(table: str, key: str, dry_run: bool, yes: bool) -> int:
    """Take a row, and what functions carried of it, out of the records.

    What the row has now stays: delete it first, or overwrite what is to go. Values become tokens, so that what is left
    can be read and replayed. KEY is the primary key's value, or a=1,b=2 when it has several columns.
    """
    client = open_client()
    screen = Screen.stdout()
    if not dry_run and not yes and not _agrees(client, table, key):
        return 1
    answer = client.post(
        "records", "forget", body="{}", timeout_s=INVOKE_TIMEOUT_S, table=table, key=key, dry_run=int(dry_run)
    )
    record = answer.record.of_schema("flux.records-forgotten/1")
    if settings().json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(lines(record, quiet=settings().quiet))
    return 0


def _agrees(client: Client, table: str, key: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            "flux records forget asks before it takes anything out, and there is no terminal to ask on",
            remedy="see what would go with --dry-run, and say that it may with --yes",
        )
    answer = client.post("records", "forget", body="{}", timeout_s=INVOKE_TIMEOUT_S, table=table, key=key, dry_run=1)
    screen = Screen.stderr(colour=False if settings().no_color else None)
    for line in lines(answer.record.of_schema("flux.records-forgotten/1"), quiet=False):
        screen.line(*line)
    return click.confirm("this can't be undone: go on?", default=False, err=True)


def count(number: int, noun: str) -> str:
    """``1 change``, ``2 changes``."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def lines(record: Record, *, quiet: bool) -> list[Line]:
    """What went, and what is still somewhere."""
    verb = "would be rewritten" if record.flag("dry_run") else "rewritten"

    def said(key: str, noun: str) -> str:
        return count(int(record.number(key)), noun)

    changes = int(record.number("changes"))
    result: list[Line] = [
        [Piece(f"{said('executions', 'execution')} {verb}", "bold"), f" · {said('calls', 'call')} in them · "
         f"{said('values', 'value')} of {record.text('table')} looked for"],
        [f"  log of changes  {count(changes, 'change')} of the row"],
    ]  # fmt: skip
    elsewhere = record.record("elsewhere").data
    for table, number in list(elsewhere.items())[:ELSEWHERE_MAX]:
        result.append([f"                  {count(int(number), 'change')} of {table}"])
    if len(elsewhere) > ELSEWHERE_MAX:
        result.append([f"                  and of {len(elsewhere) - ELSEWHERE_MAX} more tables"])
    for key, noun in (("replays", "replay"), ("blobs", "large payload"), ("jobs", "dead letter")):
        if record.number(key):
            result.append([f"  among them      {said(key, noun)}"])
    if pinned := [str(name) for name in record.items("pinned")]:
        result.append(["  pinned          ", Piece(", ".join(pinned), "bold"), ": rewritten all the same"])
    if quiet:
        return result
    return [*result, [], [Piece("not reached", "bold")], *([f"  {line}"] for line in _list_left(record, elsewhere))]


def _list_left(record: Record, elsewhere: object) -> list[str]:
    """Return where values may still be, as far as Flux can know."""
    left = []
    table = record.text("table")
    if record.flag("exists"):
        left.append(f"{table}: the row is still there, and what it has now stays in the records too")
    if elsewhere:
        left.append("the other tables named above, as far as their rows still hold such values: Flux changes no rows")
    if shared := int(record.number("values_shared")):
        what = "value that is" if shared == 1 else "values that are"
        left.append(
            f"{shared} {what} short, or other rows' as well: gone only where an execution had to do with this row"
        )
    if waiting := int(record.number("jobs_waiting")):
        left.append(f"{count(waiting, 'job')} that will run: nothing is forgotten before they have ended (FLX616)")
    if not_stored := int(record.number("not_stored")):
        what = count(not_stored, "execution")
        left.append(f"{what} that the database did not take yet: nothing is forgotten before it has (FLX617)")
    return [
        *left,
        "what a function made of a value: a hash, a part of it, other letters",
        "what runs just then on other servers that use the database",
        "the journal of running servers, until their next start, and journals that are kept as *.damaged",
        "space in the database until it is vacuumed",
        "backups, case files, exported records, other systems that functions have sent it to",
    ]
