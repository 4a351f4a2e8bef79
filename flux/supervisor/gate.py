"""The checks between a client and a function: other sites' pages, rates, and who it is.

`Gate.admit` sees a request's head and says what becomes of it, before a byte of its body is read and before anything
is run. What it refuses is no execution: nothing of the project's has run, there is nothing to replay, and who floods us
with refusals must not fill the database with them. Refusals are counted (``flux_requests_refused_total``) and told,
a line for the first of a kind and then one a minute.

What it decides by is what the deployment's own ``flux.toml`` says; the decisions themselves are
`flux.cors`, `flux.caller` and `flux.rate_limit`.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import attrs
import trio

from flux.caller import Caller, find_caller
from flux.cors import OWN, answer_preflight, is_preflight, make_headers
from flux.message import Admission, HttpResponse, RequestHead, problem
from flux.rate_limit import Buckets, RateLimit, group_address, retry_after
from flux.routes import Found, Match, NotFound, answer_unmatched
from flux.supervisor.deployments import LiveDeployment
from flux.supervisor.runnable import Runnable

UNMATCHED_BODY_BYTES_MAX = 8 * 2**20
"""A request that nobody answers is refused for that, not for its size."""

TELL_AGAIN_S = 60.0


@attrs.frozen
class Ticket:
    """What was found out of a request that may come in."""

    live: LiveDeployment
    """The deployment that it was admitted to: what was checked for one says nothing about the next."""
    found: Found[Runnable]
    """Which function answers it, if one does."""
    caller: Caller
    """Who made it."""
    auth: bytes = b""
    """Who it was made for, as `flux.execution.Trigger.auth` has it; empty where nobody was asked."""


class Gate:
    """See the module. One for a server: buckets and counts outlive deployments."""

    def __init__(self, note: Callable[[str], None], now: Callable[[], float] = trio.current_time) -> None:
        """``note`` hears of refusals; ``now`` gives seconds that never go back."""
        self._note = note
        self._now = now
        self._buckets = Buckets()
        self._refused: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    def counters(self) -> Mapping[str, float | Mapping[str, float]]:
        """Return what can be counted."""
        return {"requests_refused_total": {code: float(count) for code, count in self._refused.items()}}

    async def admit(self, live: LiveDeployment, head: RequestHead) -> Admission:
        """Say what becomes of a request that ``live`` is to answer."""
        config = live.config.gate
        found = live.routes.match(head.method, head.raw_path)
        admission = Admission(
            found.target.bounds.limits.body_bytes_max if isinstance(found, Match) else UNMATCHED_BODY_BYTES_MAX
        )
        if config.cors is not None:
            headers = make_headers(config.cors, head)
            if is_preflight(head):
                methods = live.routes.list_methods(head.raw_path)
                if not methods:
                    unknown = answer_unmatched(NotFound(), head.method, head.path)
                    return attrs.evolve(admission, answer=unknown, headers=headers)
                answer = answer_preflight(config.cors, head, methods)
                if answer.status == 403:
                    self._count("FORBIDDEN", "another site's page asked, and [http.cors] does not name it")
                return attrs.evolve(admission, answer=answer, headers=headers)
            admission = attrs.evolve(admission, headers=headers, drops=OWN)
        ticket = Ticket(live, found, find_caller(head, config.proxies))
        return attrs.evolve(admission, answer=self._limit(ticket), ticket=ticket)

    def _limit(self, ticket: Ticket) -> HttpResponse | None:
        """Return the refusal of a client that asks too often, or None."""
        for place, limit in _limits_of(ticket):
            who = group_address(ticket.caller.client)
            wait_s = self._buckets.take(limit, (place, who), self._now())
            if wait_s:
                self._count("RATE_LIMITED", f"more than {limit.text} of one client, by {place}")
                detail = f"asked too often: {limit.text} are answered; try again in {retry_after(wait_s)} s"
                refusal = problem(429, "RATE_LIMITED", detail)
                return attrs.evolve(refusal, headers=(*refusal.headers, ("retry-after", retry_after(wait_s))))
        return None

    def _count(self, code: str, why: str) -> None:
        self._refused[code] += 1
        now = self._now()
        told_at, count = self._told.get(why, (-TELL_AGAIN_S, 0))
        count += 1
        if now - told_at >= TELL_AGAIN_S:
            # A line a kind, and kinds are of flux.toml: whoever is refused decides neither how many nor what they say.
            times = f"{count} times" if count > 1 else "once"
            self._note(f"refused with {code}, {times}: {why}")
            told_at, count = now, 0
        self._told[why] = (told_at, count)


def _limits_of(ticket: Ticket) -> list[tuple[str, RateLimit]]:
    """Return which limits hold for the request, each with the table that sets it."""
    config, limits = ticket.live.config, []
    if config.gate.rate_limit is not None:
        limits.append(("[http.rate_limit]", config.gate.rate_limit))
    if isinstance(ticket.found, Match):
        name = ticket.found.target.function.name
        own = config.get_function(name).rate_limit
        if own is not None:
            limits.append((f"[functions.{name}.rate_limit]", own))
    return limits
