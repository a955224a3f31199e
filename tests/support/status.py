"""A status in which nothing is wrong, to be made worse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from risk_worker.status.model import (
    DeadLettersStatus,
    PartitionStatus,
    PostgresStatus,
    QueueStatus,
    RedisStatus,
    Status,
    TradersStatus,
    WorkerStatus,
)
from risk_worker.stream.server import ServerFacts

NOW = datetime(2026, 11, 26, 3, 12, 8, tzinfo=UTC)


def worker(share: int = 0, shares: int = 1, **more: Any) -> WorkerStatus:
    """A worker that is alive, and drains one of so many shares."""
    values: dict[str, Any] = {
        "name": f"w{share}",
        "host": "node-7",
        "pid": 4711 + share,
        "since": NOW - timedelta(hours=2),
        "state": "alive",
        "heard_s": 1.5,
        "share": share,
        "shares": shares,
    }
    return WorkerStatus(**{**values, **more})


def partitions(number: int, workers: tuple[WorkerStatus, ...], **more: Any) -> tuple[PartitionStatus, ...]:
    """So many of them, each drained by the worker whose share it is in."""
    values = {"in_flight": 3, "cap": 1_000, "oldest_s": 0.2, "last_commit_s": 0.1, "rows_per_s": 250.0}
    return tuple(
        PartitionStatus(each, next((of for of in workers if of.drains(each)), None), **{**values, **more})
        for each in range(number)
    )


def server(**more: Any) -> ServerFacts:
    """A server that takes writes."""
    values: dict[str, Any] = {
        "address": "127.0.0.1:6379",
        "partitions": (0, 1, 2, 3),
        "version": "Valkey 9.1.0",
        "role": "master",
        "memory_used": 12 << 20,
        "memory_limit": 512 << 20,
        "eviction_policy": "noeviction",
        "appendonly": True,
        "appendfsync": "always",
        "rdb": False,
    }
    return ServerFacts(**{**values, **more})


def status(number: int = 4, workers: tuple[WorkerStatus, ...] | None = None, **more: Any) -> Status:
    """Nothing is wrong, unless more says so."""
    alive = (worker(),) if workers is None else workers
    made = Status(
        at=NOW,
        namespace="",
        redis=RedisStatus("redis://127.0.0.1:6379/0", servers=(server(),)),
        queue=QueueStatus("redis://127.0.0.1:6379/0"),
        postgres=PostgresStatus(
            "postgresql://risk@127.0.0.1/risk",
            version="15.4",
            timescale="TimescaleDB 2.28.3 Community, history is a hypertable",
            applied=9,
        ),
        workers=alive,
        partitions=partitions(number, alive),
        partitions_agreed=number,
        partitions_here=number,
        traders=TradersStatus(stored=12, in_redis=12, paused=0, silent=0),
        dead_letters=DeadLettersStatus(0),
        totals={"accepted": 10_012, "stored": 10_000, "dead": 0},
    )
    return replace(made, **more)
