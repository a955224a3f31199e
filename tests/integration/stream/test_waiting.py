"""How many snapshots wait in Redis: in all streams, whatever RISK_PARTITIONS says."""

from __future__ import annotations

import pytest
import redis

from risk_producer.contract.keys import Keyspace
from risk_producer.settings import Settings
from risk_worker.stream.waiting import WaitingUnknown, waiting


@pytest.mark.parametrize("namespace", ["", "desk"])
def test_all_streams_count(redis_url: str, redis_client: redis.Redis, namespace: str) -> None:
    settings = Settings.load({"REDIS_URL": redis_url, "RISK_NAMESPACE": namespace, "RISK_PARTITIONS": "2"})
    assert waiting(settings) == 0
    for partition in (0, 0, 1, 7):
        redis_client.xadd(Keyspace(namespace).keys(partition).snapshots, {"s": "{}"})
    redis_client.xadd(Keyspace("other").keys(0).snapshots, {"s": "{}"})
    assert waiting(settings) == 4


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(WaitingUnknown, match="REDIS_URL is not set"):
        waiting(Settings.load({}))
    with pytest.raises(WaitingUnknown, match="Redis does not answer"):
        waiting(Settings.load({"REDIS_URL": "redis://127.0.0.1:1/0"}))
