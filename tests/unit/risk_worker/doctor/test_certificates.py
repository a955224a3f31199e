"""Until when a certificate is valid. With real ones: tests/system/test_tls.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from risk_producer.transport.connect import Encryption
from risk_worker.doctor.certificates import validity

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "level", "text"),
    [
        (timedelta(days=90), "ok", "valid until 2027-02-24 12:00 UTC, for 90 days"),
        (timedelta(days=14), "ok", "for 14 days"),
        (timedelta(days=13, hours=23), "warning", "for 13 days"),
        (timedelta(hours=5), "warning", "valid until 2026-11-26 17:00 UTC, for less than a day"),
    ],
)
def test_until_when(left: timedelta, level: str, text: str) -> None:
    found = validity(Encryption("h:1", "TLSv1.3", NOW + left), NOW)
    assert (found.level, bool(found.todo)) == (level, level == "warning")
    assert found.what.startswith("h:1 speaks TLSv1.3")
    assert text in found.what


def test_of_one_that_is_not_verified_it_is_not_known() -> None:
    found = validity(Encryption("h:1", "TLSv1.2", None), NOW)
    assert found.level == "ok"
    assert "is not known" in found.what
