"""Workers come and go, in good order or not; what they leave in Redis does not grow."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger import Ledger
from tests.support.template import Template
from tests.support.wait import wait_until

RESTARTS = int(os.environ.get("RISK_TEST_RESTARTS", "9"))
FEW = 3
"""After so many everything is there that is meant to stay."""
ROOM = 4
"""A key is between two states now and then."""


def sizes(client: Any) -> dict[str, int]:
    """RQ's keys, those of riskstream's own that are not about snapshots, and how much is in each."""
    size_of = {
        b"string": lambda _: 1,
        b"list": client.llen,
        b"set": client.scard,
        b"zset": client.zcard,
        b"hash": lambda _: 1,
        b"stream": client.xlen,
    }
    keys = [*client.scan_iter("rq:*", count=10_000), *client.scan_iter("risk:roster:*", count=10_000)]
    kinds = [(key, client.type(key)) for key in keys]
    return {key.decode(): size_of[kind](key) for key, kind in kinds if kind != b"none"}


def held_by(client: Any, pid: int) -> bool:
    """Whether the drain is in the hands of the worker with this pid."""
    status, name = client.hmget("rq:job:drain-0", "status", "worker_name")
    return bool(
        status == b"started"
        and name is not None
        and client.hget(f"rq:worker:{name.decode()}", "pid") == str(pid).encode()
    )


@pytest.mark.timeout(300 + RESTARTS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "in good order"])
def test_what_workers_leave_behind_does_not_grow(
    number: signal.Signals, client: Any, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    ledger = Ledger(client, database_url)
    environ = {"REDIS_URL": redis_url, "RQ_REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    with Template() as template:

        def start() -> int:
            return template.start("worker of a migrated database", tmp_path / "log", environ)

        for life in range(RESTARTS):
            pid = start()
            wait_until(lambda pid=pid: held_by(client, pid), 5, f"life {life} drains")  # type: ignore[misc]
            if life == FEW:
                left_by_few = sizes(client)
            ledger.report(1)  # it may be in the middle of this one
            os.kill(pid, number)
            ledger.report(1)  # wakes one that waits for something to do
            assert template.ended() == (-number if number == signal.SIGKILL else 0)
        start()
        wait_until(ledger.is_stored, 5, "the last one drains")
        left_by_all = sizes(client)
    ledger.check()
    print(f"after {FEW}: {sum(left_by_few.values())}, after {RESTARTS}: {sum(left_by_all.values())}")
    print(left_by_all)
    assert len(left_by_all) <= len(left_by_few) + ROOM, left_by_all
    assert sum(left_by_all.values()) <= sum(left_by_few.values()) + ROOM, left_by_all
