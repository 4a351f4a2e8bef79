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


def render(metrics: Iterable[Metric]) -> bytes:
    """Return all metrics as text."""
    lines: list[str] = []
    for metric in metrics:
        assert _NAME.fullmatch(metric.name), f"{metric.name!r} can't be the name of a metric"
        name = f"flux_{metric.name}"
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {_escaped(metric.help)}", f"# TYPE {name} {kind}"]
        for value, number in metric.values.items():
            labels = f'{{{metric.label}="{_escaped(value, quotes=True)}"}}' if metric.label else ""
            lines.append(f"{name}{labels} {number!r}")
    return "".join(line + "\n" for line in lines).encode("utf-8", "replace")


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
