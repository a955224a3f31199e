"""verify is linear where something is wrong, and ends with its client."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.ledger import EpochTotals, Ledger
from risk_worker.audit.reconcile import reconcile
from risk_worker.audit.render import as_json
from risk_worker.database import connection as database
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

INSERT = (
    "INSERT INTO risk_state_history (trader_id, recorded_at, epoch, seq, merged, daily_pnl, drawdown_pct,"
    " current_equity, peak_equity, trading_paused, last_reset_time)"
    " SELECT 'a', '2026-01-01'::timestamptz + n * interval '1 second', {}, {}, 0, 0, 0, 0, 0, false, now()"
    " FROM generate_series(1, {}) AS n"
)
EVERY_SECOND_SEQ = ("1", "2 * n")
ONE_GAP = ("1", "n + (n > 777)::int")
MANY_EPOCHS = ("n", "2")


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


class Recorder:
    """Explains each query that audit_ledger.read() makes of history."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0.0
        self.kinds: set[str] = set()
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("VACUUM ANALYZE risk_state_history")
        execute, named = psycopg.Connection.execute, psycopg.ServerCursor.execute

        def explain(connection: Any, query: str, parameters: Any) -> None:
            [(plans,)] = execute(connection, f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", parameters)
            for node in nodes(plans[0]["Plan"]):
                if "unnest" in query:  # a loop over what is in an array; others look up a key
                    self.kinds.add(node["Node Type"])
                removed = sum(count for name, count in node.items() if name.startswith("Rows Removed"))
                self.rows += (node["Actual Rows"] + removed) * node["Actual Loops"]

        def recorded(connection: Any, query: Any, parameters: Any = None, **more: Any) -> Any:
            if "risk_state_history" in query and "hypertable" not in query:
                explain(connection, query, parameters)
            return execute(connection, query, parameters, **more)

        def recorded_named(cursor: Any, query: Any, parameters: Any = None, **more: Any) -> Any:
            if "risk_state_history" in query:
                explain(cursor.connection, query, parameters)
            return named(cursor, query, parameters, **more)

        with monkeypatch.context() as patch:
            patch.setattr(psycopg.Connection, "execute", recorded)
            patch.setattr(psycopg.ServerCursor, "execute", recorded_named)
            self.ledger = audit_ledger.read(url)
            missing = {key: totals.gaps for key, totals in self.ledger.epochs.items()}
            assert not audit_ledger.found_since(url, missing)


@pytest.mark.parametrize("shape", [EVERY_SECOND_SEQ, ONE_GAP, MANY_EPOCHS])
def test_the_rows_that_are_read_grow_as_the_history_does(
    database_url: str, monkeypatch: pytest.MonkeyPatch, shape: tuple[str, str]
) -> None:
    """Counted by Postgres, not by the clock. No count has a window's frame that is computed for each row."""
    read = []
    for first, count in ((0, 1_000), (1_000, 4_000)):
        with psycopg.connect(database_url, autocommit=True) as db:
            db.execute("TRUNCATE risk_dead_letter")
            if first:
                db.execute("ALTER TABLE risk_state_history DISABLE TRIGGER USER")
                db.execute("DELETE FROM risk_state_history")
            db.execute(INSERT.format(*shape, count).encode())
        recorder = Recorder(database_url, monkeypatch)
        assert not recorder.kinds & {"WindowAgg", "Nested Loop"}
        assert sum(totals.stored for totals in recorder.ledger.epochs.values()) == count
        read.append(recorder.rows)
    assert read[1] < 5 * read[0]


def test_every_second_seq_missing_is_told_completely(database_url: str) -> None:
    with psycopg.connect(database_url) as db:
        db.execute(INSERT.format(*EVERY_SECOND_SEQ, 40_000).encode())
    ledger = audit_ledger.read(database_url)
    totals = ledger.epochs["a", 1]
    assert (totals.stored, totals.missing, totals.duplicates) == (40_000, 40_000, 0)
    assert totals.gaps == [(n, n) for n in range(1, 80_000, 2)]


def test_pieces_that_overlap_are_one(database_url: str) -> None:
    """Rows that stand for many, beyond the bounds of the pieces by which a long epoch is looked at."""
    step = 1 << audit_ledger.PIECE_BITS
    rows = [  # (seq, merged)
        *((n, 0) for n in range(1, 100)),
        (3 * step + 10, 2 * step),  # from step + 10 on
        (3 * step + 11, 3 * step),  # overlaps all of it, from 11 on
        (5 * step, 5),
        (5 * step + 1, step),  # overlaps the one before, from 4 * step + 1 on
    ]
    with psycopg.connect(database_url) as db, db.cursor() as cursor:
        for seq, merged in rows:
            cursor.execute(
                INSERT.format("1", seq, 1)
                .replace(f" {seq}, 0,", f" {seq}, {merged},")
                .replace("n * interval '1 second'", f"{seq} * interval '1 second'")
                .encode()
            )
    totals = audit_ledger.read(database_url).epochs["a", 1]
    covered = [n for seq, merged in rows for n in range(seq - merged, seq + 1)]
    missing = set(range(1, 5 * step + 2)) - set(covered)
    assert totals.gaps == [(min(missing), max(missing))] == [(3 * step + 12, 4 * step)]
    assert totals == EpochTotals(
        len(rows), 0, len(covered) - len(rows), len(missing), len(covered) - len(set(covered))
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_query_ends_with_its_client(
    database_url: str, redis_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    activity = (
        "SELECT wait_event_type FROM pg_stat_activity"
        " WHERE application_name = 'riskstream' AND datname = current_database()"
    )
    environ = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    verify = ChildProcess(tmp_path / "log", environ, [sys.executable, "-m", "risk_worker", "verify"])
    with psycopg.connect(database_url) as lock, psycopg.connect(database_url, autocommit=True) as db:
        lock.execute("LOCK TABLE risk_state_history IN ACCESS EXCLUSIVE MODE")
        with verify as process:
            wait_until(lambda: ("Lock",) in db.execute(activity).fetchall(), 60, "verify's query")
            process.signal(number)
            assert process.wait(30) == (-number if number == signal.SIGKILL else 128 + number)
            assert process.log == ""
        wait_until(lambda: not db.execute(activity).fetchall(), 15, "the end of verify's query")


def test_statements_have_a_bound(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = replace(database.COMMAND, settings={**database.COMMAND.settings, "statement_timeout": "50ms"})
    monkeypatch.setattr(database, "COMMAND", hasty)
    from click.testing import CliRunner

    from risk_worker.cli import cli

    with psycopg.connect(database_url) as lock:
        lock.execute("LOCK TABLE risk_state_history IN ACCESS EXCLUSIVE MODE")
        done = CliRunner().invoke(cli, ["verify"], env={"REDIS_URL": redis_url, "POSTGRES_URL": database_url})
    assert done.exit_code == 2
    assert "statement timeout" in done.stderr


def test_the_json_of_many_gaps_is_complete_and_comes_in_pieces() -> None:
    gaps = [(n, n) for n in range(1, 4_000, 2)]
    ledger = Ledger({("a", 1): EpochTotals(2_000, 0, 0, 2_000, 0, gaps, 4_000)})
    pieces = list(as_json(reconcile({}, {}, ledger)))
    assert max(map(len, pieces)) < 1_000
    assert len(json.loads("".join(pieces))["gaps"]) == 2_000
