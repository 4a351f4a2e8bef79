"""Which files of tests take long, so that they begin first.

Files are handed out to several processes, one after the other. The last one to begin ends the run: were it the
longest, everybody would wait for it. So files go in the order of the seconds that they take, by estimate, in a run
of the whole suite, or that files of their folder may take. A wrong number costs time and nothing else.
"""

import pytest

SECONDS = {
    "acceptance/test_asgi.py": 20,
    "acceptance/test_bad_input.py": 25,
    "acceptance/test_bisect.py": 25,
    "acceptance/test_case_files.py": 20,
    "acceptance/test_cli_client.py": 4,
    "acceptance/test_cron.py": 25,
    "acceptance/test_composition.py": 20,
    "acceptance/test_database_commands.py": 20,
    "acceptance/test_conduit.py": 20,
    "acceptance/test_debugger.py": 20,
    "acceptance/test_deployments.py": 30,
    "acceptance/test_dev_story.py": 20,
    "acceptance/test_gate.py": 15,
    "acceptance/test_guard.py": 30,
    "acceptance/test_init.py": 15,
    "acceptance/test_interleave.py": 30,
    "acceptance/test_isolation.py": 25,
    "acceptance/test_javascript.py": 35,
    "acceptance/test_libraries.py": 20,
    "acceptance/test_mcp.py": 15,
    "acceptance/test_migration_rows.py": 15,
    "acceptance/test_queue.py": 20,
    "acceptance/test_rolling.py": 25,
    "acceptance/test_records_not_whole.py": 15,
    "acceptance/test_records_kept.py": 20,
    "acceptance/test_replay.py": 70,
    "acceptance/test_shell_blocks.py": 20,
    "acceptance/test_signup.py": 20,
    "acceptance/test_streaming.py": 20,
    "acceptance/test_tail.py": 30,
    "acceptance/test_tenants.py": 20,
    "acceptance/test_trace.py": 20,
    "acceptance/test_tutorial.py": 60,
    "acceptance/test_why_faults.py": 20,
    "acceptance/test_why_finds_faults.py": 10,
    "acceptance/test_web_console.py": 35,
    "acceptance/test_why_origin.py": 15,
    "acceptance/test_workers.py": 40,
    "conformance/test_sandbox.py": 15,
    "core/test_sanitize.py": 10,
    "core/test_why_never_guesses.py": 15,
    "escape/test_escape.py": 55,
    "escape/test_escape_through_sockets.py": 15,
    "escape/test_wasm_escape.py": 15,
    "faults/test_every.py": 35,
    "faults/test_hostile_dev.py": 25,
    "faults/test_hostile_guests.py": 45,
    "faults/test_journal_faults.py": 18,
    "faults/test_kill_9.py": 25,
    "guests/test_cases.py": 15,
    "guests/test_programs.py": 15,
    "guests/test_repeat.py": 25,
    "guests/test_repeat_python.py": 25,
    "histories/test_histories.py": 6,
    "histories/test_regressions.py": 15,
    "integration/test_capture.py": 35,
    "integration/test_capture_hostile.py": 45,
    "integration/test_capture_owner.py": 25,
    "integration/test_debug.py": 12,
    "integration/test_deploy.py": 20,
    "integration/test_driver.py": 14,
    "integration/test_driver_types.py": 25,
    "integration/test_embedded.py": 70,
    "integration/test_environments.py": 35,
    "integration/test_execute_truth.py": 25,
    "integration/test_execution_database.py": 20,
    "integration/test_gateway_hostile.py": 35,
    "integration/test_jail.py": 45,
    "integration/test_process_sandbox.py": 25,
    "integration/test_pytest_export.py": 20,
    "integration/test_queue.py": 20,
    "integration/test_recovery.py": 35,
    "integration/test_restored.py": 34,
    "integration/test_row_states.py": 15,
    "integration/test_store_reading.py": 20,
    "integration/test_wasm_jail.py": 25,
    "integration/test_wasm_modules.py": 50,
    "integration/test_wasm_sandbox.py": 25,
    "integration/test_world.py": 20,
    "integration/test_world_overtaken.py": 10,
    "integration/test_zygotes.py": 25,
    "proofs/test_seeded.py": 12,
    "queue/test_jobs.py": 25,
    "secrets/test_planted.py": 20,
    "states/test_at.py": 8,
    "tidy/test_benchmarks.py": 18,
    "tidy/test_gates.py": 60,
}


SECONDS_OF_OTHERS = {
    "acceptance": 20, "conformance": 5, "escape": 15, "faults": 15, "guests": 10, "histories": 10, "integration": 5,
    "property": 3, "queue": 10, "states": 10, "worlds": 10,
}  # fmt: skip
"""By folder: what is not named, and may start servers all the same, is not left for the end."""


def put_longest_first(items: list[pytest.Item]) -> None:
    """Order tests by how long their file takes; those of one file stay together, in their own order."""
    items.sort(key=lambda item: -guess_seconds(item.nodeid.partition("::")[0].removeprefix("tests/")))


def guess_seconds(name: str) -> int:
    """Return how long a file takes, by its name under ``tests/``."""
    return SECONDS.get(name, SECONDS_OF_OTHERS.get(name.partition("/")[0], 0))
