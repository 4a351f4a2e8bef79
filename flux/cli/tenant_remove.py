"""``flux tenant remove``: stop serving a tenant. Its data stays unless it is said otherwise."""

import json
import sys

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.failures import EXIT_FINDING, UsageError
from flux.cli.screen import Screen
from flux.cli.settings import settings


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--drop-data", is_flag=True, help="Remove its database too: rows, records, secrets. That is for good.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(name: str, drop_data: bool, yes: bool) -> int:
    """Stop serving a tenant: requests in flight are finished, jobs that wait go on waiting.

    Its database and its folder stay, unless --drop-data is said, which is for databases that Flux made.
    """
    what = f"stop serving {name}" + (" and remove its database with all rows and records" if drop_data else "")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"nobody can be asked whether to {what}", remedy="say so: --yes")
        if not click.confirm(f"{what}?", default=False, err=True):
            return EXIT_FINDING
    body = json.dumps({"drop_data": drop_data})
    answer = open_client().post("tenants", name, "remove", body=body, timeout_s=INVOKE_TIMEOUT_S)
    tenant = answer.record.of_schema("flux.tenants/1").records("tenants")[0]
    if settings().json:
        Screen.stdout().write_raw_json(answer.text)
        return 0
    kept = "its database is removed" if drop_data else "its database is kept"
    Screen.stdout().line(f"{name} is served no more · {kept} · its folder is {tenant.text('folder')}")
    return 0
