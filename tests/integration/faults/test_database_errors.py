"""Errors of a real database: what is retried, what is a row's fault, what somebody has to put right."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql

from risk_devkit.embedded import EmbeddedPostgres
from risk_worker.database import connection as database
from risk_worker.database import migrations
from risk_worker.database.connection import Purpose
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Batch
from risk_worker.drain.errors import StoreMisconfigured, StoreUnavailable
from risk_worker.drain.retry import RetryPolicy
from tests.conftest import MakePostgres
from tests.support.factory import payload, row
from tests.support.ledger import Ledger, draining
from tests.support.servers import QUICK_POSTGRES, Databases, name_in, server_folder, with_name
from tests.support.wait import wait_until

DEAD = "SELECT entry_id, sqlstate, trader_id FROM risk_dead_letter ORDER BY 1"


def batch(*traders: str, seq: int = 1, reason: str = "") -> Batch:
    made = Batch("risk:{0}:snapshots")
    for number, trader in enumerate(traders, start=1):
        made.rows.append(row(f"{seq}-{number}", payload(trader, seq, reason=reason)))
    return made


def impatient(monkeypatch: pytest.MonkeyPatch, **timeouts: str) -> None:
    """Shorten the time-outs of the store's sessions."""
    settings = {**database.STORE.settings, **timeouts}
    monkeypatch.setattr(database, "STORE", Purpose(database.STORE.application_name, settings))


def wait_for_a_waiter(db: psycopg.Connection) -> None:
    wait_until(
        lambda: (
            db.execute(
                "SELECT FROM pg_stat_activity WHERE application_name = 'riskstream-worker'"
                " AND wait_event_type = 'Lock'"
            ).rowcount
        ),
        what="the store to wait for a lock",
    )


# What passes by itself


@pytest.mark.parametrize("timeout", ["lock_timeout", "statement_timeout"])
def test_a_lock_that_is_not_to_be_had_is_waited_for(
    timeout: str, database_url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, **{timeout: "1s"})
    with PostgresStore(database_url) as store:
        with psycopg.connect(database_url) as other:
            other.execute("LOCK TABLE risk_state IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match=timeout.replace("_", " ")):
                store.save(batch("a"))
        assert store.save(batch("a")).duplicates == 0
    assert db.execute(DEAD).fetchall() == []


def test_a_deadlock_is_retried(database_url: str, store: PostgresStore, db: psycopg.Connection) -> None:
    store.save(batch("a", "b"))
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(2) as threads:
        other.execute("SET deadlock_timeout = '60s'")  # the store is to be the one that gives way
        other.execute("UPDATE risk_state SET reason = 'x' WHERE trader_id = 'b'")
        saving = threads.submit(store.save, batch("a", "b", seq=2))
        wait_for_a_waiter(db)
        threads.submit(other.execute, "UPDATE risk_state SET reason = 'x' WHERE trader_id = 'a'")
        with pytest.raises(StoreUnavailable, match="deadlock detected"):
            saving.result(60)
    assert store.save(batch("a", "b", seq=2)).duplicates == 0
    assert db.execute("SELECT trader_id, seq FROM risk_state ORDER BY 1").fetchall() == [("a", 2), ("b", 2)]


def test_the_isolation_that_a_database_has_by_default_is_not_followed(
    database_url: str, db: psycopg.Connection
) -> None:
    """It would be a serialization failure wherever another transaction has changed a row."""
    name = sql.Identifier(db.info.dbname)
    db.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = serializable").format(name))
    with (
        PostgresStore(database_url) as store,
        psycopg.connect(database_url) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        store.save(batch("a"))
        other.execute("UPDATE risk_state SET reason = 'x' WHERE trader_id = 'a'")
        saving = thread.submit(store.save, batch("a", seq=2))
        wait_for_a_waiter(db)
        other.commit()
        assert saving.result(60).duplicates == 0


def test_a_session_that_an_operator_ends_amid_a_batch_is_made_anew(
    database_url: str, store: PostgresStore, db: psycopg.Connection
) -> None:
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("LOCK TABLE risk_state IN ACCESS EXCLUSIVE MODE")
        saving = thread.submit(store.save, batch("a", "b"))
        wait_for_a_waiter(db)
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'riskstream-worker' AND datname = current_database()"
        )
        with pytest.raises(StoreUnavailable, match=r"administrator command .*an operator stepped in"):
            saving.result(60)
    assert store.save(batch("a", "b")).duplicates == 0
    assert db.execute(DEAD).fetchall() == []


def test_a_read_only_server_is_waited_for(database_url: str, db: psycopg.Connection) -> None:
    name = sql.Identifier(db.info.dbname)
    db.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    with PostgresStore(database_url) as store:
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.save(batch("a"))
        with psycopg.connect(database_url, autocommit=True) as repairer:
            repairer.execute("SET default_transaction_read_only = off")
            repairer.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        assert store.save(batch("a")).duplicates == 0


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        *(
            (code, StoreUnavailable)
            for code in ("53100", "53200", "55006", "57P01", "58030", "XX000", "08006")
        ),
        *((code, StoreMisconfigured) for code in ("P0001", "42703", "0A000", "3F000")),
    ],
)
def test_an_error_that_is_no_rows_fault_buries_nothing(
    sqlstate: str, expected: type[Exception], store: PostgresStore, db: psycopg.Connection
) -> None:
    inject(db, sqlstate)
    with pytest.raises(expected, match="injected"):
        store.save(batch("a", "b"))
    assert db.execute(DEAD).fetchall() == []
    db.execute("DROP TRIGGER fault ON risk_state_history")
    assert store.save(batch("a", "b")).duplicates == 0


