"""What is said of a COMMIT that does not come, and when the database is lost to a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from risk_worker.database import migrations
from risk_worker.database.commit_watch import LOST_AFTER_S, NAMED_AFTER_S, CommitWatch
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Outcome
from risk_worker.drain.errors import StoreUnavailable
from risk_worker.drain.uncommitted import Uncommitted
from tests.conftest import MakePostgres
from tests.integration.faults.test_database_errors import batch, wait_for_a_waiter
from tests.support.clock import FakeClock
from tests.support.proxy import Proxy
from tests.support.wait import wait_until


class Watched:
    """A store that saves in a thread, and a watch that looks when it is told to."""

    def __init__(self, url: str, store: PostgresStore) -> None:
        self.clock = FakeClock()
        self.uncommitted = Uncommitted(self.clock)
        self.lost = 0
        self.store = store
        self.watch = CommitWatch(store, url, self.uncommitted, on_lost=self._lose)

    def _lose(self) -> None:
        self.lost += 1

    @contextmanager
    def saving(self, trader: str) -> Iterator[Future[Outcome]]:
        with ThreadPoolExecutor(1) as threads:
            self.uncommitted.begin()
            yield threads.submit(self.store.save, batch(trader))

    def look(self, *, after_s: float) -> None:
        self.clock.now = after_s
        self.watch.look()


def test_a_lock_is_named_with_its_holder_once(
    database_url: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with PostgresStore(database_url) as store, psycopg.connect(database_url) as other:
        watched = Watched(database_url, store)
        other.execute("LOCK TABLE risk_state IN ACCESS EXCLUSIVE MODE")
        with watched.saving("a") as saving:
            wait_for_a_waiter(db)
            watched.look(after_s=NAMED_AFTER_S - 0.1)
            assert caplog.messages == []
            for after_s in (NAMED_AFTER_S, 7.0, LOST_AFTER_S + 1):
                watched.look(after_s=after_s)
            [said] = caplog.messages
            assert said == (
                f"The worker has waited for a COMMIT for 5 s: Postgres waits for a lock (relation) that "
                f"process {other.info.backend_pid} holds."
            )
            assert watched.lost == 0, "Postgres can be used"
            other.rollback()
            assert saving.result(20).duplicates == 0
        watched.uncommitted.end()
        watched.look(after_s=100)
        assert caplog.messages[1:] == ["The worker does not wait for a COMMIT any more."]


def test_a_standby_that_is_away_is_named(
    make_postgres: MakePostgres, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_postgres()
    migrations.up(server.url)
    with psycopg.connect(server.url, autocommit=True) as admin, PostgresStore(server.url) as store:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("SET synchronous_commit = local")
        waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        watched = Watched(server.url, store)
        with watched.saving("a") as saving:
            wait_until(lambda: admin.execute(waits).rowcount, what="the store to wait for the standby")
            watched.look(after_s=LOST_AFTER_S + 1)
            assert "Postgres waits for a synchronous standby to confirm it" in caplog.text
            assert watched.lost == 0
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
            assert saving.result(20).duplicates == 0


@pytest.mark.parametrize("how", ["refused", pytest.param("swallowed", marks=pytest.mark.system)])
def test_a_worker_that_is_cut_off_stops_to_wait_after_10_s(
    database_url: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(database_url) as proxy, PostgresStore(proxy.url) as store:
        store.save(batch("a"))
        watched = Watched(proxy.url, store)
        proxy.swallowing = True
        proxy.refusing = how == "refused"
        with watched.saving("b") as saving:
            watched.look(after_s=LOST_AFTER_S - 0.1)
            assert "Postgres cannot be used over a new connection either" in caplog.text
            assert watched.lost == 0 and not saving.done()
            watched.look(after_s=LOST_AFTER_S)
            assert watched.lost == 1
            with pytest.raises(StoreUnavailable):
                saving.result(20)
        proxy.heal()
        assert store.save(batch("b")).duplicates == 0


def test_one_that_has_nobody_to_leave_its_share_to_goes_on_trying(database_url: str) -> None:
    with Proxy(database_url) as proxy, PostgresStore(proxy.url) as store:
        store.save(batch("a"))
        watched = Watched(proxy.url, store)
        watched.watch._on_lost = None
        proxy.swallowing = proxy.refusing = True
        with watched.saving("b") as saving:
            watched.look(after_s=1_000)
            assert not saving.done()
            proxy.heal()  # cuts what it swallowed from
            with pytest.raises(StoreUnavailable):
                saving.result(20)


def test_cutting_leaves_no_descriptor_open(database_url: str) -> None:
    with PostgresStore(database_url) as store:
        store.cut()  # nothing is connected
        store.save(batch("a"))
        before = len(os.listdir("/proc/self/fd"))
        for seq in range(2, 12):
            store.cut()
            with pytest.raises(StoreUnavailable):
                store.save(batch("a", seq=seq))
            assert store.save(batch("a", seq=seq)).duplicates == 0
        assert len(os.listdir("/proc/self/fd")) <= before
