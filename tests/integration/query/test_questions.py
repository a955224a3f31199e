"""Each answer is what the rows say, worked out in Python without a database; and each plan uses an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import psycopg
import pytest

from risk_worker.database import connection as database
from risk_worker.database.reader import DatabaseUnavailable
from risk_worker.query import reader
from risk_worker.query.question import Question, name_of, row_of
from risk_worker.query.questions import (
    QUESTIONS,
    AsOf,
    Curve,
    Drawdown,
    Export,
    History,
    Pauses,
    Pnl,
    Stale,
    State,
)
from risk_worker.query.reader import RiskReader
from tests.integration.query.conftest import START, Week

BERLIN = ZoneInfo("Europe/Berlin")
T = "trader-07"


def ask(week: Week, question: Question[Any]) -> list[Any]:
    return list(RiskReader(week.url).ask(question))


def fields(row: Any) -> tuple[Any, ...]:
    return msgspec.structs.astuple(row)


def as_row(kind: type[msgspec.Struct], row: Any) -> Any:
    """What a row of history is as a row of an answer with columns of the same names."""
    return kind(**{name: getattr(row, name) for name in kind.__struct_fields__})


def hours(n: float) -> datetime:
    return START + timedelta(hours=n)


def test_history(week: Week) -> None:
    kind = row_of(History)
    newest_first = [as_row(kind, row) for row in reversed(week.rows[T])]
    assert ask(week, History(T)) == newest_first[:20]
    assert ask(week, History(T, last=4_000)) == newest_first[:4_000]
    assert ask(week, History(T, last="10000")) == newest_first
    since, until = week.rows[T][600].recorded_at, week.rows[T][900].recorded_at
    within = [row for row in newest_first if since <= row.recorded_at < until]
    assert len(within) == 300
    assert ask(week, History(T, since=since, until=until)) == within
    assert ask(week, History(T, since=since, until=until, last=7)) == within[:7]
    assert ask(week, History(T, since=since)) == [row for row in newest_first if since <= row.recorded_at]
    assert ask(week, History("trader-0")) == []


@pytest.mark.parametrize("hour", [-1, 3.34, 77.7, 500])
def test_as_of(week: Week, hour: float) -> None:
    kind, time = row_of(AsOf), hours(hour)

    def newest(known_at: datetime) -> list[Any]:
        found = [
            [row for row in rows if row.recorded_at <= time and row.stored_at <= known_at]
            for rows in week.rows.values()
        ]
        return [as_row(kind, rows[-1]) for rows in found if rows]

    assert ask(week, AsOf(time)) == newest(datetime.max.replace(tzinfo=UTC))
    for later in (0, 0.0005, 1, 4):
        known_at = time + timedelta(hours=later)
        assert ask(week, AsOf(time, known_at=known_at)) == newest(known_at)
    assert ask(week, AsOf(time, T)) == [row for row in ask(week, AsOf(time)) if row.trader_id == T]


def buckets(rows: list[Any], length: timedelta, origin: datetime) -> Iterator[tuple[Any, ...]]:
    for number, group in groupby(rows, key=lambda row: (row.recorded_at - origin) // length):
        each = list(group)
        equity = [row.current_equity for row in each]
        yield (
            *(origin + number * length, len(each), equity[0], max(equity), min(equity), equity[-1]),
            *(each[-1].peak_equity, max(row.drawdown_pct for row in each), each[-1].daily_pnl),
            any(row.trading_paused for row in each),
        )


@pytest.mark.parametrize("bucket", ["7m", timedelta(hours=5), "1d", "1s"])
def test_curve(week: Week, bucket: Any) -> None:
    since, until = hours(20.5), hours(60)
    rows = [row for row in week.rows[T] if since <= row.recorded_at < until]
    found = ask(week, Curve(T, bucket, since=since, until=until, tz="Europe/Berlin"))
    length = {"7m": timedelta(minutes=7), "1d": timedelta(days=1), "1s": timedelta(seconds=1)}.get(
        bucket, bucket
    )
    assert [fields(row) for row in found] == list(
        buckets(rows, length, datetime(2026, 11, 16, tzinfo=BERLIN))
    )


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_drawdown(week: Week, zone: str) -> None:
    for day in (15, 16, 19, 22, 23):
        of_day = {
            trader: [
                row
                for row in rows
                if row.recorded_at.astimezone(ZoneInfo(zone)).date() == date(2026, 11, day)
            ]
            for trader, rows in week.rows.items()
        }
        # The first of the greatest, and traders in the order of their worst.
        worst = [max(rows, key=lambda row: row.drawdown_pct) for rows in of_day.values() if rows]
        worst.sort(key=lambda row: (-row.drawdown_pct, row.trader_id))
        expected = [as_row(row_of(Drawdown), row) for row in worst]
        assert ask(week, Drawdown(f"2026-11-{day}", tz=zone)) == expected
        assert ask(week, Drawdown(date(2026, 11, day), top=3, tz=zone)) == expected[:3]


def pauses_of(rows: list[Any]) -> Iterator[tuple[Any, datetime | None]]:
    """(the row that begins a pause, when it ended)."""
    began = None
    for row in rows:
        if row.trading_paused and began is None:
            began = row
        elif not row.trading_paused and began is not None:
            yield began, row.recorded_at
            began = None
    if began is not None:
        yield began, None


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (-5, None),
        (0, 200),
        (20, 24),
        (20, 20.001),
        (33.3, 33.4),
        (100, None),
        (166.5, None),
        (300, None),
        (-5, 0),
    ],
)
def test_pauses(week: Week, since: float, until: float | None) -> None:
    first, last = hours(since), None if until is None else hours(until)
    expected = [
        (trader, row.recorded_at, end, row.reason, row.trace_id, row.epoch, row.seq)
        for trader, rows in week.rows.items()
        for row, end in pauses_of(rows)
        if (last is None or row.recorded_at < last) and (end is None or end > first)
    ]
    found = ask(week, Pauses(since=first, until=last))
    assert [
        (row.trader_id, row.since, row.until, row.reason, row.trace_id, row.epoch, row.seq) for row in found
    ] == expected
    for row in found:
        if row.until is not None:
            assert row.lasted_s == (row.until - row.since).total_seconds()
        assert row.reason or row.since < hours(0.01) or row.trader_id == "trader-17"
    assert ask(week, Pauses("trader-07", since=first, until=last)) == [
        row for row in found if row.trader_id == "trader-07"
    ]


def test_who_is_paused_now(week: Week) -> None:
    paused = [trader for trader, rows in week.rows.items() if rows[-1].trading_paused]
    assert {"trader-17", "trader-19"} < set(paused) < set(week.rows)
    assert [row.trader_id for row in ask(week, Pauses())] == paused


def test_pnl(week: Week) -> None:
    for zone in ("UTC", "America/New_York"):
        last = {
            (trader, row.recorded_at.astimezone(ZoneInfo(zone)).date()): row
            for trader, rows in week.rows.items()
            for row in rows
        }
        expected = [
            (trader, day, row.daily_pnl, row.recorded_at)
            for (trader, day), row in sorted(last.items())
            if date(2026, 11, 16) <= day <= date(2026, 11, 22)
        ]
        assert len(expected) == 19 * 7 + (zone == "UTC")
        for day in ("2026-11-16", date(2026, 11, 22)):
            found = ask(week, Pnl(week=day, tz=zone))
            assert [fields(row)[:4] for row in found] == expected
    assert ask(week, Pnl(week="2026-11-23")) == []
    assert [row.day.day for row in ask(week, Pnl(T, "2026-11-18"))] == [16, 17, 18, 19, 20, 21, 22]


def test_export(week: Week) -> None:
    kind = row_of(Export)
    assert ask(week, Export()) == [as_row(kind, row) for rows in week.rows.values() for row in rows]
    since, until = week.rows[T][600].recorded_at, week.rows[T][900].recorded_at
    assert ask(week, Export(T, since, until)) == [
        as_row(kind, row) for row in week.rows[T] if since <= row.recorded_at < until
    ]


def test_state_and_stale(week: Week) -> None:
    """Their rows are of long ago."""
    newest = {trader: max(rows, key=lambda row: (row.epoch, row.seq)) for trader, rows in week.rows.items()}
    states = ask(week, State())
    assert [(row.trader_id, row.recorded_at, row.daily_pnl) for row in states] == [
        (trader, row.recorded_at, row.daily_pnl) for trader, row in newest.items()
    ]
    assert ask(week, State(T))[0].trader_id == T
    silent = ask(week, Stale())
    assert silent[0].trader_id == "trader-18"
    assert len(silent) == 20


EXAMPLES: dict[type[Question[Any]], tuple[Callable[[], Question[Any]], ...]] = {
    State: (State,),
    History: (lambda: History(T), lambda: History(T, since=hours(20), until=hours(30))),
    AsOf: (lambda: AsOf(hours(20)), lambda: AsOf(hours(20), T), lambda: AsOf(hours(20), known_at=hours(21))),
    Curve: (lambda: Curve(T, since=hours(24), until=hours(48)),),
    Drawdown: (lambda: Drawdown("2026-11-18"), lambda: Drawdown("2026-11-18", top=3)),
    Pauses: (Pauses, lambda: Pauses(since=hours(20), until=hours(44)), lambda: Pauses(T, since=hours(20))),
    Pnl: (lambda: Pnl(week="2026-11-18"), lambda: Pnl(T, "2026-11-18")),
    Stale: (Stale,),
    Export: (lambda: Export(T), lambda: Export(since=hours(20), until=hours(30))),
}


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read a table, or a chunk of it."""
    if "Relation Name" in plan:
        yield plan
    for each in plan.get("Plans", ()):
        yield from scans(each)


