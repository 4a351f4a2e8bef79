"""``flux tenant show``: one tenant, what it uses beside what it may, and what of it was refused."""

import click

from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen
from flux.cli.settings import settings
from flux.cli.tenant_list import INDENT, lines

_QUOTAS = {
    "turns": "no turn was free", "memory": "its memory limit is above the quota", "requests": "too many in a minute",
    "cpu": "the processor time was used up", "storage": "the storage was used up", "stopped": "its server had ended",
}  # fmt: skip


@click.command()
@click.argument("name", metavar="NAME")
def command(name: str) -> None:
    """One tenant: what it uses of what it may, and which requests were refused since its server has started."""
    answer = open_client().get("tenants", name)
    [tenant] = answer.record.of_schema("flux.tenants/1").records("tenants")
    screen = Screen.stdout()
    if settings().json:
        screen.write_raw_json(answer.text)
        return
    screen.page([*lines([tenant], screen.width), *_describe_use(tenant)])


def _describe_use(tenant: Record) -> list[Line]:
    use = tenant.maybe_record("use")
    if use is None:
        return []
    size = use.maybe_number("storage_bytes")
    said = [
        f"{use.number('running'):g} run, {use.number('waiting'):g} wait, {use.number('turns_kept'):g} turns are kept",
        f"{use.number('cpu_ms_total') / 1000:.1f} s of processor time since its server has started",
        "its database is not measured yet" if size is None else f"{size:,.0f} bytes in its database",
    ]
    refused = use.record("refused")
    said += [
        f"{refused.number(quota):g} refused: {why}" for quota, why in _QUOTAS.items() if refused.number(quota)
    ]
    return [[INDENT, Piece(text, "dim")] for text in said]
