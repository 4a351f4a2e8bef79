"""``flux tenant set``: give a tenant more or less, from now on."""

import json

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.failures import UsageError
from flux.cli.screen import Screen
from flux.cli.settings import settings
from flux.cli.tenant_list import lines

ANY = "any"
"""Of a quota: there is none."""


# fmt: off
@click.command()
@click.argument("name", metavar="NAME")
@click.option("--concurrency", type=int, metavar="N", help="Executions of it that run at once.")
@click.option("--memory", metavar="SIZE", help="What their memory limits may come to together.")
@click.option("--requests", metavar="N", help="HTTP requests that it may get in a minute, or any.")
@click.option("--storage", metavar="SIZE", help="How large its database may grow, records included, or any.")
@click.option("--cpu", metavar="TIME", help="Processor time that it may use in a minute, or any.")
@click.option("--weight", type=int, metavar="N", help="Its share of the turns when many wait.")
def command(
    name: str, concurrency: int | None, memory: str | None, requests: str | None, storage: str | None, cpu: str | None,
    weight: int | None,
) -> None:
    # fmt: on
    """Change what a tenant may use: what is not said stays as it is. Nothing is started again, and nothing is ended.

    What it has above a quota that is lowered goes on to its end.
    """
    change: dict[str, object] = {
        key: value
        for key, value in {"concurrency": concurrency, "memory": memory, "weight": weight}.items()
        if value is not None
    }
    if requests is not None:
        if requests != ANY and not (requests.isascii() and requests.isdecimal()):
            raise UsageError(f'--requests "{requests[:100]}" is no number', remedy=f"a number of requests, or {ANY}")
        change["requests"] = None if requests == ANY else int(requests)
    for key, value in {"storage": storage, "cpu": cpu}.items():
        if value is not None:
            change[key] = None if value == ANY else value
    answer = open_client().post("tenants", name, "set", body=json.dumps(change), timeout_s=INVOKE_TIMEOUT_S)
    tenants = answer.record.of_schema("flux.tenants/1").records("tenants")
    screen = Screen.stdout()
    if settings().json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(lines(tenants, screen.width))
