"""A worker says that snapshots wait in partitions that no worker drains."""

from __future__ import annotations

from typing import Any

import pytest

from risk_producer.contract.keys import Keys
from risk_worker.runtime import jobs
from risk_worker.stream.partitions import Watch
from risk_worker.stream.source import connect


def test_it_is_said_once_until_it_is_over(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "_unserved", Watch())
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("POSTGRES_URL", database_url)

    def said() -> list[str]:
        """In two time slices."""
        caplog.clear()
        for _ in range(2):
            jobs.drain_share(0, 1, until_empty=True)
        return [record.message for record in caplog.records if record.levelname == "ERROR"]

    client: Any
    with connect(redis_url) as client:
        assert said() == []
        client.xadd(Keys(1).snapshots, {"s": "{}"})
        message = (
            "Snapshots wait where no worker looks that has RISK_PARTITIONS=1: 1 in partition 1. "
            "Give all traders and workers the same RISK_PARTITIONS."
        )
        assert said() == [message]
        assert said() == []
        client.delete(Keys(1).snapshots)
        assert said() == []
        client.xadd(Keys(1).snapshots, {"s": "{}"})
        assert said() == [message]
        for partition in range(2, 40):
            client.xadd(Keys(partition).snapshots, {"s": "{}"})
        [many] = said()
        assert "1 in partition 10, and more in 29 others. " in many
