"""``flux tenant list``: who else this server serves, how each stands, and what it uses of what it may."""

from collections.abc import Sequence

import click

from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, pad, wrap
from flux.cli.settings import settings

INDENT = "    "


@click.command()
def command() -> None:
    """Tenants by name: where each is reached, what it uses of what it may, and why one is not up."""
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
    """What it uses beside what it may; of one that is not served only the latter."""
    quotas, use = tenant.record("quotas"), tenant.maybe_record("use")

    def beside(used: str, most: str) -> str:
        return most if use is None else f"{used} of {most}"

    running = "" if use is None else f"{use.number('running'):g}"
    memory = "" if use is None else _size(use.number("memory_bytes"))
    parts = [
        f"{beside(running, format(quotas.number('concurrency'), 'g'))} at once",
        f"{beside(memory, _size(quotas.number('memory_bytes')))} of memory",
        f"weight {quotas.number('weight'):g}",
    ]
    if (requests := quotas.maybe_number("requests_per_minute")) is not None:
        spent = "" if use is None else f"{use.number('requests'):g}"
        parts.append(f"{beside(spent, format(requests, 'g'))} requests a minute")
    if (cpu := quotas.maybe_number("cpu_ms_per_minute")) is not None:
        spent = "" if use is None else f"{use.number('cpu_ms') / 1000:.1f}"
        parts.append(f"{beside(spent, format(cpu / 1000, 'g'))} s of processor time a minute")
    if (storage := quotas.maybe_number("storage_bytes")) is not None:
        size = None if use is None else use.maybe_number("storage_bytes")
        parts.append(f"{beside('?' if size is None else _size(size), _size(storage))} of storage")
    return " · ".join(parts)


def _size(size: float) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