def inject(db: psycopg.Connection, sqlstate: str, *, when: str = "true", deferred: bool = False) -> None:
    """From now on, history refuses rows with this SQLSTATE."""
    db.execute(
        sql.SQL(
            "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''injected'' USING ERRCODE = TG_ARGV[0]; END'"
        )
    )
    kind = "CONSTRAINT TRIGGER fault AFTER" if deferred else "TRIGGER fault BEFORE"
    db.execute(
        sql.SQL(
            f"CREATE {kind} INSERT ON risk_state_history"
            f" {'DEFERRABLE INITIALLY DEFERRED' if deferred else ''}"
            f" FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION fault({{}})"
        ).format(sql.Literal(sqlstate))
    )


# What is a row's fault


@pytest.mark.parametrize("deferred", [False, True], ids=["at once", "deferred to the commit"])
@pytest.mark.parametrize("sqlstate", ["22003", "23514", "23503", "54000"])
def test_a_row_that_the_database_refuses_is_buried_alone(
    sqlstate: str, deferred: bool, store: PostgresStore, db: psycopg.Connection
) -> None:
    inject(db, sqlstate, when="NEW.trader_id = 'b'", deferred=deferred)
    made = batch("a", "b", "c")
    for _ in range(2):
        store.save(made)
        assert db.execute(DEAD).fetchall() == [("1-2", sqlstate, "b")]
        assert db.execute("SELECT trader_id FROM risk_state_history ORDER BY 1").fetchall() == [
            ("a",),
            ("c",),
        ]


def test_a_dead_letter_can_be_stored_in_a_database_that_cannot_hold_its_texts(databases: Databases) -> None:
    url = databases.create()
    name = f"{name_in(url)}_latin"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} ENCODING 'LATIN1' TEMPLATE template0").format(sql.Identifier(name))
        )
    latin = with_name(url, name)
    try:
        migrations.up(latin)
        with PostgresStore(latin) as store, psycopg.connect(latin, client_encoding="utf8") as db:
            made = batch("größer", "€uro", "c")
            [letter] = store.save(made).dead
            assert letter.sqlstate == "22P05"
            assert db.execute("SELECT trader_id FROM risk_state ORDER BY 1").fetchall() == [
                ("c",),
                ("größer",),
            ]
            assert db.execute("SELECT trader_id, payload FROM risk_dead_letter").fetchall() == [
                (None, made.rows[1].payload)
            ]
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        databases.drop(url)


# What somebody has to put right


def test_a_privilege_that_is_missing_is_said(database_url: str, db: psycopg.Connection) -> None:
    with login(db, "clerk") as name:
        db.execute(sql.SQL("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {}").format(name))
        with PostgresStore(database_url.replace("postgres@", f"{name.as_string()[1:-1]}@")) as store:
            with pytest.raises(StoreMisconfigured, match=r"permission denied .* GRANT"):
                store.save(batch("a"))
            db.execute(sql.SQL("GRANT UPDATE ON risk_state TO {}").format(name))
            assert store.save(batch("a")).duplicates == 0


@contextmanager
def login(db: psycopg.Connection, prefix: str, options: str = "") -> Iterator[sql.Identifier]:
    """A role of the test's own."""
    name = sql.Identifier(f"{prefix}_{db.info.dbname}")
    db.execute(sql.SQL("CREATE ROLE {} LOGIN " + options).format(name))
    try:
        yield name
    finally:
        db.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


def test_a_database_that_is_missing_is_said(database_url: str) -> None:
    with (
        PostgresStore(with_name(database_url, "nowhere")) as store,
        pytest.raises(StoreMisconfigured, match=r"does not exist.* run createdb or check POSTGRES_URL"),
    ):
        store.save(batch("a"))


def test_a_url_that_nobody_can_read_is_said_without_its_password() -> None:
    with PostgresStore("postgresql://u:hush@h/d?nonsense=1") as store:
        with pytest.raises(StoreMisconfigured, match="that libpq does not know") as caught:
            store.save(batch("a"))
        assert "hush" not in str(caught.value)


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedPostgres]:
    """A migrated server that asks `alice` for a password and has few connections."""
    with (
        server_folder() as folder,
        EmbeddedPostgres(folder, config={**QUICK_POSTGRES, "max_connections": 6}) as server,
    ):
        migrations.up(server.url)
        hba = folder / "pgdata" / "pg_hba.conf"
        hba.write_text(
            "host all alice 127.0.0.1/32 scram-sha-256\nhost all postgres,ghost 127.0.0.1/32 trust\n"
        )
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("CREATE ROLE alice LOGIN SUPERUSER PASSWORD 'right'")
            admin.execute("SELECT pg_reload_conf()")
            wait_until(
                lambda: (
                    admin.execute("SELECT FROM pg_hba_file_rules").rowcount == 2 and refuses_strangers(server)
                )
            )
        yield server


