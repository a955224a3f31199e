"""Numbers and lengths as a reader sees them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from risk_worker.picture import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234.50"),
        (-1234.567, "−1,234.57"),
        (-0.001, "0.00"),
        (0.0, "0.00"),
        (-1e300, "−1e+300"),
        (float("inf"), "inf"),
    ],
)
def test_amount(value: float, text: str) -> None:
    assert figures.amount(value) == text


def test_signed_amounts() -> None:
    assert [figures.amount(each, signed=True) for each in (5.0, -5.0, 0.0, -0.0)] == [
        "+5.00",
        "−5.00",
        "0.00",
        "0.00",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.3, "12.30"),
        (-1234.6, "−1,235"),
        (-24_032.0, "−24.0\u202fk"),
        (-186_912.0, "−187\u202fk"),
        (12_345_678, "12.35\u202fM"),
        (-2e9, "−2.00\u202fB"),
        (1e20, "1e+20"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert figures.short(value) == text


@pytest.mark.parametrize(
    ("values", "step", "texts"),
    [
        ((0.0, 0.5, 1.0), 0.5, ["0.0", "0.5", "1.0"]),
        ((98_000.0, 100_000.0), 2_000.0, ["98,000", "100,000"]),
        ((12_500_000.0, 13_000_000.0), 500_000.0, ["12.5\u202fM", "13.0\u202fM"]),
        ((-1e9, 0.0, 1e9), 1e9, ["−1\u202fB", "0\u202fB", "1\u202fB"]),
        ((1e300, 2e300), 1e300, ["1e+300", "2e+300"]),
    ],
)
def test_on_an_axis(values: tuple[float, ...], step: float, texts: list[str]) -> None:
    assert figures.on_axis(values, step) == texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (7.25, "7.2 s"),
        (59.4, "59 s"),
        (59.99, "59 s"),
        (60, "1 min"),
        (3_599, "59 min"),
        (3_900, "1 h 05 min"),
        (100_000, "1 d 3 h"),
        (-90, "−1 min"),
    ],
)
def test_length(seconds: float, text: str) -> None:
    assert figures.length(seconds).replace("\u202f", " ") == text


def test_the_ends_of_the_calendar() -> None:
    end = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    assert figures.moment(end, ZoneInfo("Asia/Tokyo")) == "9999-12-31 23:59:00"
