"""A producer beside what must not be trusted: fields of Redis that cannot be read, epochs that Redis lost."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from risk_producer import RiskProducer, StateUnknown
from risk_producer.contract.keys import Keys
from risk_producer.settings import Settings
from risk_worker.audit.verify import verify
from risk_worker.cli import cli
from risk_worker.recovery.floors import Floors
from tests.support.agreed import agreed_on
from tests.support.factory import snapshot
from tests.support.ledger import drain_all
from tests.support.wait import wait_until

KEYS = Keys(0)
FAR = 2**52


@pytest.mark.parametrize("name", ["epochs", "admitted", "floors"])
def test_a_trader_whose_field_cannot_be_read_waits_and_the_others_go_on(
    name: str, client: Any, redis_url: str, database_url: str
) -> None:
    environ = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    with RiskProducer(redis_url) as producer:
        if name == "admitted":  # it is read with each batch, the others when a producer is new
            producer.push(snapshot("bad", 0), timeout=30)
            [field] = [each for each in client.hkeys(KEYS.admitted) if each.endswith(b":bad")]
        else:
            field = b"bad"
        key = getattr(KEYS, name)
        client.hset(key, field, b"\xffnonsense")
        for number in range(1, 6):
            assert producer.save(snapshot("bad", number))
            producer.push(snapshot("good", number), timeout=30)
        wait_until(lambda: key in str(producer.health().reason), what="health() names the key")
        assert "riskstream repair bad" in str(producer.health().reason)
        done = CliRunner().invoke(cli, ["repair", "bad"], env=environ)
        assert done.exit_code == 0 and key in done.output
        assert producer.flush(30)
    drain_all(redis_url, database_url)
    with psycopg.connect(database_url) as db:
        rows = db.execute("SELECT daily_pnl FROM risk_state_history WHERE trader_id = 'bad' ORDER BY 1")
        assert [pnl for (pnl,) in rows] == [*([0.0] if name == "admitted" else []), 1, 2, 3, 4, 5]
    assert verify(Settings(redis_url=redis_url, postgres_url=database_url)).problems == []


def test_load_is_certain_again_when_a_worker_has_restored_what_redis_lost(
    client: Any, redis_url: str, database_url: str
) -> None:
    agreed_on(database_url)
    client.hset(KEYS.epochs, "a", FAR)  # as a clock that was far ahead would have given out
    with RiskProducer(redis_url) as producer:
        producer.push(snapshot("a", 1), timeout=30)
    drain_all(redis_url, database_url)
    client.flushall()
    with RiskProducer(redis_url) as light, RiskProducer(redis_url, database_url=database_url) as full:
        run_id = client.info("server")["run_id"]
        for marker in (None, "", "another-run", f"comparing {run_id} a", f"comparing {run_id} "):
            if marker is not None:  # of another run of the server, or of a comparison that is not over
                client.hset(KEYS.floors, "", marker)
            with pytest.raises(StateUnknown):
                light.load("a")
        state = full.load("a")
        assert state is not None and state.snapshot.daily_pnl == 1 and not state.unanswered
        with Floors(client, database_url, 0) as floors:
            floors.compare()
            state = light.load("a")
            assert state is not None and state.snapshot.daily_pnl == 1 and not state.unanswered
            light.push(snapshot("a", 2, trading_paused=True), timeout=30)
            drain_all(redis_url, database_url)
            for producer in (light, full):
                state = producer.load("a")
                assert state is not None and state.snapshot.trading_paused and not state.unanswered


def test_a_producer_with_a_smaller_epoch_than_postgres_knows_claims_another_and_nothing_is_lost(
    client: Any, redis_url: str, database_url: str
) -> None:
    agreed_on(database_url)
    client.hset(KEYS.epochs, "a", FAR)
    with RiskProducer(redis_url) as producer:
        producer.push(snapshot("a", 1), timeout=30)
    drain_all(redis_url, database_url)
    client.flushall()
    with RiskProducer(redis_url) as producer, Floors(client, database_url, 0) as floors:
        producer.push(snapshot("a", 2), timeout=30)  # by the clock, which is behind
        floors.compare()
        with RiskProducer(redis_url) as other, pytest.raises(StateUnknown, match="cannot be known"):
            other.load("a")
        for number in (3, 4, 5):
            producer.push(snapshot("a", number, trading_paused=True), timeout=30)
        drain_all(redis_url, database_url)
        with RiskProducer(redis_url) as other:
            state = other.load("a")
            assert state is not None and state.snapshot.daily_pnl == 5
        floors.compare()  # as a worker does every few seconds: now it is certain
    with psycopg.connect(database_url) as db:
        rows = db.execute("SELECT epoch, seq, daily_pnl FROM risk_state_history ORDER BY 3").fetchall()
        newest = db.execute("SELECT epoch, seq, daily_pnl FROM risk_state").fetchone()
    assert [pnl for _, _, pnl in rows] == [1, 2, 3, 4, 5]
    assert rows[2:] == [(FAR + 2, seq, seq + 2) for seq in (1, 2, 3)]
    assert newest == (FAR + 2, 3, 5)
    assert verify(Settings(redis_url=redis_url, postgres_url=database_url)).problems == []
