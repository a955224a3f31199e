"""How fast a peer stores what waits for it, and what is left of it when its workers are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from time import monotonic, sleep, time
from typing import Any, Final

import psycopg

from benchmarks.cpu import Clock, CpuTime
from benchmarks.drains import Drained
from benchmarks.peers.peer import Peer, Worker
from benchmarks.rows import EPOCH
from benchmarks.servers import Servers, wait
from risk_producer.contract import wire

TIMES = 3
_STARTS_WITHIN_S = 30
_STORES_WITHIN_S = 120
_DELIVERIES = """
    CREATE UNLOGGED TABLE delivered (number bigint GENERATED ALWAYS AS IDENTITY);
    CREATE FUNCTION note_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO delivered DEFAULT VALUES; RETURN NEW; END $$;
    CREATE TRIGGER note_delivery BEFORE INSERT ON risk_state_history
        FOR EACH ROW EXECUTE FUNCTION note_delivery()
"""
"""Counts what committed transactions tried to insert, also where the key says that it was there already."""


@dataclass(frozen=True)
class Survived:
    """What is left after TIMES faults."""

    sent: int
    missing: int
    """Not stored when the time in which it is watched is over."""
    again: int
    """Delivered once more: without the table's key they would be there twice."""
    took_s: float
    """From the last fault until all was stored, or that time was over."""


def rate(servers: Servers, peer: Peer, rows: Sequence[bytes], batch: int) -> Drained:
    """One worker stores what waits for it: from the moment at which it may begin to the last COMMIT.

    It has stored one row before, so it is connected, as one that has been running.
    """
    with _scene(servers, peer, batch) as scene:
        peer.send(servers, rows[:1])
        scene.wait_for(1, _STARTS_WITHIN_S)
        with scene.worker.held():
            peer.send(servers, rows[1:])
            clock = Clock(
                worker=[scene.worker.pid], postgres=[servers.postgres.pid], redis=[servers.valkey.pid]
            )
            began = time()
        scene.wait_for_one(rows[-1])
        scene.wait_for(len(rows), _STORES_WITHIN_S)
        cpu = CpuTime(**clock.read_us(len(rows) - 1))
        return Drained((len(rows) - 1) / (scene.last_commit() - began), cpu)


def survived(
    servers: Servers, peer: Peer, rows: Sequence[bytes], spare: Sequence[bytes], batch: int, fault: Fault
) -> Survived:
    """TIMES faults come while its worker stores what waits for it.

    From the first on, one row a second of `spare` is sent, as some look for what was left only when something
    comes.
    """
    moments = Random(7)
    extra = iter(spare)
    with _scene(servers, peer, batch) as scene:
        scene.db.execute(_DELIVERIES)
        peer.send(servers, rows[:1])
        scene.wait_for(1, _STARTS_WITHIN_S)
        with scene.worker.held():
            peer.send(servers, rows[1:])
        sent = len(rows)

        def wait_for(wanted: Callable[[], int]) -> float:
            nonlocal sent
            began = monotonic()
            while scene.stored() < wanted() and monotonic() - began < peer.watched_s:
                if not scene.reaches(wanted(), within_s=1):
                    peer.send(servers, [next(extra)])
                    sent += 1
            return monotonic() - began

        for number in range(TIMES):
            wait_for(lambda: len(rows) * (number + 1) // (TIMES + 1))  # noqa: B023
            sleep(moments.uniform(0, 0.2))
            fault(scene)
        took_s = wait_for(lambda: sent)
        scene.reaches(sent, within_s=3)
        stored = scene.stored()
        return Survived(sent, sent - stored, scene.deliveries() - stored, took_s)


class Scene:
    """The worker of a peer, on a fresh database."""

    def __init__(self, peer: Peer, environ: dict[str, str], db: Any) -> None:
        self.db = db
        self._peer = peer
        self._environ = environ
        self.worker = Worker(peer.command, environ)

    def kill(self) -> None:
        """The worker, with SIGKILL; another one is started at once."""
        self.worker.kill()
        self.worker = Worker(self._peer.command, self._environ)

    def cut(self) -> None:
        """The worker's connections to Postgres while it stores something, as a failover does."""
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        storing = f"SELECT count(*) {others} AND state <> 'idle'"
        with suppress(TimeoutError):
            wait(lambda: self._asked(storing) > 0, 5, every_s=0)
        self.db.execute(f"SELECT pg_terminate_backend(pid) {others}")

    def wait_for(self, rows: int, timeout_s: float) -> None:
        """Until so many are stored."""
        if not self.reaches(rows, timeout_s):
            raise TimeoutError(f"{self._peer.name}: {self.stored()} rows stored of {rows}")

    def reaches(self, rows: int, within_s: float) -> bool:
        """Whether so many are stored by then."""
        try:
            wait(lambda: self._has_stored(rows), within_s, every_s=0.02)
        except TimeoutError:
            return False
        return True

    def wait_for_one(self, row: bytes) -> None:
        """Until this one is, which is cheaper to ask for than a number."""
        it = wire.decode(row)
        query = "SELECT count(*) FROM risk_state_history WHERE (trader_id, epoch, seq) = (%s, %s, %s)"
        wait(lambda: self._asked(query, it.trader_id, it.epoch, it.seq) == 1, _STORES_WITHIN_S, every_s=0.05)

    def stored(self) -> int:
        """How many are."""
        return self._asked("SELECT count(*) FROM risk_state_history WHERE epoch = %s", EPOCH)

    def deliveries(self) -> int:
        """How many rows committed transactions have tried to insert."""
        return self._asked("SELECT count(*) FROM delivered")

    def last_commit(self) -> float:
        """When it was, by the clock that time() has."""
        [(ended,)] = self.db.execute(
            "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 FROM risk_state_history"
        ).fetchall()
        return float(ended)

    def _has_stored(self, rows: int) -> bool:
        if not self.worker.runs:
            raise RuntimeError(f"{self._peer.name}: its worker has ended")
        return self.stored() >= rows

    def _asked(self, query: str, *arguments: object) -> int:
        [(found,)] = self.db.execute(query, arguments).fetchall()
        return int(found)


@contextmanager
def _scene(servers: Servers, peer: Peer, batch: int) -> Iterator[Scene]:
    servers.empty()
    with servers.database() as url, psycopg.connect(url, autocommit=True) as db:
        environ = {
            "REDIS_URL": servers.valkey.url,
            "POSTGRES_URL": url,
            "RISK_BATCH_SIZE": str(batch),
            "PEER_BATCH": str(batch),
        }
        scene = Scene(peer, environ, db)
        try:
            yield scene
        finally:
            scene.worker.kill()


Fault = Callable[[Scene], None]
FAULTS: Final[Mapping[str, Fault]] = {"kill": Scene.kill, "cut": Scene.cut}
"""Name -> what happens."""
