"""A page of metrics in Prometheus' text format.

Written directly: prometheus_client makes an object for each sample, which with thousands of traders takes
most of a scrape.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from risk_producer.contract.metric import Metric
from risk_worker.monitor.catalogue import METRICS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Page:
    """Samples, served in the order of the catalogue. A metric without samples is left out."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, metric: Metric, number: float, *labels: str) -> None:
        """One sample; labels: the values of the metric's labels, in their order."""
        self.add_lines(metric, (line(metric, number, *labels),))

    def add_lines(self, metric: Metric, lines: Iterable[str]) -> None:
        """Samples that are written already, by line()."""
        self._lines.setdefault(metric.name, []).extend(lines)

    def add_histogram(
        self, metric: Metric, buckets: Sequence[tuple[str, float]], total: float, *labels: str
    ) -> None:
        """buckets: (upper bound, count), cumulative, the last one +Inf. total: of all that was observed."""
        own = _labels(metric, labels)
        comma = "," if own else ""
        lines = [
            f'{metric.name}_bucket{{{own}{comma}le="{bound}"}} {_number(count)}\n' for bound, count in buckets
        ]
        braces = f"{{{own}}}" if own else ""
        lines.append(f"{metric.name}_sum{braces} {_number(total)}\n")
        lines.append(f"{metric.name}_count{braces} {_number(buckets[-1][1])}\n")
        self.add_lines(metric, lines)

    def text(self, names: Collection[str] = ()) -> str:
        """The page; names: of these metrics alone."""
        parts = []
        for metric in METRICS:
            if (not names or metric.name in names) and (lines := self._lines.get(metric.name)):
                parts.append(f"# HELP {metric.name} {_escaped_help(metric.help)}\n")
                parts.append(f"# TYPE {metric.name} {metric.kind}\n")
                parts.extend(lines)
        return "".join(parts)


def line(metric: Metric, number: float, *labels: str) -> str:
    """One sample as a line."""
    braces = f"{{{_labels(metric, labels)}}}" if metric.labels else ""
    return f"{metric.name}{braces} {_number(number)}\n"


def escaped(value: str) -> str:
    """The value of a label, within its quotes. Half of a surrogate pair, which no file can hold, is shown."""
    if not value.isascii():
        value = value.encode(errors="backslashreplace").decode()
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _labels(metric: Metric, values: Sequence[str]) -> str:
    return ",".join(f'{name}="{escaped(value)}"' for name, value in zip(metric.labels, values, strict=True))


def _number(number: float) -> str:
    if isinstance(number, float):
        if number.is_integer() and abs(number) < 1e15:
            return str(int(number))
        if not math.isfinite(number):
            return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
    return repr(number)


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
