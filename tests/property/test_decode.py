"""Many payloads at once are decoded as each of them alone is, or the caller is told to go one by one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_producer import InvalidSnapshot
from risk_producer.contract.wire import decode, decode_all, encode
from tests.golden.make import PLAIN

SOUND: dict[str, Any] = msgspec.json.decode(encode(PLAIN, 7, 9))
TIMES = [
    "2026-01-02T03:04:05.678901Z",
    "2026-01-02T03:04:05+00:00",
    "2026-01-02T03:04:05-23:59",
    "2199-12-31T23:59:59.999999Z",
    "2200-01-01T00:00:00Z",
    "1999-12-31T23:59:59+00:00",
    "2000-01-01T00:00:00+00:01",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-00:01",
    "2026-01-02T03:04:05",
]
TEXTS = ["", "a\0b", "\\", "\ud7ff", "x" * 255, "x" * 256, "ü" * 255, "ü" * 256, '"']
NUMBERS = [0, -1, 1.5, 2**70, 1.7e308, -1.7e308, None, "1"]
VALUES: dict[str, list[Any]] = {
    "v": [0, 1, 2],
    "trader_id": TEXTS,
    "epoch": [0, 1, 2**53],
    "seq": [0, 1, 9, 2**53],
    "merged": [-1, 0, 8, 9, 10],
    "recorded_at": TIMES,
    "last_reset_time": TIMES,
    "paused_until": [None, *TIMES],
    "daily_pnl": NUMBERS,
    "peak_equity": NUMBERS,
    "trading_paused": [True, False, 1],
    "trace_id": TEXTS,
    "reason": TEXTS,
    "unknown": [1],
}
CHANGES = st.fixed_dictionaries({}, optional={name: st.sampled_from(of) for name, of in VALUES.items()})


def changed(**changes: Any) -> bytes:
    return msgspec.json.encode({**SOUND, **changes})


PAYLOADS = st.one_of(
    CHANGES.map(lambda changes: changed(**changes)),
    st.binary(max_size=10),
    st.sampled_from([b"", b"[]", b'{"v":7}', encode(PLAIN, 1, 2) + b" ", encode(PLAIN, 1, 2) + b","]),
)


def one_by_one(payloads: list[bytes]) -> list[object]:
    found: list[object] = []
    for each in payloads:
        try:
            found.append(decode(each))
        except InvalidSnapshot:
            found.append(None)
    return found


@pytest.mark.parametrize("name", VALUES)
def test_each_value_of_a_field_is_taken_at_once_only_where_it_is_taken_alone(name: str) -> None:
    for value in VALUES[name]:
        payloads = [changed(), changed(**{name: value})]
        at_once = decode_all(payloads)
        assert at_once is None or at_once == one_by_one(payloads), value


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\\ud800", b"\\u0000", b"\\u00e9"])
def test_a_text_that_no_database_holds_is_not_taken_at_once(text: bytes) -> None:
    payloads = [changed(), changed(reason="REASON").replace(b"REASON", text)]
    at_once = decode_all(payloads)
    assert at_once is None or at_once == one_by_one(payloads)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity", b"-Infinity", b"1e308"])
@pytest.mark.parametrize("name", ["daily_pnl", "drawdown_pct", "current_equity", "peak_equity"])
def test_a_number_that_is_not_finite_is_not_taken_at_once(name: str, number: bytes) -> None:
    payload = changed(**{name: 1234567}).replace(b"1234567", number)
    assert decode_all([changed(), payload]) == (
        [decode(changed()), decode(payload)] if number == b"1e308" else None
    )


@given(st.lists(PAYLOADS, max_size=4))
def test_what_is_decoded_at_once_is_what_each_is_alone(payloads: list[bytes]) -> None:
    at_once = decode_all(payloads)
    assert at_once is None or at_once == one_by_one(payloads)


@given(st.lists(st.tuples(st.integers(1, 2**53 - 1), st.integers(1, 2**53)), max_size=4))
def test_what_a_producer_writes_in_ascii_is_decoded_at_once(identities: list[tuple[int, int]]) -> None:
    payloads = [encode(PLAIN, epoch, seq) for epoch, seq in identities]
    assert decode_all(payloads) == [decode(each) for each in payloads]
