"""Every way Redis can be away, on a Valkey of the test's own, for both producers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from threading import Thread

import pytest
import redis

from risk_devkit.embedded import EmbeddedValkey
from risk_producer import StateUnknown
from risk_producer.contract.keys import Keys
from tests.conftest import MakeValkey
from tests.support.factory import snapshot
from tests.support.producers import Bench, Producer
from tests.support.proxy import Proxy
from tests.support.redis import stream_of
from tests.support.wait import slowness, wait_until

KEYS = Keys(0)


@pytest.fixture
def valkey(make_valkey: MakeValkey) -> EmbeddedValkey:
    return make_valkey()


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """What the bench is on."""
    return valkey.url


@pytest.fixture
def proxy(valkey: EmbeddedValkey) -> Iterator[Proxy]:
    with Proxy(valkey.url) as between:
        yield between


@pytest.fixture
def distant(flavour: str, proxy: Proxy) -> Iterator[Bench]:
    """A bench with a proxy before its Redis."""
    with Bench(flavour, proxy.url) as made:
        yield made


def ready(producer: Producer) -> None:
    """One snapshot has gone through: the epoch is claimed."""
    producer.push(snapshot("t1", 0), timeout=30)


def saves_go_on(producer: Producer, first: int, last: int) -> None:
    for number in range(first, last):
        began = time.perf_counter()
        assert producer.save(snapshot("t1", number))
        assert time.perf_counter() - began < 1.9, "save() waited for Redis, which has 2 s to answer"


def on_memory(producer: Producer) -> bool:
    return producer.health().backend == "memory"


def logged(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in caplog.records if record.name == "riskstream.producer"]


def complete(bench: Bench, count: int) -> None:
    stored = bench.stored()
    assert [wire.daily_pnl for wire in stored] == list(range(count))
    assert [wire.seq for wire in stored] == list(range(1, count + 1))


def kill(valkey: EmbeddedValkey) -> Callable[[], object]:
    valkey.kill()
    return valkey.start


def freeze(valkey: EmbeddedValkey) -> Callable[[], object]:
    valkey.pause()
    return valkey.resume


def with_config(**settings: str) -> Callable[[EmbeddedValkey], Callable[[], object]]:
    def spoil(valkey: EmbeddedValkey) -> Callable[[], object]:
        with redis.Redis.from_url(valkey.url) as client:
            before = {name: client.config_get(name)[name] for name in settings}
            for name, value in settings.items():
                client.config_set(name, value)

        def mend() -> None:
            with redis.Redis.from_url(valkey.url, password=settings.get("requirepass")) as client:
                for name, value in before.items():
                    client.config_set(name, value)

        return mend

    return spoil


def fail_over(valkey: EmbeddedValkey) -> Callable[[], object]:
    """Read-only: a replica of nobody that can be reached."""
    with redis.Redis.from_url(valkey.url) as client:
        client.replicaof("127.0.0.1", "1")

    def promote() -> None:
        with redis.Redis.from_url(valkey.url) as client:
            client.replicaof("NO", "ONE")

    return promote


def refuse_auth(valkey: EmbeddedValkey) -> Callable[[], object]:
    mend = with_config(requirepass="secret")(valkey)
    with redis.Redis.from_url(valkey.url, password="secret") as client:
        client.client_kill_filter(_type="normal", skipme=True)
    return mend


def restart_slowly(valkey: EmbeddedValkey) -> Callable[[], object]:
    """It reads its data from disk, and answers LOADING meanwhile: until the test lets it hurry."""
    with redis.Redis.from_url(valkey.url) as client:
        client.eval("for i = 1, 50000 do redis.call('SET', i, i) end", 0)
    valkey.kill()
    valkey.config["key-load-delay"] = 100  # us; it looks up from its work after each thousand keys
    start = Thread(target=valkey.start, daemon=True)
    start.start()

    def hurry() -> None:
        with redis.Redis.from_url(valkey.url) as client:
            client.config_set("key-load-delay", 0)
        start.join()

    return hurry


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(kill, "Connection", id="killed"),
        pytest.param(freeze, "Timeout", id="hanging"),
        pytest.param(with_config(maxmemory="1"), "maxmemory", id="out-of-memory"),
        pytest.param(fail_over, "replica", id="read-only"),
        pytest.param(refuse_auth, "Authentication", id="auth-refused"),
        pytest.param(restart_slowly, "loading", id="loading"),
    ],
)
def test_away_in_the_middle(
    bench: Bench,
    valkey: EmbeddedValkey,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[EmbeddedValkey], Callable[[], object]],
    reason: str,
) -> None:
    producer = bench.producer()
    ready(producer)
    mend = spoil(valkey)
    saves_go_on(producer, 1, 50)
    wait_until(lambda: on_memory(producer))
    saves_go_on(producer, 50, 100)
    wait_until(lambda: reason in (producer.health().reason or ""))
    state = producer.load("t1")
    assert state is not None and state.snapshot.daily_pnl == 99
    mend()
    assert producer.flush(30)
    complete(bench, 100)
    assert not on_memory(producer)
    assert logged(caplog) == [logging.CRITICAL, logging.WARNING], "one line when it begins, one when it ends"


def test_away_at_the_start(bench: Bench, valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture) -> None:
    valkey.stop()
    producer = bench.producer()
    with pytest.raises(StateUnknown):
        producer.load("t1")
    saves_go_on(producer, 0, 100)
    wait_until(lambda: on_memory(producer))
    valkey.start()
    assert producer.flush(30)
    complete(bench, 100)
    assert logged(caplog) == [logging.CRITICAL, logging.WARNING]


def test_a_slow_redis_is_no_outage(distant: Bench, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    producer = distant.producer()
    ready(producer)
    proxy.delay_s = 0.1
    saves_go_on(producer, 1, 100)
    assert producer.flush(30)
    assert not on_memory(producer)
    proxy.heal()
    complete(distant, 100)
    assert logged(caplog) == []


def test_answers_that_come_too_late_store_each_snapshot_once(
    distant: Bench, proxy: Proxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("risk_producer.transport.requests.ANSWER_TIMEOUT_S", 1.0)
    producer = distant.producer()
    ready(producer)
    proxy.delay_s = 1.5
    saves_go_on(producer, 1, 50)
    wait_until(lambda: on_memory(producer))
    assert "Timeout" in (producer.health().reason or "")
    proxy.heal()
    assert producer.flush(30)
    complete(distant, 50)
    assert logged(caplog) == [logging.CRITICAL, logging.WARNING]


def test_scripts_flushed_are_no_outage(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Neither when an epoch is claimed nor when snapshots are admitted."""
    producer = bench.producer()
    for number in range(5):
        bench.redis.script_flush()
        producer.push(snapshot("t1", number), timeout=30)
        bench.redis.script_flush()
        producer.push(snapshot(f"new-{number}"), timeout=30)
    assert [wire.seq for wire in bench.stored() if wire.trader_id == "t1"] == [1, 2, 3, 4, 5]
    assert logged(caplog) == []


