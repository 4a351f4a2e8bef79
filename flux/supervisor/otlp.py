"""Sending spans to a collector, in OpenTelemetry's protocol: https://opentelemetry.io/docs/specs/otlp/#otlphttp

An execution is sent once its record is stored, so a collector has nothing that is not on record, and its spans are made
of what the record holds: what is redacted there is redacted here. Nobody waits for the collector. What it is too slow
for is dropped and counted, and a batch that it can't take now is sent again, later and later; spans have the same ids
each time, so what arrives twice is the same.

JSON and not Protobuf: the spans have that form already, and every collector that speaks OTLP over HTTP takes it.
"""

import json
import os
import random
import re
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import attrs
import httpcore
import trio

from flux import __version__
from flux.errors import OperatorError
from flux.execution import Execution, Raised, Returned
from flux.hostcall import HostCall
from flux.supervisor.metrics import Metric, each, one
from flux.supervisor.spans import list_spans

HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
"""What a collector wants to see of us, a token as a rule: ``name=value,name=value``, as in OpenTelemetry's SDKs."""
EXECUTIONS_MAX = 2048
BYTES_MAX = 64 * 2**20
"""What may wait, by what their spans will take: an estimate."""
BATCH_MAX = 64
"""Executions in a request."""
BATCH_BYTES_MAX = 4 * 2**20
"""What the spans of a request's executions take together, by the same estimate, unless one's alone take more.
Collectors refuse a request that is too large (20 MiB by default), and all that is in it would be lost for one that is
large."""
EXECUTION_BYTES, CALL_BYTES = 1024, 768
"""What the span of each takes besides what is in it: ids, times, names of fields."""
GATHER_S = 0.5
"""How long executions are gathered before they are sent together; where some are left of the last batch, they are."""
SEND_S = 10.0
ATTEMPTS = 6
PAUSE_S = 1.0
PAUSE_S_MAX = 30.0
FINISH_S = 5.0
"""How long the end of the server waits for what is to be sent."""
_AGAIN = frozenset({408, 429, 502, 503, 504})
_REASONS = ("queue_full", "refused", "unreachable", "failed")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_OWN_FIELDS = frozenset({"content-type", "content-length", "transfer-encoding", "connection"})
"""Header fields that say how a request is written."""


class CollectorHeadersError(OperatorError):
    """What the environment says of header fields can't be sent."""

    code = "FLX725"


