"""A real library that broke: which release of pydash, found by a bisect through a repository with one commit a release.

This asks a package index, so it is a command and no test. Its mechanism, a dependency whose new version is the
culprit, is among the tests, with packages made for them::

    python -m tests.histories.pydash --cache ~/.cache/flux-pydash

pydash 6.0.0 began to look at the keys of a path as text, to refuse dunder names. Where there is nothing to index, an
integer key got there as an integer: ``pydash.get({"lines": None}, "lines[0]", default)`` raised ``TypeError: object of
type 'int' has no len()`` where it had given the default. The release after it repaired that
(https://github.com/dgilland/pydash/blob/develop/CHANGELOG.rst, v6.0.1).

The history pins one release after the other in ``requirements.txt``, from 4.8.0 up to 6.0.0, and goes on with commits
that change something else. A handler looks up the first line of an order; the order that is sent has none. What each
commit does was found by hand first, with the code below that is run without Flux on each release.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import create_database
from tests.dev_process import running_dev
from tests.histories.write import git, list_untouched
from tests.postgres_server import running_postgres

RELEASES = (
    "4.8.0", "4.9.0", "4.9.1", "4.9.2", "4.9.3", "5.0.0", "5.0.1", "5.0.2", "5.1.0", "5.1.1", "5.1.2", "6.0.0",
)  # fmt: skip
CULPRIT = "6.0.0"
AFTERWARDS = 8
"""Commits behind the last release."""
HANDLER = """\
import pydash
from flux_guest import function


@function("POST /first")
async def first_item(ctx, input):
    return {"item": pydash.get(input, "order.lines[0].item", "nothing")}
"""
ORDER = {"order": {"lines": None}}
BY_HAND = (
    "import sys; sys.path.insert(0, sys.argv[1]); import pydash; "
    "print(pydash.get({'order': {'lines': None}}, 'order.lines[0].item', 'nothing'))"
)


def download(cache: Path) -> None:
    """Have the wheel of each release in ``cache``."""
    cache.mkdir(parents=True, exist_ok=True)
    for release in RELEASES:
        if not list(cache.glob(f"pydash-{release}-*.whl")):
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                 "--only-binary=:all:", "--dest", str(cache), f"pydash=={release}"],
                check=True,
            )  # fmt: skip


def find_by_hand(cache: Path) -> str:
    """Return the first release that fails, by asking each."""
    for release in RELEASES:
        (wheel,) = cache.glob(f"pydash-{release}-*.whl")
        # A wheel of pure Python can be imported from as it is.
        done = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", "-c", BY_HAND, str(wheel)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            print(f"by hand: {release} {done.stderr.splitlines()[-1]}")
            return release
        print(f"by hand: {release} {done.stdout.strip()}")
    raise AssertionError("no release fails")


def write_history(folder: Path, cache: Path) -> dict[str, str]:
    """Make the repository; return the release that each commit brought, by the commit's id."""
    (folder / "functions").mkdir(parents=True)
    git(folder, "init", "--quiet", "--template=", "--initial-branch=main")
    (folder / "functions" / "first.py").write_text(HANDLER)
    (folder / "flux.toml").write_text('[project]\nname = "first"\n[recording]\nself_check_s = 0\n')
    (folder / ".gitignore").write_text(".flux/\n")
    brought = {}
    for release in RELEASES:
        # Installing asks no index: the folder of wheels is on this machine, as a mirror would be.
        (folder / "requirements.txt").write_text(f"--no-index\n--find-links {cache}\npydash=={release}\n")
        brought[_commit(folder, f"pydash {release}")] = release
    for number in range(AFTERWARDS):
        (folder / "README.md").write_text(f"Looked at {number + 1} times.\n")
        _commit(folder, "words")
    return brought


def _commit(folder: Path, subject: str) -> str:
    git(folder, "add", "--all")
    git(
        folder, "-c", "user.name=Ana Ruiz", "-c", "user.email=ana@shop.example",
        "commit", "--quiet", "-m", subject,
    )  # fmt: skip
    return git(folder, "rev-parse", "HEAD")


def main() -> int:
    """Run it; exit code 0 when the release is named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "flux-pydash", help="folder for wheels"
    )
    options = parser.parse_args()
    cache = options.cache.resolve()
    download(cache)
    assert find_by_hand(cache) == CULPRIT
    with tempfile.TemporaryDirectory(prefix="flux-pydash-") as name, running_postgres() as postgres:
        folder = Path(name)
        folder.chmod(0o755)
        brought = write_history(folder / "first", cache)
        good = next(iter(brought))
        with running_dev(folder / "first", create_database(postgres)) as server:
            answer = server.request("POST", "/first", ORDER)
            assert answer.status == 500, answer.body
            before = list_untouched(server.project)
            done = server.command("bug", "bisect", answer.flux_id, "--good", good, timeout_s=1800)
            print(done.stdout, done.stderr, sep="\n")
            found = json.loads(
                server.command("bug", "bisect", answer.flux_id, "--good", good, "--json").stdout
            )
            assert list_untouched(server.project) == before
    named = brought.get(found["first_bad"] or "", "no release")
    print(f"named: {named}; by hand: {CULPRIT}")
    return 0 if named == CULPRIT else 1


if __name__ == "__main__":
    sys.exit(main())
