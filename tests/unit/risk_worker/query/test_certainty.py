"""What is said of how sure an answer is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from risk_worker.query.certainty import Certainty, sentence
from risk_worker.times import zone_of

NOW = datetime(2026, 11, 26, 14, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLAIN = Certainty(NOW, final=False)


def said(values: dict[str, Any], **changes: Any) -> str:
    return sentence(msgspec.structs.replace(PLAIN, **changes), values)


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        (None, ""),
        (0, " Nothing waits in Redis."),
        (1, " 1 accepted snapshot waits in Redis and may be missing here."),
        (1_025, " 1,025 accepted snapshots wait in Redis and may be missing here."),
    ],
)
def test_what_waits(waiting: int | None, expected: str) -> None:
    assert said({}, waiting=waiting) == f"As of 2026-11-26 14:10:00.000+00:00.{expected}"


def test_what_was_not_asked() -> None:
    assert said({}, not_asked=("This.", "That.")).endswith("+00:00. This. That.")


def test_what_was_known() -> None:
    sealed = {"time": NOW - 3 * HOUR, "known_at": NOW - 3 * HOUR}
    assert "Final: history is sealed until 2026-11-26 12:10:00.000+00:00." in said(
        sealed, final=True, sealed_until=NOW - 2 * HOUR
    )
    open_ = said(sealed, sealed_until=NOW - 4 * HOUR)
    assert "It may still grow: history is sealed until 2026-11-26 10:10:00.000+00:00." in open_
    assert "It may still grow: history is not sealed." in said(sealed)
    late = said({"time": NOW - 3 * HOUR, "known_at": None}, sealed_until=NOW)
    assert "and snapshots that come late are taken in without --known-at." in late
    assert "has not come yet" not in late
    assert "2026-11-26 15:10:00.000+00:00 has not come yet." in said({"time": NOW + HOUR, "known_at": None})


@pytest.mark.parametrize(
    ("values", "reaches"),
    [
        ({}, False),
        ({"since": None}, True),
        ({"since": NOW - timedelta(days=1), "until": None}, False),
        ({"since": datetime(2026, 11, 25, tzinfo=UTC)}, False),
        ({"since": datetime(2026, 11, 24, 23, tzinfo=UTC)}, True),
        ({"time": NOW, "known_at": None}, False),
        ({"time": NOW - timedelta(days=9), "known_at": None}, True),
    ],
)
def test_what_retention_has_removed(values: dict[str, Any], reaches: bool) -> None:
    text = said(values, removed_before=date(2026, 11, 25))
    assert ("What was recorded before 2026-11-25 (UTC) has been removed by retention." in text) == reaches


def test_the_zone() -> None:
    assert sentence(PLAIN, {}, zone_of("Europe/Berlin")) == "As of 2026-11-26 15:10:00.000+01:00."
    greatest = msgspec.structs.replace(PLAIN, asked_at=datetime.max.replace(tzinfo=UTC))
    assert sentence(greatest, {}, zone_of("Europe/Berlin")).startswith("As of 9999-12-31")
