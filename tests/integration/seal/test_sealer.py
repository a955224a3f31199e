"""Which rows a run takes in, and what it makes of values that are seldom."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from risk_devkit.embedded import program
from risk_worker.database import migrations
from risk_worker.seal import sealer as module
from risk_worker.seal import verify as verifying
from risk_worker.seal.chain import Leaf, leaves_of_runs, sealed_leaves
from risk_worker.seal.verify import SealsNewer, last_run, run_with_leaves, verify
from risk_worker.timescale.policies import SQL as COLUMNSTORE
from tests.integration.seal.conftest import BEGIN, HOUR, clocks_ahead, fill, seal
from tests.support.database import set_odd_defaults
from tests.support.interrupted import cut_at_each_statement
from tests.support.servers import Databases

WHOLE = "SELECT trader_id, epoch, rows, merged, covered::text FROM risk_epoch_total ORDER BY 1, 2"


def test_leaves_runs_and_totals(url: str) -> None:
    assert seal(url) >= 3
    found = run_with_leaves(url, 1)
    assert found is not None
    run, leaves = found
    assert (run.since, run.until, run.rows, run.previous, run.fits) == (None, BEGIN + HOUR, 33, None, True)
    assert sum(leaf.rows for leaf in leaves) == 33
    # In each trader's hour there are rows of two days of recorded_at, unless the hour ends one.
    assert {leaf.trader_id for leaf in leaves} == {"a", "b", "é"}
    with psycopg.connect(url) as db:
        totals = db.execute(WHOLE).fetchall()
    # Even n stand for 2n alone, odd ones for 2n - 1 and 2n.
    assert [total[:4] for total in totals] == [(trader, 7, 35, 18) for trader in ("a", "b", "é")]
    assert totals[0][4].startswith("{[1,3),[4,7),[8,11)")
    report = verify(url, deep=True)
    assert (report.intact, report.rows, report.rows_read) == (True, 105, 105)


def test_late_rows_are_sealed_with_when_they_came(url: str) -> None:
    """In the run after, whatever their recorded_at; the runs before stay as they are."""
    fill(url, ["late"], late_s=90 * 86_400)
    seal(url)
    report = verify(url, deep=True)
    assert (report.intact, report.rows_read) == (True, 140)


def test_a_run_has_a_million_rows_at_the_most(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_MAX", 10)
    with psycopg.connect(url) as db:  # what one transaction stored is not divided
        db.execute("SET session_replication_role = replica")
        db.execute(
            "UPDATE risk_state_history SET stored_at = %s WHERE stored_at < %s",
            (BEGIN + timedelta(minutes=1), BEGIN + timedelta(minutes=31)),
        )
    seal(url)
    report = verify(url, deep=True)
    assert (report.intact, report.rows) == (True, 105)
    with psycopg.connect(url) as db:
        sizes = [
            rows for (rows,) in db.execute("SELECT rows FROM risk_seal_run WHERE rows > 0 ORDER BY number")
        ]
    assert sizes[0] == 18
    assert max(sizes[1:]) <= 10


CHAIN = "SELECT number, head FROM risk_seal_run ORDER BY number"


def forget(url: str) -> None:
    """As if nothing had been sealed yet; history stays closed."""
    with psycopg.connect(url) as db:
        db.execute("SET session_replication_role = replica")
        db.execute("TRUNCATE risk_seal_run, risk_seal, risk_epoch_total")


@pytest.mark.parametrize("rows_max", [10, 40, 1_000_000])
def test_runs_that_are_made_together_are_those_that_are_made_one_by_one(
    url: str, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    monkeypatch.setattr(module, "ROWS_MAX", rows_max)
    fill(url, ["old"], BEGIN - 30 * HOUR)
    made = []
    with psycopg.connect(url, autocommit=True) as db:
        for runs_max in (1, 7, 1_000):
            monkeypatch.setattr(module, "RUNS_MAX", runs_max)
            forget(url)
            assert seal(url) > 30
            made.append((db.execute(CHAIN).fetchall(), db.execute(WHOLE).fetchall()))
    assert made[0] == made[1] == made[2]
    assert verify(url, deep=True).intact


def test_many_windows_with_few_rows_take_few_statements(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of history; each takes long on a hypertable, even where it finds nothing."""
    asked: list[int] = []

    def counted(*words: Any, **more: Any) -> list[list[Leaf]]:
        asked.append(len(words[2]))
        return leaves_of_runs(*words, **more)

    fill(url, ["old"], BEGIN - 150 * HOUR)
    monkeypatch.setattr(module, "leaves_of_runs", counted)
    runs = seal(url)
    assert (runs, sum(asked)) == (runs, runs)
    assert runs > 150
    assert len(asked) < 10
    asked.clear()
    monkeypatch.setattr(verifying, "leaves_of_runs", counted)
    assert verify(url, deep=True).rows_read == 140
    assert asked == [runs]
    with monkeypatch.context() as patch:
        patch.setattr(verifying, "ROWS_MAX", 20)
        asked.clear()
        assert verify(url, deep=True).rows_read == 140
    assert 4 < len(asked) < 12


