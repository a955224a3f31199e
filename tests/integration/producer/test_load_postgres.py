"""load() where a database's URL is given: what Postgres stores counts, and its silence is no None."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from risk_producer import RiskProducer, StateUnknown
from tests.support.database import set_odd_defaults
from tests.support.factory import snapshot
from tests.support.producers import Bench

NOBODY = "postgresql://u:secret@127.0.0.1:1/x"


def put_state(database_url: str, epoch: int, pnl: float) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO risk_state (trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct,"
            " current_equity, peak_equity, trading_paused, paused_until, last_reset_time, reason)"
            " VALUES ('t1', %s, 7, now(), %s, 1, 2, 3, true, '2030-01-01+02', now(), 'limit')",
            (epoch, pnl),
        )


def test_a_paused_trader_is_still_paused_after_redis_lost_its_data(bench: Bench, database_url: str) -> None:
    put_state(database_url, 1, 5.0)
    state = bench.producer(database_url=database_url).load("t1")
    assert state is not None
    assert (state.source, state.snapshot.daily_pnl, state.unanswered) == ("postgres", 5.0, ())
    assert state.snapshot.trading_paused and state.snapshot.reason == "limit"
    assert state.snapshot.paused_until == datetime(2029, 12, 31, 22, tzinfo=UTC)


def test_defaults_of_the_database_change_nothing(bench: Bench, database_url: str) -> None:
    put_state(database_url, 1, 1e15 / 7)
    set_odd_defaults(database_url)
    state = bench.producer(database_url=database_url).load("t1")
    assert state is not None
    assert (state.snapshot.daily_pnl, state.unanswered) == (1e15 / 7, ())
    assert state.snapshot.paused_until == datetime(2029, 12, 31, 22, tzinfo=UTC)


def test_none_is_certain_when_both_say_so(bench: Bench, database_url: str) -> None:
    assert bench.producer(database_url=database_url).load("t1") is None


@pytest.mark.parametrize(("epoch", "source"), [(1, "redis"), (9_000_000_000_000, "postgres")])
def test_the_newer_epoch_counts(bench: Bench, database_url: str, epoch: int, source: str) -> None:
    bench.producer().push(snapshot("t1", 1))
    put_state(database_url, epoch, 5.0)
    state = bench.producer(database_url=database_url).load("t1")
    assert state is not None and state.source == source


def test_a_silent_postgres(bench: Bench, empty_database_url: str) -> None:
    for url in (NOBODY, empty_database_url):
        with pytest.raises(StateUnknown, match="postgres: ") as raised:
            bench.producer(database_url=url).load("t1")
        assert "secret" not in str(raised.value)
    bench.producer().push(snapshot("t1", 1))
    state = bench.producer(database_url=NOBODY).load("t1")
    assert state is not None and state.source == "redis" and state.unanswered == ("postgres",)


def test_a_newer_producer_counts_though_redis_lost_its_data(bench: Bench, database_url: str) -> None:
    """The zombie has a state in memory, Redis knows nothing: only Postgres knows of the successor."""
    zombie = bench.producer(database_url=database_url)
    zombie.push(snapshot("t1", 1))
    put_state(database_url, 9_000_000_000_000, 5.0)
    bench.redis.flushdb()
    state = zombie.load("t1")
    assert state is not None and state.source == "postgres" and state.snapshot.trading_paused


def test_a_spool_left_behind_does_not_hide_that_the_trader_was_paused_elsewhere(
    database_url: str, tmp_path: Path
) -> None:
    """Its snapshots have no epoch yet: Redis was away then. Meanwhile the trader ran on another machine."""
    url = "redis://127.0.0.1:1/0"
    with RiskProducer(url, spool_dir=tmp_path, registry=CollectorRegistry()) as left:
        assert left.save(snapshot("t1", 1))
        assert not left.close(0.0)
    put_state(database_url, 1, 5.0)
    with RiskProducer(
        url, spool_dir=tmp_path, database_url=database_url, registry=CollectorRegistry()
    ) as here:
        with pytest.raises(StateUnknown, match="have no epoch yet"):
            here.load("t1")
        assert here.save(snapshot("t1", 6))
        state = here.load("t1")
        assert state is not None and state.source == "memory" and state.snapshot.daily_pnl == 6
        assert not here.close(0.0)


def test_a_spool_that_is_newer_than_what_is_stored_counts(
    bench: Bench, database_url: str, tmp_path: Path
) -> None:
    put_state(database_url, 1, 5.0)
    url = "redis://127.0.0.1:1/0"
    with RiskProducer(url, spool_dir=tmp_path, registry=CollectorRegistry()) as left:
        assert left.save(snapshot("t1", 1))
        assert not left.close(0.0)
    state = bench.producer(database_url=database_url, spool_dir=tmp_path).load("t1")
    assert state is not None and state.source == "spool" and state.snapshot.daily_pnl == 1
