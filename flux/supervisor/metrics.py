"""What can be counted, in the text that Prometheus reads.

The format is https://prometheus.io/docs/instrumenting/exposition_formats/ version 0.0.4:
a line a sample, each metric with a word of help and its type before it. Names that end
in ``_total`` only ever grow; the others go up and down.
"""

import re
from collections.abc import Iterable, Mapping

import attrs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@attrs.frozen
class Metric:
    """One thing that is counted, whole or by some label."""

    name: str
    """Without the ``flux_`` that stands before each; a unit or ``_total`` at its end."""
    help: str
    values: Mapping[str, float]
    """By the label's value; the one key ``""`` for a metric without a label."""
    label: str = ""
    """What the keys of ``values`` are."""
    worker: str = ""
    """The process that counted it, a label of its own; empty where there is one process only."""


def render(metrics: Iterable[Metric]) -> bytes:
    """Return all metrics as text. Those of one name stand together, as the format asks."""
    by_name: dict[str, list[Metric]] = {}
    for metric in metrics:
        assert _NAME.fullmatch(metric.name), f"{metric.name!r} can't be the name of a metric"
        by_name.setdefault(f"flux_{metric.name}", []).append(metric)
    lines: list[str] = []
    for name, same in by_name.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {_escaped(same[0].help)}", f"# TYPE {name} {kind}"]
        for metric in same:
            for value, number in metric.values.items():
                said = {metric.label: value, "worker": metric.worker}
                labels = ",".join(f'{key}="{_escaped(it, quotes=True)}"' for key, it in said.items() if key and it)
                lines.append(f"{name}{{{labels}}} {number!r}" if labels else f"{name} {number!r}")
    return "".join(line + "\n" for line in lines).encode("utf-8", "replace")


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
