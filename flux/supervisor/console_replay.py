"""The console's question about the replay of one execution.

A replay's body says what its caller brings and allows::

    {"answers": {"3": {"timeout": true}, "4": {"status": 503}, "5": {"body": "..."}, "6": {"from": "qk3f81xa"}},
     "live": ["api.tax.example"]}

Consent to ``live`` is asked for by whoever talks to a person; here it has been given.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from flux.brought import Borrowed, BroughtAnswer, Content, Status, Timeout
from flux.calls import find_host
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.console_query import BadQueryError, Query
from flux.supervisor.present import Document, summary_json
from flux.supervisor.present_replay import replay_json
from flux.supervisor.replay_many import ReplayHost

LIVE_MAX = 32
EXPECTED_MAX = 200
"""Executions that are announced at once."""


class ReplayDesk:
    """Answers them, for one tenant."""

    def __init__(
        self,
        pool: Pool,
        host: ReplayHost,
        find: Callable[[str], Awaitable[reading.Summary]],
    ) -> None:
        """``find`` returns the execution that a text means."""
        self._pool = pool
        self._host = host
        self._find = find

    async def replay(self, name: str, body: bytes, query: Query) -> Document:
        """Replay an execution."""
        order = _read_order(body)
        answers = await self._read_answers(order.get("answers", {}))
        live = _read_live(order.get("live", []))
        summary, execution = await reading.get_execution(self._pool, (await self._find(name)).id)
        return replay_json(
            summary_json(summary), await self._host.replay(execution, query.get("on"), answers, live)
        )

    async def expect(self, body: bytes) -> Document:
        """Take note of executions that are to be replayed soon: ``{"executions": [...]}``."""
        try:
            said = msgspec.json.decode(body, type=dict[str, list[uuid.UUID]])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadQueryError(
                f"the body can't be read: {error}", remedy='{"executions": ["an execution\'s UUID"]}'
            ) from error
        if said.keys() != {"executions"} or len(said["executions"]) > EXPECTED_MAX:
            raise BadQueryError(
                f"the body has at most {EXPECTED_MAX} executions, and nothing else", remedy="send the others later"
            )
        found = [(await reading.get_execution(self._pool, id))[1] for id in said["executions"]]
        self._host.expect(found)
        return {"schema": "flux.expected/1", "executions": len(found)}

    async def _read_answers(self, said: Any) -> Mapping[int, BroughtAnswer]:
        if not isinstance(said, dict) or not all(
            number.isdecimal() and number.isascii() and isinstance(answer, dict)
            for number, answer in said.items()
        ):
            raise BadQueryError(
                "answers are not by the number of a call", remedy='{"answers": {"3": {"status": 503}}}'
            )
        answers: dict[int, BroughtAnswer] = {}
        for number, answer in ((int(number), answer) for number, answer in said.items()):
            match answer:
                case {"timeout": True, **rest} if not rest:
                    answers[number] = Timeout()
                case {"status": int(status), **rest} if not rest and 200 <= status <= 599:
                    answers[number] = Status(status)
                case {"body": str(content), **rest} if not rest:
                    answers[number] = Content(content)
                case {"from": str(name), **rest} if not rest:
                    summary, lender = await reading.get_execution(self._pool, (await self._find(name)).id)
                    answers[number] = Borrowed(summary.name, lender.calls)
                case _:
                    raise BadQueryError(
                        f"the answer for call {number} says something else than an answer",
                        remedy='one of {"timeout": true}, {"status": 503}, {"body": "..."}, {"from": "an execution"}',
                    )
        return answers


def _read_order(body: bytes) -> dict[str, Any]:
    try:
        order = msgspec.json.decode(body, type=dict[str, Any]) if body.strip() else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(
            f"the body can't be read: {error}", remedy='send {}, or {"answers": {"3": {"status": 503}}}'
        ) from error
    if unknown := sorted(order.keys() - {"answers", "live"}):
        raise BadQueryError(f'the body has "{unknown[0][:80]}"', remedy='it takes "answers" and "live"')
    return order


def _read_live(said: Any) -> frozenset[str]:
    if not isinstance(said, list) or len(said) > LIVE_MAX or not all(isinstance(host, str) for host in said):
        raise BadQueryError(f'"live" is a list of at most {LIVE_MAX} hosts', remedy='{"live": ["api.example.com"]}')
    hosts = set()
    for host in said:
        # As a request to it would be named: the scheme only decides which port goes without saying.
        found = find_host(f"https://{host}")
        if not found or any(letter in host for letter in "/?#@"):
            raise BadQueryError(f'"{host[:200]}" is no host', remedy="write api.example.com or 127.0.0.1:9000")
        hosts.add(found)
    return frozenset(hosts)
