"""``flux deployments``: what was served, and how it did.

Each code has one line, with the last switch to it: the same files from two commits are two, a commit with and without
changes as well. Executions are counted for each.
"""

import click

from flux.cli import moments
from flux.cli.client import open_client
from flux.cli.deployed import code_text, texts
from flux.cli.screen import Line, Piece, Screen, pad
from flux.cli.settings import settings


@click.command()
@click.option("-n", "count", type=click.IntRange(1, 1000), default=20, help="How many (default: 20).")
def command(count: int) -> None:
    """What was served, the latest first: when and why it came, executions on it, and how many of them failed."""
    said = settings()
    answer = open_client().get("deployments", n=count)
    found = answer.record.of_schema("flux.deployments/1").records("deployments")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    codes = [code_text(one) for one in found]
    width = max(map(len, codes), default=0)
    branches = [one.maybe_text("branch") or "" for one in found]
    branch_width = max(map(len, branches), default=0)
    lines: list[Line] = []
    for one, code, branch in zip(found, codes, branches, strict=True):
        failed, executions = one.number("failed"), one.number("executions")
        line: list[Piece | str] = [
            Piece("● ", "green") if one.flag("current") else "  ",
            Piece(one.text("deployment")[: None if said.verbose else 8], "bold"),
            f"  {pad(code, width)}  {pad(branch, branch_width)}  ",
            f"{moments.read_moment(one.text('at'), 'at'):%Y-%m-%d %H:%M:%S}  {pad(one.text('cause'), 8)}  ",
            Piece(f"{failed:g} of {executions:g} failed", "bold red" if failed else "dim"),
        ]
        if not one.flag("kept"):
            line.append(Piece("  files not kept", "yellow"))
        lines.append(line)
        if said.verbose:
            lines.append([Piece(f"    {', '.join(texts(one, 'functions')) or 'no functions'}", "dim")])
    screen.page(lines)
