"""What a picture shows: lines that end at silences, bands of pauses, and no more steps than can be seen."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from risk_worker.picture.curve import STEPS, Picture, Span, picture_of
from risk_worker.query.questions import CurveRow
from tests.support.facts import pause

START = datetime(2026, 11, 26, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(minutes: float) -> datetime:
    return START + minutes * MINUTE


def row(minutes: float, equity: float = 100.0, *, peak: float = 101.0, drawdown: float = 1.0) -> CurveRow:
    return CurveRow(at(minutes), 3, equity - 1, equity + 2, equity - 3, equity, peak, drawdown, 0.0, False)


def picture(minutes: Iterable[float], **changes: Any) -> Picture:
    given = {"bucket": MINUTE, "since": START, "until": at(60), "zone": UTC, "pauses": ()}
    return picture_of("a", [row(each) for each in minutes], **{**given, **changes})


def spans(found: Iterable[Span]) -> list[tuple[float, float]]:
    return [((each.since - START) / MINUTE, (each.until - START) / MINUTE) for each in found]


def lines(found: Picture) -> list[list[float]]:
    return [[(step.since - START) / MINUTE for step in line] for line in found.lines]


@pytest.mark.parametrize(
    ("minutes", "expected", "silences"),
    [
        (range(60), [list(range(60))], []),
        # One bucket that lacks is passed over; two are a silence.
        ([*range(10), *range(11, 60)], [[*range(10), *range(11, 60)]], []),
        ([*range(10), *range(12, 60)], [list(range(10)), list(range(12, 60))], [(10, 12)]),
        ([*range(5, 30), *range(40, 50)], [[*range(5, 30)], [*range(40, 50)]], [(0, 5), (30, 40), (50, 60)]),
        # Every ten minutes is what this trader does.
        (range(0, 60, 10), [list(range(0, 60, 10))], []),
        ([0, 10, 20, 50], [[0, 10, 20], [50]], [(21, 50)]),
        ([], [], [(0, 60)]),
        ([30], [[30]], [(0, 30), (31, 60)]),
    ],
)
def test_lines_end_where_no_snapshot_came(
    minutes: Iterable[float], expected: list[list[float]], silences: list[tuple[float, float]]
) -> None:
    found = picture(minutes)
    assert (lines(found), spans(found.silences)) == (expected, silences)


def test_what_is_shown_is_widened_to_whole_buckets() -> None:
    found = picture([-1, *range(60), 60], since=at(-0.5), until=at(60.5))
    assert (found.since, found.until) == (at(-1), at(61))
    assert found.silences == ()
    empty = picture([], since=at(5), until=at(5))
    assert (empty.since, empty.until) == (at(5), at(6))


def test_pauses_are_bands_within_what_is_shown() -> None:
    pauses = [pause("a", at(-9), at(4)), pause("a", at(10), at(12)), pause("a", at(50), None)]
    assert spans(picture(range(60), pauses=pauses).pauses) == [(0, 4), (10, 12), (50, 60)]
    outside = [pause("a", at(-9), at(-4)), pause("a", at(61), None), pause("a", at(9), at(9))]
    assert picture(range(60), pauses=outside).pauses == ()


def test_many_pauses_are_few_bands() -> None:
    second = timedelta(seconds=1)
    pauses = [pause("a", START + n * 2 * second, START + (n * 2 + 1) * second) for n in range(1_800)]
    [(since, until)] = spans(picture(range(60), pauses=pauses).pauses)
    assert (since, round(until, 2)) == (0, 59.98)


def test_steps_are_put_together_with_their_extremes() -> None:
    second = timedelta(seconds=1)
    rows = [
        row(n / 60, 100.0 + n % 50, drawdown=n % 7 if n != 1_234 else 50.0)
        for n in range(10_000)
        if not 5_000 <= n < 5_300
    ]
    found = picture_of("a", rows, (), bucket=second, since=START, until=START + 10_000 * second, zone=UTC)
    steps = list(found.steps)
    assert 1_000 < len(steps) <= STEPS + 1
    assert len(found.lines) == 2
    assert found.silences == (Span(START + 5_000 * second, START + 5_300 * second),)
    assert min(step.low for step in steps) == min(each.low_equity for each in rows)
    assert max(step.high for step in steps) == max(each.high_equity for each in rows)
    assert max(step.drawdown for step in steps) == 50
    assert (steps[0].open, steps[-1].close) == (rows[0].open_equity, rows[-1].close_equity)
    assert all(before.until <= after.since for before, after in pairwise(steps))


def test_a_peak_far_away_does_not_flatten_the_equity() -> None:
    far = picture_of(
        "a", [row(n, peak=900.0) for n in range(9)], (), bucket=MINUTE, since=START, until=at(9), zone=UTC
    )
    assert far.peak_is_off
    assert far.equity.high < 110
    near = picture(range(9), until=at(9))
    assert not near.peak_is_off
    assert near.equity.high > 102


@pytest.mark.parametrize("value", [0.0, -5.0, 1e308, -1e308, 5e-324, 1e15])
def test_whatever_a_snapshot_may_hold_has_a_place(value: float) -> None:
    rows = [
        CurveRow(at(n), 1, value, max(value, 0.0), min(value, 0.0), value, value, abs(value), 0.0, False)
        for n in range(3)
    ]
    found = picture_of("a", rows, (), bucket=MINUTE, since=START, until=at(3), zone=UTC)
    assert all(0 <= found.equity.at(each) <= 1 for each in (value, 0.0, 1e308, -1e308))
    assert all(0 <= found.drawdown.at(each) <= 1 for each in (value, 0.0, 1e308, -1e308))
    assert len(found.equity.marks) <= 12
