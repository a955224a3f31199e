"""The faults of the unit test of the same name, before a real server and the real scripts."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.support.producers import Bench
from tests.unit.risk_producer.session.test_conservation import (  # noqa: F401  two are fixtures
    COUNT,
    KINDS,
    Faults,
    no_garbage_collection,
    no_long_waits,
    run,
    session_of,
    stored,
)


def test_a_fault_at_any_call_of_the_flusher(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    calls = Faults(None, ValueError)
    with Bench("threaded", redis_url) as bench:
        run(bench, calls, spool_dir=tmp_path / "count")
    assert len(calls.places) > 100
    raised = 0
    for number, at in enumerate(calls.each()):
        redis_client.flushdb()
        faults = Faults(at, KINDS[number % len(KINDS)])
        with Bench("threaded", redis_url) as bench:
            producer = run(bench, faults, spool_dir=tmp_path / str(number))
            where = f"{faults.kind.__name__} at call {at}"
            assert sorted(wire.daily_pnl for wire in stored(bench)) == list(range(COUNT + 1)), where
            totals = session_of(producer).totals()
            assert totals.reconciled, where
            assert totals.confirmed == COUNT + 1, where
            assert producer.close(), where
        raised += faults.raised
    assert raised > len(calls.each()) // 2
