"""docs/reference/wire.schema.json is true of whatever a producer writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from risk_producer import RiskSnapshot
from risk_producer.contract.wire import encode

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "wire.schema.json"
VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_text()))

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=255)
numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.datetimes(
    datetime(2000, 1, 2),  # noqa: DTZ001  hypothesis adds the time zone
    datetime(2199, 12, 30),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-9))]),
)
snapshots = st.builds(
    RiskSnapshot,
    trader_id=texts.filter(bool),
    daily_pnl=numbers,
    drawdown_pct=numbers,
    current_equity=numbers,
    peak_equity=numbers,
    trading_paused=st.booleans(),
    paused_until=st.none() | times,
    last_reset_time=st.none() | times,
    recorded_at=times,
    trace_id=texts,
    reason=texts,
)


@given(snapshots, st.integers(1, 2**53 - 1), st.integers(1, 2**53))
def test_what_a_producer_writes_is_valid(snapshot: RiskSnapshot, epoch: int, seq: int) -> None:
    VALIDATOR.validate(json.loads(encode(snapshot, epoch, seq, merged=min(seq - 1, 41))))
