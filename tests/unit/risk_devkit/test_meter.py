"""The meter counts from its beginning, over all partitions."""

from __future__ import annotations

import fakeredis
import pytest

from risk_devkit.meter import Meter, quantile
from risk_producer.contract.keys import Keys


@pytest.mark.parametrize(
    ("buckets", "q", "bound"),
    [
        ({}, 0.5, None),
        ({1.0: 0}, 0.5, None),
        ({1.0: 1}, 0.5, 1.0),
        ({1.0: 50, 2.0: 50}, 0.5, 1.0),
        ({1.0: 49, 2.0: 51}, 0.5, 2.0),
        ({1.0: 98, 2.0: 1, 5.0: 1}, 0.99, 2.0),
        ({1.0: 98, 2.0: 1, float("inf"): 2}, 0.99, float("inf")),
    ],
)
def test_quantile_is_the_bound_below_which_the_share_lies(
    buckets: dict[float, int], q: float, bound: float | None
) -> None:
    assert quantile(buckets, q) == bound


def test_it_counts_from_its_beginning_over_all_partitions() -> None:
    with fakeredis.FakeRedis() as client:
        for partition in (0, 1):
            keys = Keys(partition)
            client.hset(keys.counters, mapping={"accepted": 100, "stored": 90})
            client.hset(keys.latency_buckets, mapping={"1": 1000})
            client.xadd(keys.snapshots, {"s": "{}"})
        meter = Meter(client, partitions=2)
        assert meter.read().p50_ms is None
        for partition in (0, 1):
            keys = Keys(partition)
            client.hincrby(keys.counters, "accepted", 7)
            client.hincrby(keys.counters, "stored", 4)
            client.hincrby(keys.counters, "dead", 1)
            client.hincrby(keys.counters, "conflated", 2)
            client.hincrby(keys.latency_buckets, "+Inf", 4)
            client.xadd(keys.snapshots, {"s": "{}"})
        reading = meter.read()
    assert (reading.accepted, reading.stored, reading.dead, reading.conflated) == (14, 8, 2, 4)
    assert reading.in_flight == 4
    assert reading.p50_ms == float("inf")
    assert reading.rows_per_s > 0
