"""Waiting until all that ran when somebody asked has ended and is stored, in all processes of a server.

Who takes something out of the records has to read all of them, and what is still running is none yet. New executions
begin meanwhile: so those that were running are waited for by name, and not for a moment in which nothing runs.
"""

import trio

from flux.supervisor.in_flight import InFlight, Unrest
from flux.supervisor.live import Live
from flux.supervisor.siblings import SiblingGoneError, Siblings

REST_S = 20.0
"""How long it is waited."""
REST_PATIENCE_S = REST_S + 5
"""How long another worker is, which waits so long itself."""
REST = "/_crew/rest"


async def wait_own_rest(in_flight: InFlight, live: Live) -> Unrest:
    """Wait for what runs in this process."""
    ends = in_flight.list_ends()
    with trio.move_on_after(REST_S):
        for end in ends:
            await end.wait()
        await Live.wait_stored(live)  # Ours: others are asked by themselves.
        return Unrest()
    return Unrest(sum(not end.is_set() for end in ends), len(list(live.not_stored)))


async def wait_rest(in_flight: InFlight, live: Live, siblings: Siblings | None) -> Unrest:
    """Wait for what runs in all processes of the server; ``siblings`` are the others."""
    found: list[Unrest] = []
    unheard = []

    async def wait_own() -> None:
        found.append(await wait_own_rest(in_flight, live))

    async def ask_others() -> None:
        if siblings is None:
            return
        answers = await siblings.ask_all("POST", REST, {}, patience_s=REST_PATIENCE_S)
        for number in siblings.others:
            answer = answers.get(number)
            # One that is not there may have ended just now: what it did comes with its successor.
            if answer is None or isinstance(answer, SiblingGoneError):
                unheard.append(number)
            else:
                found.append(Unrest(answer["running"], answer["not_stored"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_own)
        nursery.start_soon(ask_others)
    return Unrest(sum(one.running for one in found), sum(one.not_stored for one in found), tuple(unheard))
