"""One execution for OpenTelemetry: the spans of a `flux trace --json` document, as its protocol has them."""

import json

from flux import __version__
from flux.cli.record import Record


def otlp_text(trace: Record) -> str:
    """Return an execution as a request of OpenTelemetry's protocol, in JSON: what is sent to ``/v1/traces``."""
    resource = {
        "service.name": "flux",
        "service.version": trace.maybe_text("sha") or "",
        "flux.tenant": trace.text("tenant"),
        "flux.deployment": trace.maybe_text("deployment") or "",
    }
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in resource.items()]
    scope = {"name": "flux", "version": __version__}
    spans = {"scope": scope, "spans": trace.items("spans")}
    document = {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [spans]}]}
    return json.dumps(document)