def refuses_strangers(server: EmbeddedPostgres) -> bool:
    try:
        psycopg.connect(as_user(server, "stranger")).close()
    except psycopg.OperationalError as error:
        return "pg_hba.conf" in str(error)
    return False


def as_user(server: EmbeddedPostgres, who: str) -> str:
    return server.url.replace("postgres@", f"{who}@")


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("alice:wrong", "password authentication failed.* check POSTGRES_URL"),
        ("alice", "no password supplied.* check POSTGRES_URL"),
        ("ghost", "does not exist.* check POSTGRES_URL"),
        ("stranger", "no pg_hba.conf entry.* check POSTGRES_URL and pg_hba.conf"),
    ],
)
def test_a_login_that_is_refused_is_said(guarded: EmbeddedPostgres, who: str, said: str) -> None:
    with (
        PostgresStore(as_user(guarded, who)) as store,
        pytest.raises(StoreMisconfigured, match=said) as caught,
    ):
        store.save(batch("a"))
    assert "wrong" not in str(caught.value)


def test_too_many_connections_are_waited_for(guarded: EmbeddedPostgres) -> None:
    with PostgresStore(guarded.url) as store:
        connections: list[psycopg.Connection] = []
        try:
            with suppress(psycopg.OperationalError):
                while True:
                    connections.append(psycopg.connect(guarded.url))
            with pytest.raises(StoreUnavailable, match=r"too many clients .*out of a resource"):
                store.save(batch("a"))
        finally:
            for connection in connections:
                connection.close()

        def room() -> bool:
            try:
                return store.save(batch("a")).duplicates == 0
            except StoreUnavailable:
                return False

        wait_until(room)


# The drain through all this


def test_an_outage_loses_and_buries_nothing_and_ends_by_itself(
    client: Any, redis_url: str, make_postgres: MakePostgres
) -> None:
    server = make_postgres()
    migrations.up(server.url)
    ledger = Ledger(client, server.url)
    with draining(redis_url, server.url, policy=RetryPolicy()):  # as in production
        ledger.report(100)
        wait_until(ledger.is_stored)
        for down in (server.stop, server.kill):
            down()
            ledger.report(100)
            ledger.poison(b"nonsense")
            wait_until(lambda: int(client.hget("risk:{0}:counters", "retries") or 0) > 4)
            server.start()
            wait_until(ledger.is_stored, 5)
            client.hdel("risk:{0}:counters", "retries")
    ledger.check()


@pytest.mark.parametrize(
    ("spoil", "repair", "said"),
    [
        ("ALTER TABLE risk_state RENAME TO x", "ALTER TABLE x RENAME TO risk_state", "riskstream migrate up"),
        ("DROP TABLE risk_dead_letter CASCADE", None, "riskstream migrate up"),
    ],
)
def test_a_misconfiguration_is_said_once_and_the_drain_goes_on_when_it_is_put_right(
    spoil: str,
    repair: str | None,
    said: str,
    ledger: Ledger,
    db: psycopg.Connection,
    redis_url: str,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    [(definition,)] = db.execute("SELECT 'CREATE TABLE risk_dead_letter (LIKE old INCLUDING ALL)'").fetchall()
    if repair is None:
        db.execute("CREATE TABLE old (LIKE risk_dead_letter INCLUDING ALL)")
        repair = definition
    db.execute(spoil)
    with caplog.at_level(logging.WARNING), draining(redis_url, database_url):
        ledger.report(10)
        ledger.poison(b"nonsense")
        wait_until(lambda: said in caplog.text)
        db.execute(repair)
        wait_until(ledger.is_stored, 5)
    assert [r.levelname for r in caplog.records].count("CRITICAL") == 1
    ledger.check()


def test_a_password_that_is_put_right_is_noticed(
    client: Any, redis_url: str, guarded: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(guarded.url, autocommit=True) as admin:
        admin.execute("TRUNCATE risk_state, risk_dead_letter")
        ledger = Ledger(client, guarded.url)
        admin.execute("ALTER TABLE risk_state_history DISABLE TRIGGER USER")
        admin.execute("TRUNCATE risk_state_history")
        with draining(redis_url, as_user(guarded, "alice:new")):
            ledger.report(10)
            wait_until(lambda: "password authentication failed" in caplog.text)
            admin.execute("ALTER ROLE alice PASSWORD 'new'")
            wait_until(ledger.is_stored, 5)
        admin.execute("ALTER ROLE alice PASSWORD 'right'")
    ledger.check(duplicates=0)


def test_a_database_that_ends_its_sessions_all_the_time_gets_every_row_once(
    ledger: Ledger, db: psycopg.Connection, redis_url: str, database_url: str
) -> None:
    with draining(redis_url, database_url, batch_size=20):
        for _ in range(15):
            ledger.report(20)
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'riskstream-worker'"
            )
        wait_until(ledger.is_stored, 20)
    ledger.check()
