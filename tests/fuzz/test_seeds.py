"""Each target of the fuzzer over its seeds, without the fuzzer: that they hold, and reach what they are to reach.

``python -m tests.fuzz.run`` alters them for as long as it is told to.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from flux import codec, expression, fail_if, filter, values
from tests.conftest import Database
from tests.fuzz import targets
from tests.fuzz.run import MODULES, list_others, main
from tests.fuzz.targets import FAIL_IF_SEEDS, FILTER_SEEDS, LOOK_SEEDS, NOUNS, NOW, TARGETS, Target


def test_each_target_is_led_by_modules_that_there_are() -> None:
    assert MODULES.keys() == TARGETS.keys()
    assert all(importlib.util.find_spec(module) for modules in MODULES.values() for module in modules)
    others = list_others(MODULES["console"])
    assert "flux.filter" in others and not {"flux.supervisor.console", "flux.supervisor.console_page"} & {
        *others
    }


@pytest.mark.parametrize(
    "target", [each for each in TARGETS.values() if not each.needs_database], ids=lambda t: t.name
)
def test_a_target_holds_over_its_seeds_and_over_parts_of_them(target: Target) -> None:
    assert target.seeds and all(target.seeds)
    with target.open(None) as check:
        for seed in (b"", *target.seeds):
            check(seed)
            check(seed[: len(seed) // 2])
            check(seed[len(seed) // 2 :])


def test_the_consoles_api_holds_over_its_seeds(database: Database) -> None:
    target = TARGETS["console"]
    assert {b"executions", b"state/at", b"checks"} <= {seed.split(b"\n")[0] for seed in target.seeds}
    with target.open(database) as check:
        for seed in target.seeds[::4]:
            check(seed)


def test_the_seeds_of_grammars_are_read_and_not_refused() -> None:
    for text in FILTER_SEEDS:
        assert filter.parse(text.decode(), NOW).terms
    for text in FAIL_IF_SEEDS:
        fail_if.parse_expression(text.decode())
    for text in LOOK_SEEDS:
        assert expression.parse_expressions(text.decode())
    assert {NOUNS[seed[0]] for seed in targets.NOUN_SEEDS} == {*NOUNS}
    for seed in targets.NOUN_SEEDS:
        codec.decode(NOUNS[seed[0]], seed[1:])  # type: ignore[arg-type]
    for text in targets.VALUE_SEEDS:
        values.decode(text)


def test_a_target_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter, "parse", lambda _text, _now: 1 / 0)
    with TARGETS["filter"].open(None) as check, pytest.raises(ZeroDivisionError):
        check(b"status:500")


def test_one_input_is_shown_to_a_target_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"status:>=500")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "filter", "--input", tmp_path / "input"], check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([], "--input goes with one target"),
        (["filter", "case"], "--input goes with one target"),
        (["filtre"], "no such target: filtre; there are wire,"),
    ],
)
def test_one_input_and_not_one_target_is_refused(
    targets: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "input").write_bytes(b"status:>=500")
    with pytest.raises(SystemExit) as ended:
        main([*targets, "--input", str(tmp_path / "input")])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
