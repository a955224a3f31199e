"""What was done to history or its seals is named, with the window and the trader."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest

from risk_producer.errors import ConfigurationError
from risk_worker.seal import verify as module
from risk_worker.seal.render import head_line
from risk_worker.seal.verify import Finding, Report, last_run, read_heads
from risk_worker.timescale.policies import SQL
from tests.integration.seal.conftest import BEGIN, HOUR, database_with_rows, fill, seal

Attack = Callable[[psycopg.Connection], object]
SECOND_HOUR = BEGIN + HOUR
ROW = f"trader_id = 'b' AND seq = 30 AND stored_at = '{BEGIN + timedelta(minutes=75)}'"


def verify(url: str, *heads: str, deep: bool = True, trader: str | None = None) -> Report:
    return module.verify(url, deep=deep, trader=trader, heads=read_heads(heads))


def head_of(url: str) -> str:
    run = last_run(url)
    assert run is not None
    return head_line(run)


def findings(url: str) -> list[Finding]:
    """All of them, and that without --deep the rows are not read."""
    found = verify(url).findings
    assert found
    return found


def statement(text: str) -> Attack:
    return lambda db: db.execute(text.encode())


@pytest.fixture(params=["plain", "hypertable", "compressed"])
def kind(request: pytest.FixtureRequest) -> str:
    """What history is."""
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    """As conftest.py has it."""
    return database_with_rows(request, "plain" if kind == "plain" else "hypertable")


@pytest.fixture(autouse=True)
def sealed(url: str, kind: str) -> None:
    assert seal(url) >= 4
    if kind == "compressed":
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(SQL["turn_columnstore_on"])
            db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
    assert verify(url).intact
    assert verify(url).rows_read == 105


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (f"UPDATE risk_state_history SET daily_pnl = daily_pnl * (1 + 2.3e-16) WHERE {ROW}", "changed"),
        (f"UPDATE risk_state_history SET drawdown_pct = '-0' WHERE {ROW}", "changed"),
        (f"UPDATE risk_state_history SET paused_until = NULL, reason = reason || 'x' WHERE {ROW}", "changed"),
        (f"UPDATE risk_state_history SET last_reset_time = last_reset_time + '1 us' WHERE {ROW}", "changed"),
        (
            f"UPDATE risk_state_history SET stored_at = stored_at + interval '1 microsecond' WHERE {ROW}",
            "changed",
        ),
        (f"DELETE FROM risk_state_history WHERE {ROW}", "removed"),
        (f"UPDATE risk_state_history SET stored_at = now() WHERE {ROW}", "removed"),
        (
            # two rows exchange what they hold
            "UPDATE risk_state_history h SET daily_pnl = o.daily_pnl FROM risk_state_history o"
            " WHERE h.trader_id = 'b' AND o.trader_id = 'b' AND (h.seq, o.seq) IN ((30, 34), (34, 30))",
            "changed",
        ),
        (
            # two rows exchange their places
            "UPDATE risk_state_history h SET seq = 64 - seq WHERE trader_id = 'b' AND seq IN (30, 34)",
            "changed",
        ),
        (
            "INSERT INTO risk_state_history"
            ' SELECT (jsonb_populate_record(h, \'{"seq": 29, "merged": 0}\')).*'
            f" FROM risk_state_history h WHERE {ROW}",
            "added",
        ),
    ],
)
def test_rows(url: str, connection: psycopg.Connection, change: str, kind: str) -> None:
    assert connection.execute(change.encode()).rowcount >= 1
    [found] = findings(url)
    assert (found.kind, found.trader_id, found.epoch, found.since) == (kind, "b", 7, SECOND_HOUR)
    assert f"run 2, stored from {SECOND_HOUR:%Y-%m-%dT%H:%M:%S}Z until" in found.message
    assert verify(url, trader="b").findings == [found]
    assert verify(url, trader="a").intact
    assert verify(url, deep=False).intact, "the rows are not read"
    assert module.verify(url, deep=True, since=SECOND_HOUR + HOUR).intact
    assert module.verify(url, deep=True, since=SECOND_HOUR).findings == [found]


@pytest.mark.parametrize(
    ("stored_at", "kind", "run"),
    [
        ("1999-01-01", "added", 1),
        ("-infinity", "added", 1),
        ("0044-03-15 BC", "added", 1),
        (f"{SECOND_HOUR}", "added", 2),
        (f"{SECOND_HOUR + timedelta(days=2)}", "clock", None),
        ("3000-01-01", "clock", None),
        ("20000-01-01", "clock", None),
        ("infinity", "clock", None),
    ],
)
def test_a_row_of_a_new_trader(
    url: str, connection: psycopg.Connection, stored_at: str, kind: str, run: int | None
) -> None:
    connection.execute(
        "INSERT INTO risk_state_history SELECT"
        f' (jsonb_populate_record(h, \'{{"trader_id": "new", "stored_at": "{stored_at}"}}\')).*'
        f" FROM risk_state_history h WHERE {ROW}".encode()
    )
    [found] = findings(url)
    assert (found.kind, found.trader_id, found.run) == (kind, "new", run)
    if kind == "clock":
        assert "1 rows have a stored_at of a time to come" in found.message
        assert verify(url, trader="a", deep=False).intact
        assert verify(url, trader="new", deep=False).findings == [found]


def test_a_policy_hides_no_row(url: str, connection: psycopg.Connection, kind: str) -> None:
    if kind == "compressed":
        pytest.skip("TimescaleDB refuses row security where the columnstore is on")
    role = f"auditor_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role}; GRANT pg_read_all_data TO {role}".encode())
    try:
        own = f"{url}{'&' if '?' in url else '?'}options=-crole%3D{role}"
        assert verify(own).rows_read == 105
        connection.execute(
            "ALTER TABLE risk_state_history ENABLE ROW LEVEL SECURITY;"
            f" CREATE POLICY hide ON risk_state_history TO {role} USING (trader_id <> 'b')".encode()
        )
        with pytest.raises(ConfigurationError, match="affected by row-level security policy"):
            verify(own)
    finally:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_rows_moved_between_windows(url: str, connection: psycopg.Connection) -> None:
    connection.execute(
        f"UPDATE risk_state_history SET stored_at = stored_at - interval '1 h' WHERE {ROW}".encode()
    )
    assert [(found.kind, found.run, found.trader_id) for found in findings(url)] == [
        ("added", 1, "b"),
        ("removed", 2, "b"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE risk_seal SET digest = sha256(digest)",
        "UPDATE risk_seal SET covered = covered + '{[1000,1001)}'",
        "UPDATE risk_seal SET rows = rows + 1",
        "UPDATE risk_seal SET day = day + 7",
        "DELETE FROM risk_seal",
    ],
)
def test_a_leaf(url: str, connection: psycopg.Connection, change: str) -> None:
    """It is named without --deep too: the rows of a run whose leaves do not fit are read."""
    which = f"run = 2 AND trader_id = 'b' AND day = '{SECOND_HOUR:%Y-%m-%d}'"
    if "day +" not in change:
        which = "run = 2 AND trader_id = 'b'"
    assert connection.execute(f"{change} WHERE {which}".encode()).rowcount >= 1
    for deep in (False, True):
        found = verify(url, deep=deep).findings
        assert {each.run for each in found if each.kind != "total"} == {2}
        assert {each.trader_id for each in found} >= {"b"}
        assert {each.trader_id for each in found} <= {"b", None}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE risk_seal_run SET rows = rows - 1 WHERE number = 2",
        "UPDATE risk_seal_run SET digest = sha256('x') WHERE number = 2",
        "UPDATE risk_seal_run SET from_at = from_at - interval '1 s' WHERE number = 2",
        "UPDATE risk_seal_run SET head = sha256('x') WHERE number = 2",
        "UPDATE risk_seal_run SET until_at = 'infinity' WHERE number = 2",
        "UPDATE risk_seal_run SET from_at = '4000-01-01 BC' WHERE number = 2",
        "UPDATE risk_seal_run SET previous = sha256('x') WHERE number = 2",
        "DELETE FROM risk_seal_run WHERE number = 2",
        "DELETE FROM risk_seal_run WHERE number = 2; DELETE FROM risk_seal WHERE run = 2",
    ],
)
def test_a_run(url: str, connection: psycopg.Connection, change: str) -> None:
    connection.execute(change.encode())
    found = verify(url, deep=False).findings
    assert any(each.kind in ("seal", "leaf") and each.run in (2, 3) for each in found)
    assert "run 2" in " ".join(each.message for each in found)


@pytest.mark.parametrize("mark", ["-infinity", "2026-01-01Z"])
def test_the_mark(url: str, connection: psycopg.Connection, mark: str) -> None:
    connection.execute("UPDATE risk_seal_mark SET closed_until = %s", (mark,))
    [found] = verify(url, deep=False).findings
    assert "history is not closed as far as it is sealed" in found.message


def test_a_mark_beyond_all_times(url: str, connection: psycopg.Connection) -> None:
    connection.execute("UPDATE risk_seal_mark SET closed_until = 'infinity'")
    report = verify(url, deep=False)
    [found] = report.findings
    assert (found.kind, "run riskstream seal reopen" in found.message) == ("clock", True)
    assert report.closed_until is not None
    assert report.closed_until.year == 9999


@pytest.mark.parametrize("change", ["covered = '{[1,1000)}'", "rows = rows + 1", "merged = 0", "expired = 1"])
def test_a_running_total(url: str, connection: psycopg.Connection, change: str) -> None:
    connection.execute(f"UPDATE risk_epoch_total SET {change} WHERE trader_id = 'b'".encode())
    for since in (None, BEGIN + 3 * HOUR):
        [found] = module.verify(url, since=since).findings
        assert (found.kind, found.trader_id, found.epoch) == ("total", "b", 7)


def cut_off(db: psycopg.Connection, last: int) -> None:
    db.execute("DELETE FROM risk_seal_run WHERE number > %s", (last,))
    db.execute("DELETE FROM risk_seal WHERE run > %s", (last,))


def test_the_end_of_the_chain_is_cut_off(url: str, connection: psycopg.Connection) -> None:
    kept = head_of(url)
    cut_off(connection, 2)
    found = verify(url, kept, deep=False).findings
    assert {each.trader_id for each in found if each.kind == "total"} == {"a", "b", "é"}
    [head] = [each for each in found if each.kind == "head"]
    assert f"run {kept.split()[0]}, whose head was kept, is not there (the chain ends at" in head.message
    # One who also corrects the totals, and seals again, is found by the head alone.
    connection.execute("DELETE FROM risk_epoch_total")
    connection.execute(
        "INSERT INTO risk_epoch_total (trader_id, epoch, rows, merged, covered)"
        " SELECT trader_id, epoch, sum(rows), sum(merged),"
        " (SELECT range_agg(part) FROM risk_seal s, unnest(s.covered) AS part"
        "  WHERE (s.trader_id, s.epoch) = (risk_seal.trader_id, risk_seal.epoch))"
        " FROM risk_seal GROUP BY trader_id, epoch"
    )
    assert verify(url).intact
    assert [each.kind for each in verify(url, kept).findings] == ["head"]


def test_an_honest_repetition_has_the_same_heads(url: str, connection: psycopg.Connection) -> None:
    kept = head_of(url)
    connection.execute("DELETE FROM risk_epoch_total")
    cut_off(connection, 0)
    seal(url)
    assert verify(url, kept).intact


def test_everything_is_sealed_anew(url: str, connection: psycopg.Connection) -> None:
    kept = [head_of(url)]
    kept += [
        f"{number} {head}"
        for number, head in connection.execute("SELECT number, encode(head, 'hex') FROM risk_seal_run")
    ]
    connection.execute(f"UPDATE risk_state_history SET daily_pnl = 1 WHERE {ROW}".encode())
    connection.execute("DELETE FROM risk_epoch_total")
    cut_off(connection, 0)
    connection.execute("UPDATE risk_seal_mark SET closed_until = '-infinity'")
    seal(url)
    assert verify(url).intact, "by itself it is as good as new"
    found = verify(url, *kept).findings
    assert {each.kind for each in found} == {"head"}
    assert min(each.run or 0 for each in found) == 2, "the first that differs is that of the change"
    assert found[0].since == SECOND_HOUR


def test_an_older_copy(url: str, connection: psycopg.Connection) -> None:
    """As if the database had been restored from a dump of before the last runs."""
    kept = head_of(url)
    cut_off(connection, 3)
    connection.execute("UPDATE risk_seal_mark SET closed_until = (SELECT max(until_at) FROM risk_seal_run)")
    connection.execute(f"DELETE FROM risk_state_history WHERE stored_at >= '{BEGIN + 3 * HOUR}'".encode())
    found = verify(url, kept).findings
    assert [each.kind for each in found] == ["head"]
    assert "an older copy of the database was restored" in found[0].message


def test_late_rows_are_no_attack(url: str, connection: psycopg.Connection) -> None:
    fill(url, ["late"], BEGIN - 100 * HOUR)
    connection.execute("UPDATE risk_state_history SET stored_at = now() WHERE trader_id = 'late'")
    assert verify(url).intact
