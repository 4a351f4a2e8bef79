"""``flux serve``: the same server without a watcher. It serves what was deployed, not what lies in the folder.

It begins with the deployment on record that was current last, whoever made it so, and only where there is none (or it
is told to) with the project's folder. From then on ``flux deploy`` and ``flux rollback`` decide. A start that can't
serve what it should fails, and serves nothing else instead.
"""

from functools import partial
from pathlib import PurePosixPath

import trio

from flux.project import hash_artifact
from flux.supervisor.client_tls import reload_on_hangup
from flux.supervisor.deploy import Switch
from flux.supervisor.server import Running, Server, open_server
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.story import Story, list_routes
from flux.supervisor.tenants import Tenants


async def serve_deployed(options: ServerOptions, story: Story, stop: trio.Event, *, deploys: bool) -> None:
    """Serve until ``stop`` is set; raise what keeps it from starting. ``deploys``: begin with the project's folder."""
    async with open_server(options, story) as server, trio.open_nursery() as nursery:
        tenants = Tenants(server, story)
        await tenants.read()  # Before a request is taken: it would be answered by the wrong project.
        nursery.start_soon(tenants.run, stop)
        async with trio.open_nursery() as beside:
            beside.start_soon(reload_on_hangup, server.certificate, story)
            await server.run(partial(_begin, server, deploys, tenants), stop, told=partial(tell_switch, server))
            beside.cancel_scope.cancel()
        if not tenants.is_attached:  # It was told to stop before it had code to serve.
            nursery.cancel_scope.cancel()


def tell_switch(server: Server, running: Running, switch: Switch) -> None:
    """Say what somebody deployed; the first switch is told by the start."""
    current = running.deployments.current
    if switch.before is not None and current is not None:
        server.story.switched(switch, list_routes(current), held=False)


async def _begin(server: Server, deploys: bool, tenants: Tenants, running: Running) -> None:
    await begin_serving(server, running, deploys=deploys)
    server.tell_ready(running)
    running.host.tenants = tenants
    tenants.attach(running)


async def begin_serving(server: Server, running: Running, *, deploys: bool) -> None:
    """Make current what was served last, or else the project's folder, and say which."""
    began = trio.current_time()
    switch = None if deploys else await running.deployer.resume()
    if switch is not None:
        where = f"as before the start, {switch.live.deployment.id}"
        if await trio.to_thread.run_sync(hash_artifact, server.project) != switch.live.artifact_hash:
            server.story.note("the project's folder has other code: flux deploy serves it")
    else:
        switch = await running.deployer.deploy(None)
        where = f"the project's folder, {switch.live.deployment.id}"
    if switch.migrations:
        names = ", ".join(PurePosixPath(path).name for path in switch.migrations)
        server.story.step("migrations", f"{names} applied", trio.current_time() - began)
    server.story.step("deployment", f"{switch.code.text} · {where}", trio.current_time() - began)
    for note in switch.notes:
        server.story.note(note)
    server.tell_sandbox(running, trio.current_time() - began)
