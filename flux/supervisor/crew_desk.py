"""What a worker of a crew answers the others, and what it leaves to the lead.

`CrewDoor` stands before the front door on the ports that clients reach: questions to the console's API, and its pages
on the console's port, go to the lead, which knows the sessions too; everything else is answered here. `CrewDesk`
answers on the worker's own unix socket: the console when we are the lead, and under ``/_crew/`` what workers ask of
each other::

    current      which code is served here
    follow       serve this code too: it was deployed, and is on record, already
    settle       what has ended here and is not stored
    rest         what runs here, waited for until it is stored
    published    executions as they end
    metrics      what is counted here
    checks       how it is: what became of its records, and of its self-check if it does it

There every request shows the crew's secret. The API asks for the console's token, as it does everywhere.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import msgspec
import trio

from flux.deploy_history import Deployed
from flux.errors import FluxError
from flux.message import Admission, HttpRequest, HttpResponse, RequestHead, problem
from flux.scopes import get_needed
from flux.supervisor.at_rest import wait_own_rest
from flux.supervisor.console_door import Door
from flux.supervisor.console_errors import describe_error
from flux.supervisor.crew_live import SETTLE_S, publish_to_others
from flux.supervisor.deploy import Deployer, Switch
from flux.supervisor.deployments import Deployments
from flux.supervisor.front_door import FrontDoor, is_page
from flux.supervisor.in_flight import InFlight
from flux.supervisor.live import Live
from flux.supervisor.metrics import Metric, decode_metrics, encode_metrics
from flux.supervisor.present import encode
from flux.supervisor.server_checks import RecordingTally, describe_recording
from flux.supervisor.siblings import SECRET_HEADER, SiblingGoneError, Siblings

API = "/_flux/api"
FOLLOW_S = 120.0
"""How long another worker may take to make code ready that was deployed."""
METRICS_S = 5.0
"""How long another worker may take to count: a scraper does not wait for ever."""
CURRENT_S = 5.0
_JSON = (("content-type", "application/json"),)
_BODY_BYTES_MAX = 2**20


@attrs.frozen
class CrewDoor:
    """The handler of a worker's TCP ports."""

    front_door: FrontDoor
    door: Door
    siblings: Siblings

    async def admit(self, head: RequestHead) -> Admission:
        """See `flux.supervisor.gateway.Handler.admit`."""
        return await self.front_door.admit(head)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """See `flux.supervisor.gateway.Handler.handle`."""
        head = request.head
        if head.path.startswith(API + "/"):
            # Refused here, before anybody else is bothered with it.
            area = head.path.removeprefix(API + "/").partition("/")[0]
            if (refusal := await self.door.refuse(head, get_needed(head.method, area))) is not None:
                return refusal
            if (answer := await self.siblings.forward(request)) is not None:
                return answer
        return await self.front_door.handle(request)

    async def show(self, request: HttpRequest) -> HttpResponse:
        """Answer what came by the console's port."""
        if not is_page(request.head.path):
            return await self.handle(request)
        answer = await self.siblings.forward(request)
        return await self.front_door.show(request) if answer is None else answer


class CrewDesk:
    """The handler of a worker's unix socket."""

    def __init__(
        self,
        siblings: Siblings,
        front_door: FrontDoor,
        live: Live,
        deployments: Deployments,
        deployer: Deployer,
        *,
        metrics: Callable[[], Sequence[Metric]],
        checks: Callable[[], Mapping[str, Any]],
        in_flight: InFlight,
    ) -> None:
        self._siblings = siblings
        self._front_door = front_door
        self._live = live
        self._deployments = deployments
        self._deployer = deployer
        self._metrics = metrics
        self._checks = checks
        self._in_flight = in_flight

    async def admit(self, head: RequestHead) -> Admission:
        """See `flux.supervisor.gateway.Handler.admit`."""
        if head.path.startswith(API + "/") or is_page(head.path):
            return await self._front_door.admit(head)
        await trio.lowlevel.checkpoint()
        return Admission(_BODY_BYTES_MAX)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """See `flux.supervisor.gateway.Handler.handle`."""
        head = request.head
        if head.path.startswith(API + "/") or is_page(head.path):
            return await self._front_door.show(request)  # A worker passes on pages of the console's port only.
        if not self._siblings.knows(head.header(SECRET_HEADER)):
            return problem(403, "FORBIDDEN", "this socket is for the workers of one server")
        answer: Callable[[bytes], Awaitable[Mapping[str, Any]]]
        match head.path:
            case "/_crew/published":
                return HttpResponse(200, (("content-type", "application/x-ndjson"),), publish_to_others(self._live))
            case "/_crew/current":
                answer = self._tell_current
            case "/_crew/follow":
                answer = self._follow
            case "/_crew/settle":
                answer = self._settle
            case "/_crew/rest":
                answer = self._rest
            case "/_crew/metrics":
                answer = self._tell_metrics
            case "/_crew/checks":
                answer = self._tell_checks
            case _:
                return problem(404, "NOT_FOUND", f"workers are not asked {head.path[:200]}")
        try:
            return HttpResponse(200, _JSON, encode(await answer(request.body)))
        except FluxError as error:
            return describe_error(error)

    async def _tell_current(self, _body: bytes) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        current = self._deployments.current
        assert current is not None, "nobody is listened to here before there is code"
        return describe_code(current.deployment.id, current.deployment.sha, current.deployment.branch,
                             dirty=current.deployment.dirty)  # fmt: skip

    async def _follow(self, body: bytes) -> Mapping[str, Any]:
        code, branch = read_code(msgspec.json.decode(body))
        await self._deployer.follow(code, branch)
        return {}

    async def _settle(self, _body: bytes) -> Mapping[str, Any]:
        with trio.move_on_after(SETTLE_S):
            await Live.wait_stored(self._live)  # Ours: the others are asked by whoever asks us.
        return {"not_stored": {one.id: str(one.summary["name"]) for one in self._live.not_stored}}

    async def _rest(self, _body: bytes) -> Mapping[str, Any]:
        unrest = await wait_own_rest(self._in_flight, self._live)
        return {"running": unrest.running, "not_stored": unrest.not_stored}

    async def _tell_metrics(self, _body: bytes) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"metrics": encode_metrics(self._metrics())}

    async def _tell_checks(self, _body: bytes) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        return self._checks()


