"""What Redis lost is restored from Postgres, and what cannot be known is said to be so."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from risk_producer.contract.counters import RESTORED, RESTORED_MS
from risk_producer.contract.keys import Keys, partition_of
from risk_producer.contract.wire import decode, encode
from risk_producer.errors import StreamUnavailable
from risk_producer.settings import Settings
from risk_producer.transport.requests import (
    Admission,
    Admit,
    Claim,
    OutgoingEntry,
    Skipped,
    TraderStream,
    Unreadable,
)
from risk_producer.transport.servers import Question, ask_each
from risk_worker.database import connection
from risk_worker.recovery import floors as module
from risk_worker.recovery import partitioning
from risk_worker.recovery.floors import Floors, FloorsOfShare, NotAgreedOn
from risk_worker.runtime import jobs
from risk_worker.stream.outages import PartitionOutages
from risk_worker.stream.partitions import Known
from tests.support.agreed import agreed_on
from tests.support.factory import snapshot
from tests.support.ledger import drain_all, draining
from tests.support.proxy import Proxy
from tests.support.redis import ask_one
from tests.support.wait import slowness, wait_until

KEYS = Keys(0)
FAR = 2**52
"""An epoch that Redis gave out while its clock was far ahead."""


@pytest.fixture(autouse=True)
def agreed(database_url: str) -> None:
    agreed_on(database_url, 1)


@pytest.fixture
def share(client: Any, redis_url: str, database_url: str) -> Iterator[FloorsOfShare]:
    """Of the one partition that there is."""
    settings = Settings.load({"REDIS_URL": redis_url, "POSTGRES_URL": database_url})
    with FloorsOfShare(settings, client, [0]) as made:
        yield made


@pytest.fixture
def floors(client: Any, database_url: str) -> Iterator[Floors]:
    with Floors(client, database_url, 0) as made:
        yield made


class Trader:
    """A trader that claims and admits as a producer does."""

    def __init__(self, client: Any, trader_id: str = "a") -> None:
        self.stream = TraderStream(client)
        self.trader_id = trader_id
        self.epoch = 0
        self.seq = 0

    def claim(self) -> int | Unreadable:
        [answer] = ask_one(self.stream, Claim(KEYS, [(0, self.trader_id)]))
        if isinstance(answer, int):
            self.epoch, self.seq = answer, 0
        return answer

    def call(self, *, paused: bool = False, accept_behind: bool = False) -> Admit:
        made = snapshot(self.trader_id, self.seq + 1, trading_paused=paused)
        payload = encode(made, self.epoch, self.seq + 1)
        entry = OutgoingEntry(self.trader_id, self.epoch, self.seq + 1, 0, payload)
        return Admit(KEYS, 100_000, [entry], accept_behind=accept_behind)

    def send(self, **options: bool) -> Admission:
        answer = ask_one(self.stream, self.call(**options))
        if not answer.skipped:
            self.seq += 1
        return answer

    def skipped(self, **options: bool) -> Skipped:
        answer = self.send(**options)
        assert (answer.count, answer.fenced) == (1, [])
        return answer.skipped[self.trader_id, self.epoch]

    @property
    def paused(self) -> bool:
        """As load() would answer; only where that is certain."""
        latest = self.stream.latest(KEYS, self.trader_id)
        assert latest.restored
        assert latest.payload is not None
        return decode(latest.payload).trading_paused


def far_ahead(client: Any, *traders: str) -> None:
    """The next epochs are those of a clock that is far ahead."""
    client.hset(KEYS.epochs, mapping=dict.fromkeys(traders or ("a",), FAR))


def redis_loses_a_far_epoch(client: Any, redis_url: str, database_url: str) -> None:
    """Postgres has the trader's state under the epoch FAR + 1, and Redis has nothing."""
    far_ahead(client)
    before = Trader(client)
    before.claim()
    before.send()
    drain_all(redis_url, database_url)
    client.flushall()


