"""Which files of tests take long, so that they begin first.

Files are handed out to several processes, one after the other. The last one to begin ends the run: were it the
longest, everybody would wait for it. So files go in the order of the seconds that they take in a run of the whole
suite, or that files of their folder may take: the processor time of the file with all that it started, and a twentieth
of the time that passed, as some wait more than they compute. A wrong number costs time and nothing else.
"""

import pytest

SECONDS = {
    "acceptance/test_eject.py": 35,
    "acceptance/test_bad_input.py": 19,
    "acceptance/test_bisect.py": 19,
    "acceptance/test_case_files.py": 13,
    "acceptance/test_conduit.py": 10,
    "acceptance/test_cron.py": 12,
    "acceptance/test_database_commands.py": 13,
    "acceptance/test_deployments.py": 9,
    "acceptance/test_dev_story.py": 11,
    "acceptance/test_guard.py": 29,
    "acceptance/test_init.py": 17,
    "acceptance/test_interleave.py": 20,
    "acceptance/test_isolation.py": 26,
    "acceptance/test_javascript.py": 12,
    "acceptance/test_no_network.py": 10,
    "acceptance/test_replay.py": 52,
    "acceptance/test_rolling.py": 12,
    "acceptance/test_streaming.py": 9,
    "acceptance/test_tail.py": 22,
    "acceptance/test_tenants.py": 18,
    "acceptance/test_tutorial.py": 25,
    "acceptance/test_web_console.py": 104,
    "acceptance/test_workers.py": 11,
    "core/test_codec.py": 12,
    "core/test_present.py": 16,
    "core/test_travel.py": 8,
    "core/test_web_pages.py": 9,
    "core/test_why_never_guesses.py": 14,
    "escape/test_escape.py": 53,
    "escape/test_wasm_escape.py": 20,
    "faults/test_every.py": 8,
    "faults/test_exhaustion.py": 9,
    "faults/test_hostile_guests.py": 56,
    "faults/test_journal_faults.py": 15,
    "faults/test_kill_9.py": 21,
    "guests/test_programs.py": 10,
    "guests/test_repeat_python.py": 9,
    "integration/test_capture.py": 26,
    "integration/test_capture_hostile.py": 18,
    "integration/test_capture_owner.py": 20,
    "integration/test_console.py": 10,
    "integration/test_deploy.py": 10,
    "integration/test_embedded.py": 81,
    "integration/test_environments.py": 42,
    "integration/test_execute_truth.py": 16,
    "integration/test_execution_database.py": 20,
    "integration/test_gateway_hostile.py": 20,
    "integration/test_jail.py": 44,
    "integration/test_process_sandbox.py": 18,
    "integration/test_recovery.py": 18,
    "integration/test_restored.py": 22,
    "integration/test_row_states.py": 10,
    "integration/test_store_migrate.py": 9,
    "integration/test_store_reading.py": 19,
    "integration/test_unmodified_libraries.py": 14,
    "integration/test_wasm_bounds.py": 8,
    "integration/test_wasm_determinism.py": 15,
    "integration/test_wasm_fuel.py": 8,
    "integration/test_wasm_jail.py": 12,
    "integration/test_wasm_modules.py": 64,
    "integration/test_wasm_sandbox.py": 15,
    "integration/test_world.py": 14,
    "integration/test_world_gaps.py": 10,
    "integration/test_world_moves.py": 12,
    "integration/test_world_since.py": 24,
    "integration/test_zygotes.py": 12,
    "property/test_http_rules.py": 11,
    "property/test_values.py": 8,
    "property/test_wire.py": 8,
    "tidy/test_benchmarks.py": 26,
    "tidy/test_documentation.py": 11,
    "tidy/test_gates.py": 43,
    "worlds/test_reread.py": 11,
}


SECONDS_OF_OTHERS = {
    "acceptance": 5, "conformance": 4, "escape": 7, "faults": 3, "guests": 3, "histories": 4, "integration": 3,
    "property": 3, "queue": 5, "states": 5, "streams": 5, "worlds": 7,
}  # fmt: skip
"""By folder: what is not named, and may start servers all the same, is not left for the end."""


def put_longest_first(items: list[pytest.Item]) -> None:
    """Order tests by how long their file takes; those of one file stay together, in their own order."""
    items.sort(key=lambda item: -guess_seconds(item.nodeid.partition("::")[0].removeprefix("tests/")))


def guess_seconds(name: str) -> int:
    """Return how long a file takes, by its name under ``tests/``."""
    return SECONDS.get(name, SECONDS_OF_OTHERS.get(name.partition("/")[0], 0))
