"""A function of a deployment with everything that running it takes.

`flux.supervisor.deployments` makes it, once for each function that is served; whoever runs one (a request, a job, a
replay) is handed it, and needs to know nothing else of the deployment.
"""

from collections.abc import Mapping

import attrs

from flux.composition import Chain
from flux.deployment import Deployment, Function
from flux.execution import LimitInForce
from flux.grants import Grants
from flux.redact import RedactionRules
from flux.sandbox.base import Sandbox
from flux.supervisor.drive import Bounds
from flux.trace_context import OWN_NETWORK, Propagation


@attrs.frozen
class Runnable:
    """A function of a deployment with everything that running it takes."""

    function: Function
    deployment: Deployment
    sandbox: Sandbox
    bounds: Bounds
    limits: tuple[LimitInForce, ...]
    """The same as ``bounds``, for the record."""
    grants: Grants
    isolation: str
    chain: Chain
    rules: RedactionRules
    warm: int = 1
    """Executions that its worker may serve."""
    jobs_max: int | None = None
    """Jobs of it that may run at once, over all servers; None: any number."""
    propagation: Propagation = OWN_NETWORK
    """Which hosts are told which trace its requests belong to."""
    siblings: Mapping[str, "Runnable"] = attrs.field(factory=dict, eq=False, repr=False)
    """All functions of its deployment by their names, itself included: what it may push and invoke."""
