"""What "the one before" and "that one" mean in the record of what was deployed."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.deploy_history import (
    Cause,
    Deploy,
    Deployed,
    NoEarlierDeployError,
    NoSuchDeployError,
    find_named,
    find_previous,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)


def code(letter: str, *, dirty: bool = False) -> Deployed:
    return Deployed(letter * 16, letter * 40, dirty)


def deploy(word: str) -> Deploy:
    """``A`` is a deploy of a, ``a`` a rollback to it, ``+A`` one of a with changes."""
    letter = word.removeprefix("+")
    cause = Cause.ROLLBACK if letter.islower() else Cause.DEPLOY
    return Deploy(code(letter.lower(), dirty=word.startswith("+")), None, (), cause, (), AT)


def history(text: str) -> list[Deploy]:
    return [deploy(word) for word in text.split()]


@pytest.mark.parametrize(
    ("deploys", "before"),
    [
        ("A B", "a"),
        ("A B C", "b"),
        ("A B C b", "a"),  # and not c, which was rolled back from
        ("A B C b D", "b"),
        ("A B C b a D", "a"),
        ("A A A B", "a"),
        ("A B B", "a"),
        ("A B A", "b"),  # deployed again: a new wish
        ("A B A b", "a"),
        ("+A A", "+a"),  # the same commit with changes is other code
        ("B c", "b"),  # rolled back to what this part of the record does not have
    ],
)
def test_before_is_what_was_served_under_the_current_one(deploys: str, before: str) -> None:
    found = history(deploys)
    wanted = code(before.removeprefix("+"), dirty=before.startswith("+"))
    assert find_previous(found, found[-1].code).code == wanted


@pytest.mark.parametrize("deploys", ["A", "A A", "A B a", ""])
def test_without_other_code_there_is_nothing_to_go_back_to(deploys: str) -> None:
    found = history(deploys)
    with pytest.raises(NoEarlierDeployError):
        find_previous(found, found[-1].code if found else None)


def test_what_is_on_record_and_is_not_served_is_gone_back_to_first() -> None:
    """A server that could not run what was current serves nothing, or something that is not on record."""
    assert find_previous(history("A B"), None).code == code("b")
    assert find_previous(history("A B"), code("x")).code == code("b")


@given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=12))
def test_rolling_back_again_and_again_comes_to_an_end_and_visits_nothing_twice_in_a_row(letters: list[str]) -> None:
    found = history(" ".join(letters))
    seen = [found[-1].code]
    for _ in range(len(letters)):
        try:
            target = find_previous(found, seen[-1])
        except NoEarlierDeployError:
            return
        assert target.code != seen[-1]
        seen.append(target.code)
        found.append(Deploy(target.code, None, (), Cause.ROLLBACK, (), AT))
    pytest.fail(f"it goes round: {seen}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aaaa", "a"),
        ("A" * 10, "a"),
        ("b" * 16, "b"),
        ("b" * 40, "b"),
        ("cccc", "c"),
        ("dddd+", "+d"),
    ],
)
def test_a_deployment_is_called_by_the_beginning_of_its_id_or_commit(text: str, found: str) -> None:
    without_git = Deployed("1" * 16, "nogit-cccccccccccc", False)
    deploys = [*history("A B +D"), Deploy(without_git, None, (), Cause.SAVE, (), AT)]
    code = find_named(deploys, text).code
    assert code.sha.removeprefix("nogit-")[0] == found.removeprefix("+") and code.dirty == found.startswith("+")


@pytest.mark.parametrize("text", ["", "+", "aaa", "zzzz", "aaaa+", "a" * 41, "ä" * 500])
def test_what_names_no_deployment_is_refused(text: str) -> None:
    with pytest.raises(NoSuchDeployError, match="no deployment on record is called"):
        find_named(history("A B"), text)


def test_what_names_several_is_refused_with_what_they_are() -> None:
    clean, dirty = code("a"), with_id(code("a", dirty=True), "b" * 16)
    deploys = [Deploy(one, None, (), Cause.DEPLOY, (), AT) for one in (clean, dirty)]
    with pytest.raises(NoSuchDeployError, match=r"begins 2 deployments: a{16} \(aaaaaaa\), b{16} \(aaaaaaa\+\)"):
        find_named(deploys, "aaaaa")
    assert find_named(deploys, "aaaaa+").code == dirty
    assert find_named(deploys, "bbbb").code == dirty


def test_the_same_files_under_several_names_are_no_two_deployments() -> None:
    """As a commit that changes no function, or one that commits what had been deployed with changes."""
    clean, later = code("a"), Deployed("a" * 16, "b" * 40, False)
    deploys = [
        Deploy(one, None, (), Cause.DEPLOY, (), AT.replace(day=day))
        for day, one in enumerate((clean, later, code("a", dirty=True)), 1)
    ]
    assert find_named(deploys, "aaaa").code == later
    assert find_named(deploys, "bbbb").code == later
    assert find_named(deploys, "a" * 20).code == clean
    assert find_named(deploys, "aaaa+").code == code("a", dirty=True)


def with_id(one: Deployed, id: str) -> Deployed:
    return Deployed(id, one.sha, one.dirty)
