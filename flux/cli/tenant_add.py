"""``flux tenant add``: have this server serve another project, apart from all others."""

import json
from pathlib import Path

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.failures import EXIT_FINDING
from flux.cli.screen import Screen
from flux.cli.settings import settings
from flux.cli.tenant_list import lines


# fmt: off
@click.command()
@click.argument("name", metavar="NAME")
@click.option("--folder", metavar="DIR", default=".",
              help="Its project's folder on the machine that serves (default: this one).")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A host name whose requests are its own.")
@click.option("--database-url", metavar="URL", help="Its database, on PostgreSQL 16 or newer; without it one is made.")
@click.option("--concurrency", type=int, metavar="N", help="Executions of it that run at once (default: 16).")
@click.option("--memory", metavar="SIZE", help="What their memory limits may come to together (default: 2GiB).")
@click.option("--requests", type=int, metavar="N", help="HTTP requests that it may get in a minute (default: any).")
@click.option("--storage", metavar="SIZE", help="How large its database may grow, records included (default: any).")
@click.option("--cpu", metavar="TIME", help="Processor time that it may use in a minute: 30s (default: any).")
@click.option("--weight", type=int, metavar="N", help="Its share of the turns when many wait (default: 100).")
@click.option("--allow", multiple=True, metavar="ADDRESS:PORT", help="An address that its flux.toml may grant.")
def command(
    name: str, folder: str, hosts: tuple[str, ...], database_url: str | None, concurrency: int | None,
    memory: str | None, requests: int | None, storage: str | None, cpu: str | None, weight: int | None,
    allow: tuple[str, ...],
) -> int:
    # fmt: on
    """Serve the project in a folder for somebody else, with a database, roles, secrets, tokens and workers of its own.

    Asked of `flux serve`. Commands that are run in the tenant's folder are the tenant's own.
    """
    said = {
        "database_url": database_url, "concurrency": concurrency, "memory": memory, "requests": requests,
        "storage": storage, "cpu": cpu, "weight": weight,
    }  # fmt: skip
    order: dict[str, object] = {"name": name, "folder": str(Path(folder).resolve())}
    order |= {"hosts": list(hosts), "allow": list(allow)}
    order |= {key: value for key, value in said.items() if value is not None}
    answer = open_client().post("tenants", body=json.dumps(order), timeout_s=INVOKE_TIMEOUT_S)
    tenants = answer.record.of_schema("flux.tenants/1").records("tenants")
    screen = Screen.stdout()
    if settings().json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(lines(tenants, screen.width))
    return 0 if tenants[0].flag("up") else EXIT_FINDING
