"""``flux secrets rotate``: seal all values with another master key."""

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.screen import Screen
from flux.cli.settings import settings


@click.command()
def command() -> None:
    """Put another master key in the place of .flux/master.key, and seal all values with it: tenants' too.

    Servers go on with it, and nothing has to be set anew. If this is cut off, say it again. Backups that were made
    before open with the former key only: copy .flux/master.key first if you keep some.
    """
    answer = open_client().post("secrets", "master-key", "rotate", body="{}", timeout_s=INVOKE_TIMEOUT_S)
    done = answer.record.of_schema("flux.master-key/1")
    said = settings()
    if said.json:
        Screen.stdout().write_raw_json(answer.text)
        return
    tenants = done.records("tenants")
    count = int(done.number("secrets")) + sum(int(tenant.number("secrets")) for tenant in tenants)
    where = f", {len(tenants)} tenant{'' if len(tenants) == 1 else 's'} included" if tenants else ""
    Screen.stdout().line(f"{count} secret{'' if count == 1 else 's'} sealed with another master key{where}")
    if said.quiet:
        return
    story = Screen.stderr(colour=False if said.no_color else None)
    for tenant in tenants:
        if closed := int(tenant.number("closed")):
            why = "no key opens them, or they are too many"
            story.line(f"! {closed} of tenant {tenant.text('name')} are as they were: {why}")
    story.line("the former key is gone from .flux/master.key: backups that were made before need it")
    story.line("other machines on this database need the file as it is now, to set secrets and to start")
