"""The tables of the system that riskstream replaces: named, and brought over as the docs say."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from risk_producer.load import postgres as postgres_state
from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.reconcile import reconcile
from risk_worker.database import migrations
from risk_worker.database.migrations import MigrationError

DOCS = Path(__file__).parents[3] / "docs" / "migrating.md"

OLD = """
    CREATE TABLE risk_state (
        trader_id text PRIMARY KEY, daily_pnl double precision NOT NULL DEFAULT 0,
        drawdown_pct double precision NOT NULL DEFAULT 0, current_equity double precision NOT NULL DEFAULT 0,
        peak_equity double precision NOT NULL DEFAULT 0, trading_paused boolean NOT NULL DEFAULT false,
        paused_until timestamptz, last_reset_time timestamptz, updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE risk_state_history (
        id bigserial, trader_id text NOT NULL, trace_id text, reason text,
        daily_pnl double precision NOT NULL,
        drawdown_pct double precision NOT NULL, current_equity double precision NOT NULL,
        peak_equity double precision NOT NULL, trading_paused boolean NOT NULL, paused_until timestamptz,
        last_reset_time timestamptz, recorded_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (id, recorded_at)
    );
    CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL);
    INSERT INTO schema_migrations VALUES (2, false);
    INSERT INTO risk_state_history (
        trader_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused, recorded_at
    ) SELECT 'old-' || n % 3, repeat('x', 2000), n, 1, 2, 3, n % 2 = 0,
             '2026-01-01'::timestamptz + n * interval '1 s'
      FROM generate_series(1, 30) AS n;
    INSERT INTO risk_state (trader_id, current_equity, trading_paused)
        VALUES ('old-0', 77, true), ('old-1', 78, false), ('old-2', 79, false), ('state only', 80, true);
"""


def test_they_are_named_and_brought_over(empty_database_url: str) -> None:
    move, copy, page = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        db.execute(OLD)
        with pytest.raises(MigrationError) as caught:
            migrations.up(empty_database_url)
        assert "riskstream needs (risk_state, risk_state_history)" in str(caught.value)
        assert "docs/migrating.md has the statements" in str(caught.value)
        db.execute(move)
        assert "Applied" in migrations.up(empty_database_url)
        db.execute(copy)
        db.execute(page)
        assert migrations.up(empty_database_url) == "Nothing to apply"
    ledger = audit_ledger.read(empty_database_url)
    assert reconcile({}, {}, ledger).problems == []
    assert {key: totals.stored for key, totals in ledger.epochs.items()} == {
        **{(f"old-{n}", 1): 11 for n in range(3)},
        ("state only", 1): 1,
    }
    found = postgres_state.fetch(empty_database_url, "old-0")
    assert found is not None
    assert (found.current_equity, found.trading_paused, found.seq) == (77, True, 11)


def test_a_single_foreign_table_is_named_too(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        db.execute("CREATE VIEW risk_dead_letter AS SELECT 1")
    with pytest.raises(MigrationError, match=r"riskstream needs \(risk_dead_letter\)"):
        migrations.up(empty_database_url)
