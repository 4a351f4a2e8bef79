"""The second look at tests that failed beside others: `tests.second_look`."""

from pathlib import Path

import pytest

from tests.second_look import FAILED, LOOKS, UNSTEADY_MAX, look_twice


@pytest.fixture(autouse=True)
def pytest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plugins that Flux's tests use: they take longer to import than these tests to run."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def write_tests(folder: Path, *bodies: str) -> Path:
    """Write a file with one test for each body; each finds how many times it has run in ``runs``."""
    (folder / "conftest.py").write_text(
        "import pathlib, pytest\n"
        "@pytest.fixture\n"
        "def runs(request):\n"
        "    file = pathlib.Path(request.node.name + '.runs')\n"
        "    count = len(file.read_text()) if file.exists() else 0\n"
        "    file.write_text('x' * (count + 1))\n"
        "    return count\n"
    )
    tests = "".join(f"def test_{number}(runs):\n    {body}\n" for number, body in enumerate(bodies))
    (folder / "test_made.py").write_text(tests)
    return folder


def count_runs(folder: Path) -> list[int]:
    """How many times each test ran."""
    return [len(file.read_text()) for file in sorted(folder.glob("*.runs"))]


@pytest.mark.parametrize(
    ("bodies", "code", "runs"),
    [
        (("pass", "pass"), 0, [1, 1]),
        (("pass", "assert runs > 0"), 0, [1, 1 + LOOKS]),
        (("pass", "assert False"), FAILED, [1, 2]),
        (("assert runs in (1,)", "pass"), FAILED, [1 + LOOKS, 1]),
        (("assert runs > 0",) * (UNSTEADY_MAX + 1), FAILED, [1] * (UNSTEADY_MAX + 1)),
    ],
    ids=["all pass", "passes alone", "fails alone too", "passes alone once", "too many"],
)
def test_a_few_failures_are_looked_at_again_and_must_pass_each_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], bodies: tuple[str, ...], code: int, runs: list[int]
) -> None:
    assert look_twice([], write_tests(tmp_path, *bodies)) == code
    assert count_runs(tmp_path) == runs
    assert ("unsteady" in capfd.readouterr().out) == (code == 0 and max(runs) > 1)


def test_a_run_that_went_wrong_itself_is_not_looked_at_again(tmp_path: Path) -> None:
    """What pytest says of a folder without tests, as of a mistake in its arguments."""
    assert look_twice([], tmp_path) == 5
    assert look_twice(["--no-such-option"], tmp_path) == 4
