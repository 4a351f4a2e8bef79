"""Handles become values on the way out, and only those that this execution was given."""

import json

import pytest

from flux.hostcalls.base import HostCallFailed
from flux.hostcalls.secret import ExecutionSecrets, TenantSecrets

VALUES = {"KEY": 'sk "live"\n\\ü', "OTHER": "other-value", "NAME": "short"}


@pytest.fixture
def tenant() -> TenantSecrets:
    return TenantSecrets(VALUES, b"key of the server")


@pytest.fixture
def secrets(tenant: TenantSecrets) -> ExecutionSecrets:
    return tenant.of_execution(b"seed")


def test_a_handle_becomes_the_value_wherever_it_stands(secrets: ExecutionSecrets) -> None:
    key, other = secrets.handle("KEY"), secrets.handle("OTHER")
    assert secrets.substitute(f"Bearer {other}".encode()) == b"Bearer other-value"
    assert secrets.substitute(f"{key}{other};{key}".encode()) == (
        f"{VALUES['KEY']}other-value;{VALUES['KEY']}".encode()
    )
    assert secrets.substitute(b"\xff" + other.encode() + b"\xfe") == b"\xffother-value\xfe"


@pytest.mark.parametrize(
    "around",
    [lambda text: {"a": [f"x{text}y"]}, lambda text: [text, {text: 1}], lambda text: text],
)
def test_json_stays_json_whatever_the_value_holds(secrets: ExecutionSecrets, around: object) -> None:
    assert callable(around)
    body = json.dumps(around(secrets.handle("KEY"))).encode()
    assert json.loads(secrets.substitute(body)) == around(VALUES["KEY"])


def test_what_only_looks_like_json_gets_the_value_as_it_is(secrets: ExecutionSecrets) -> None:
    body = b"{not json " + secrets.handle("KEY").encode()
    assert secrets.substitute(body) == b"{not json " + VALUES["KEY"].encode()


def test_a_handle_that_was_not_given_here_stays_text(
    tenant: TenantSecrets, secrets: ExecutionSecrets
) -> None:
    elsewhere = tenant.of_execution(b"another seed").handle("OTHER")
    never_asked = tenant.of_execution(b"seed").handle("OTHER")
    mine = secrets.handle("KEY")
    mac = mine.rpartition(":")[2]
    for text in (
        elsewhere,
        never_asked,
        f"flux-secret:OTHER:{mac}",
        f"flux-secret:KEY:{mac[:-1]}0",
        mine[:-1],
        "flux-secret:",
    ):
        if text != mine:
            assert secrets.substitute(text.encode()) == text.encode()


def test_a_replay_has_the_same_handles(tenant: TenantSecrets) -> None:
    assert tenant.of_execution(b"s").handle("KEY") == tenant.of_execution(b"s").handle("KEY")
    assert dict(tenant.of_execution(b"s").stand_ins())[VALUES["KEY"]] == tenant.of_execution(b"s").handle(
        "KEY"
    )
    assert tenant.of_execution(b"s").handle("KEY") != tenant.of_execution(b"t").handle("KEY")


def test_a_name_that_does_not_exist_is_told_without_a_value(secrets: ExecutionSecrets) -> None:
    for ask in (secrets.handle, secrets.reveal):
        with pytest.raises(HostCallFailed) as caught:
            ask("NOPE")
        assert caught.value.error.code == "FLX422"
        assert not any(value in caught.value.error.message for value in VALUES.values())


def test_secrets_that_are_saved_anew_are_not_those_of_an_execution_in_progress(
    tenant: TenantSecrets, secrets: ExecutionSecrets
) -> None:
    handle = secrets.handle("OTHER")
    tenant.replace({"OTHER": "new-value"})
    assert secrets.substitute(handle.encode()) == b"other-value"
    assert tenant.of_execution(b"x").reveal("OTHER") == "new-value"


def test_secrets_too_short_to_be_found_are_named(tenant: TenantSecrets) -> None:
    assert tenant.list_too_short() == ["NAME"]


def test_a_handle_tells_whether_a_secret_has_the_value_that_it_had(tenant: TenantSecrets) -> None:
    before = tenant.of_execution(b"seed").handle("OTHER")
    assert tenant.of_execution(b"seed").handle("OTHER") == before
    tenant.replace({**VALUES, "OTHER": "another value"})
    now = tenant.of_execution(b"seed")
    assert now.handle("OTHER") != before
    # A replay has handed out the one of the record: what leaves it has the value as it is now.
    now.give("OTHER", before)
    assert now.substitute(before.encode()) == b"another value"
