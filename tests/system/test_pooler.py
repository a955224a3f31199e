"""PgBouncer in transaction mode: each transaction may run on another connection of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.reconcile import reconcile
from risk_worker.database import connection as database
from risk_worker.database import migrations
from risk_worker.database.store import PostgresStore
from tests.integration.faults.test_database_errors import batch
from tests.support.debian import DebianPostgres, pgbouncer
from tests.support.servers import QUICK_POSTGRES, server_folder

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SETTINGS = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY 1"


@pytest.fixture(params=["session", "transaction"])
def pooled_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with (
        server_folder() as folder,
        DebianPostgres(folder, config=QUICK_POSTGRES) as server,
        server_folder() as files,
        pgbouncer(files, server.port, {"postgres": "x"}, mode=request.param, pool_size=4) as port,
    ):
        url = f"postgresql://postgres:x@127.0.0.1:{port}/postgres"
        migrations.up(url)
        with psycopg.connect(server.url) as db:
            db.execute("ALTER TABLE risk_state_history ADD CHECK (trader_id <> 'bad')")
        yield url


def test_the_store_works_beside_others_and_leaves_nothing_behind(pooled_url: str) -> None:
    """Batches, replays and rows that cannot be stored, while others take the connections in turns."""
    over = threading.Event()

    def take_turns() -> None:
        with psycopg.connect(pooled_url, prepare_threshold=None) as other:
            while not over.is_set():
                other.execute("SELECT pg_sleep(0.001)")
                other.commit()

    others = [threading.Thread(target=take_turns) for _ in range(2)]
    for each in others:
        each.start()
    try:
        with PostgresStore(pooled_url) as store:
            for seq in range(1, 21):
                made = batch("a", "b", "c", seq=seq)
                assert store.save(made).duplicates == 0
                assert store.save(made).duplicates == 3
                assert [each.sqlstate for each in store.save(batch("d", "bad", seq=seq)).dead] == ["23514"]
            connection = store._connection
            assert connection is not None
            assert connection.pooled
    finally:
        over.set()
        for each in others:
            each.join(10)
    ledger = audit_ledger.read(pooled_url)
    assert reconcile({}, {}, ledger).problems == []
    assert ledger.rows == 80
    for _ in range(4):
        with psycopg.connect(pooled_url, prepare_threshold=None) as db:
            names = [name for name, _ in db.execute(SETTINGS)]
            assert not {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} & {*names}
            assert db.execute("SELECT FROM pg_class WHERE relname = 'staging'").rowcount == 0


def test_settings_hold_in_each_transaction(pooled_url: str) -> None:
    with database.connect(pooled_url, database.STORE) as connection:
        for _ in range(3):
            with connection.transaction():
                assert connection.execute("SHOW statement_timeout").fetchone() == ("30s",)
                with connection.transaction():
                    assert connection.execute("SHOW lock_timeout").fetchone() == ("10s",)
