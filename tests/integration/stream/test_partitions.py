"""Workers drain every partition that holds something, whatever their environment says."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from risk_producer import RiskProducer
from risk_producer.contract.keys import NO_NAMESPACE, Keys, partition_of
from risk_worker.runtime import jobs
from risk_worker.stream import partitions
from risk_worker.stream.source import connect
from tests.support.factory import snapshot


def test_a_worker_with_another_number_drains_all(
    redis_url: str, database_url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("POSTGRES_URL", database_url)
    traders = {partition_of(f"t{number}", 40): f"t{number}" for number in range(400)}
    with RiskProducer(redis_url, partitions=40) as producer:
        for partition in (0, 1, 39):
            producer.push(snapshot(traders[partition]), timeout=30)
    for share in range(3):
        jobs.drain_share(share, 3, until_empty=True)
    assert db.execute("SELECT count(*) FROM risk_state_history").fetchone() == (3,)


def test_what_is_in_use(redis_url: str) -> None:
    client: Any
    with connect(redis_url) as client:
        assert partitions.look(client, NO_NAMESPACE, 2) == partitions.InUse(None, 2)
        client.xadd(Keys(7).snapshots, {"s": "x"})
        client.hset(Keys(9).admitted, "1:a", 1)
        client.set(Keys(1).partitioning, "2:3,4")
        client.set(Keys(5).partitioning, "no such text")
        client.xadd("risk:{256}:snapshots", {"s": "of another program"})
        seen = partitions.look(client, NO_NAMESPACE, 2)
        assert seen.agreed is not None
        assert (seen.agreed.text, seen.width, seen.entries) == ("2:3,4", 10, {7: 1})
        assert seen.copies == {1: seen.agreed, 5: None, 7: None, 9: None}
        assert not seen.uniform
        for partition in (*range(6), 7, 9):
            client.set(Keys(partition).partitioning, "2:3,4")
        assert partitions.look(client, NO_NAMESPACE, 2).uniform
