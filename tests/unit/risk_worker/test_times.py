"""What a person writes for a time: each form, in each zone, on the days when the clocks are changed."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from risk_worker.times import date_of, day_of, ends_of, length_of, moment_of, start_of, zone_of

NOW = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("today", at(2026, 11, 25, 23)),
        ("Yesterday", at(2026, 11, 24, 23)),
        ("yesterday 14:05", at(2026, 11, 25, 13, 5)),
        ("14:05", at(2026, 11, 26, 13, 5)),
        ("14:05:06.5", at(2026, 11, 26, 13, 5, 6, 500_000)),
        ("2026-07-01", at(2026, 6, 30, 22)),
        (" 2026-07-01  14:05 ", at(2026, 7, 1, 12, 5)),
        ("2026-07-01T14:05:06.123456", at(2026, 7, 1, 12, 5, 6, 123_456)),
        ("2026-07-01T14:05:06z", at(2026, 7, 1, 14, 5, 6)),
        ("2026-07-01 14:05 +05:30", at(2026, 7, 1, 8, 35)),
        ("2026-07-01 14:05-0430", at(2026, 7, 1, 18, 35)),
        ("2026-07-01 14:05-04", at(2026, 7, 1, 18, 5)),
        ("2h", at(2026, 11, 26, 10, 30)),
        ("2h ago", at(2026, 11, 26, 10, 30)),
        ("2 hours ago", at(2026, 11, 26, 10, 30)),
        ("90 s ago", at(2026, 11, 26, 12, 28, 30)),
        ("1 week ago", at(2026, 11, 19, 12, 30)),
        ("7d", at(2026, 11, 19, 12, 30)),
        # Clocks were put back at 03:00 to 02:00 on 2026-10-25: which of the two is said by the offset.
        ("2026-10-25 02:30+02:00", at(2026, 10, 25, 0, 30)),
        ("2026-10-25 02:30+01:00", at(2026, 10, 25, 1, 30)),
        ("2026-10-25 03:00", at(2026, 10, 25, 2)),
    ],
)
def test_a_moment(text: str, expected: datetime) -> None:
    found = moment_of(text, now=NOW, zone=BERLIN)
    assert (found, found.tzinfo) == (expected, UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "tomorrow", "2h from now", "-2h", "2.5h", "h", "ago", "9999999s", "999999w", "1764000000"),
        *(
            "2026-02-30",
            "2026-13-01",
            "26-01-01",
            "20260101",
            "2026-W05-1",
            "2026-01-31T",
            "2026-01-31 25:00",
        ),
        *("2026-01-31 14", "24:00", "14:65", "1:05", "2026-01-31 14:05 Berlin", "2026-01-31 14:05+25:00"),
        *(
            "0000-01-01",
            "0001-01-01 00:00+14:00",
            "9999-12-31 23:59-12:00",
            "２h",
            "٢h ago",
            "2026-01-31\0",
            "⏰",
        ),
        "2026-03-29 02:30",  # the clocks are put forward from 02:00 to 03:00
        "2026-10-25 02:30",  # they are put back from 03:00 to 02:00
    ],
)
def test_what_is_no_moment_says_what_is_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time like|changed; write it with its offset"):
        moment_of(text, now=NOW, zone=BERLIN)


def test_what_the_clock_shows_twice_or_never_is_said() -> None:
    with pytest.raises(ValueError, match="does not exist in Europe/Berlin"):
        moment_of("2026-03-29 02:30", now=NOW, zone=BERLIN)
    with pytest.raises(ValueError, match="comes twice in America/New_York"):
        moment_of("2026-11-01 01:30", now=NOW, zone=NEW_YORK)


def test_days_have_their_own_length() -> None:
    def hours(day: date) -> float:
        return (start_of(day + timedelta(days=1), BERLIN) - start_of(day, BERLIN)) / timedelta(hours=1)

    assert [hours(date(2026, *each)) for each in ((3, 28), (3, 29), (10, 25), (10, 26))] == [24, 23, 25, 24]
    # A zone where the clocks are put forward at midnight: the day begins at 01:00.
    assert start_of(date(2017, 10, 15), ZoneInfo("America/Sao_Paulo")) == at(2017, 10, 15, 3)


def test_today_is_that_of_the_zone() -> None:
    late = datetime(2026, 11, 26, 23, 30, tzinfo=UTC)
    assert day_of("today", now=late, zone=BERLIN) == date(2026, 11, 27)
    assert day_of("yesterday", now=late, zone=NEW_YORK) == date(2026, 11, 25)


FIVE = time(17)


def test_today_of_a_desk_begins_when_its_day_has_ended() -> None:
    """In New York it is 17:30, and the day that ends tomorrow at 17:00 has begun."""
    now = datetime(2026, 11, 26, 22, 30, tzinfo=UTC)
    assert day_of("today", now=now, zone=NEW_YORK, ends=FIVE) == date(2026, 11, 27)
    assert day_of("today", now=now - timedelta(hours=1), zone=NEW_YORK, ends=FIVE) == date(2026, 11, 26)
    assert day_of("2026-11-27", now=now, zone=NEW_YORK, ends=FIVE) == date(2026, 11, 27)
    for text in ("today", "2026-11-27"):
        assert moment_of(text, now=now, zone=NEW_YORK, ends=FIVE) == at(2026, 11, 26, 22)
    assert moment_of("yesterday", now=now, zone=NEW_YORK, ends=FIVE) == at(2026, 11, 25, 22)
    # With a time of the clock a day is that of the calendar, as people read both.
    for text in ("14:05", "today 14:05", "2026-11-26 14:05"):
        assert moment_of(text, now=now, zone=NEW_YORK, ends=FIVE) == at(2026, 11, 26, 19, 5)
    assert moment_of("yesterday 14:05", now=now, zone=NEW_YORK, ends=FIVE) == at(2026, 11, 25, 19, 5)


def test_the_end_of_a_day() -> None:
    assert [ends_of(text) for text in ("17:00", "00:30", "23:59")] == [time(17), time(0, 30), time(23, 59)]
    assert ends_of("24:00") == ends_of("00:00") == time()
    for text in ("", "5pm", "17", "17:60", "24:01", "25:00", "7:00", "17:00:00", "１７:00", "17:00\n"):
        with pytest.raises(ValueError, match="is not a time of the clock like 17:00"):
            ends_of(text)


CHANGES = [
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),  # by half an hour
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/Sao_Paulo", date(2017, 10, 15)),  # 00:00 is never shown
    ("America/Sao_Paulo", date(2018, 2, 17)),  # 23:00 to 24:00 is shown twice
    ("America/Havana", date(2026, 11, 1)),  # 00:00 to 01:00 is shown twice
    ("Pacific/Apia", date(2011, 12, 30)),  # a day that never was
]


@pytest.mark.parametrize(("name", "changed"), CHANGES)
def test_days_on_which_the_clocks_are_changed(name: str, changed: date) -> None:
    """A day ends at the first minute at which the clocks show its end or more, found by looking at each."""
    zone = zone_of(name)
    days = [changed + timedelta(days=n) for n in range(-1, 3)]
    first = datetime.combine(days[0], time(), UTC) - timedelta(days=2)
    minutes = [first + timedelta(minutes=n) for n in range(7 * 1440)]
    walls = [minute.astimezone(zone).replace(tzinfo=None) for minute in minutes]

    def first_at(local: datetime) -> datetime:
        return next(minute for minute, wall in zip(minutes, walls, strict=True) if wall >= local)

    for text in ("24:00", "17:00", "02:00", "02:30", "00:30", "23:30"):
        ends = ends_of(text)
        late = timedelta(days=text == "24:00")
        starts = [start_of(day, zone, ends) for day in days]
        assert starts == [first_at(datetime.combine(day, ends) - timedelta(days=1) + late) for day in days]
        for start, stop, day in zip(starts, starts[1:], days, strict=False):
            for moment in (start, start + (stop - start) / 2, stop - timedelta.resolution):
                assert start == stop or date_of(moment, zone, ends) == day


def test_a_year_of_a_desk_has_two_days_of_another_length() -> None:
    for text, short, long in (("17:00", 23, 25), ("02:30", 23.5, 25), ("24:00", 23, 25)):
        ends = ends_of(text)
        starts = [start_of(date(2026, 1, 1) + timedelta(days=n), BERLIN, ends) for n in range(366)]
        lengths = [(b - a) / timedelta(hours=1) for a, b in pairwise(starts)]
        assert sum(lengths) == 365 * 24
        assert (min(lengths), max(lengths)) == (short, long)
        assert len([each for each in lengths if each != 24]) == (3 if text == "02:30" else 2)


@pytest.mark.parametrize(
    "name", ["Mars", "", "Europe", "../etc/passwd", "/etc/passwd", "a\0b", "ü", "x" * 5_000]
)
def test_what_is_no_zone(name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone"):
        zone_of(name)


def test_lengths() -> None:
    texts = ["90s", "15m", "2h", "7d", "2w", "3 minutes", "1 day", "0s"]
    seconds = [90, 900, 7_200, 604_800, 1_209_600, 180, 86_400, 0]
    assert [length_of(text).total_seconds() for text in texts] == seconds