def state_of(db: psycopg.Connection, trader: str = "a") -> tuple[Any, ...]:
    [row] = db.execute("SELECT epoch, seq, trading_paused FROM risk_state WHERE trader_id = %s", (trader,))
    return row


def test_an_epoch_claimed_after_the_comparison_is_greater_than_the_one_in_postgres(
    client: Any, redis_url: str, database_url: str, db: psycopg.Connection, floors: Floors
) -> None:
    far_ahead(client)
    trader = Trader(client)
    trader.claim()
    trader.send()
    drain_all(redis_url, database_url)
    client.flushall()
    assert not trader.stream.latest(KEYS, "a").restored
    floors.compare()
    assert not trader.paused
    successor = Trader(client)
    assert successor.claim() == FAR + 2
    successor.send(paused=True)
    assert successor.paused
    drain_all(redis_url, database_url)
    assert state_of(db) == (FAR + 2, 1, True)


def test_a_claim_is_greater_than_the_floor_where_redis_has_no_epoch_of_the_trader(client: Any) -> None:
    """A repair of the epochs, or a worker between its two writes, may leave the floor alone."""
    client.hset(KEYS.floors, "a", FAR)
    assert Trader(client).claim() == FAR + 1


def test_who_goes_on_after_redis_lost_its_data_keeps_its_identity(
    client: Any, redis_url: str, database_url: str, db: psycopg.Connection, floors: Floors
) -> None:
    trader = Trader(client)
    epoch = trader.claim()
    trader.send()
    drain_all(redis_url, database_url)
    client.flushall()
    floors.compare()
    assert trader.send(paused=True) == Admission(1, [])
    drain_all(redis_url, database_url)
    assert state_of(db) == (epoch, 2, True)


def test_a_smaller_epoch_is_told_so_and_another_one_is_claimed(
    client: Any, redis_url: str, database_url: str, db: psycopg.Connection, floors: Floors
) -> None:
    redis_loses_a_far_epoch(client, redis_url, database_url)
    trader = Trader(client)
    trader.claim()  # by a clock that is behind, before any worker is there
    floors.compare()
    skipped = trader.skipped(paused=True)
    assert (skipped.kind, skipped.admitted) == ("behind", 0)
    assert str(FAR + 1) in skipped.reason
    assert client.xlen(KEYS.snapshots) == 0
    assert trader.claim() == FAR + 2
    trader.send(paused=True)
    drain_all(redis_url, database_url)
    assert trader.paused
    assert state_of(db) == (FAR + 2, 1, True)


