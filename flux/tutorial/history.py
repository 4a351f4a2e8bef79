"""The tutorial's commits, and writing them down as files or as a git repository.

A `Commit` says who, when and why; what it changes is in the folder of its name.
Dates are counted back from a moment that the caller gives, and everything else
is fixed, so the same moment and project name give the same commit ids.
"""

import datetime
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import attrs

from flux.git import run_git

_SUFFIX = ".txt"
_NAME = "{{name}}"
"""What stands for the project's name in the files of the commits."""

_AS_WRITTEN = (
    "-c", "core.autocrlf=false",
    "-c", "core.excludesFile=/dev/null",
    "-c", "core.attributesFile=/dev/null",
)  # fmt: skip
"""Every file, byte for byte: the defaults of the last two name files in the user's home."""


@attrs.frozen
class Commit:
    """One commit of the tutorial."""

    folder: str
    """Folder under ``commits/`` with the files that it adds or changes."""

    author: str
    """Who wrote it."""

    days_before: int
    """Days before the tutorial is created."""

    time_of_day: str
    """When on that day, in UTC."""

    subject: str
    """First line of its message."""

    body: str
    """The rest of its message."""


COMMITS: tuple[Commit, ...] = (
    Commit("01-start-the-shop", "Ana Ruiz", 14, "09:12:40", "start the shop", "Users can sign up."),
    Commit("02-take-orders", "Ben Okafor", 13, "10:47:05", "take orders", "One item an order, for now."),
    Commit("03-show-one-order", "Ben Okafor", 12, "15:30:51", "show one order", "The order page needs it."),
    Commit(
        "04-keep-prices-in-one-place",
        "Ana Ruiz",
        11,
        "11:04:18",
        "keep prices in one place",
        "The invoice will need them as well, and prices that stand twice differ before long.",
    ),
    Commit("05-test-the-prices", "Ben Okafor", 10, "16:21:33", "test the prices", "Run them with pytest."),
    Commit(
        "06-tell-new-users-what-their-plan-costs",
        "Ana Ruiz",
        8,
        "09:55:02",
        "tell new users what their plan costs",
        "Support is asked this more than anything else.",
    ),
    Commit(
        "07-keep-email-addresses-in-lower-case",
        "Mei Lindqvist",
        7,
        "13:18:27",
        "keep e-mail addresses in lower case",
        "Ann@shop.example and ann@shop.example were two users.",
    ),
    Commit(
        "08-refuse-orders-of-nothing",
        "Ben Okafor",
        6,
        "10:02:44",
        "refuse orders of nothing",
        "An order of -3 mugs made us owe money.",
    ),
    Commit(
        "09-add-plan-to-signup",
        "Ana Ruiz",
        4,
        "17:36:09",
        "add plan to signup",
        "The sign-up form has a plan picker now.",
    ),
    Commit(
        "10-rename-the-price-helper",
        "Mei Lindqvist",
        3,
        "09:41:57",
        "rename the price helper",
        '"price" read like the price of one.',
    ),
    Commit(
        "11-describe-the-requests",
        "Ben Okafor",
        2,
        "14:09:30",
        "describe the requests",
        "New people ask for examples first.",
    ),
    Commit(
        "12-log-each-order",
        "Mei Lindqvist",
        1,
        "11:27:13",
        "log each order",
        "To see at a glance that orders come in.",
    ),
)
"""From the first to the last."""

GOOD = COMMITS[7]
"""The last commit before the bug: also the state that a project without history starts from."""

BAD = COMMITS[8]
"""The commit that plants the bug: without a plan in the input, it writes null over "free"."""


def list_files(commits: Iterable[Commit], project_name: str) -> dict[str, str]:
    """Path and text of each file as the last of these commits leaves it."""
    files: dict[str, str] = {}
    for commit in commits:
        folder = resources.files("flux.tutorial") / "commits" / commit.folder
        files.update(
            {path: text.replace(_NAME, project_name) for path, text in _read_folder(folder, "").items()}
        )
    return files


def list_starter_files(project_name: str) -> dict[str, str]:
    """Path and text of each file of a project without history: the shop just before the bug."""
    return list_files(COMMITS[: COMMITS.index(GOOD) + 1], project_name)


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Write the files under ``folder``, making the folders that they need."""
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def write_repository(folder: Path, project_name: str, now: datetime.datetime) -> None:
    """Make ``folder`` a git repository with the tutorial's commits, on branch ``main``, work tree clean.

    ``now`` is the moment from which dates are counted back. Nothing of the
    user's own git configuration is read: their hooks, templates and signing
    keys are for their commits, not for these.
    """
    alone = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    run_git(["init", "--quiet", "--template=", "--initial-branch=main"], folder=folder, environment=alone)
    for commit in COMMITS:
        write_files(list_files([commit], project_name), folder)
        day = now.astimezone(datetime.UTC).date() - datetime.timedelta(days=commit.days_before)
        date = f"{day.isoformat()}T{commit.time_of_day}+00:00"
        given_name = commit.author.split()[0].lower()
        identity = ["-c", f"user.name={commit.author}", "-c", f"user.email={given_name}@shop.example"]
        run_git([*_AS_WRITTEN, "add", "--all"], folder=folder, environment=alone)
        run_git(
            [*identity, "commit", "--quiet", "--message", f"{commit.subject}\n\n{commit.body}"],
            folder=folder,
            environment={**alone, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date},
        )


def _read_folder(folder: Traversable, prefix: str) -> dict[str, str]:
    files = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            files.update(_read_folder(entry, f"{prefix}{entry.name}/"))
        elif entry.name.endswith(_SUFFIX):
            files[prefix + entry.name.removesuffix(_SUFFIX)] = entry.read_text(encoding="utf-8")
    return files
