"""What needs no server: persistence off, settings, metrics of several producers, handles."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import fakeredis
import pytest
from prometheus_client import CollectorRegistry

import risk_producer
from risk_producer import (
    AsyncRiskProducer,
    ConfigurationError,
    RiskProducer,
    Settings,
    StateUnknown,
)
from risk_producer.base import ProducerBase
from risk_producer.bound import SnapshotFields
from tests.support.factory import snapshot

FIELDS: SnapshotFields = {"daily_pnl": 1.0, "drawdown_pct": 0.0, "current_equity": 1.0, "peak_equity": 1.0}


@pytest.mark.parametrize("setting", [{"ENABLE_PERSISTENCE": "false"}, {"PERSISTENCE_BACKEND": "memory"}])
def test_persistence_off_keeps_state_in_memory_and_sends_nothing(
    setting: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    with RiskProducer.from_settings(Settings.load(setting), registry=registry) as producer:
        assert producer.load("t1") is None
        for number in range(1000):
            assert producer.save(snapshot("t1", number))
        producer.push(snapshot("t1", 1000))
        assert producer.flush(0)
        state = producer.load("t1")
        assert state is not None and state.source == "memory" and state.snapshot.daily_pnl == 1000
        health = producer.health()
        assert (health.backend, health.reason) == ("memory", "persistence is off")
        labels = {"trader_id": "t1", "backend": "memory"}
        assert registry.get_sample_value("risk_persistence_attempts_total", labels) == 1001
        assert registry.get_sample_value("risk_producer_backend", {"backend": "memory"}) == 1
        assert not producer._engine.flusher.runs()
    assert not caplog.records


def test_from_settings_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        RiskProducer.from_settings(Settings.load({}))


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("RISK_BUFFER_SIZE", "7")
    monkeypatch.setenv("RISK_ON_FULL", "refuse")
    with RiskProducer.from_env(registry=CollectorRegistry()) as producer:
        assert producer.health().buffer_size == 7
        assert producer._engine.session.options.on_full == "refuse"


def test_one_of_url_and_client() -> None:
    with pytest.raises(TypeError, match="redis_url and client"):
        RiskProducer(registry=CollectorRegistry())


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port/0"])
@pytest.mark.parametrize("kind", [RiskProducer, AsyncRiskProducer])
def test_a_url_that_is_none_is_said_at_once(kind: type[ProducerBase], url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis_url expects"):
        kind(url, registry=CollectorRegistry())


def test_two_producers_share_a_registry_and_totals_stay_when_one_is_closed() -> None:
    registry = CollectorRegistry()
    server = fakeredis.FakeServer()
    one = RiskProducer(client=fakeredis.FakeRedis(server=server), registry=registry)
    with RiskProducer(client=fakeredis.FakeRedis(server=server), registry=registry) as other:
        one.push(snapshot("t1"), timeout=30)
        other.push(snapshot("t2"), timeout=30)
        other.push(snapshot("t2"), timeout=30)
        assert registry.get_sample_value("risk_producer_accepted_total") == 3
        assert registry.get_sample_value("risk_producer_backend", {"backend": "postgres"}) == 2
        one.close()
        one.close()
        assert registry.get_sample_value("risk_producer_accepted_total") == 3
        assert registry.get_sample_value("risk_producer_backend", {"backend": "postgres"}) == 1


def test_the_default_registry_may_be_shared() -> None:
    for _ in range(2):
        with RiskProducer(persistent=False):
            pass


def test_bind_knows_the_trader() -> None:
    with RiskProducer(persistent=False, registry=CollectorRegistry()) as producer:
        trader = producer.bind("t7")
        assert trader.load() is None
        assert trader.save(**FIELDS)
        trader.push(**(FIELDS | {"daily_pnl": 2.0}))
        state = trader.load()
        assert state is not None
        assert (state.snapshot.trader_id, state.snapshot.daily_pnl) == ("t7", 2.0)


def test_a_thread_that_cannot_start_costs_no_snapshot(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = fakeredis.FakeRedis()
    with RiskProducer(client=client, registry=CollectorRegistry()) as producer:

        def refuse(self: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            assert producer.save(snapshot("t1", 1))
        assert caplog.records[0].levelno == logging.CRITICAL
        assert producer.save(snapshot("t1", 2))
        assert producer.flush(30)
        assert client.xlen("risk:{0}:snapshots") == 2


def test_a_database_url_that_cannot_be_asked_leaves_the_state_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"registry": CollectorRegistry(), "client": fakeredis.FakeRedis()}
    with RiskProducer(database_url="postgresql://u:secret@127.0.0.1:1/x", **options) as producer:  # type: ignore[arg-type]
        with pytest.raises(StateUnknown, match="postgres: ") as raised:
            producer.load("t1")
        assert "secret" not in str(raised.value)
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(StateUnknown, match="psycopg is not installed"):
            producer.load("t1")


def test_the_public_names() -> None:
    assert sorted(risk_producer.__all__) == risk_producer.__all__
    for name in risk_producer.__all__:
        assert hasattr(risk_producer, name)


def test_both_producers_have_the_same_methods() -> None:
    def public(cls: type[ProducerBase]) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(RiskProducer) == public(AsyncRiskProducer)


def test_py_typed_travels_along() -> None:
    assert (Path(risk_producer.__file__).parent / "py.typed").exists()