def describe_code(deployment: str, sha: str, branch: str | None, *, dirty: bool) -> Mapping[str, Any]:
    """Return a deployment as workers tell each other of it."""
    return {"deployment": deployment, "sha": sha, "dirty": dirty, "branch": branch}


def read_code(said: Mapping[str, Any]) -> tuple[Deployed, str | None]:
    """Return what `describe_code` has described, and the branch."""
    return Deployed(said["deployment"], said["sha"], said["dirty"]), said["branch"]


async def spread(siblings: Siblings, switch: Switch) -> Sequence[str]:
    """Have all others serve what was deployed here; return what people should know of that, a sentence each.

    One that has just ended asks for itself, once another takes its place.
    """
    deployment = switch.live.deployment
    code = describe_code(deployment.id, deployment.sha, deployment.branch, dirty=deployment.dirty)
    answers = await siblings.ask_all("POST", "/_crew/follow", code, patience_s=FOLLOW_S)
    return [
        f"worker {number} does not serve it yet: {answer.message}"
        for number, answer in answers.items()
        if isinstance(answer, SiblingGoneError)
    ]


def describe_own(tally: RecordingTally, self_check: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return how a worker is, as it tells another; ``self_check`` is None for those that do not do it."""
    return {"recording": attrs.asdict(tally), "self_check": self_check}


async def list_crew_checks(siblings: Siblings, tally: Callable[[], RecordingTally]) -> Sequence[Mapping[str, Any]]:
    """Return how all workers are together; ``tally`` counts our own records.

    One that does not say is named: what it has stored is not in the numbers.
    """
    answers = await siblings.ask_all("GET", "/_crew/checks", patience_s=METRICS_S)
    said = [answer for answer in answers.values() if not isinstance(answer, SiblingGoneError)]
    heard = {number for number, answer in answers.items() if not isinstance(answer, SiblingGoneError)}
    unheard = [number for number in siblings.others if number not in heard]
    recording = describe_recording([tally(), *(RecordingTally(**answer["recording"]) for answer in said)])
    detail = f"{len(said) + 1} of {len(siblings.others) + 1} answer"
    if unheard:
        detail += f"; of {', '.join(map(str, unheard))} nothing is counted here"
    workers = {
        "name": "workers",
        "ok": not unheard,
        "detail": detail,
        "remedy": "one that died is started again: ask in a moment, and see what the server says" if unheard else "",
    }
    return [recording, workers, *(answer["self_check"] for answer in said if answer["self_check"] is not None)]


async def list_other_metrics(siblings: Siblings) -> Sequence[Metric]:
    """Return what all others count; who does not answer has none."""
    answers = await siblings.ask_all("GET", "/_crew/metrics", patience_s=METRICS_S)
    return [
        metric
        for number, answer in sorted(answers.items())
        if not isinstance(answer, SiblingGoneError)
        for metric in decode_metrics(answer["metrics"])
    ]


async def find_current(siblings: Siblings) -> tuple[Deployed, str | None] | None:
    """Return which code the first of the others serves that answers; None when none does."""
    for number in siblings.others:
        try:
            with trio.move_on_after(CURRENT_S):
                return read_code(await siblings.ask(number, "GET", "/_crew/current"))
        except SiblingGoneError:
            continue
    return None
