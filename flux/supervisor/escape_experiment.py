"""Why an execution does not repeat itself: the experiment of `flux.escapes`, made with the code of its record.

The code is started once more for each order of objects, in sandboxes of their own that nobody else uses, and the
execution is replayed in each as often as the experiment wants. Nothing leaves, and nothing of it is kept.

It costs the start of a few processes. So whoever asks (`flux.supervisor.self_check`) asks once for a line of code,
and while no request runs.
"""

from collections.abc import Callable

from flux.escapes import ORDERS, Observation
from flux.execution import Execution
from flux.supervisor.deployments import Deployments
from flux.supervisor.replay import Replayer

KIND = "process"
"""The kind of sandbox whose objects can be put in another order. In the others all of memory is the same."""


async def experiment(
    original: Execution, replayer: Replayer, deployments: Deployments, is_wanted: Callable[[], bool]
) -> list[Observation] | None:
    """Return what `flux.escapes.judge` needs to know of ``original``; None where ``is_wanted`` no longer holds.

    Raises what keeps its code from being run.
    """
    assert original.level.kind == KIND, "only there objects have an order that can be changed"
    observations: list[Observation] = []
    for order in dict.fromkeys(ORDERS):
        if not is_wanted():
            return None
        live = await deployments.prepare_kept(
            original.deployment, original.sha, dirty=original.dirty, shuffle=order
        )
        live.enter()
        try:
            for _ in range(ORDERS.count(order)):
                observations.append(Observation(order, await replayer.observe(original, live)))
        finally:
            live.leave()
            live.retire()
    return observations
