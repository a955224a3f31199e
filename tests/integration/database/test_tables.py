"""The tables: what they refuse, and that they say what they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

MIGRATING = Path(__file__).parents[3] / "docs" / "migrating.md"
GOOD: dict[str, Any] = {
    "trader_id": "t1",
    "epoch": 1,
    "seq": 3,
    "recorded_at": "2026-01-01 00:00:00+00",
    "daily_pnl": -1.5,
    "drawdown_pct": 0.0,
    "current_equity": 1.7976931348623157e308,
    "peak_equity": 5e-324,
    "trading_paused": False,
    "paused_until": None,
    "last_reset_time": "2026-01-01 00:00:00+00",
    "trace_id": "",
    "reason": "",
}
NUMBERS = ("daily_pnl", "drawdown_pct", "current_equity", "peak_equity")


def insert(db: psycopg.Connection, table: str, **changes: Any) -> None:
    row = {**GOOD, **changes}
    db.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        ),
        [*row.values()],
    )


@pytest.mark.parametrize("table", ["risk_state", "risk_state_history"])
@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("trader_id", ""),
        ("trader_id", "é" * 256),
        ("epoch", 0),
        ("seq", 0),
        ("recorded_at", "1999-12-31 23:59:59.999999+00"),
        ("recorded_at", "infinity"),
        ("trace_id", "x" * 256),
        ("reason", "x" * 1025),
        *((name, bad) for name in NUMBERS for bad in (float("nan"), float("inf"), float("-inf"))),
    ],
)
def test_refuses_what_no_snapshot_can_hold(db: psycopg.Connection, table: str, column: str, bad: Any) -> None:
    with pytest.raises(errors.CheckViolation, match=f"{table}_{column}_check"):
        insert(db, table, **{column: bad})


@pytest.mark.parametrize("merged", [-1, 3])
def test_history_refuses_merging_more_than_there_was(db: psycopg.Connection, merged: int) -> None:
    with pytest.raises(errors.CheckViolation, match="risk_state_history_seq_check"):
        insert(db, "risk_state_history", merged=merged)


@pytest.mark.parametrize("table", ["risk_state", "risk_state_history"])
def test_holds_what_lies_just_within(db: psycopg.Connection, table: str) -> None:
    insert(
        db,
        table,
        trader_id="é" * 255,
        trace_id="é" * 255,
        reason="é" * 1024,
        recorded_at="2000-01-01 00:00:00+00",
        daily_pnl=-1.7976931348623157e308,
        **({"merged": 2} if table == "risk_state_history" else {}),
    )


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE risk_state_history SET reason = 'x'",
        "UPDATE risk_state_history SET reason = 'x' WHERE false",
        "DELETE FROM risk_state_history",
        "DELETE FROM risk_state_history WHERE false",
        "TRUNCATE risk_state_history",
        "MERGE INTO risk_state_history h USING (VALUES ('t1')) AS v (id) ON h.trader_id = v.id "
        "WHEN MATCHED THEN DELETE",
    ],
)
def test_history_is_append_only(db: psycopg.Connection, change: str) -> None:
    insert(db, "risk_state_history")
    with pytest.raises(errors.RaiseException, match=r"history is append-only: [A-Z]+ is refused"):
        db.execute(change)
    assert db.execute("SELECT reason FROM risk_state_history").fetchall() == [("",)]


def test_the_trigger_of_a_row_refuses_by_itself(db: psycopg.Connection) -> None:
    """On a chunk of a hypertable there is no other."""
    insert(db, "risk_state_history")
    db.execute("ALTER TABLE risk_state_history DISABLE TRIGGER risk_state_history_append_only_statement")
    with pytest.raises(errors.RaiseException, match="append-only: DELETE is refused"):
        db.execute("DELETE FROM risk_state_history")


def test_a_replay_into_history_is_a_no_op(db: psycopg.Connection) -> None:
    insert(db, "risk_state_history")
    with pytest.raises(errors.UniqueViolation):
        insert(db, "risk_state_history")
    db.execute("INSERT INTO risk_state_history SELECT * FROM risk_state_history ON CONFLICT DO NOTHING")
    assert db.execute("SELECT count(*) FROM risk_state_history").fetchone() == (1,)


def test_dead_letters_take_anything_and_can_be_dropped(db: psycopg.Connection) -> None:
    letter = ("risk:{0}:snapshots", "1-0", "not JSON", b"\x00\xff" * 10)
    db.execute(
        "INSERT INTO risk_dead_letter (stream, entry_id, reason, payload) VALUES (%s, %s, %s, %s)", letter
    )
    found = db.execute("SELECT stream, entry_id, reason, payload FROM risk_dead_letter").fetchone()
    assert found == letter
    db.execute("DELETE FROM risk_dead_letter")


def test_updates_of_state_touch_no_index(db: psycopg.Connection) -> None:
    """HOT: an update finds room on its own page."""
    insert(db, "risk_state")
    for seq in range(4, 24):
        db.execute("UPDATE risk_state SET seq = %s, daily_pnl = %s, updated_at = now()", (seq, seq))
    db.execute("SELECT pg_stat_force_next_flush()")
    db.execute("SELECT 1")
    counted = db.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'risk_state'"
    ).fetchone()
    assert counted == (20, 20)


def test_every_table_and_column_says_what_it_is(db: psycopg.Connection) -> None:
    silent = db.execute(
        """
        SELECT c.relname, a.attname
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relname LIKE 'risk%' AND c.relkind = 'r'
            AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
        """
    ).fetchall()
    assert silent == []


def test_history_has_an_index_for_its_key_and_one_for_when_it_was_stored(db: psycopg.Connection) -> None:
    indexes = db.execute(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'risk_state_history' ORDER BY 1"
    ).fetchall()
    assert indexes == [("risk_state_history_pkey",), ("risk_state_history_stored_at",)]


def test_the_last_of_a_trader_come_from_that_index(db: psycopg.Connection) -> None:
    for seq in range(4, 10):
        insert(db, "risk_state_history", seq=seq)
    db.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    plan = db.execute(
        "EXPLAIN SELECT * FROM risk_state_history WHERE trader_id = 't1' ORDER BY recorded_at DESC LIMIT 5"
    ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "risk_state_history_pkey" in text
    assert "Sort" not in text


class TestTheDeployment:
    """risk_deployment: exactly one row, whatever is asked."""

    @pytest.mark.parametrize(
        ("statement", "error"),
        [
            ("DELETE FROM risk_deployment", errors.RaiseException),
            ("DELETE FROM risk_deployment WHERE false", errors.RaiseException),
            ("TRUNCATE risk_deployment", errors.RaiseException),
            ("INSERT INTO risk_deployment DEFAULT VALUES", errors.UniqueViolation),
            ("UPDATE risk_deployment SET id = NULL", errors.NotNullViolation),
            ("UPDATE risk_deployment SET partitions = 0", errors.CheckViolation),
            ("UPDATE risk_deployment SET partitions = 257", errors.CheckViolation),
        ],
    )
    def test_refuses(self, db: psycopg.Connection, statement: str, error: type[Exception]) -> None:
        before = db.execute("SELECT * FROM risk_deployment").fetchall()
        with pytest.raises(error):
            db.execute(statement)
        assert len(before) == 1
        assert db.execute("SELECT * FROM risk_deployment").fetchall() == before

    def test_takes_another_identity_and_a_number_of_partitions(self, db: psycopg.Connection) -> None:
        [(before, partitions)] = db.execute("SELECT id, partitions FROM risk_deployment").fetchall()
        db.execute("UPDATE risk_deployment SET id = gen_random_uuid(), partitions = 256")
        [(after, agreed)] = db.execute("SELECT id, partitions FROM risk_deployment").fetchall()
        assert before != after
        assert (partitions, agreed) == (None, 256)

    def test_every_role_may_read_it(self, db: psycopg.Connection) -> None:
        granted = (
            "SELECT grantee FROM information_schema.role_table_grants WHERE table_name = 'risk_deployment'"
        )
        assert ("PUBLIC",) in db.execute(granted).fetchall()


def test_readers_page_by_that_index(db: psycopg.Connection) -> None:
    """As docs/migrating.md shows to those that paged by `id`."""
    blocks = re.findall(r"```sql\n(.*?)```", MIGRATING.read_text(), re.DOTALL)
    [page] = [each for each in blocks if "LIMIT 100" in each]
    for seq in range(16, 20):
        insert(
            db,
            "risk_state_history",
            trader_id="momentum-1",
            epoch=1764000000000,
            seq=seq,
            recorded_at="2026-01-31 09:30:00.25+00",
        )
    assert len(db.execute(page.encode()).fetchall()) == 2
    db.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    plan = "\n".join(line for (line,) in db.execute(f"EXPLAIN {page}".encode()))
    assert "risk_state_history_pkey" in plan
    assert "Sort" not in plan


def test_what_was_stored_in_a_span_of_time_is_found_by_an_index(db: psycopg.Connection) -> None:
    db.execute(
        "INSERT INTO risk_state_history (trader_id, epoch, seq, recorded_at, stored_at, daily_pnl,"
        " drawdown_pct, current_equity, peak_equity, trading_paused, last_reset_time)"
        " SELECT 't', 1, n, timestamptz '2026-01-01Z' + n * interval '1 s',"
        " timestamptz '2026-02-01Z' + n * interval '1 s', 0, 0, 0, 0, false, '2026-01-01Z'"
        " FROM generate_series(1, 30000) AS n"
    )
    db.execute("VACUUM ANALYZE risk_state_history")
    [(plan,)] = db.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM risk_state_history"
        " WHERE stored_at >= '2026-02-01 01:00Z' AND stored_at < '2026-02-01 01:01Z'"
    ).fetchall()
    found = plan[0]["Plan"]
    assert found["Node Type"] == "Bitmap Heap Scan"
    assert found["Plans"][0]["Index Name"] == "risk_state_history_stored_at"
    assert found["Actual Rows"] == 60
    assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 100