def test_several_at_the_same_time_make_one_chain(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [*pool.map(seal, [url] * 4)]
    seal(url)
    report = verify(url, deep=True)
    assert (report.intact, report.rows) == (True, 105)
    assert sum(made) <= report.runs


def test_one_that_is_cut_off_at_any_statement_goes_on(url: str) -> None:
    """What a run began is undone by Postgres, and made by the next sealer."""

    def look() -> None:
        assert verify(url, deep=True).findings == []

    assert cut_at_each_statement(lambda: seal(url), look) > 10
    report = verify(url, deep=True)
    assert (report.intact, report.rows_read) == (True, 105)


def test_no_rows_at_all(database_url: str) -> None:
    assert last_run(database_url) is None
    assert seal(database_url) == 1
    report = verify(database_url, deep=True)
    assert (report.intact, report.runs, report.rows) == (True, 1, 0)


def test_another_window_goes_on_where_the_last_ended(url: str) -> None:
    seal(url, timedelta(minutes=10))
    seal(url, timedelta(days=1))
    assert verify(url, deep=True).intact


@pytest.mark.parametrize(
    "row",
    [
        "'t', '2026-01-01Z', 9223372036854775807, 9223372036854775807, 2147483647",
        "'t', '20000-01-01Z', 1, 1, 0",
        "repeat('漢', 255), '2026-01-01Z', 1, 1, 0",
        "E'\\t\\\\N,\"{}', '2026-01-01Z', 1, 1, 0",
    ],
)
def test_values_that_are_seldom(database_url: str, row: str) -> None:
    with psycopg.connect(database_url) as db:
        db.execute(
            "INSERT INTO risk_state_history (trader_id, recorded_at, epoch, seq, merged, daily_pnl,"
            " drawdown_pct, current_equity, peak_equity, trading_paused, last_reset_time, stored_at)"
            f" VALUES ({row}, 5e-324, '-0', -1.7976931348623157e308, 0, false, '-infinity', %s)".encode(),
            (BEGIN,),
        )
    seal(database_url)
    report = verify(database_url, deep=True)
    assert (report.intact, report.rows_read) == (True, 1)
    found = run_with_leaves(database_url, 1)
    assert found is not None
    assert len(found[1]) == 1


def test_bytes_that_are_no_text(postgres_url_sql_ascii: str) -> None:
    """An SQL_ASCII database holds any bytes; those are what is hashed."""
    with psycopg.connect(postgres_url_sql_ascii, autocommit=True, client_encoding="SQL_ASCII") as db:
        db.execute(
            b"INSERT INTO risk_state_history (trader_id, recorded_at, epoch, seq, reason, daily_pnl,"
            b" drawdown_pct, current_equity, peak_equity, trading_paused, last_reset_time, stored_at)"
            b" VALUES ('t', '2026-01-01Z', 1, 1, E'\\xff', 0, 0, 0, 0, false, '2026-01-01Z',"
            b" now() - interval '3 h')"
        )
        seal(postgres_url_sql_ascii)
        assert verify(postgres_url_sql_ascii, deep=True).intact
        db.execute("SET session_replication_role = replica")
        db.execute(b"UPDATE risk_state_history SET reason = E'\\xfe'")
    [found] = verify(postgres_url_sql_ascii, deep=True).findings
    assert (found.kind, found.trader_id) == ("changed", "t")


def test_a_dump_has_the_same_seals(database_url: str, empty_database_url: str, tmp_path: Path) -> None:
    fill(database_url, ["a", "é"])
    seal(database_url)
    dump = tmp_path / "dump.sql"
    subprocess.run(
        [program("pg_dump"), "--no-owner", f"--file={dump}", database_url],
        check=True,
        timeout=60,
        capture_output=True,
    )
    psql = [str(program("psql")), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", empty_database_url]
    subprocess.run([*psql, "-f", str(dump)], check=True, capture_output=True, timeout=60)
    kept = last_run(database_url)
    assert kept is not None
    report = verify(empty_database_url, deep=True, heads=[(kept.number, kept.head)])
    assert (report.intact, report.rows_read, report.head) == (True, 70, kept.head)
    # The database goes on, and the dump is restored in its place, later.
    with clocks_ahead(2) as now:
        fill(database_url, ["late"], now - 3 * HOUR)
        seal(database_url, now=now)
    newer = last_run(database_url)
    assert newer is not None
    [found] = verify(empty_database_url, heads=[(newer.number, newer.head)]).findings
    assert "an older copy of the database was restored" in found.message
    with clocks_ahead(2) as now:
        seal(empty_database_url, now=now)
        [found] = verify(empty_database_url, heads=[(newer.number, newer.head)]).findings
    assert "its head is not the one that was kept" in found.message


def test_a_dump_of_compressed_chunks_has_the_same_seals(timescale_url: str, tmp_path: Path) -> None:
    migrations.up(timescale_url)
    fill(timescale_url, ["a", "é"])
    seal(timescale_url)
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute(COLUMNSTORE["turn_columnstore_on"])
        db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
        [(folder,)] = db.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchall()
    if not (Path(folder) / "pg_restore").exists():
        pytest.skip("the TimescaleDB server is not on this machine, so its pg_dump is not at hand")
    kept = last_run(timescale_url)
    assert kept is not None
    dump = tmp_path / "dump"
    databases = Databases(timescale_url)
    restored = databases.create()
    with psycopg.connect(restored, autocommit=True) as db:
        db.execute("CREATE EXTENSION timescaledb")
        db.execute("SELECT timescaledb_pre_restore()")
        for command in (
            ["pg_dump", "--format=custom", f"--file={dump}", timescale_url],
            ["pg_restore", "--no-owner", f"--dbname={restored}", str(dump)],
        ):
            done = subprocess.run(
                [f"{folder}/{command[0]}", *command[1:]], timeout=60, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr
        db.execute("SELECT timescaledb_post_restore()")
    report = verify(restored, deep=True, heads=[(kept.number, kept.head)])
    assert (report.findings, report.rows_read, report.head) == ([], 70, kept.head)
    databases.drop_all()


def test_the_seals_are_those_of_before_compression(timescale_url: str) -> None:
    migrations.up(timescale_url)
    fill(timescale_url, ["a", "b"])
    seal(timescale_url)
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute(
            "ALTER TABLE risk_state_history SET (timescaledb.compress,"
            " timescaledb.compress_segmentby = 'trader_id',"
            " timescaledb.compress_orderby = 'recorded_at DESC, epoch DESC, seq DESC')"
        )
        db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
    report = verify(timescale_url, deep=True)
    assert (report.intact, report.rows_read) == (True, 70)


def test_seals_of_a_newer_version_are_not_judged(url: str) -> None:
    seal(url)
    with psycopg.connect(url) as db:
        db.execute(
            "SET session_replication_role = replica; UPDATE risk_seal_run SET version = 2 WHERE number = 2"
        )
    with pytest.raises(SealsNewer, match="entry 2 was sealed in version 2"):
        verify(url)


def test_defaults_of_the_database_change_nothing(url: str) -> None:
    set_odd_defaults(url)
    assert seal(url) >= 3
    report = verify(url, deep=True)
    assert (report.intact, report.rows_read) == (True, 105)
    with psycopg.connect(url) as db:
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE risk_state_history SET daily_pnl = daily_pnl + 1e-9")
    assert {found.kind for found in verify(url, deep=True).findings} == {"changed"}


def test_leaves_of_one_trader(url: str) -> None:
    seal(url)
    with psycopg.connect(url) as db:
        assert {leaf.trader_id for leaf in sealed_leaves(db, 1, 1, "é")[1]} == {"é"}
