"""What was put into the stream, to compare with what is stored of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import psycopg

from risk_producer.contract import wire
from risk_producer.contract.keys import Keys
from risk_worker.database.stores import PostgresStores
from risk_worker.drain.loop import drain
from risk_worker.drain.retry import RetryPolicy
from risk_worker.stream.source import StreamSource, connect
from tests.support.factory import snapshot

KEYS = Keys(0)
PATIENCE = RetryPolicy(retries=3, base_s=0.05, cap_s=0.5)


class Ledger:
    """Puts snapshots into the stream as a producer does, and checks what came out at the other end."""

    def __init__(self, client: Any, database_url: str) -> None:
        self._client = client
        self._database_url = database_url
        self._reported: list[tuple[str, int]] = []
        self._seqs: dict[str, int] = {}
        self._poison: list[tuple[str, bytes]] = []

    def report(self, count: int, *, traders: int = 3, reason: str = "") -> None:
        """Add `count` snapshots of `traders` traders, in turn, all at the same moment."""
        pipeline = self._client.pipeline(transaction=True)
        for number in range(count):
            trader = f"trader-{number % traders}"
            seq = self._seqs[trader] = self._seqs.get(trader, 0) + 1
            made = snapshot(trader, current_equity=float(seq), reason=reason)
            pipeline.xadd(KEYS.snapshots, {b"s": wire.encode(made, epoch=1, seq=seq)})
            self._reported.append((trader, seq))
            pipeline.hset(KEYS.admitted, f"1:{trader}", seq)
            pipeline.hset(KEYS.epochs, trader, 1)
        pipeline.execute()

    def poison(self, payload: bytes) -> None:
        """Add an entry that has to become a dead letter."""
        entry_id = self._client.xadd(KEYS.snapshots, {b"s": payload})
        self._poison.append((entry_id.decode(), payload))

    def is_stored(self) -> bool:
        """Whether everything has arrived and the stream is empty."""
        if self._client.xlen(KEYS.snapshots):
            return False
        with psycopg.connect(self._database_url) as db:
            row = db.execute("SELECT count(*) FROM risk_state_history").fetchone()
        return row == (len(self._reported),)

    def check(self, *, duplicates: int | None = None) -> None:
        """None lost, no duplicates, state the newest, each dead letter once, every count right."""
        with psycopg.connect(self._database_url) as db:
            history = db.execute("SELECT trader_id, seq FROM risk_state_history ORDER BY 1, 2").fetchall()
            state = db.execute("SELECT trader_id, seq, current_equity FROM risk_state ORDER BY 1").fetchall()
            dead = db.execute("SELECT entry_id, payload FROM risk_dead_letter ORDER BY 1").fetchall()
        assert history == sorted(self._reported)
        assert state == [(trader, seq, float(seq)) for trader, seq in sorted(self._seqs.items())]
        assert dead == sorted(self._poison)
        assert self._client.xlen(KEYS.snapshots) == 0
        counters = self._client.hgetall(KEYS.counters)
        assert int(counters.get(b"stored", 0)) == len(self._reported)
        assert int(counters.get(b"dead", 0)) == len(self._poison)
        attempts = sum(int(n) for n in self._client.hvals(KEYS.latency_buckets))
        assert attempts == len(self._reported)
        found = int(counters.get(b"duplicates", 0))
        assert duplicates in (None, found), f"{found} duplicates"


@contextmanager
def draining(
    redis_url: str,
    database_url: str,
    *,
    batch_size: int = 5_000,
    policy: RetryPolicy = PATIENCE,
    look: Callable[[], object] | None = None,
) -> Iterator[Thread]:
    """A drain in a thread, as the worker runs it; stopped at the end."""
    stop = Event()

    def run() -> None:
        with connect(redis_url) as client, PostgresStores(database_url) as store:
            source = StreamSource(client, [0], batch_size=batch_size, block_s=0.05, look=look)
            drain(source, store, stop=stop, over=lambda: False, policy=policy)

    thread = Thread(target=run, name="drain", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(15)
        assert not thread.is_alive(), "the drain does not stop"


def drain_all(redis_url: str, database_url: str, *, batch_size: int = 5_000) -> int:
    """Drain until the stream is empty. Returns how many entries were acknowledged."""
    with connect(redis_url) as client, PostgresStores(database_url) as store:
        source = StreamSource(client, [0], batch_size=batch_size, block_s=0.05)
        return drain(source, store, stop=Event(), over=source.is_empty, policy=PATIENCE)