def test_tries_become_rarer_the_longer_redis_is_away(bench: Bench, valkey: EmbeddedValkey) -> None:
    valkey.stop()
    producer = bench.producer()
    tries: list[float] = []
    stream = producer.stream
    agree = stream.agree

    def noted(*arguments: object) -> object:
        tries.append(time.monotonic())
        return agree(*arguments)

    stream.agree = noted
    assert producer.save(snapshot("t1", 0))
    wait_until(lambda: len(tries) == 6)
    gaps = [after - before for before, after in pairwise(tries)]
    assert all(gap >= 0.025 * 2**number for number, gap in enumerate(gaps)), gaps


def test_restarted_empty(bench: Bench, valkey: EmbeddedValkey) -> None:
    """What Redis lost it lost; what comes after keeps its identity, and the epoch is known again."""
    producer = bench.producer()
    ready(producer)
    epoch = bench.stored()[0].epoch
    bench.redis.flushall()
    bench.redis.script_flush()
    saves_go_on(producer, 1, 10)
    assert producer.flush(30)
    assert [(wire.epoch, wire.seq) for wire in bench.stored()] == [(epoch, seq) for seq in range(2, 11)]
    assert bench.redis.hget(KEYS.epochs, "t1") == str(epoch).encode()


def test_an_idle_connection_that_was_closed_is_no_outage(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    producer = bench.producer()
    ready(producer)
    bench.redis.client_kill_filter(_type="normal", skipme=True)
    producer.push(snapshot("t1", 1), timeout=30)
    complete(bench, 2)
    assert logged(caplog) == []


def test_a_full_buffer_in_an_outage_keeps_to_the_bound(bench: Bench, valkey: EmbeddedValkey) -> None:
    producer = bench.producer(buffer_size=16, save_timeout_s=0.2)
    ready(producer)
    valkey.pause()
    try:
        accepted = [producer.save(snapshot("t1", number)) for number in range(1, 20)]
        assert accepted == [True] * 16 + [False] * 3
        assert producer.health().buffered == 16
    finally:
        valkey.resume()
    assert producer.flush(30)
    complete(bench, 17)


def test_close_in_an_outage_has_a_bound(bench: Bench, valkey: EmbeddedValkey) -> None:
    producer = bench.producer()
    ready(producer)
    valkey.pause()
    try:
        assert producer.save(snapshot("t1", 1))
        began = time.monotonic()
        assert not producer.close(0.5)
        assert time.monotonic() - began < 5 * slowness()
    finally:
        valkey.resume()


def test_killed_again_and_again_in_the_middle_of_batches(bench: Bench, valkey: EmbeddedValkey) -> None:
    producer = bench.producer(save_timeout_s=30)
    number = 0
    for _ in range(4):
        for _ in range(500):
            assert producer.save(snapshot("t1", number))
            number += 1
        valkey.kill()
        valkey.start()
    assert producer.flush(30)
    with redis.Redis.from_url(valkey.url) as client:
        stored = stream_of(client)
    assert [wire.seq for wire in stored] == list(range(1, number + 1)), "nothing lost, nothing twice"
    assert [wire.daily_pnl for wire in stored] == list(range(number))
