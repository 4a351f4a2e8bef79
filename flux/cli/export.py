"""``flux export``: one execution in a form that can be handed on.

A case file holds the record as it is stored, redacted, and the code that made it. ``flux replay
FILE`` runs it again where there is neither its server nor its database. The other forms are for other programs.
"""

import sys
import tempfile
from pathlib import Path

import click

from flux.case_file import SUFFIX, decode_case
from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.complete import execution_ids
from flux.cli.failures import UsageError
from flux.cli.screen import Piece, Screen, json_text
from flux.cli.settings import settings
from flux.streamed import describe_lack

CASE_TYPE = "application/vnd.flux.case"


@click.command()
@click.argument("id", metavar="ID", shell_complete=execution_ids)
@click.option("--case", "as_case", is_flag=True, help="As a case file, which flux replay runs anywhere.")
@click.option("--curl", "as_curl", is_flag=True, help="Its request as a command that sends it again.")
@click.option("--otlp", "as_otlp", is_flag=True, help="Its spans, as OpenTelemetry's protocol has them in JSON.")
@click.option("--pytest", "as_pytest", is_flag=True, help="Its failure as a test that needs no server and no database.")
@click.option("--html", "as_html", is_flag=True, help="As a page in one file, which opens anywhere without a server.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to write it; - is stdout. Without it, a case goes to NAME.fluxcase, all else to stdout.",
)
def command(
    id: str, as_case: bool, as_curl: bool, as_otlp: bool, as_pytest: bool, as_html: bool, output: str | None
) -> int:  # fmt: skip
    """One execution in a form that can be handed on.

    A case file holds the record as it is stored, without what is redacted and without the values of secrets, and
    the code that made it.
    """
    forms = as_case + as_curl + as_otlp + as_pytest + as_html
    if forms != 1:
        raise UsageError(
            "flux export: as what?" if not forms else "flux export: one form at a time",
            remedy="--case writes a case file, which flux replay runs anywhere; or --curl, --html, --otlp, --pytest",
        )
    if as_pytest:
        return _export_test(id, output)
    if as_html:
        answer = open_client().get("executions", id, "html")
        _write_text(answer.record.of_schema("flux.html/1").text("text"), output)
        return 0
    if not as_case:
        return _export_text(id, output, as_curl=as_curl)
    data = open_client().download("executions", id, "case", kind=CASE_TYPE)
    # Read before it is written: what is handed on is whole, and its name is that of an execution.
    execution = decode_case(data).execution
    name, lack = execution.name, describe_lack(execution.trigger.streamed, execution.calls)
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    path = Path(output or name + SUFFIX)
    write_file(path, data)
    screen = Screen.stdout()
    if settings().json:
        document = {"schema": "flux.export/1", "execution": name, "file": str(path), "bytes": len(data)}
        document |= {"lacks": [lack] if lack else []}
        screen.write_raw_json(json_text(document))
        return 0
    screen.line(Piece(str(path), "bold"), f"  {len(data):,} bytes")
    if lack:
        screen.line(Piece(f"  {lack}", "yellow"))
    if not settings().quiet:
        screen.line(Piece(f"  flux replay {path}", "cyan"), "  runs it again, without server or database")
    return 0


def _export_test(id: str, output: str | None) -> int:
    client = open_client()
    answer = client.post("executions", id, "pytest", body="{}", timeout_s=INVOKE_TIMEOUT_S)
    _write_text(answer.record.of_schema("flux.pytest/1").text("text"), output)
    return 0


def _export_text(id: str, output: str | None, *, as_curl: bool) -> int:
    from flux.as_curl import write_curl
    from flux.cli.export_forms import otlp_text

    client = open_client()
    answer = client.get("executions", id)
    trace = answer.record.of_schema("flux.trace/1")
    text = write_curl(answer.text, client.server.url) if as_curl else otlp_text(trace) + "\n"
    _write_text(text, output)
    return 0


def _write_text(text: str, output: str | None) -> None:
    if output is None or output == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_file(Path(output), text.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write the file whole or not at all; it is for its owner's eyes, as records are."""
    if path.is_dir():
        raise UsageError(f"flux export: cannot write {path}: it is a folder", remedy="-o FILE names the file in it")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # A device or a pipe is written to, and not replaced by a file.
            return
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            Path(unfinished).replace(path)
        except BaseException:
            Path(unfinished).unlink()
            raise
    except OSError as error:
        raise UsageError(
            f"flux export: cannot write {path}: {error.strerror}", remedy="-o FILE names another place"
        ) from error
