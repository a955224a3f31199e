"""The points of growth.json, found by their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.trial import Setting

Found = dict[str, Any]
"""A point as it stands in the file: its setting, and of each measure its value in each run."""

RUSH = ("producer", "redis_admits", "redis_reads", "worker", "postgres")
STEADY = ("producer", "redis", "worker", "postgres")
"""The parts whose processor time is measured as quickly as it goes, and at a steady rate."""


def line(growth: Mapping[str, Any], factor: str, measure: str, **others: int) -> list[Found]:
    """The points that differ in one factor alone and have this measure, in its order."""
    usual = asdict(Setting(**others))
    found = [
        point
        for point in growth["points"]
        if measure in point["measures"]
        and all(value == usual[name] for name, value in point["setting"].items() if name != factor)
    ]
    return sorted(found, key=lambda point: int(point["setting"][factor]))


def point(growth: Mapping[str, Any], **others: int) -> Found:
    """The one of this setting. Raises LookupError."""
    wanted = asdict(Setting(**others))
    for each in growth["points"]:
        if each["setting"] == wanted:
            found: Found = each
            return found
    raise LookupError(f"growth.json has no point {others}: it was not made by the whole of make growth")


def mid(point: Found, measure: str) -> float:
    """The median of the runs."""
    return float(median(point["measures"][measure]))


def sum_us(point: Found, *, steady: bool = False) -> float:
    """Microseconds of processor time a row, of all parts together: the sum of their medians."""
    if steady:
        return sum(mid(point, f"steady_us_{part}") for part in STEADY)
    return sum(mid(point, f"us_{part}") for part in RUSH)
