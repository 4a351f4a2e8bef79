"""Three hundred ways out, each tried from inside, at each level, as root and as somebody who owns nothing.

``guest/functions/attempts.py`` is the list. Each attempt runs in a fresh worker through the path that every
execution takes, and once more while its module is imported, where the jail is the zygote's and a little wider.
What it got is one finding; what an oracle outside saw (files, sockets, a process) is the other. The control runs
them with no jail: a list of calls that fail anywhere would prove nothing.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux.sandbox.jail import find_tenant_uid
from tests.conftest import Database
from tests.dev_process import running_dev
from tests.escape.run_attempts import write_guest
from tests.escape.targets import lay_out
from tests.escape.unprivileged import command_as_nobody
from tests.postgres_server import PostgresServer

HERE = Path(__file__).parent
PATIENCE_S = 600.0
ATTEMPTS_MIN = 85 + 20

LOOKING = {
    "look_whether_a_file_exists",
    "look_whether_a_file_may_be_read",
    "follow_a_link_outside",
}
"""Landlock judges opening, not looking: without a mount namespace it can be learnt which files there are."""

WHILE_IMPORTING = {
    # It forks workers, waits for them and wakes itself; the tighter jail is for those.
    *("fork", "make_a_pipe", "get_a_handle_of_the_zygote", "outlive_the_zygote", "install_a_filter"),
    # Its own jail's processes, those of the same deployment.
    *("signal_everybody", "signal_the_first_process", "signal_a_neighbour"),
    # Of what it can read anyway.
    "leave_working_folder",
    # The function's limit is a worker's; importing may use a gigabyte, and as much time as the supervisor lets it.
    *("use_more_memory_than_allowed", "make_readable_memory_writable_past_the_limit", "raise_limit_cpu"),
    # No execution runs yet: time and chance are real, and what has come can be looked for.
    *(f"read_clock_{number}" for number in (0, 1, 2, 3, 4, 5, 6, 7, 11)),
    *("read_the_clock_of_own_process", "read_timespec", "read_time_of_day", "count_ticks", "read_processor_time"),
    *("read_time_spent", "read_time_spent_by_the_thread", "read_the_counter", "read_the_counter_in_order"),
    *("ask_kernel_for_the_time", "ask_kernel_for_the_time_since_the_start", "ask_kernel_for_processor_time"),
    *("ask_kernel_for_time_spent", "ask_kernel_for_seconds", "ask_kernel_for_time_of_day", "ask_kernel_for_ticks"),
    *("ask_kernel_for_chance", "ask_kernel_through_the_old_page", "watch_the_space_on_the_disk"),
    *("look_whether_the_host_has_answered", "look_with_select", "read_without_waiting"),
    *("read_without_waiting_by_ioctl", "be_told_by_signal", "be_told_of_processor_time"),
    "be_told_of_processor_time_by_a_high_address",
}
WHILE_IMPORTING_IN_CORE = {
    # Without a PID namespace others are to be seen. Such a handle is good for nothing: see test_jail.py.
    "get_a_handle_of_the_victim",
    # Processes are counted by user, and this one's are not the jail's only.
    "raise_limit_nproc",
    "find_free_space",
}

REFUSALS = {
    *("EPERM", "EACCES", "ENOENT", "ENOSYS", "ENOMEM", "EMFILE", "ESRCH", "EBADF", "signal 31", "refused"),
    *("there is none", "nothing was left", "time stood still", "MemoryError: "),
    "ValueError: not allowed to raise maximum limit",
    "ModuleNotFoundError: No module named 'flux.store'",
}
"""How an attempt may fail. EINVAL and EFAULT are not among them: they come from behind the wall."""

LEVELS = ("strict", "core")
USERS = ("own", "same", "nobody")


def run(program: str, *arguments: str, user: str) -> Any:
    """Run one of the programs here as root or as nobody, and return the document that it prints."""
    command = [str(HERE / program), *arguments]
    whole = (
        command_as_nobody(command) if user == "nobody" and os.geteuid() == 0 else [sys.executable, *command]
    )
    done = subprocess.run(whole, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cases() -> list[tuple[str, str]]:
    """Level and user; who is root here has a user id to give away in strict, and nobody to be."""
    if os.geteuid() != 0:
        return [("strict", "same"), ("core", "same")]
    return [(level, user) for level in LEVELS for user in USERS if not (level == "core" and user == "own")]


def who(user: str) -> str:
    """What the program that makes the attempts is told."""
    return "own" if user == "own" else "same"


@pytest.mark.parametrize(("level", "user"), cases())
def test_nothing_gets_out_of_a_worker(level: str, user: str) -> None:
    done = run("run_attempts.py", level, who(user), "worker", user=user)
    results = done["results"]
    assert len(results) >= ATTEMPTS_MIN
    assert {name for name, result in results.items() if result["refused"] is None} == (
        LOOKING if level == "core" else set()
    )
    assert {result["refused"] for result in results.values()} - {None} <= REFUSALS
    assert done["reached"] == []
    assert done["restarts"] == 0, "no attempt ended the zygote"


@pytest.mark.parametrize(("level", "user"), cases())
def test_code_that_is_imported_is_in_the_jail_already(level: str, user: str) -> None:
    done = run("run_attempts.py", level, who(user), "import", user=user)
    results = done["results"]
    assert len(results) >= ATTEMPTS_MIN
    allowed = WHILE_IMPORTING if level == "strict" else WHILE_IMPORTING | LOOKING | WHILE_IMPORTING_IN_CORE
    assert {name for name, result in results.items() if result["refused"] is None} <= allowed
    assert {result["refused"] for result in results.values()} - {None} <= REFUSALS
    assert done["reached"] == []
    assert done["restarts"] == 0


def test_without_a_jail_most_attempts_succeed() -> None:
    succeeded = set(run("control.py", user="nobody"))
    assert len(succeeded) >= 85
    assert succeeded >= LOOKING
    assert succeeded >= {
        *("read_passwd", "read_secrets_of_the_project", "read_artifact_of_another_tenant", "create_in_tmp"),
        *(
            "fork",
            "start_a_program",
            "kill_the_victim",
            "connect_to_the_server",
            "find_an_inherited_descriptor",
        ),
        *("find_a_secret_in_the_environment", "use_shared_memory_that_no_limit_counts", "kill_the_zygote"),
        *("read_clock_0", "read_clock_1", "read_clock_2", "read_time_of_day", "read_time_spent", "count_ticks"),
        *("ask_kernel_for_the_time", "ask_kernel_for_chance", "read_the_counter", "read_proc_uptime"),
        *("read_the_page_of_the_time", "look_whether_the_host_has_answered", "be_told_of_processor_time"),
    }


def test_each_attempt_is_on_record_with_the_level_that_it_met(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres18)
    project, outside = tmp_path / "project", tmp_path / "outside"
    project.mkdir()
    outside.mkdir()
    write_guest(project, "worker", {})
    (project / "flux.toml").write_text('[project]\nname = "escape"\n')
    with lay_out(outside) as laid, running_dev(project, database) as server:
        names = server.request("GET", "/names").json
        answers = {
            name: server.request("POST", "/attempt", {"name": name, "targets": laid.targets})
            for name in names
        }
        died = {name for name, answer in answers.items() if answer.status != 200}
        assert died == {"call_by_interrupt_80", "open_by_interrupt_80", "call_by_x32"}
        assert [name for name in answers.keys() - died if answers[name].json["refused"] is None] == []
        level = server.json("trace", answers["read_passwd"].flux_id)["sandbox"]
        assert (level["kind"], level["isolation"]) == ("process", "strict")
        why = server.command("why", answers["call_by_x32"].flux_id).stdout
        assert "SIGSYS" in why or "signal 31" in why
        table = {check["name"]: check for check in server.json("doctor")["checks"]}
        assert table["isolation"]["detail"].startswith("strict")
        layers = {
            "descriptors",
            "environment",
            "limits",
            "privileges",
            "landlock",
            "seccomp",
            "namespaces",
            "user",
        }
        assert layers <= table.keys() and all(table[layer]["ok"] for layer in layers)
        if os.geteuid() == 0:
            assert str(find_tenant_uid("main")) in table["user"]["detail"]
    recorded = set(database.psql("select name from flux.execution where function = 'attempt'").split())
    assert recorded == {answer.flux_id for answer in answers.values()}
