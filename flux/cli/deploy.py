"""``flux deploy``: serve other code, without a request lost.

The server makes the code ready beside what it serves and switches once it is; requests that are under way end on the
code that they began on. It is the server's own copy of the project that is deployed: its folder, or a commit of it.

With ``--guard`` the last executions are replayed on the code first, with nothing leaving. It is served only if none of
them gets worse; what changed is shown, group by group, and exit code 1 says that it is not served. Ctrl-c ends that,
and nothing is deployed.
"""

import json

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.deployed import switch_lines
from flux.cli.failures import EXIT_FINDING, UsageError
from flux.cli.screen import Line, Screen
from flux.cli.settings import settings

GUARD_MAX = 2000
"""As the server has it."""


@click.command()
@click.option("--on", metavar="REF", help="Deploy this commit; without it, the project's folder as it is.")
@click.option("--guard", metavar="N", type=click.IntRange(1, GUARD_MAX),
              help="Replay the last N executions on it first, and deploy it only if none gets worse.")  # fmt: skip
@click.option("--allow-destructive", is_flag=True,
              help="Also migrations with steps that take tables, columns, rows or digits away.")  # fmt: skip
@click.option("--max-undecided", metavar="PERCENT", type=click.IntRange(0, 100), default=None,
              help="With --guard: so many of them may be undecided, 20 unless it is said.")  # fmt: skip
@click.option("--accept", is_flag=True,
              help="With --guard: print the entries of flux.accept.toml that would accept what changed.")  # fmt: skip
@click.option("--target", type=click.Choice(["systemd", "docker", "k8s"]),
              help="Write the files that have something else run Flux, and deploy nothing.")  # fmt: skip
@click.option("--workers", metavar="N", type=click.IntRange(1, 64), default=None,
              help="With --target: so many processes, 2 unless it is said.")  # fmt: skip
@click.option("--force", is_flag=True, help="With --target: write over files that are there.")
def command(
    on: str | None, guard: int | None, allow_destructive: bool, max_undecided: int | None, accept: bool,
    target: str | None, workers: int | None, force: bool,
) -> int:  # fmt: skip
    """Serve the project's folder as it is, or a commit. Requests that are under way end on the code before."""
    if target is not None:
        if on is not None or guard is not None or allow_destructive or accept or max_undecided is not None:
            raise UsageError(
                "flux deploy: --target writes files and deploys nothing", remedy="leave the other options out"
            )
        from flux.cli.target_files import write_files

        write_files(target, workers or 2, force=force)
        return 0
    if workers is not None or force:
        raise UsageError("flux deploy: --workers and --force are for --target", remedy="add --target systemd")
    said = settings()
    order: dict[str, object] = {} if on is None else {"on": on}
    if allow_destructive:
        order["allow_destructive"] = True
    if guard is None and (accept or max_undecided is not None):
        raise UsageError(
            "flux deploy: --accept and --max-undecided are for --guard", remedy="add --guard 200"
        )
    if guard is not None:
        order["guard"] = {"last": guard} | (
            {} if max_undecided is None else {"undecided": max_undecided / 100}
        )
        from flux.cli.guarded import deploy_guarded

        story = None if said.quiet else Screen.stderr(colour=False if said.no_color else None)
        switch = deploy_guarded(open_client(), order, guard, story)
    else:
        switch = open_client().post("deploy", body=json.dumps(order), timeout_s=INVOKE_TIMEOUT_S).record
    switch.of_schema("flux.deploy/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(json.dumps(switch.data, ensure_ascii=False))
    else:
        lines: list[Line] = []
        if (found := switch.maybe_record("gate")) is not None:
            from flux.cli.guarded import guard_lines

            report = found.of_schema("flux.guard/1")
            lines += guard_lines(report, on, screen.width, whole=said.verbose, shows_entries=accept)
            lines.append([])
        screen.page([*lines, *switch_lines(switch, "deployed", verbose=said.verbose)])
    return 0 if switch.flag("deployed") else EXIT_FINDING
