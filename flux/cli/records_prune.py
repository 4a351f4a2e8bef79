"""``flux records prune``: take out what is older than it is to be kept. The server does it by itself each day."""

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen
from flux.cli.settings import settings


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def command(dry_run: bool) -> None:
    """Take out what is older than flux.toml says it is to be kept.

    Failures are kept longer (error_retention_days), pinned incidents as long as they are pinned.
    """
    said = settings()
    answer = open_client().post(
        "records", "prune", body="{}", timeout_s=INVOKE_TIMEOUT_S, dry_run=int(dry_run)
    )
    record = answer.record.of_schema("flux.records-pruned/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.page(lines(record))


def lines(record: Record) -> list[Line]:
    """What went, what was kept and why."""
    verb = "would go" if record.flag("dry_run") else "went"

    def count(key: str, noun: str) -> str:
        number = int(record.number(key))
        return f"{number:,} {noun}{'s' * (number != 1)}"

    days, error_days = (int(record.number(key)) for key in ("retention_days", "error_retention_days"))
    result: list[Line] = [
        [Piece(f"{count('executions', 'record')} {verb}", "bold"), f" · older than {days} days"],
        [f"  kept  {count('kept_errors', 'failure')}, for {error_days} days"],
        [f"        {count('kept_pinned', 'record')} of pinned incidents"],
    ]
    days_gone = f"{count('log_days', 'day')} of the log of changes {verb}, {count('log_rows', 'row')}"
    since = record.maybe_text("log_since")
    result.append([days_gone + (f": it begins at {since[:10]}" if since else "")])
    result.append([f"{count('blobs', 'large body').replace('bodys', 'bodies')} {verb}"])
    if waiting := int(record.number("waiting")):
        result.append(
            [
                Piece(
                    f"! {waiting} of the days could not be dropped, as somebody reads them: these, and "
                    "later ones, go next time",
                    "yellow",
                )
            ]
        )
    return result
