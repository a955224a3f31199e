"""Marks are round, few, and in the right place on days with 23 and 25 hours too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest

from risk_worker.picture import axis

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 10, (0, 2, 4, 6, 8, 10)),
        (98.7, 103.2, (99, 100, 101, 102, 103)),
        (-3, 4, (-2, 0, 2, 4)),
        (979_060.25, 1_006_448.5, (980_000, 990_000, 1_000_000)),
        (0.00011, 0.00042, (0.0001, 0.0002, 0.0003, 0.0004)),
    ],
)
def test_marks_are_round(low: float, high: float, marks: tuple[float, ...]) -> None:
    found = axis.scale(low, high)
    assert found.marks == pytest.approx(marks)
    assert found.low < low
    assert found.high > high


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1e6, 1e300, 1e-300, 5e-324])
def test_a_straight_line_is_in_the_middle(value: float) -> None:
    found = axis.scale(value, value)
    assert found.at(value) == pytest.approx(0.5)
    assert 1 <= len(found.marks) <= 8


@pytest.mark.parametrize(
    ("low", "high"), [(-1.7e308, 1.7e308), (0, 5e-324), (1e15, 1e15 + 1), (-1e308, 0), (1, 1 + 1e-12)]
)
def test_the_ends_of_what_a_float_holds(low: float, high: float) -> None:
    found = axis.scale(low, high)
    assert found.low < found.high
    assert 0 <= found.at(low) <= found.at(high) <= 1
    assert 1 <= len(found.marks) <= 12


@pytest.mark.parametrize(
    ("most", "high"), [(4.84, 5), (2, 2), (0.3, 0.4), (0, 1e-9), (63, 100), (1e308, None)]
)
def test_a_scale_from_zero_ends_at_a_mark(most: float, high: float | None) -> None:
    found = axis.scale_from_zero(most)
    assert found.low == 0
    assert found.marks[0] == 0
    assert found.marks[-1] == pytest.approx(found.high)
    assert 2 <= len(found.marks) <= 5
    if high is not None:
        assert found.high == pytest.approx(high)


def labels(since: datetime, length: timedelta, zone: tzinfo = UTC, marks: int = 8) -> list[str]:
    found = axis.times(since, since + length, zone, marks=marks)
    assert all(since <= mark.at <= since + length for mark in found)
    assert len(found) <= marks + 1
    return [mark.label for mark in found]


def test_a_day() -> None:
    start = datetime(2026, 11, 26, tzinfo=UTC)
    day = timedelta(days=1)
    assert labels(start, day) == [f"{hour:02}:00" for hour in range(0, 24, 3)] + ["27 Nov"]
    assert labels(start, day, marks=6) == ["00:00", "04:00", "08:00", "12:00", "16:00", "20:00", "27 Nov"]
    assert labels(start + timedelta(hours=7, minutes=3), timedelta(minutes=50))[:2] == ["07:10", "07:20"]
    assert labels(start, timedelta(seconds=40))[:3] == ["00:00:00", "00:00:05", "00:00:10"]


@pytest.mark.parametrize(("month", "day", "hours"), [(3, 29, 23), (10, 25, 25)])
def test_a_day_on_which_the_clocks_are_changed(month: int, day: int, hours: int) -> None:
    since = datetime(2026, month, day, tzinfo=BERLIN).astimezone(UTC)
    found = axis.times(since, since + timedelta(hours=hours), BERLIN, marks=30)
    shown = [mark.label for mark in found]
    expected = [f"{hour:02}:00" for hour in range(24) if (hours, hour) != (23, 2)]
    assert shown == [*expected, f"{day + 1} {found[-1].at.astimezone(BERLIN):%b}"]
    for mark in found[:-1]:
        assert f"{mark.at.astimezone(BERLIN):%H:%M}" == mark.label
    assert [mark.at for mark in found] == sorted({mark.at for mark in found})


@pytest.mark.parametrize(
    ("days", "first"),
    [(7, "23 Nov"), (30, "23 Nov"), (200, "Dec 2026"), (3_000, "2028"), (70_000, "2050")],
)
def test_longer_times(days: int, first: str) -> None:
    assert labels(datetime(2026, 11, 23, tzinfo=UTC), timedelta(days=days))[0] == first


def test_the_ends_of_the_calendar() -> None:
    for since in (datetime(2000, 1, 1, tzinfo=UTC), datetime(2199, 12, 30, tzinfo=UTC)):
        assert labels(since, timedelta(days=1), ZoneInfo("Pacific/Kiritimati"))
