"""A file of 100,000 snapshots through producer, stream, worker and database, the worker killed twice."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
import redis

from risk_producer.contract.keys import Keys
from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.reconcile import reconcile
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

LINES = 100_000
TRADERS = 50


def write_file(path: Path) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    with path.open("w") as file:
        for number in range(LINES):
            fields = {
                "trader_id": f"t{number % TRADERS}",
                "daily_pnl": number / 2,
                "drawdown_pct": 0.5,
                "current_equity": number,
                "peak_equity": 2 * number,
                "trading_paused": False,
                "recorded_at": (began + timedelta(milliseconds=number)).isoformat(),
                "trace_id": f"line {number + 1}",
            }
            file.write(f"{json.dumps(fields)}\n")


@pytest.mark.slow
@pytest.mark.system
def test_100_000_lines_while_the_worker_is_killed_twice(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    write_file(tmp_path / "in.jsonl")
    # Batches small enough that the kills fall into the middle of the work.
    settings = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url, "RISK_BATCH_SIZE": "500"}
    command = [sys.executable, "-m", "risk_worker", "push", str(tmp_path / "in.jsonl")]
    keys = Keys(0)

    def stored() -> int:
        return int(cast(Any, redis_client.hget(keys.counters, "stored")) or 0)

    with ChildProcess(tmp_path / "push", settings, command) as push:
        for life in (1, 2):
            before = stored()
            with ChildProcess(tmp_path / f"worker-{life}", settings) as worker:
                wait_until(lambda before=before: stored() > before, 40, f"rows; {worker.log}")  # type: ignore[misc]
                assert stored() < LINES, "killed too late to show anything"
                worker.kill()
        with ChildProcess(tmp_path / "worker-3", settings) as worker:
            assert push.wait(60) == 0, push.log
            assert "100,000 accepted, 0 bad in" in push.log
            wait_until(
                lambda: redis_client.xlen(keys.snapshots) == 0, 60, f"the stream to empty; {worker.log}"
            )
            assert worker.stop() == 0

    assert stored() == LINES
    ledger = audit_ledger.read(database_url)
    assert ledger.rows == LINES
    epochs = cast(dict[bytes, bytes], redis_client.hgetall(keys.epochs))
    accepted = {(name.decode(), int(epoch)): LINES // TRADERS for name, epoch in epochs.items() if name}
    assert len(accepted) == TRADERS
    report = reconcile(accepted, {}, ledger)
    assert report.problems == []
    assert {(epoch.trader_id, epoch.epoch): epoch.accepted for epoch in report.epochs} == accepted
    with psycopg.connect(database_url) as connection:
        newest = connection.execute("SELECT trader_id, trace_id, current_equity FROM risk_state").fetchall()
    last = {f"t{number % TRADERS}": number for number in range(LINES - TRADERS, LINES)}
    assert {trader: (trace, equity) for trader, trace, equity in newest} == {
        trader: (f"line {number + 1}", number) for trader, number in last.items()
    }