def test_what_was_sent_before_the_comparison_makes_the_newest_state_unknown_until_it_moves_on(
    client: Any,
    redis_url: str,
    database_url: str,
    db: psycopg.Connection,
    floors: Floors,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_loses_a_far_epoch(client, redis_url, database_url)
    trader = Trader(client)
    trader.claim()
    trader.send(paused=True)  # newer than the state in Postgres, under a smaller epoch
    drain_all(redis_url, database_url)
    assert state_of(db)[2] is False, "the row with the greater epoch stays"
    with caplog.at_level(logging.CRITICAL):
        floors.compare()
        floors.compare()
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "'a'" in caplog.text
    assert "riskstream repair" in caplog.text
    assert client.hgetall(KEYS.behind) == {b"a": b"%d" % (FAR + 1)}
    with pytest.raises(StreamUnavailable, match="cannot be known"):
        trader.stream.latest(KEYS, "a")

    skipped = trader.skipped(paused=True)
    assert (skipped.kind, skipped.admitted) == ("behind", 1), "its first snapshot is in the stream or stored"
    trader.claim()
    trader.send(paused=True)
    assert trader.paused
    floors.compare()
    assert client.hgetall(KEYS.behind) == {}
    drain_all(redis_url, database_url)
    assert state_of(db) == (FAR + 2, 1, True)


def test_a_spool_may_send_what_is_behind_to_history_alone_and_the_state_is_unknown_then(
    client: Any, redis_url: str, database_url: str, db: psycopg.Connection, floors: Floors
) -> None:
    redis_loses_a_far_epoch(client, redis_url, database_url)
    trader = Trader(client)
    trader.claim()
    floors.compare()
    call = trader.call(paused=True)
    assert ask_one(trader.stream, call).skipped
    call.accept_behind = True
    assert ask_one(trader.stream, call) == Admission(1, [("a", trader.epoch)])
    with pytest.raises(StreamUnavailable, match="cannot be known"):
        trader.stream.latest(KEYS, "a")
    drain_all(redis_url, database_url)
    assert state_of(db) == (FAR + 1, 1, False)
    assert db.execute("SELECT count(*) FROM risk_state_history").fetchone() == (2,)


def test_a_frozen_producer_does_not_take_over_after_redis_lost_its_data(
    client: Any, redis_url: str, database_url: str, floors: Floors
) -> None:
    frozen, trader = Trader(client), Trader(client)
    frozen.claim()
    trader.claim()
    trader.send()
    drain_all(redis_url, database_url)
    client.flushall()
    floors.compare()
    trader.send()
    assert frozen.send(paused=True) == Admission(1, [("a", frozen.epoch)])
    assert not trader.paused


def test_redis_with_an_older_file_is_compared_again(
    client: Any, redis_url: str, database_url: str, floors: Floors
) -> None:
    trader = Trader(client)
    trader.claim()
    trader.send()
    drain_all(redis_url, database_url)
    floors.compare()
    old = {key: client.dump(key) for key in client.scan_iter()}
    trader.send(paused=True)
    drain_all(redis_url, database_url)
    client.flushall()
    for key, value in old.items():
        client.restore(key, 0, value)
    client.hset(KEYS.floors, "", "another-run")  # as a server that was started anew says of itself
    assert not trader.stream.latest(KEYS, "a").restored
    floors.compare()
    assert trader.paused
    assert client.hgetall(KEYS.behind) == {}


def test_nothing_is_lowered_and_a_repeat_changes_nothing(
    client: Any, redis_url: str, database_url: str, floors: Floors
) -> None:
    traders = [Trader(client, trader_id) for trader_id in ("a", "b", "größer", "with space")]
    for trader in traders:
        trader.claim()
        trader.send()
    drain_all(redis_url, database_url)
    for trader in traders:
        trader.send(paused=True)
    before = {name: client.hgetall(getattr(KEYS, name)) for name in ("epochs", "latest", "behind")}
    for _ in range(3):
        floors.compare()
        assert {name: client.hgetall(getattr(KEYS, name)) for name in before} == before
        client.hdel(KEYS.floors, "")
    floors.compare()
    assert set(client.hgetall(KEYS.floors)) == {b""}, "a floor only where Redis had lost something"


def test_many_traders_are_restored_in_pages_also_by_two_workers_and_when_redis_loses_its_data_again(
    client: Any, database_url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 7)
    monkeypatch.setattr(module, "BUDGET_S", 0.0)
    db.execute("""
        INSERT INTO risk_state (trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity,
                                peak_equity, trading_paused, last_reset_time)
        SELECT 'trader-' || n, 7, n, now(), 0, 0, 1, 1, false, now() FROM generate_series(1, 100) n
    """)
    with Floors(client, database_url, 0) as one, Floors(client, database_url, 0) as other:
        for _ in range(5):
            one.look()
            other.look()
        marker = client.hget(KEYS.floors, "")
        assert marker.startswith(b"comparing ")
        assert not TraderStream(client).latest(KEYS, "trader-1").restored
        client.flushall()
        for _ in range(40):
            one.look()
            other.look()
    restored = client.hgetall(KEYS.floors)
    assert restored.pop(b"").decode() == client.info("server")["run_id"]
    assert restored == {f"trader-{n}".encode(): b"7" for n in range(1, 101)}
    assert decode(client.hget(KEYS.latest, "trader-42")).seq == 42


def test_each_partition_restores_its_own_traders(
    client: Any, database_url: str, db: psycopg.Connection
) -> None:
    db.execute("""
        INSERT INTO risk_state (trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity,
                                peak_equity, trading_paused, last_reset_time)
        SELECT 'trader-' || n, 7, n, now(), 0, 0, 1, 1, false, now() FROM generate_series(1, 20) n
    """)
    agreed_on(database_url, 3)
    for partition in range(3):
        with Floors(client, database_url, partition) as floors:
            floors.compare()
    restored = [set(client.hkeys(Keys(partition).floors)) - {b""} for partition in range(3)]
    assert all(restored)
    assert sum(map(len, restored)) == len(set.union(*restored)) == 20


def test_a_share_asks_once_for_all_of_its_partitions_and_compares_those_that_need_it(
    client: Any, redis_url: str, database_url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(module, "BUDGET_S", 60.0)
    looked: list[int] = []
    look = Floors.look

    def noted(self: Floors) -> bool:
        looked.append(self.partition)
        return look(self)

    monkeypatch.setattr(Floors, "look", noted)
    settings = Settings.load({"REDIS_URL": redis_url, "POSTGRES_URL": database_url})
    outages = PartitionOutages()
    outages.record_failure([1], ResponseError("WRONGTYPE"), alone=False)
    with FloorsOfShare(settings, client, range(3), outages) as floors:
        floors.look()
        assert looked == [0, 2], "one of them is not served now"
        outages.record_success(1)
        floors.look()
        assert looked == [0, 2, 1]
        floors.look()
        assert looked == [0, 2, 1], "all are compared"
        client.delete(Keys(2).floors)
        client.hset(Keys(0).behind, "a", "7")
        floors.look()
        assert looked == [0, 2, 1, 0, 2]
        client.delete(Keys(0).floors, Keys(1).floors, Keys(2).floors)
        monkeypatch.setattr(module, "BUDGET_S", 0.0)
        floors.look()  # all three are due, and there is no time
        outages.record_failure([1], ResponseError("WRONGTYPE"), alone=False)
        monkeypatch.setattr(module, "BUDGET_S", 60.0)
        monkeypatch.setattr(module, "LOOK_EVERY_S", 60.0)
        floors.look()
        assert sorted(looked[5:]) == [0, 2], "one is not served any more since they were due"


def test_a_database_that_is_away_hinders_nothing_and_is_waited_for_once(
    client: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    settings = Settings.load({"REDIS_URL": redis_url, "POSTGRES_URL": url})
    monkeypatch.setattr(module, "BUDGET_S", 60.0)
    looked = []
    look = Floors.look

    def noted(self: Floors) -> bool:
        looked.append(self.partition)
        return look(self)

    monkeypatch.setattr(Floors, "look", noted)
    with FloorsOfShare(settings, client, range(5)) as floors:
        floors.look()
    assert looked == [0]
    [message] = caplog.messages
    assert message.startswith("The worker cannot compare partition 0 of Redis with Postgres")
    assert client.hgetall(KEYS.floors) == {}


def test_a_state_that_no_producer_can_exceed_is_named(
    client: Any, database_url: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    db.execute("""
        INSERT INTO risk_state (trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity,
                                peak_equity, trading_paused, last_reset_time)
        VALUES ('a', 9000000000000000000, 1, now(), 0, 0, 1, 1, false, now())
    """)
    with Floors(client, database_url, 0) as floors:
        floors.compare()
    assert "'a'" in caplog.text and "no producer can exceed" in caplog.text
    assert isinstance(Trader(client).claim(), int)


def test_a_drain_job_compares_and_so_does_one_whose_redis_loses_its_data(
    client: Any, redis_url: str, database_url: str, share: FloorsOfShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(module, "BUDGET_S", 60.0)
    far_ahead(client)
    trader = Trader(client)
    trader.claim()
    trader.send()
    with draining(redis_url, database_url, look=share.look):
        wait_until(lambda: client.xlen(KEYS.snapshots) == 0)
        client.flushall()
        wait_until(lambda: client.hget(KEYS.floors, "a") == b"%d" % (FAR + 1))
    client.flushall()
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("POSTGRES_URL", database_url)
    jobs.drain_share(0, 1, until_empty=True)
    assert trader.stream.latest(KEYS, "a").restored
    assert not trader.paused


def test_a_locked_table_does_not_hold_reading_up(
    client: Any, share: FloorsOfShare, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with db.transaction():
        db.execute("LOCK TABLE risk_state")
        began = time.monotonic()
        share.look()
        assert time.monotonic() - began < 3 * slowness()
    assert "cannot compare partition 0" in caplog.text
    share.compare()
    assert client.hget(KEYS.floors, "")


@pytest.mark.parametrize(("owner", "asked"), [(partitioning, "stored"), (Floors, "_page")])
def test_a_database_that_hangs_amid_a_comparison_does_not_hold_reading_up(
    redis_url: str,
    database_url: str,
    client: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    asked: str,
) -> None:
    """The question has gone over the link, which swallows the answer, and nothing ends the waiting."""
    monkeypatch.setattr(connection, "ANSWER_S", 0.5)
    with Proxy(database_url) as proxy:
        settings = Settings(redis_url=redis_url, postgres_url=proxy.url)
        with FloorsOfShare(settings, client, [0]) as share:
            ask = getattr(owner, asked)

            def hang(*arguments: Any) -> Any:
                proxy.swallowing = True
                return ask(*arguments)

            monkeypatch.setattr(owner, asked, hang)
            share.look()
        assert "cannot compare partition 0 of Redis with Postgres, and tries again" in caplog.text
        proxy.heal()


def test_a_partition_is_not_compared_before_its_traders_are_known(
    client: Any, share: FloorsOfShare, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose RISK_PARTITIONS is another one would take traders for another partition's."""
    known = Known()
    monkeypatch.setattr(share, "_known", known)
    db.execute("UPDATE risk_deployment SET partitions = NULL")
    share.look()
    assert client.hgetall(KEYS.floors) == {}
    assert not known.in_postgres
    with pytest.raises(NotAgreedOn):
        share.compare()


def is_over(share: FloorsOfShare) -> bool:
    """After another look."""
    share.look()
    return not share._left


def insert_states(db: psycopg.Connection, count: int, seq: int = 5) -> None:
    db.execute(
        """
        INSERT INTO risk_state (trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity,
                                peak_equity, trading_paused, last_reset_time)
        SELECT 'trader-' || n, 7, %s, now(), 0, 0, 1, 1, false, now() FROM generate_series(1, %s) n
        """,
        (seq, count),
    )


def test_what_a_share_had_lost_is_one_line(
    client: Any,
    redis_url: str,
    database_url: str,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agreed_on(database_url, 4, version=2)
    insert_states(db, 20)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    settings = Settings.load({"REDIS_URL": redis_url, "POSTGRES_URL": database_url})
    with caplog.at_level(logging.WARNING), FloorsOfShare(settings, client, (0, 1, 3)) as floors:
        for _ in range(2):
            wait_until(lambda: is_over(floors), what="all are compared")
        expected = sum(partition_of(f"trader-{n}", 4) != 2 for n in range(1, 21))
        assert caplog.messages == [
            f"Partitions 0, 1, 3 in Redis, which is new or had lost data, got {expected} traders back from "
            "Postgres"
        ]
        for partition in (0, 1, 3):
            client.hset(Keys(partition).behind, f"trader-{partition}", "8")
        wait_until(lambda: is_over(floors), what="all are looked at")
        assert len(caplog.messages) == 2
        assert "3 traders got an epoch smaller than Postgres knows" in caplog.messages[1]


def test_a_trader_that_has_moved_is_no_loss_of_its_former_partition(
    client: Any,
    redis_url: str,
    database_url: str,
    db: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor of one that it never was in; but it is one where the partition that has it lost its data."""
    agreed_on(database_url, 4, 1, 9, version=2)
    insert_states(db, 40)
    settings = Settings.load({"REDIS_URL": redis_url, "POSTGRES_URL": database_url})

    def compare() -> list[str]:
        """As after a restart of Redis."""
        caplog.clear()
        for partition in range(9):
            client.hset(Keys(partition).floors, "", "another run")
        with caplog.at_level(logging.WARNING), FloorsOfShare(settings, client, range(9)) as floors:
            floors.compare()
        return caplog.messages

    for number in range(1, 41):
        trader, own = f"trader-{number}", Keys(partition_of(f"trader-{number}", 4))
        for keys, seq in ((KEYS, 3), (own, 5)):  # own may be the former one too
            client.hset(keys.epochs, trader, 7)
            client.hset(keys.latest, trader, encode(snapshot(trader), 7, seq))
            client.hset(keys.admitted, f"7:{trader}", seq)
    assert compare() == []
    db.execute("UPDATE risk_state SET seq = seq + 1")
    for number in range(1, 41):
        own = Keys(partition_of(f"trader-{number}", 4))
        client.hset(own.admitted, f"7:trader-{number}", 6)
        client.hset(own.latest, f"trader-{number}", encode(snapshot(f"trader-{number}"), 7, 6))
    assert compare() == []
    lost = sum(partition_of(f"trader-{number}", 4) == 2 for number in range(1, 41))
    client.delete(Keys(2).epochs, Keys(2).latest, Keys(2).admitted)
    [message] = compare()
    assert message == (
        f"Partition 2 in Redis, which is new or had lost data, got {lost} traders back from Postgres"
    )


def test_a_node_that_says_nothing_is_waited_for_once_and_left_out_of_the_next_read_too(
    client: Any,
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    silent = RedisTimeoutError("Timeout reading from h:1")

    def ask(asked: Any, questions: Sequence[Question]) -> list[Any]:
        own = tuple(Keys(partition).floors for partition in (1, 2))
        return [
            silent if key in own else answer
            for (key, _), answer in zip(questions, ask_each(asked, questions), strict=True)
        ]

    monkeypatch.setattr(module, "ask_each", ask)
    settings = Settings.load({"REDIS_URL": redis_url, "POSTGRES_URL": database_url})
    outages = PartitionOutages()
    with FloorsOfShare(settings, client, range(4), outages) as floors:
        wait_until(lambda: is_over(floors), what="the others are compared")
    assert [partition in outages for partition in range(4)] == [False, True, True, False]
    assert all(client.hget(Keys(partition).floors, "") for partition in (0, 3))
    [message] = caplog.messages
    assert message.startswith(
        "The worker cannot store partitions 1, 2, as Redis does not serve them: Timeout"
    )


class TestTheNoteOfALoss:
    """For `riskstream status`: when a worker found that Redis had lost its data."""

    @pytest.mark.parametrize("sends_anew", [False, True])
    def test_an_emptied_redis_is_noted(
        self, client: Any, redis_url: str, database_url: str, floors: Floors, sends_anew: bool
    ) -> None:
        trader = Trader(client)
        trader.claim()
        for _ in range(3):
            trader.send()
        drain_all(redis_url, database_url)
        client.flushall()
        if sends_anew:  # then nothing has to be restored
            trader.send()
        floors.compare()
        assert client.hexists(KEYS.counters, RESTORED_MS)
        assert int(client.hget(KEYS.counters, RESTORED)) == (0 if sends_anew else 1)

    def test_what_is_stored_before_the_first_comparison_is_no_loss(
        self, client: Any, redis_url: str, database_url: str, floors: Floors
    ) -> None:
        trader = Trader(client)
        trader.claim()
        for _ in range(3):
            trader.send()
        drain_all(redis_url, database_url)
        client.delete(KEYS.floors)
        trader.send()
        floors.compare()
        assert not client.hexists(KEYS.counters, RESTORED_MS)
