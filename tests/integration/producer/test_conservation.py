"""The faults of the unit test of the same name, before a real server and the real scripts."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.support.producers import Bench
from tests.unit.risk_producer.session.test_conservation import COUNT, KINDS, STEP, Faults, run, session_of


def test_a_fault_at_any_call_of_the_flusher(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    at, number = 1, 0
    while True:
        redis_client.flushdb()
        faults = Faults(at, KINDS[number % len(KINDS)])
        with Bench("threaded", redis_url) as bench:
            producer = run(bench, faults, spool_dir=tmp_path / str(at))
            where = f"{faults.kind.__name__} at call {at}"
            assert sorted(wire.daily_pnl for wire in bench.stored()) == list(range(COUNT + 1)), where
            totals = session_of(producer).totals()
            assert totals.reconciled, where
            assert totals.confirmed == COUNT + 1, where
            assert producer.close(), where
        if not faults.raised:
            break
        at, number = at + STEP, number + 1
    assert at > 100