class Exporter:
    """Sends executions to one collector. An `flux.supervisor.execute.Audience`; run `run` in a nursery."""

    def __init__(
        self, url: str, service: str, note: Callable[[str], None], report: Callable[[BaseException], None], *,
        headers: Mapping[str, str] | None = None, executions_max: int = EXECUTIONS_MAX, bytes_max: int = BYTES_MAX,
        pause_s: float = PAUSE_S,
    ) -> None:  # fmt: skip
        """``service`` is the name under which a collector shows them.

        ``note`` hears when the collector begins to fail, ``report`` what is a mistake of Flux's own.
        """
        self._url = url.rstrip("/") if url.rstrip("/").endswith("/v1/traces") else url.rstrip("/") + "/v1/traces"
        self._service = service
        self._note = note
        self._report = report
        said = {"content-type": "application/json", "user-agent": f"flux/{__version__}", **(headers or {})}
        self._headers = [(name.encode(), value.encode()) for name, value in said.items()]
        self._executions_max = executions_max
        self._bytes_max = bytes_max
        self._pause_s = pause_s
        self._not_stored: dict[uuid.UUID, Execution] = {}
        self._ready: deque[Execution] = deque()
        self._in_batch = 0
        self._bytes = 0
        self._sent = 0
        self._dropped: Counter[str] = Counter()
        self._is_failing = False
        self._finishing = trio.Event()
        self._woken = trio.Event()

    def done(self, execution: Execution, *, stored: bool) -> None:
        """See `flux.supervisor.execute.Audience.done`."""
        execution = _lighten(execution)
        weight = _weigh(execution)
        if self._waiting >= self._executions_max or self._bytes + weight > self._bytes_max:
            self._dropped["queue_full"] += _count_spans(execution)
            return
        self._bytes += weight
        if stored:
            self._offer(execution)
        else:
            self._not_stored[execution.id] = execution

    def stored(self, execution_id: uuid.UUID) -> None:
        """See `flux.supervisor.execute.Audience.stored`."""
        if (execution := self._not_stored.pop(execution_id, None)) is not None:
            self._offer(execution)

    def read(self) -> Sequence[Metric]:
        """Return what was counted so far."""
        return (
            one("otlp_spans_sent_total", "Spans that the collector has taken.", self._sent),
            each("otlp_spans_dropped_total", "Spans that the collector has not got and will not.", "reason",
                 {reason: self._dropped[reason] for reason in _REASONS}),
            one("otlp_executions_waiting", "Executions that are to be sent.", self._waiting),
        )  # fmt: skip

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        async with httpcore.AsyncConnectionPool(max_connections=1, keepalive_expiry=30) as pool:
            gathers = True
            while True:
                await self._woken.wait()
                if gathers:
                    with trio.move_on_after(GATHER_S):
                        await self._finishing.wait()
                batch = self._take_batch()
                gathers = not self._ready
                if gathers:
                    self._woken = trio.Event()
                self._in_batch = len(batch)
                try:
                    await self._send(pool, batch)
                except Exception as error:
                    # Whoever serves requests is not to end because nobody is told of them.
                    self._dropped["failed"] += sum(map(_count_spans, batch))
                    self._report(error)
                finally:
                    self._in_batch = 0
                    self._bytes -= sum(_weigh(execution) for execution in batch)

    def _take_batch(self) -> list[Execution]:
        batch: list[Execution] = []
        left = BATCH_BYTES_MAX
        while self._ready and len(batch) < BATCH_MAX and (not batch or _weigh(self._ready[0]) <= left):
            left -= _weigh(self._ready[0])
            batch.append(self._ready.popleft())
        return batch

    async def finish(self) -> None:
        """Wait until all is sent that has ended, for a while."""
        self._finishing.set()
        with trio.move_on_after(FINISH_S):
            while self._waiting:  # noqa: ASYNC110 - the end of a server, once
                await trio.sleep(0.02)

    @property
    def _waiting(self) -> int:
        return len(self._ready) + len(self._not_stored) + self._in_batch

    def _offer(self, execution: Execution) -> None:
        self._ready.append(execution)
        self._woken.set()

    async def _send(self, pool: httpcore.AsyncConnectionPool, batch: Sequence[Execution]) -> None:
        resources: dict[tuple[str, str, str], list[Any]] = {}
        for execution in batch:
            key = execution.tenant, execution.deployment, execution.sha
            resources.setdefault(key, []).extend(list_spans(execution))
            await trio.lowlevel.checkpoint()  # Requests are served in between.
        body = self._encode(resources)
        count = sum(map(len, resources.values()))
        pause_s, why = self._pause_s, ""
        for attempt in range(1, ATTEMPTS + 1):
            status, again_s, why = await self._post(pool, body)
            if 200 <= status < 300:
                self._sent += count
                self._is_failing = False
                return
            if status and status not in _AGAIN:
                self._lose(count, "refused", why)
                return
            self._tell(why)
            if attempt < ATTEMPTS:
                jitter = 1 + random.random() / 4
                await trio.sleep(max(again_s, pause_s) * jitter)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
        self._lose(count, "unreachable", why)

    async def _post(self, pool: httpcore.AsyncConnectionPool, body: bytes) -> tuple[int, float, str]:
        """Return the status (0: none came), after how long to ask again, and what went wrong in words."""
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), SEND_S)
        try:
            with trio.fail_after(SEND_S):
                response = await pool.request(
                    "POST", self._url, headers=self._headers, content=body, extensions={"timeout": timeouts}
                )
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, trio.TooSlowError) as error:
            return 0, 0.0, f"no answer ({type(error).__name__})"
        fields = {name.lower(): value for name, value in response.headers}
        later = fields.get(b"retry-after", b"0")
        again_s = min(float(later), PAUSE_S_MAX) if later.isdigit() else 0.0
        return response.status, again_s, f"status {response.status}"

    def _encode(self, resources: Mapping[tuple[str, str, str], Sequence[Any]]) -> bytes:
        scope = {"name": "flux", "version": __version__}
        document = {
            "resourceSpans": [
                {
                    "resource": {"attributes": [
                        {"key": key, "value": {"stringValue": value}}
                        for key, value in (
                            ("service.name", self._service), ("service.version", sha), ("flux.tenant", tenant),
                            ("flux.deployment", deployment),
                        )
                    ]},
                    "scopeSpans": [{"scope": scope, "spans": spans}],
                }
                for (tenant, deployment, sha), spans in resources.items()
            ]
        }  # fmt: skip
        # Half of a character, which a function may well say, has no place in JSON that others are to read.
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")

    def _lose(self, count: int, reason: str, why: str) -> None:
        self._dropped[reason] += count
        self._tell(why)

    def _tell(self, why: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._note(f"spans do not reach the collector at {self._url}: {why}; see flux_otlp_spans_dropped_total")


def read_headers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the header fields that the environment asks for; raise `CollectorHeadersError`, which shows no value."""
    found: dict[str, str] = {}
    for number, part in enumerate(environment.get(HEADERS_VARIABLE, "").split(","), 1):
        if not part.strip():
            continue
        name, is_pair, value = (text.strip() for text in part.partition("="))
        value = unquote(value)
        if not is_pair or _FIELD_NAME.fullmatch(name) is None:
            problem = "is not name=value"
        elif name.lower() in _OWN_FIELDS:
            problem = "names a field that Flux sets itself"
        elif not value.isascii() or not value.isprintable():
            problem = "has a value that no header field can have"
        else:
            found[name.lower()] = value
            continue
        raise CollectorHeadersError(
            f"{HEADERS_VARIABLE}: pair {number} {problem}",
            remedy="write authorization=Bearer%20TOKEN,name=value: other characters than letters and digits as %20",
        )
    return found


def _lighten(execution: Execution) -> Execution:
    """Return the execution without what no span tells, which may be most of it: bodies, log lines, rows."""
    outcome = execution.outcome
    if isinstance(outcome, Returned) and outcome.status < 500:  # Of a failure, the body says what it was.
        outcome = attrs.evolve(outcome, body=b"")
    trigger = attrs.evolve(execution.trigger, body=b"")
    return attrs.evolve(execution, trigger=trigger, outcome=outcome, logs=(), mutations=(), reads=())


def _weigh(execution: Execution) -> int:
    match execution.outcome:
        case Returned(body=body):
            end = len(body)
        case Raised(message=message, violations=violations):
            end = len(message) + len(violations)
        case _:
            end = 0
    head = sum(len(name) + len(value) for name, value in execution.trigger.headers)
    return EXECUTION_BYTES + head + end + sum(map(_weigh_call, execution.calls))


def _weigh_call(call: HostCall) -> int:
    error = None if call.result is None else call.result.error
    answer = 0 if call.result is None else len(call.result.value)
    return CALL_BYTES + len(call.request.arguments) + answer + (0 if error is None else len(error.message))


def _count_spans(execution: Execution) -> int:
    return 1 + len(execution.calls)
