"""What /readyz says: Redis takes writes, a worker holds every partition, what waits is stored."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from risk_producer.contract.keys import Keys
from risk_worker.stream import readiness as module
from risk_worker.stream.readiness import Readiness, workers_of
from risk_worker.stream.workers import CANNOT_STORE_FIELD, LEASE_S, REASON_MAX, RUNS_FIELD, RUNS_SHARES


class Bench:
    def __init__(self, client: redis.Redis, partitions: int = 2) -> None:
        self.client = client
        self.pauses: list[float] = []
        self.on_pause: Any = None
        self.readiness = Readiness(client, client, lambda: range(partitions), pause=self.pause)

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self.on_pause is not None:
            self.on_pause()

    def worker(self, name: str, share: int | None = None, shares: int = 1) -> None:
        """Share None: it stands by."""
        at = datetime.now(UTC).isoformat()
        fields: Any = {"last_heartbeat": at, RUNS_FIELD: RUNS_SHARES}
        if share is not None:
            self.client.sadd(f"rq:worker:{name}:executions", f"drain-{share}:0123")
            data = json.dumps(["module.drain_share", None, [share, shares], {}]).encode()
            self.client.hset(f"rq:job:drain-{share}", "data", zlib.compress(data))
        self.client.hset(f"rq:worker:{name}", mapping=fields)
        self.client.sadd("rq:workers:risk-drain", f"rq:worker:{name}")


def test_ready_where_workers_have_all_partitions(client: redis.Redis) -> None:
    bench = Bench(client, partitions=5)
    bench.worker("a", 0, 2)
    bench.worker("b", 1, 2)
    bench.worker("idle")
    assert bench.readiness.problems() == []
    workers, counts = workers_of(client, range(5))
    assert (len(workers), counts) == (3, dict.fromkeys(range(5), 1))
    assert bench.pauses == []


def test_no_worker(client: redis.Redis) -> None:
    bench = Bench(client)
    [problem] = bench.readiness.problems()
    assert problem.startswith("No worker is alive: start one (riskstream worker)")
    assert bench.pauses == [], "there is none to wait for"


def test_a_worker_that_is_dead_holds_nothing(client: redis.Redis) -> None:
    bench = Bench(client)
    bench.worker("a", 0)
    client.pexpire("rq:worker:a", int(1000 * (78 - LEASE_S - 1)))
    assert "No worker is alive" in bench.readiness.problems()[0]


def test_a_partition_without_a_worker_is_named_after_a_while(client: redis.Redis) -> None:
    bench = Bench(client, partitions=4)
    bench.worker("a", 0, 2)
    bench.worker("idle")
    assert bench.readiness.problems() == ["No worker drains the partitions 1, 3; the workers' logs say why."]
    assert sum(bench.pauses) >= module.TAKEOVER_S


def test_a_job_that_is_taken_from_the_queue_just_now_is_awaited(client: redis.Redis) -> None:
    bench = Bench(client)
    bench.worker("a")
    bench.on_pause = lambda: bench.worker("a", 0)
    assert bench.readiness.problems() == []
    assert len(bench.pauses) == 1


def test_which_partition_is_not_drained(client: redis.Redis) -> None:
    bench = Bench(client, partitions=3)
    bench.worker("a", 0)
    seconds, _ = client.time()
    client.xadd(Keys(1).snapshots, {"s": "{}"}, id=f"{(seconds - 365) * 1000}-0")
    client.xadd(Keys(1).snapshots, {"s": "{}"})
    client.set(Keys(2).snapshots, "x")
    first, second = bench.readiness.problems()
    assert first == "Partition 1 has not been drained for 6 min (2 snapshots wait)."
    assert second.startswith("Partition 2 cannot be drained: Redis' key risk:{2}:snapshots cannot be read")


def test_why_a_worker_cannot_store(client: redis.Redis) -> None:
    bench = Bench(client)
    bench.worker("a", 0)
    fields: Any = {CANNOT_STORE_FIELD: "No space left on device", "hostname": "node-7", "pid": "4711"}
    client.hset("rq:worker:a", mapping=fields)
    assert bench.readiness.problems() == ["The worker node-7 4711 cannot store: No space left on device."]
    client.hset("rq:worker:a", CANNOT_STORE_FIELD, "x" * 1_000)
    [problem] = bench.readiness.problems()
    assert problem.count("x") == REASON_MAX
    client.delete("rq:worker:a:executions")
    assert "No worker drains" in bench.readiness.problems()[0], "it is at no job: that was before"


@pytest.mark.parametrize("error", [redis.ConnectionError("refused"), redis.TimeoutError("slow")])
def test_without_redis_there_is_one_sentence(
    client: redis.Redis, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(client)

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(client, "pipeline", fail)
    [problem] = bench.readiness.problems()
    assert f"does not answer ({error})" in problem
