"""The tables of the system that riskstream replaces are named, and taken over whole or not at all."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from risk_producer.contract.keys import Keys
from risk_producer.load import postgres as postgres_state
from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.reconcile import reconcile
from risk_worker.cli import cli
from risk_worker.database import migrations
from risk_worker.database.migrations import MigrationError
from risk_worker.timescale.retention import retain
from tests.integration.seal.conftest import seal
from tests.support import original


@pytest.fixture
def old(empty_database_url: str) -> str:
    """A database with the original's tables."""
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        db.execute(original.TABLES)
        db.execute(original.ROWS)
    return empty_database_url


def run(url: str, *arguments: str, **more: str) -> Result:
    return CliRunner().invoke(cli, ["import-original", *arguments], env={"POSTGRES_URL": url, **more})


def count(url: str, table: str) -> int:
    with psycopg.connect(url) as db:
        row = db.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_they_are_named_and_taken_over_and_it_may_be_repeated(old: str) -> None:
    with pytest.raises(
        MigrationError, match=r"riskstream needs \(risk_state, risk_state_history\)"
    ) as caught:
        migrations.up(old)
    assert "riskstream import-original moves them" in str(caught.value)
    done = run(old)
    assert done.exit_code == 0, done.output
    assert (
        "34 rows of 4 traders are in history under epoch 1, each as the original has it: 34 new"
        in done.output
    )
    assert "4 traders got their state" in done.output
    assert migrations.up(old) == "Nothing to apply"
    ledger = audit_ledger.read(old)
    assert reconcile({}, {}, ledger).problems == []
    assert {key: totals.stored for key, totals in ledger.epochs.items()} == {
        **{(f"old-{n}", 1): 11 for n in range(3)},
        ("state only", 1): 1,
    }
    found = postgres_state.fetch(old, "old-0").state
    assert found is not None
    assert (found.current_equity, found.trading_paused, found.seq) == (77, True, 11)
    again = run(old)
    assert again.exit_code == 0, again.output
    assert "0 new, 34 imported before" in again.output
    assert "0 traders got their state" in again.output
    assert (count(old, "risk_state_history"), count(old, "old_risk.risk_state_history")) == (34, 30)


def test_rows_that_history_cannot_hold_are_named_and_stop_it_or_are_left_out(old: str) -> None:
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("""
            UPDATE risk_state_history SET current_equity = 'NaN' WHERE id = 7;
            UPDATE risk_state_history SET daily_pnl = '-infinity' WHERE id = 8;
            UPDATE risk_state_history SET recorded_at = '1970-01-01' WHERE id = 9;
            UPDATE risk_state_history SET trader_id = '' WHERE id BETWEEN 10 AND 20;
        """)
    done = run(old)
    assert done.exit_code == 1, done.output
    for line in (
        "History cannot hold: risk_state_history of trader 'old-1', id 7: a figure is missing",
        "History cannot hold: risk_state_history of trader 'old-0', id 9: recorded_at",
        "History cannot hold: risk_state_history of trader '', id 10: trader_id",
        "... and 4 more",
        "Nothing was copied: history cannot hold 14 rows",
    ):
        assert line in done.output
    assert count(old, "risk_state_history") == 0
    done = run(old, "--leave-out")
    assert done.exit_code == 0, done.output
    assert "20 rows of 4 traders" in done.output
    assert "14 rows are in the schema old_risk alone" in done.output
    assert reconcile({}, {}, audit_ledger.read(old)).problems == []


def test_times_that_are_infinite_are_none(old: str) -> None:
    """load() and the questions read what was imported; an infinite pause is one without an end."""
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("""
            UPDATE risk_state SET paused_until = 'infinity', last_reset_time = '-infinity';
            UPDATE risk_state_history SET paused_until = 'infinity', last_reset_time = '-infinity'
            WHERE id < 10;
            UPDATE risk_state_history SET last_reset_time = '0044-03-15 BC' WHERE id = 10;
            UPDATE risk_state_history SET paused_until = '20000-01-01' WHERE id = 11;
            UPDATE risk_state_history SET recorded_at = '2200-01-01Z' WHERE id = 12;
        """)
    done = run(old, "--leave-out")
    assert done.exit_code == 0, done.output
    assert "3 rows are in the schema old_risk alone" in done.output
    assert "id 10: paused_until or last_reset_time is not in the years 1 to 9999" in done.output
    assert "id 12: recorded_at is missing, or not in the years 2000 to 2199" in done.output
    found = postgres_state.fetch(old, "old-0").state
    assert found is not None
    assert (found.paused_until, found.trading_paused, found.last_reset_time) == (
        None,
        True,
        found.recorded_at,
    )


