"""The counters' names and the histogram's buckets, once for Python and Lua."""

from __future__ import annotations

import re
from math import inf

import pytest

from risk_producer.contract import counters
from risk_producer.contract.scripts import script

ALL = {*counters.TOTALS, counters.ACKNOWLEDGED_MS, counters.RESTORED, counters.RESTORED_MS}


def test_the_scripts_count_under_these_names() -> None:
    admit = script("risk_producer.transport", "admit")
    acknowledge = script("risk_worker.stream", "acknowledge")
    restore = script("risk_worker.recovery", "restore")
    spelled = {
        *re.findall(r"counters, '(\w+)'", restore),
        *re.findall(r"\badd\('(\w+)'", admit),
        *re.findall(r"counters, '(\w+)'", admit),
        *re.findall(r"\bcount\('(\w+)'", acknowledge),
        *re.findall(r"counters, '(\w+)'", acknowledge),
        *re.findall(r"names, amounts = \{ '(\w+)' \}", acknowledge),
    }
    assert spelled == ALL - {counters.RETRIES}  # which Python counts


def test_the_names_are_all_of_the_module() -> None:
    named = {value for name, value in vars(counters).items() if name.isupper() and isinstance(value, str)}
    assert named == ALL


@pytest.mark.parametrize(
    ("latency_ms", "bucket"),
    [
        (0.0, "1"),
        (1.0, "1"),
        (1.001, "1.5"),
        (130, "130"),
        (3_600_000, "3.6e+06"),
        (3_600_001, "+Inf"),
        (inf, "+Inf"),
    ],
)
def test_a_bucket_holds_what_is_up_to_its_bound(latency_ms: float, bucket: str) -> None:
    assert counters.bucket_of(latency_ms) == bucket


def test_the_bounds_rise() -> None:
    assert list(counters.LATENCY_BOUNDS_MS) == sorted(set(counters.LATENCY_BOUNDS_MS))
    assert len(set(counters.LATENCY_BUCKETS)) == len(counters.LATENCY_BOUNDS_MS) + 1
