"""What can be counted, in the text that Prometheus reads.

The format is https://prometheus.io/docs/instrumenting/exposition_formats/ version 0.0.4:
a line a sample, each metric with a word of help and its type before it. Names that end
in ``_total`` only ever grow, histograms likewise; all others go up and down. Labels have few values: what a client
chooses (a path, an address) is none, or whoever asks for a million paths would have a million lines made.
"""

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"[a-z][a-z0-9_]*")

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of what an execution takes, in seconds: Prometheus' own, and a default time limit."""


@attrs.frozen
class Sample:
    """One number."""

    value: float
    labels: Mapping[str, str] = attrs.field(factory=dict)
    suffix: str = ""
    """What a histogram's samples have behind its name: ``_bucket``, ``_sum``, ``_count``."""


@attrs.frozen
class Metric:
    """One thing that is counted, whole or by labels."""

    name: str
    """Without the ``flux_`` that stands before each; a unit or ``_total`` at its end."""
    help: str
    samples: Sequence[Sample]
    worker: str = ""
    """The process that counted it, a label of its own; empty where there is one process only, and for what is the
    database's."""
    is_histogram: bool = False

    @property
    def kind(self) -> str:
        """Return its type, in Prometheus' words."""
        if self.is_histogram:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"


def one(name: str, help: str, value: float) -> Metric:
    """Return a metric that is one number."""
    return Metric(name, help, (Sample(value),))


def each(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a metric that has a number for each value of a label."""
    return Metric(name, help, [Sample(value, {label: said}) for said, value in values.items()])


class Histogram:
    """How long things took, by labels that are the same for all of them."""

    def __init__(self, name: str, help: str, labels: Sequence[str], *, series_max: int) -> None:
        """Beyond ``series_max`` combinations of labels, all others are counted together, with empty labels."""
        self._name = name
        self._help = help
        self._labels = tuple(labels)
        self._series_max = series_max
        self._series: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, values: tuple[str, ...], took_s: float) -> None:
        """Count one thing that took so long."""
        found = self._series.get(values)
        if found is None:
            if len(self._series) >= self._series_max:
                values = ("",) * len(self._labels)
            found = self._series.setdefault(values, ([0] * (len(BUCKETS_S) + 1), [0.0]))
        buckets, total_s = found
        buckets[bisect.bisect_left(BUCKETS_S, took_s)] += 1
        total_s[0] += took_s

    def read(self) -> Metric:
        """Return what was counted so far."""
        samples = []
        for values, (buckets, total_s) in self._series.items():
            labels = dict(zip(self._labels, values, strict=True))
            count = 0
            for bound, in_bucket in zip((*map(repr, BUCKETS_S), "+Inf"), buckets, strict=True):
                count += in_bucket
                samples.append(Sample(count, {**labels, "le": bound}, "_bucket"))
            samples += [Sample(total_s[0], labels, "_sum"), Sample(count, labels, "_count")]
        return Metric(self._name, self._help, samples, is_histogram=True)


def render(metrics: Iterable[Metric]) -> bytes:
    """Return all metrics as text. Those of one name stand together, as the format asks."""
    by_name: dict[str, list[Metric]] = {}
    for metric in metrics:
        assert _NAME.fullmatch(metric.name), f"{metric.name!r} can't be the name of a metric"
        by_name.setdefault(f"flux_{metric.name}", []).append(metric)
    lines: list[str] = []
    for name, same in by_name.items():
        lines += [f"# HELP {name} {_escaped(same[0].help)}", f"# TYPE {name} {same[0].kind}"]
        for metric in same:
            worker = {"worker": metric.worker} if metric.worker else {}
            for sample in metric.samples:
                said = {**sample.labels, **worker}
                labels = ",".join(f'{key}="{_escaped(value, quotes=True)}"' for key, value in said.items())
                lines.append(f"{name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value!r}")
    return "".join(line + "\n" for line in lines).encode("utf-8", "replace")


def encode_metrics(metrics: Iterable[Metric]) -> list[Mapping[str, Any]]:
    """Return metrics as one process tells them to another."""
    return [attrs.asdict(metric) for metric in metrics]


def decode_metrics(documents: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Return what `encode_metrics` has made."""
    return [
        Metric(**{**document, "samples": [Sample(**sample) for sample in document["samples"]]})
        for document in documents
    ]


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
