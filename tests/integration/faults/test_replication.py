"""Postgres with a synchronous standby: what is acknowledged is replicated, and a standby is waited for."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from risk_devkit import embedded
from risk_devkit.embedded import EmbeddedPostgres
from risk_worker.database import migrations
from risk_worker.database.migrations import MigrationError
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Batch, DeadLetter
from risk_worker.drain.errors import StoreUnavailable
from tests.integration.faults.test_database_errors import batch
from tests.support.servers import QUICK_POSTGRES, server_folder
from tests.support.wait import wait_until

NAME = "standby"


@contextmanager
def standby_of(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A hot standby that follows the primary."""
    with server_folder() as folder:
        user = embedded._postgres_user()
        server = EmbeddedPostgres(folder, config=QUICK_POSTGRES)
        data = folder / "pgdata"
        if user is not None:
            folder.chmod(0o777)
        conninfo = f"host=127.0.0.1 port={primary.port} user=postgres application_name={NAME}"
        subprocess.run(
            [
                *(embedded.program("pg_basebackup"), "-d", conninfo, "-D", data),
                *("--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            timeout=60,
            cwd="/",
            **(user.popen_arguments() if user else {}),
        )
        with server:
            yield server


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    with server_folder() as folder, EmbeddedPostgres(folder, config=QUICK_POSTGRES) as primary:
        migrations.up(primary.url)
        with standby_of(primary) as standby:
            with psycopg.connect(primary.url, autocommit=True) as admin:
                admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'".encode())
                admin.execute("SELECT pg_reload_conf()")
                wait_until(
                    lambda: (
                        admin.execute("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'").rowcount
                    ),
                    what="the standby to be a synchronous one",
                )
            yield primary, standby


def cancel_the_waits(admin: psycopg.Connection, saving: Future[object]) -> None:
    """Each wait for the standby; making a temporary table at the start is one too."""

    def done() -> bool:
        admin.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
            "AND application_name = 'riskstream-worker'"
        )
        return saving.done()

    wait_until(done, 20, "save() to end")


def only_dead() -> Batch:
    made = Batch("risk:{0}:snapshots")
    made.dead.append(DeadLetter("7-1", "no snapshot", b"x"))
    return made


@pytest.mark.parametrize("made", [batch("a", "b"), batch("c", "d", reason="x" * 100), only_dead()])
def test_a_batch_is_stored_once_the_standby_has_it(
    made: Batch, pair: tuple[EmbeddedPostgres, EmbeddedPostgres]
) -> None:
    """An operator cancels the COMMIT that waits for a standby that is away: the server answers with a
    warning, and the batch is not acknowledged. Whoever stores it again waits too."""
    primary, standby = pair
    with (
        psycopg.connect(primary.url, autocommit=True) as admin,
        ThreadPoolExecutor(1) as threads,
    ):
        admin.execute("SET synchronous_commit = local")
        standby.pause()
        try:
            with PostgresStore(primary.url) as store:
                for _ in range(2):
                    saving: Future[object] = threads.submit(store.save, made)
                    cancel_the_waits(admin, saving)
                    with pytest.raises(StoreUnavailable, match="may not be replicated"):
                        saving.result(60)
            with PostgresStore(primary.url) as successor:  # a worker that knows nothing of it
                saving = threads.submit(successor.save, made)
                cancel_the_waits(admin, saving)
                with pytest.raises(StoreUnavailable, match="may not be replicated"):
                    saving.result(60)
        finally:
            standby.resume()
        with PostgresStore(primary.url) as store:
            assert store.save(made).duplicates == len(made.rows)


def test_a_worker_waits_for_a_standby_to_become_the_primary() -> None:
    with server_folder() as folder, EmbeddedPostgres(folder, config=QUICK_POSTGRES) as primary:
        migrations.up(primary.url)
        with standby_of(primary) as standby:
            with pytest.raises(MigrationError, match="it is a standby, which nothing can be written to"):
                migrations.wait_for(standby.url, timeout_s=0.6)
            waiting = threading.Thread(target=migrations.wait_for, args=(standby.url, 90.0))
            waiting.start()
            primary.stop()
            with psycopg.connect(standby.url, autocommit=True) as admin:
                admin.execute("SELECT pg_promote()")
            waiting.join(90)
            assert not waiting.is_alive()
            assert migrations.up(standby.url) == "Nothing to apply"
            with PostgresStore(standby.url) as store:
                assert store.save(batch("a")).duplicates == 0
