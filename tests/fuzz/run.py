"""Alters the seeds of `tests.fuzz.targets`, led by the lines of Flux that they reach, and tells what is found.

    python -m tests.fuzz.run --seconds 300                 # each target for as long
    python -m tests.fuzz.run wire case --seconds 60
    python -m tests.fuzz.run wire --input crash-0f3a       # what one input comes to, with its traceback

Each target runs in a process of its own under atheris (the extra ``fuzz``), which is libFuzzer with the coverage of
Python. What makes a target raise, or take too long, is written to the folder ``--found``, with what it came to; the
exit code is then 1. A finding is mended, and becomes a test beside the part that it was found in.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

import flux

MODULES = {
    "wire": ("flux.wire", "flux.values"), "dap": ("flux.dap_frames",), "http": ("flux.http_rules",),
    "filter": ("flux.filter", "flux.wildcards"), "fail-if": ("flux.fail_if",), "expression": ("flux.expression",),
    "case": ("flux.case_file", "flux.codec"), "record": ("flux.codec",), "noun": ("flux.codec",),
    "journal": ("flux.supervisor.journal_format",), "values": ("flux.values",), "console": ("flux.supervisor.console",),
}  # fmt: skip
"""Whose lines lead the fuzzer, with modules whose names begin so. All of Flux's would make it slow to start."""
INPUT_BYTES_MAX = 4096
MEMORY_MIB_MAX = 2048
END_S = 120
"""A process that has not ended so long after its time is stuck."""
DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+)")


def play(name: str, seconds: int, corpus: Path, found: Path, database: dict[str, Any] | None) -> None:
    """Be the process of one target; libFuzzer ends it."""
    import atheris  # Here: who runs one input needs no fuzzer.

    with atheris.instrument_imports(include=["flux"], exclude=list_others(MODULES[name])):
        from tests.fuzz.targets import TARGETS, TIMEOUT_S
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.with_suffix(".words")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if word))
    arguments = [
        name, str(corpus), f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-max_len={INPUT_BYTES_MAX}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-artifact_prefix={found}/{name}-",
    ]  # fmt: skip
    if target.words:
        arguments.append(f"-dict={words}")
    with target.open(_database(database)) as check:
        atheris.Setup(arguments, check)
        atheris.Fuzz()


def list_others(modules: Sequence[str]) -> list[str]:
    """Return the names of Flux's modules that are not to lead."""
    root = Path(flux.__file__).parent
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("*.py")]
    return [name for name in names if not any(name == one or name.startswith(f"{one}_") for one in modules)]


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _database(fields: dict[str, Any] | None) -> Any:
    if fields is None:
        return None
    from tests.conftest import Database
    from tests.postgres_server import PostgresServer

    return Database(PostgresServer.from_values(fields["server"]), fields["name"])


@contextlib.contextmanager
def open_database() -> Iterator[dict[str, Any]]:
    """A database on a server of its own, as another process is told of it."""
    from flux.store.migrate import prepare
    from flux.store.postgres import connect
    from tests.conftest import create_database
    from tests.postgres_server import running_postgres

    async def fill() -> None:
        connection = await connect(database.options())
        await prepare(connection)
        await connection.aclose()

    with running_postgres() as server:
        database = create_database(server)
        trio.run(fill)
        yield {"server": server.to_values(), "name": database.name}


def fuzz(name: str, seconds: int, found: Path, database: dict[str, Any] | None) -> tuple[str, bool]:
    """Run one target in a process; what it came to, in a line, and whether nothing was found."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        told = json.dumps([name, seconds, str(corpus), str(found), database])
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "tests.fuzz.run", "--play", told], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=seconds + END_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as stuck:
            return f"{name}: it did not end:\n{(stuck.stdout or b'')[-2000:].decode(errors='replace')}", False
        text = ended.stdout.decode(errors="replace")
        done = DONE.search(text)
        if ended.returncode or done is None:
            (found / f"{name}.txt").write_text(text)
            return f"{name}: found something, see {found}/{name}*:\n{text[-2500:]}", False
        kept = len(list(corpus.iterdir()))
        return f"{name:12} {int(done[1]):12,} inputs {int(done[2]):7,} edges {kept:6,} kept", True


def judge(name: str, data: bytes) -> None:
    """Show one input to a target."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    with contextlib.ExitStack() as stack:
        fields = stack.enter_context(open_database()) if target.needs_database else None
        stack.enter_context(target.open(_database(fields)))(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and fuzz; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", help="all unless they are named")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="folder for what is found")
    parser.add_argument("--input", type=Path, help="show this one to the target, and nothing else")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.play:
        name, seconds, corpus, found, database = json.loads(options.play)
        play(name, seconds, Path(corpus), Path(found), database)
        raise AssertionError("libFuzzer ends this process")
    from tests.fuzz.targets import TARGETS

    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.input is not None:
        if len(options.targets) != 1:
            parser.error(f"--input goes with one target, which is shown it; there are {', '.join(TARGETS)}")
        judge(options.targets[0], options.input.read_bytes())
        return 0
    options.found.mkdir(parents=True, exist_ok=True)
    good = True
    for name in options.targets or TARGETS:
        with contextlib.ExitStack() as stack:
            fields = stack.enter_context(open_database()) if TARGETS[name].needs_database else None
            line, is_good = fuzz(name, options.seconds, options.found.resolve(), fields)
        print(line, flush=True)
        good = good and is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