def decompresses_all(scan: dict[str, Any]) -> bool:
    """Whether it goes by a time, but decompresses the batches of all times of the chunk for that."""
    filtered = scan.get("Filter", "") + scan.get("Vectorized Filter", "")
    conditions = [each.get("Index Cond", "") for each in scan.get("Plans", ())]
    return "recorded_at" in filtered and any("recorded_at" not in each for each in conditions)


@pytest.mark.parametrize("question", QUESTIONS, ids=name_of)
def test_history_is_never_read_as_a_whole(week: Week, question: type[Question[Any]]) -> None:
    with database.connect(week.url, database.reading(60)) as db:
        for made in EXAMPLES[question]:
            query = f"EXPLAIN (FORMAT json) DECLARE question CURSOR FOR {reader._query(name_of(question))}"
            [(explained,)] = db.execute(query.encode(), made().values).fetchall()
            found = list(scans(explained[0]["Plan"]))
            kinds = {each["Node Type"] for each in found if each["Relation Name"] != "risk_state"}
            assert "Seq Scan" not in kinds
            assert not kinds or any("Index" in kind for kind in kinds)
            assert not any(map(decompresses_all, found)), made()


@pytest.mark.parametrize("question", QUESTIONS, ids=name_of)
def test_the_columns_are_those_of_the_row(week: Week, question: type[Question[Any]]) -> None:
    with psycopg.connect(week.url) as db:
        cursor = db.execute(reader._query(name_of(question)), EXAMPLES[question][0]().values)
        assert cursor.description is not None
        assert [column.name for column in cursor.description] == list(row_of(question).__struct_fields__)


def test_nothing_can_be_written(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        reader._SQL, "knows", "SELECT FROM risk_state WHERE trader_id = %(trader)s FOR UPDATE"
    )
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        RiskReader(week.url).knows(T)


def test_an_answer_that_takes_too_long_is_given_up(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reader._SQL, "knows", "SELECT pg_sleep(60), %(trader)s::text")
    with pytest.raises(DatabaseUnavailable, match=r"RISK_QUERY_TIMEOUT_S, which is 0\.05"):
        RiskReader(week.url, timeout_s=0.05).knows(T)
