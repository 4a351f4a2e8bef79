"""``flux tenant list``: who else this server serves, and how each stands."""

from collections.abc import Sequence

import click

from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, pad, wrap
from flux.cli.settings import settings

INDENT = "    "


@click.command()
def command() -> None:
    """Tenants by name: where each is reached, what it may use, and why one is not up."""
    answer = open_client().get("tenants")
    tenants = answer.record.of_schema("flux.tenants/1").records("tenants")
    said = settings()
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    if not tenants and not said.quiet:
        Screen.stderr(colour=False if said.no_color else None).line("no tenants: flux tenant add NAME --folder DIR")
    screen.page(lines(tenants, screen.width))


def lines(tenants: Sequence[Record], width: int) -> list[Line]:
    """Some lines a tenant."""
    names = max((cells(tenant.text("name")) for tenant in tenants), default=0)
    result: list[Line] = []
    for tenant in tenants:
        mark = Piece("● ", "green") if tenant.flag("up") else Piece("○ ", "red")
        result.append([mark, Piece(pad(tenant.text("name"), names), "bold"), "  ", Piece(tenant.text("url"), "cyan")])
        hosts = [str(host) for host in tenant.items("hosts")[1:]]
        details = [tenant.text("folder"), f"database {tenant.text('database')}", _describe_quotas(tenant)]
        details += [f"also {', '.join(hosts)}"] if hosts else []
        for text in details:
            result += [[INDENT, Piece(line, "dim")] for line in wrap(text, max(20, width - len(INDENT)))]
        if (problem := tenant.maybe_text("problem")) is not None:
            for text in wrap(problem, max(20, width - len(INDENT))):
                result.append([INDENT, Piece(text, "red")])
    return result


def _describe_quotas(tenant: Record) -> str:
    quotas = tenant.record("quotas")
    parts = [
        f"{quotas.number('concurrency'):g} at once",
        f"{_size(quotas.number('memory_bytes'))} of memory",
        f"weight {quotas.number('weight'):g}",
    ]
    if (requests := quotas.maybe_number("requests_per_minute")) is not None:
        parts.append(f"{requests:g} requests a minute")
    if (storage := quotas.maybe_number("storage_bytes")) is not None:
        parts.append(f"{_size(storage)} of storage")
    return " · ".join(parts)


def _size(size: float) -> str:
    return f"{size / 2**30:g} GiB" if size >= 2**30 else f"{size / 2**20:g} MiB"