@pytest.mark.parametrize("days", [7, 400])
def test_what_retention_has_removed_since_is_not_imported_again(old: str, days: int) -> None:
    """days: of them so much is kept; seven keep the state alone."""
    with psycopg.connect(old, autocommit=True) as db:
        db.execute(
            "UPDATE risk_state_history SET recorded_at = now() - interval '30 days' + id * interval '1 s'"
        )
    assert run(old).exit_code == 0
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE risk_state_history SET stored_at = stored_at - interval '3 h'")
    assert seal(old)
    removed = sum(each.rows for each in retain(old, days))
    assert removed == (30 if days == 7 else 0)
    for _ in range(2):
        again = run(old)
        assert again.exit_code == 0, again.output
        assert "0 new, 34 imported before" in again.output
        assert count(old, "risk_state_history") == 34 - removed
        assert reconcile({}, {}, audit_ledger.read(old)).problems == []


def test_rows_that_changed_since_are_no_second_import(old: str) -> None:
    assert run(old).exit_code == 0
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("UPDATE old_risk.risk_state_history SET daily_pnl = 5 WHERE id = 3")
    done = run(old)
    assert done.exit_code == 2
    assert "1 rows of the original are not in it as they are, and 1 of epoch 1" in done.output
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("INSERT INTO old_risk.risk_state (trader_id) VALUES ('late')")
    assert run(old).exit_code == 2
    assert count(old, "risk_state_history") == 34


def test_a_trader_that_went_on_keeps_its_newer_state_and_redis_is_compared_again(
    old: str, client: Any, redis_url: str
) -> None:
    assert run(old).exit_code == 0
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("UPDATE risk_state SET epoch = 1764000000000, seq = 3 WHERE trader_id = 'old-1'")
        db.execute("DELETE FROM risk_state WHERE trader_id = 'old-2'")
    client.hset(Keys(0).floors, mapping={"": "compared", "old-1": "5"})
    done = run(old, REDIS_URL=redis_url)
    assert "1 traders got their state" in done.output
    with psycopg.connect(old) as db:
        assert db.execute("SELECT epoch FROM risk_state WHERE trader_id = 'old-1'").fetchone() == (
            1764000000000,
        )
    assert client.hgetall(Keys(0).floors) == {b"old-1": b"5"}


def test_tables_in_use_are_left_where_they_are(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from risk_worker.ingest import original as module

    monkeypatch.setitem(module._SQL, "move", module._SQL["move"].replace("10s", "100ms"))
    with psycopg.connect(old) as db:
        db.execute("INSERT INTO risk_state (trader_id) VALUES ('new')")
        done = run(old)
    assert done.exit_code == 2
    assert "in use: stop the programs that write to them" in done.output
    assert count(old, "risk_state") == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DROP TABLE risk_state", "there is nothing to import"),
        ("ALTER TABLE risk_state_history DROP COLUMN trace_id", "it has no trace_id"),
    ],
)
def test_what_is_not_the_original_is_left_alone(old: str, change: Any, message: str) -> None:
    with psycopg.connect(old, autocommit=True) as db:
        db.execute(change)
    done = run(old)
    assert done.exit_code == 2
    assert message in done.output
    with pytest.raises(MigrationError):
        migrations.up(old)


def test_riskstreams_own_tables_are_not_imported(database_url: str) -> None:
    assert "there is nothing to import" in run(database_url).output


def test_a_single_foreign_table_is_named_too(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        db.execute("CREATE VIEW risk_dead_letter AS SELECT 1")
    with pytest.raises(MigrationError, match=r"riskstream needs \(risk_dead_letter\)"):
        migrations.up(empty_database_url)
