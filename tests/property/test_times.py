"""Times that a person writes: any text is read or refused, and what is shown is read again."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from risk_worker.times import day_of, length_of, moment_of, zone_of

NOW = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (
        lambda: moment_of(text, now=NOW, zone=NEW_YORK),
        lambda: day_of(text, now=NOW, zone=NEW_YORK),
        lambda: length_of(text),
        lambda: zone_of(text),
    ):
        with suppress(ValueError):
            read()


@given(st.datetimes(datetime(2000, 1, 2), datetime(2199, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_what_is_shown_is_read_again(moment: datetime) -> None:
    for zone in (BERLIN, NEW_YORK, UTC):
        assert moment_of(moment.astimezone(zone).isoformat(), now=NOW, zone=UTC) == moment
