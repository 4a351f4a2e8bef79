"""One worker of ``flux serve --workers N``: a whole server that shares its port with others.

The first one of a crew decides which code is served, as ``flux serve`` does alone. All others, and whoever takes the
place of one that died, serve what the others serve: the record would tell what was deployed last, but not whether the
crew has come to serve it. It takes requests once it has that code, and not before.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from flux.errors import OperatorError
from flux.store.tenants import list_tenants
from flux.supervisor.client_tls import reload_on_hangup
from flux.supervisor.crew_desk import find_current
from flux.supervisor.crew_place import Place
from flux.supervisor.deploy import name_code
from flux.supervisor.listeners import Borrowed
from flux.supervisor.serve_server import begin_serving, tell_switch
from flux.supervisor.server import Running, Server, open_server
from flux.supervisor.siblings import Siblings
from flux.supervisor.story import Story


class CrewWithTenantsError(OperatorError):
    """Several processes are to serve, and there are tenants."""

    code = "FLX817"


async def serve_member(
    place: Place, story: Story, stop: trio.Event, listen_to_parent: Callable[[Borrowed], Awaitable[None]]
) -> None:
    """Serve until ``stop`` is set; raise what keeps it from starting.

    ``listen_to_parent`` keeps up to date whose clients are ours just now.
    """
    async with open_server(place.options, story, place) as server, trio.open_nursery() as nursery:
        await _check_no_tenants(server)
        assert server.borrowed is not None, "it has a place"
        nursery.start_soon(listen_to_parent, server.borrowed)
        nursery.start_soon(reload_on_hangup, server.certificate, story)
        await server.run(partial(_begin, server, place), stop, told=partial(tell_switch, server))
        nursery.cancel_scope.cancel()


async def _begin(server: Server, place: Place, running: Running) -> None:
    siblings = Siblings(place)
    if place.is_first or not await _follow(running, siblings):
        await begin_serving(server, running, deploys=place.is_first and place.deploys)
    assert running.take_requests is not None, "it has a place"
    await running.take_requests()
    # What was deployed before the others could know of us, nobody has told us.
    await _follow(running, siblings)
    server.tell_ready(running)


async def _check_no_tenants(server: Server) -> None:
    """Raise when there are tenants: one process serves each, and the others would answer for its hosts."""
    if found := await list_tenants(server.backing.owner):
        raise CrewWithTenantsError(
            f"tenants are served by one process, and there are some: {', '.join(row.name for row in found)}",
            remedy="leave --workers out",
        )


async def _follow(running: Running, siblings: Siblings) -> bool:
    """Serve what the others serve; False when there are none."""
    found = await find_current(siblings)
    if found is None:
        return False
    code, branch = found
    if code != name_code(running.deployments.current):
        await running.deployer.follow(code, branch)
    return True
