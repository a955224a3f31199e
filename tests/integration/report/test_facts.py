"""What a report says is what the questions answer, all of it as of one moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from risk_producer.settings import Settings
from risk_worker.query.question import BadQuestion
from risk_worker.query.questions import AsOf, Curve, Drawdown, Pauses, Pnl, Stale, State
from risk_worker.query.reader import RiskReader
from risk_worker.report import facts as module
from risk_worker.report.facts import Facts, Unasked, gather
from risk_worker.seal.chain import Run
from risk_worker.seal.sealer import WINDOWS, Sealer
from tests.integration.seal.conftest import fill
from tests.support.database import store_entries
from tests.support.factory import entry, payload

DAY = datetime(2026, 3, 4, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def url(database_url: str) -> str:
    """a pauses from 10:00 to 12:00 and from 22:00 on into the next day, b reports until 15:00, c only on the
    next day."""
    made = []
    for n in range(30):
        at = DAY + n * HOUR
        paused = 10 <= n < 12 or 22 <= n < 26
        fields: dict[str, Any] = {"recorded_at": at, "drawdown_pct": n * 7 % 5, "current_equity": 100.0 + n}
        made.append(payload("a", n + 1, trading_paused=paused, reason=f"at {n}" if paused else "", **fields))
        if n <= 15:
            made.append(payload("b", n + 1, **{**fields, "drawdown_pct": 9.5 if n == 7 else 0.0}))
        if n >= 24:
            made.append(payload("c", n, **fields))
    store_entries(database_url, *(entry(number, data) for number, data in enumerate(made, start=1)))
    return database_url


def settings(url: str, **more: str) -> Settings:
    return Settings.load({"POSTGRES_URL": url, **more})


def of_day(url: str, day: str = "2026-03-04", *, redis: str | None = None, **more: Any) -> Facts:
    return gather(settings(url, **({"REDIS_URL": redis} if redis else {})), day, **more)


def test_a_day_that_is_over(url: str) -> None:
    found = of_day(url)
    reader = RiskReader(url)
    end = DAY + timedelta(days=1)
    assert (found.since, found.until, found.over) == (DAY, end, True)
    last = list(reader.ask(AsOf(end - timedelta(microseconds=1))))
    assert [each.last for each in found.traders] == last
    assert [each.trader_id for each in found.traders] == ["a", "b"]
    worst = {row.trader_id: row for row in reader.ask(Drawdown("2026-03-04"))}
    pauses = list(reader.ask(Pauses(since=DAY, until=end)))
    week = list(reader.ask(Pnl(week="2026-03-04")))
    for number, each in enumerate(found.traders):
        assert each.number == number
        assert each.worst == worst[each.trader_id]
        assert [fields(row) for row in each.pauses] == [
            fields(row) for row in pauses if row.trader_id == each.trader_id
        ]
        assert list(each.week) == [row for row in week if row.trader_id == each.trader_id]
        curve = list(reader.ask(Curve(each.trader_id, found.bucket, since=DAY, until=end)))
        assert [step.close for step in each.curve.steps] == [row.close_equity for row in curve]
        assert each.reported
    a, b = found.traders
    assert a.paused is not None
    assert (a.paused.since, a.paused.reason) == (DAY + 22 * HOUR, "at 22")
    assert b.paused is None
    assert (a.silent_s, b.silent_s) == (3_600, 9 * 3_600)
    assert [span.since for span in a.curve.pauses] == [DAY + 10 * HOUR, DAY + 22 * HOUR]
    assert [(span.since, span.until) for span in b.curve.silences] == [(DAY + 15 * HOUR + found.bucket, end)]


def fields(row: Any) -> tuple[Any, ...]:
    """Without the length of a pause, which grows while it lasts."""
    return tuple(getattr(row, name) for name in row.__struct_fields__ if name != "lasted_s")


def test_silence_at_the_end_of_a_day_depends_on_what_is_long(url: str) -> None:
    assert [each.trader_id for each in of_day(url, older_than="4h").silent] == ["b"]
    assert [each.trader_id for each in of_day(url, older_than="10h").silent] == []


def test_a_trader_that_has_not_reported_in_the_day(url: str) -> None:
    found = of_day(url, "2026-03-05")
    assert [(each.trader_id, each.reported) for each in found.traders] == [
        ("a", True),
        ("b", False),
        ("c", True),
    ]
    b = found.traders[1]
    assert (b.worst, list(b.curve.steps)) == (None, [])
    assert [row.day.day for row in b.week] == [4]


def test_today(url: str) -> None:
    now = datetime.now(UTC)
    store_entries(url, entry(99, payload("new", 1, recorded_at=now)))
    found = gather(settings(url), older_than="10m")
    reader = RiskReader(url)
    assert (found.over, found.until) == (False, found.now)
    assert now <= found.now < now + timedelta(minutes=1)
    assert [each.trader_id for each in found.traders] == [row.trader_id for row in reader.ask(State())]
    # What fell silent by its clock alone has been stored now, and is silent all the same.
    assert [each.trader_id for each in found.silent] == [row.trader_id for row in reader.ask(Stale("10m"))]


def test_the_day_is_that_of_the_zone(url: str) -> None:
    found = of_day(url, tz="America/New_York")
    assert found.since == DAY + 5 * HOUR
    assert found.traders[0].curve.since == DAY + 5 * HOUR
    assert found.traders[0].last.recorded_at == DAY + 28 * HOUR


def test_a_day_that_has_not_begun(url: str) -> None:
    with pytest.raises(BadQuestion, match="day: 2199-01-01 begins at"):
        of_day(url, "2199-01-01")
    with pytest.raises(BadQuestion, match="older_than"):
        of_day(url, older_than="soon")


def test_all_is_as_of_one_moment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come while the report is made are in no part of it."""
    draw: Any = vars(module)["picture_of"]

    def slowly(trader: str, *rest: Any, **more: Any) -> Any:
        n = 40 + ord(trader)
        store_entries(
            url,
            entry(n, payload("a", n, recorded_at=DAY + 23.5 * HOUR, drawdown_pct=99.0)),
            entry(n + 1, payload("b", n, recorded_at=DAY + 23.5 * HOUR, drawdown_pct=99.0)),
        )
        return draw(trader, *rest, **more)

    before = of_day(url)
    monkeypatch.setattr(module, "picture_of", slowly)
    found = of_day(url)
    assert [each.curve for each in found.traders] == [each.curve for each in before.traders]
    assert [each.last for each in found.traders] == [each.last for each in before.traders]
    monkeypatch.undo()
    assert of_day(url).traders[1].silent_s == 1_800


def test_answers_as_of_one_moment_may_be_read_side_by_side(url: str) -> None:
    with RiskReader(url).at_one_moment() as moment:
        a, b = (iter(moment.ask(Curve(name, "1h", since=DAY))) for name in "ab")
        assert [next(a).bucket for _ in range(3)] == [next(b).bucket for _ in range(3)]
        store_entries(url, entry(99, payload("d", 1)))
        assert [row.trader_id for row in moment.ask(State())] == ["a", "b", "c"]
        assert moment.now() == moment.now()


class TestProof:
    def test_without_redis(self, url: str) -> None:
        found = of_day(url).proof
        assert isinstance(found.reconciliation, Unasked)
        assert "REDIS_URL" in found.reconciliation.reason
        assert found.head is None

    def test_reconciled_and_sealed(self, database_url: str, redis_url: str) -> None:
        fill(database_url, ["a"])
        with Sealer(database_url, WINDOWS["1h"]) as sealer:
            runs = list(sealer.seal())
        found = of_day(database_url, redis=redis_url).proof
        assert not isinstance(found.reconciliation, Unasked)
        assert found.reconciliation.totals["stored"] == 35
        assert isinstance(found.head, Run)
        assert found.head.head == runs[-1].head
