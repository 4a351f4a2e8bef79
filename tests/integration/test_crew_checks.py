"""What ``flux doctor`` says of a server of several processes, of which some do not answer."""

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio

from flux.supervisor import crew_desk
from flux.supervisor.crew_desk import describe_own, list_crew_checks
from flux.supervisor.server_checks import RecordingTally
from flux.supervisor.siblings import SiblingGoneError, Siblings

WELL = RecordingTally(stored=5, reduced=0, waiting=1, is_stalled=False, last_error="")
SELF_CHECK = {"name": "self-check", "ok": True, "detail": "since the start 3 of 3 did the same again", "remedy": ""}


class Crew(Siblings):
    """Three other workers: what they say is set, and None is nothing at all."""

    def __init__(self, answers: Mapping[int, Mapping[str, Any] | SiblingGoneError | None]) -> None:
        self.answers = answers

    @property
    def others(self) -> list[int]:
        return [1, 2, 3]

    def is_there(self, number: int) -> bool:
        return number in self.answers

    async def ask(self, number: int, *_asked: object) -> Any:
        answer = self.answers[number]
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, SiblingGoneError):
            raise answer
        return answer


async def test_records_of_all_workers_are_counted_and_a_stall_of_one_is_told() -> None:
    stalled = attrs.evolve(WELL, is_stalled=True, last_error="no room")
    crew = Crew({1: describe_own(WELL, None), 2: describe_own(stalled, None), 3: describe_own(WELL, SELF_CHECK)})
    recording, workers, self_check = await list_crew_checks(crew, lambda: WELL)
    assert recording["detail"] == "since the start 20 stored, 0 reduced; 4 waiting, last error: no room"
    assert not recording["ok"] and recording["remedy"]
    assert workers["ok"] and workers["detail"] == "4 of 4 answer"
    assert self_check == SELF_CHECK


async def test_a_worker_that_does_not_say_is_named_and_not_counted_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_desk, "METRICS_S", 0.05)
    crew = Crew({1: describe_own(WELL, None), 2: None, 3: SiblingGoneError("it is gone")})
    recording, workers = await list_crew_checks(crew, lambda: WELL)
    assert recording["detail"].startswith("since the start 10 stored")
    assert not workers["ok"] and workers["remedy"]
    assert workers["detail"] == "2 of 4 answer; of 2, 3 nothing is counted here"
