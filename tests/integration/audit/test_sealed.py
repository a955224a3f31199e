"""What is sealed is counted by the totals of its seals: verify does not read it, and it may expire."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner

from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.reconcile import Report, reconcile
from risk_worker.cli import cli
from risk_worker.seal.expiry import expire
from risk_worker.seal.sealer import WINDOWS, Sealer

COLUMNS = (
    "trader_id, recorded_at, epoch, seq, merged, daily_pnl, drawdown_pct, current_equity, peak_equity,"
    " trading_paused, last_reset_time"
)
ROWS = (
    f"INSERT INTO risk_state_history ({COLUMNS}, stored_at)"
    " SELECT 'a', now() - interval '10 days' + seq * interval '1 s', 7, seq, 0, 0, 0, 0, 0, false, now(),"
    " now() - %s * interval '1 h' FROM generate_series(%s::int, %s) AS seq"
)
STATE = (
    f"INSERT INTO risk_state ({COLUMNS.replace(' merged,', '')})"
    f" SELECT {COLUMNS.replace(' merged,', '')} FROM risk_state_history ORDER BY seq DESC LIMIT 1"
)


def add(url: str, first: int, last: int, hours_ago: int = 5) -> None:
    with psycopg.connect(url) as db:
        db.execute(ROWS, (hours_ago, first, last))


def seal(url: str) -> None:
    with psycopg.connect(url) as db:
        db.execute("TRUNCATE risk_state")
        db.execute(STATE)
    with Sealer(url, WINDOWS["1h"]) as sealer:
        assert list(sealer.seal())


def look(url: str, accepted: int = 0) -> Report:
    return reconcile({("a", 7): accepted} if accepted else {}, {}, audit_ledger.read(url))


def remove(url: str, condition: str) -> None:
    with psycopg.connect(url) as db:
        db.execute("SET session_replication_role = replica")
        assert db.execute(f"DELETE FROM risk_state_history WHERE {condition}".encode()).rowcount > 0


def test_rows_that_are_sealed_are_not_read(database_url: str) -> None:
    add(database_url, 1, 100)
    seal(database_url)
    add(database_url, 101, 110, hours_ago=0)
    remove(database_url, "seq < 50")
    assert look(database_url).totals["stored"] == 110
    assert look(database_url, 112).problems == [
        "a, epoch 7: lost seq 111 to 112 (2)",
        "a: risk_state is not the newest of its history",
    ]


def test_the_plan_finds_what_is_not_sealed_by_the_index(database_url: str) -> None:
    add(database_url, 1, 50_000)
    seal(database_url)
    add(database_url, 50_001, 50_100, hours_ago=0)
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("VACUUM ANALYZE risk_state_history")
        [(since, _)] = db.execute(audit_ledger._SQL["sealed"])
        asked = {"since": since, "trader": None, "piece_bits": audit_ledger.PIECE_BITS}
        plan = db.execute("EXPLAIN " + audit_ledger._SQL["pieces"], asked).fetchall()
    assert "risk_state_history_stored_at" in str(plan)


def test_a_late_row_fills_a_gap_of_what_is_sealed(database_url: str) -> None:
    add(database_url, 1, 10)
    add(database_url, 14, 20)
    seal(database_url)
    assert look(database_url).problems == ["a, epoch 7: lost seq 11 to 13 (3)"]
    add(database_url, 11, 12, hours_ago=0)
    assert look(database_url).problems == ["a, epoch 7: lost seq 13"]
    add(database_url, 13, 13, hours_ago=0)
    assert look(database_url).problems == []
    with psycopg.connect(database_url) as db:
        db.execute(ROWS.replace("10 days", "11 days"), (0, 12, 12))
    assert look(database_url).problems == ["a, epoch 7: 1 stored more than once"]


@pytest.mark.parametrize("all_of_it", [True, False])
def test_what_has_expired_is_not_lost(database_url: str, all_of_it: bool) -> None:
    """Also where nothing of the trader is left, and where a gap was lost before it expired."""
    add(database_url, 1, 10)
    add(database_url, 12, 20)
    seal(database_url)
    if not all_of_it:
        with psycopg.connect(database_url) as db:
            db.execute(ROWS.replace("10 days", "1 day"), (0, 21, 25))
            db.execute("TRUNCATE risk_state")
            db.execute(STATE)
    before = datetime.now(UTC) - timedelta(days=5)
    with psycopg.connect(database_url) as db:
        expired = expire(db, before.date())
    assert expired is not None
    assert expired.rows == 19
    remove(database_url, "seq <= 20")
    report = look(database_url)
    assert report.problems == ["a, epoch 7: lost seq 11"]
    assert (report.totals["stored"], report.totals["not_retained"]) == (0 if all_of_it else 5, 19)
    with psycopg.connect(database_url) as db:
        db.execute("UPDATE risk_state SET seq = seq - 1")
    assert "a: risk_state is not the newest of its history" in look(database_url).problems


def test_a_sealed_row_of_before_the_horizon_may_be_gone(database_url: str) -> None:
    """As of an idle trader, where an operator removes what is old by hand."""
    add(database_url, 1, 10)
    seal(database_url)
    remove(database_url, "true")
    behind = ["a: risk_state is not the newest of its history"]
    for days, problems in ((11, behind), (9, [])):
        horizon = datetime.now(UTC) - timedelta(days=days)
        assert reconcile({}, {}, audit_ledger.read(database_url, horizon=horizon)).problems == problems
    with psycopg.connect(database_url) as db:
        db.execute("UPDATE risk_state SET seq = seq - 1")
    assert reconcile({}, {}, audit_ledger.read(database_url, horizon=horizon)).problems == behind


def test_times_that_no_calendar_has(database_url: str, redis_url: str) -> None:
    """History may hold them, from somebody who writes there by hand."""
    add(database_url, 2, 10)
    with psycopg.connect(database_url) as db:
        db.execute(STATE)
        db.execute("SET session_replication_role = replica")
        for table in ("risk_state", "risk_state_history"):
            db.execute(f"UPDATE {table} SET recorded_at = '20000-01-01' WHERE seq = 10".encode())
    environ = {"POSTGRES_URL": database_url, "REDIS_URL": redis_url}
    done = CliRunner(env=environ).invoke(cli, ["verify"])
    assert (done.exit_code, "✗ a, epoch 7: lost seq 1" in done.stdout) == (1, True), done.output


def test_deep_reads_what_is_sealed(database_url: str, redis_url: str) -> None:
    add(database_url, 1, 10)
    seal(database_url)
    environ = {"POSTGRES_URL": database_url, "REDIS_URL": redis_url}

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner(env=environ).invoke(cli, ["verify", *arguments])
        return done.exit_code, done.stdout

    code, text = run()
    assert (code, "is counted by its seals; --deep reads it again" in text) == (0, True)
    code, text = run("--deep")
    assert (code, "10 sealed rows read, " in text) == (0, True)
    with psycopg.connect(database_url) as db:
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE risk_state_history SET daily_pnl = 1 WHERE seq = 3")
    assert run()[0] == 0
    code, text = run("--deep", "--json", "--trader", "a")
    found = json.loads(text)
    assert (code, found["rows_read"], found["reconciled"]) == (1, 10, False)
    assert "rows were changed or exchanged" in found["findings"][0]
