"""HTTP messages as values."""

import json

import pytest

from flux.message import HttpResponse, problem, reason_of


def body_of(response: HttpResponse) -> dict[str, object]:
    assert isinstance(response.body, bytes)
    document: dict[str, object] = json.loads(response.body)
    return document


def test_an_error_has_one_envelope() -> None:
    response = problem(404, "NOT_FOUND", "nothing answers /a", request_id="01890a5d")
    assert response.status == 404
    assert response.headers == (("content-type", "application/problem+json"),)
    assert body_of(response) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "code": "NOT_FOUND",
        "detail": "nothing answers /a",
        "request_id": "01890a5d",
    }


def test_more_members_never_replace_the_envelopes_own() -> None:
    document = body_of(problem(400, "X", "y", extra={"violations": [1], "status": 200, "code": "Z"}))
    assert (document["violations"], document["status"], document["code"]) == ([1], 400, "X")


def test_an_errors_text_may_hold_anything() -> None:
    assert body_of(problem(400, "X", 'a"\x00\n→\udfff'))["detail"] in ('a"\x00\n→\udfff', 'a"\x00\n→\\udfff')


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, "OK"), (413, "Content Too Large"), (422, "Unprocessable Content"), (599, ""), (299, "")],
)
def test_a_status_has_the_reason_that_is_registered(status: int, reason: str) -> None:
    assert reason_of(status) == reason
