"""Pass the whole suite; look again, alone, at what failed beside others.

``python -m tests.second_look [pytest arguments]``, as `./test` does.

Six files run at a time on two cores, each with servers and processes of its own. A test among nine thousand that meets
a machine which holds it up for seconds says little about a change, and a run that ends for it is read less and less.
So the few that failed run again by themselves, in a new process, `LOOKS` times, and all of these have to pass. Such a
test is named as *unsteady*, with what it said the first time above: it has found a fault, in Flux or in itself, that
somebody is to look for. More than `UNSTEADY_MAX` failures are no chance, and nobody looks again.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

UNSTEADY_MAX = 5
"""How many failures are looked at again."""
LOOKS = 2
"""How many times each of them has to pass then."""

FAILED = 1
"""pytest's exit code where tests failed; all others but 0 say that the run itself went wrong."""


def list_failed(root: Path) -> list[str] | None:
    """Return the tests that failed in the last run below ``root``; None where pytest has kept no list."""
    kept = root / ".pytest_cache" / "v" / "cache" / "lastfailed"
    return sorted(json.loads(kept.read_text())) if kept.exists() else None


def forget_failed(root: Path) -> None:
    """Have the list of failed tests hold those of the next run alone."""
    (root / ".pytest_cache" / "v" / "cache" / "lastfailed").unlink(missing_ok=True)


def run_pytest(arguments: Sequence[str], root: Path) -> int:
    """Run pytest in a process of its own; return its exit code."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=root, check=False).returncode


def look_twice(arguments: Sequence[str], root: Path) -> int:
    """Pass the suite, looking again at a few failures; return the exit code for all of it."""
    forget_failed(root)
    code = run_pytest(arguments, root)
    failed = list_failed(root)
    if code != FAILED or not failed:
        return code
    if len(failed) > UNSTEADY_MAX:
        print(f"\n{len(failed)} tests failed: more than the {UNSTEADY_MAX} that are looked at again", flush=True)
        return code
    for look in range(1, LOOKS + 1):
        print(f"\nlook {look} of {LOOKS} at {len(failed)} failed, alone:", *failed, sep="\n  ", flush=True)
        again = run_pytest(["-q", *failed], root)
        if again:
            return again
    print(f"\nunsteady: failed beside others, passed {LOOKS} times alone:", *failed, sep="\n  ", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(look_twice(sys.argv[1:], Path.cwd()))
