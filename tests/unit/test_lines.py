"""What a line of a file may look like, and what is said about one that is none."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from risk_producer.snapshot import RiskSnapshot
from risk_worker.lines import LINE_BYTES_MAX, Form, SnapshotLines, UnreadableFile

REQUIRED = {
    "trader_id": "t1",
    "daily_pnl": 1.5,
    "drawdown_pct": 0.25,
    "current_equity": 99,
    "peak_equity": 100,
}
WHOLE = REQUIRED | {
    "trading_paused": True,
    "paused_until": "2026-02-01T10:00:00+02:00",
    "last_reset_time": "2026-01-31T00:00:00Z",
    "recorded_at": "2026-01-31T09:30:00.250Z",
    "trace_id": "abc",
    "reason": 'a "quoted", multi-lingual рeason ✓',
}
HEADER = "trader_id,daily_pnl,drawdown_pct,current_equity,peak_equity"
ROW = "t1,1.5,0.25,99,100"


def read(content: bytes | str, form: Form | None = None) -> list[tuple[int, RiskSnapshot | str]]:
    raw = content.encode() if isinstance(content, str) else content
    return list(SnapshotLines(io.BytesIO(raw), form))


def only(content: bytes | str, form: Form | None = None) -> RiskSnapshot:
    [(_, snapshot)] = read(content, form)
    assert isinstance(snapshot, RiskSnapshot), snapshot
    return snapshot


def json_line(**changes: Any) -> str:
    return json.dumps({k: v for k, v in (REQUIRED | changes).items() if v is not ...})


def csv_of(fields: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fields)
    writer.writeheader()
    writer.writerow(fields)
    return out.getvalue()


@pytest.mark.parametrize("content", [json.dumps(WHOLE), csv_of(WHOLE)], ids=["jsonl", "csv"])
def test_every_field_is_read(content: str) -> None:
    snapshot = only(content)
    assert snapshot.trader_id == "t1"
    assert (snapshot.daily_pnl, snapshot.drawdown_pct) == (1.5, 0.25)
    assert (snapshot.current_equity, snapshot.peak_equity) == (99.0, 100.0)
    assert snapshot.trading_paused is True
    assert snapshot.paused_until == datetime(2026, 2, 1, 8, tzinfo=UTC)
    assert snapshot.last_reset_time == datetime(2026, 1, 31, tzinfo=UTC)
    assert snapshot.recorded_at == datetime(2026, 1, 31, 9, 30, 0, 250_000, tzinfo=UTC)
    assert snapshot.trace_id == "abc"
    assert snapshot.reason == WHOLE["reason"]


@pytest.mark.parametrize(
    "content",
    [
        json_line(),
        json_line(paused_until=None, reason=None, trading_paused=None, recorded_at=None),
        f"{HEADER}\n{ROW}",
        f"{HEADER},paused_until,reason,trading_paused,recorded_at\n{ROW},,,,",
    ],
)
def test_what_is_left_out_has_its_default(content: str) -> None:
    before = datetime.now(UTC)
    snapshot = only(content)
    assert snapshot.paused_until is None
    assert snapshot.reason == ""
    assert snapshot.trading_paused is False
    assert before <= snapshot.recorded_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("text", "flag"),
    [("true", True), ("1", True), ("TRUE", True), ("false", False), ("0", False), ("", False)],
)
def test_booleans_of_csv(text: str, flag: bool) -> None:
    assert only(f"{HEADER},trading_paused\n{ROW},{text}\n").trading_paused is flag


def test_columns_may_stand_in_any_order_with_blanks_around_their_names() -> None:
    names = " peak_equity , current_equity,drawdown_pct,daily_pnl,trader_id"
    assert only(f"{names}\n100,99,0.25,1.5,t1").peak_equity == 100


def test_quoted_numbers_in_json_are_numbers() -> None:
    assert only(json_line(daily_pnl="-12.5")).daily_pnl == -12.5


@pytest.mark.parametrize("content", [f"{HEADER}\r\n{ROW}\r\n", f"{json_line()}\r\n", f"{json_line()}"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n \n", b"\n\n"])
def test_line_ends_marks_and_blank_lines_do_no_harm(content: str, before: bytes) -> None:
    only(before + content.encode())


def test_blank_lines_are_passed_over_and_counted() -> None:
    assert [number for number, _ in read(f"\n{json_line()}\n\n \n{json_line()}\n")] == [2, 5]
    assert [number for number, _ in read(f"\n{HEADER}\n\n{ROW}\n\n{ROW}\n")] == [4, 6]


def test_a_field_of_csv_may_hold_line_breaks() -> None:
    got = read(f'{HEADER},reason\n{ROW},"first\nsecond"\n{ROW},x')
    assert [number for number, _ in got] == [2, 4]
    assert isinstance(got[0][1], RiskSnapshot)
    assert got[0][1].reason == "first\nsecond"


BAD_JSON: list[tuple[bytes | str, str]] = [
    (json_line(daily_pnl=...), "daily_pnl must be given"),
    (json_line(trader_id=""), "trader_id must be given"),
    (json_line(dayly_pnl=1), "unknown key 'dayly_pnl'; known are trader_id,"),
    (json_line(daily_pnl="1_000"), "daily_pnl must be a number, got '1_000'"),
    (json_line(daily_pnl=[1]), "daily_pnl must be a number, got [1]"),
    (json_line(daily_pnl="nan"), "daily_pnl must be a finite number"),
    (json_line(trading_paused="yes"), "trading_paused must be true, false, 1 or 0, got 'yes'"),
    (json_line(trading_paused=1), "trading_paused must be True or False, got 1"),
    (json_line(recorded_at="2026-01-31T09:30:00"), "recorded_at must be an ISO 8601 time with a zone"),
    (json_line(paused_until="20260131"), "paused_until must be an ISO 8601 time with a zone"),
    (json_line(paused_until=1769850000), "paused_until must be a datetime"),
    (json_line(recorded_at="1999-01-31T09:30:00Z"), "recorded_at must lie between 2000-01-01"),
    (json_line(reason="a\0b"), "reason must not hold a NUL"),
    (json_line(reason="x" * 1025), "reason must have 0..1024 characters, got 1025"),
    (json_line(trader_id=7), "trader_id must be a text, got 7"),
    ("[1]", "one JSON object a line is expected, got [1]"),
    ('{"trader_id": ', "Input data was truncated"),
    (b'{"trader_id": "\xff"}', "not UTF-8: byte 0xff at byte 16"),
    (b"\0\0\0", "JSON is malformed"),
    (json_line(reason="x" * LINE_BYTES_MAX), f"longer than {LINE_BYTES_MAX} bytes"),
    ('{"a":' * 5000 + "1" + "}" * 5000, "maximum recursion depth"),
    ("[" * 20_000, ""),
]


@pytest.mark.parametrize(("line", "reason"), BAD_JSON, ids=[reason[:30] or "deep" for _, reason in BAD_JSON])
def test_a_bad_line_of_json_is_named_and_the_others_are_read(line: bytes | str, reason: str) -> None:
    good = json_line().encode()
    raw = line.encode() if isinstance(line, str) else line
    first, bad, last = read(good + b"\n" + raw + b"\n" + good, "jsonl")
    assert isinstance(first[1], RiskSnapshot)
    assert bad[0] == 2
    assert isinstance(bad[1], str)
    assert bad[1].startswith(reason), bad[1]
    assert 0 < len(bad[1]) < 400
    assert last[0] == 3
    assert isinstance(last[1], RiskSnapshot)


BAD_CSV: list[tuple[bytes | str, str]] = [
    ("t1,1.5,0.25,99", "4 fields where the header has 5"),
    ("t1,1.5,0.25,99,100,7", "6 fields where the header has 5"),
    ("t1,,0.25,99,100", "daily_pnl must be given"),
    (",,,,", "trader_id, daily_pnl, drawdown_pct, current_equity, peak_equity must be given"),
    ("t1,abc,0.25,99,100", "daily_pnl must be a number, got 'abc'"),
    ("t1,inf,0.25,99,100", "daily_pnl must be a finite number"),
    ('t1,"1"2,0.25,99,100', "not CSV: "),
    (b"t1\xff,1.5,0.25,99,100", "not UTF-8: byte 0xff at byte 3"),
    (b"t\0,1.5,0.25,99,100", "trader_id must not hold a NUL"),
    ("x" * 300 + ",1.5,0.25,99,100", "trader_id must have 1..255 characters, got 300"),
    ("x" * (LINE_BYTES_MAX + 5), f"not CSV: longer than {LINE_BYTES_MAX} bytes"),
    ("t1," + "9" * 60_000 + "x,0.25,99,100", "daily_pnl must be a number, got '999"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_CSV, ids=[reason[:30] for _, reason in BAD_CSV])
def test_a_bad_line_of_csv_is_named_and_the_others_are_read(line: bytes | str, reason: str) -> None:
    raw = line.encode() if isinstance(line, str) else line
    first, bad, last = read(f"{HEADER}\n{ROW}\n".encode() + raw + f"\n{ROW}".encode(), "csv")
    assert isinstance(first[1], RiskSnapshot)
    assert bad[0] == 3
    assert isinstance(bad[1], str)
    assert bad[1].startswith(reason), bad[1]
    assert len(bad[1]) < 400
    assert last[0] == 4
    assert isinstance(last[1], RiskSnapshot)


def test_a_quote_that_is_never_closed_is_said_to_reach_to_the_end() -> None:
    got = read(f'{HEADER}\n{ROW}\nt1,"1.5,0.25,99,100\n{ROW}\n{ROW}\n')
    assert isinstance(got[0][1], RiskSnapshot)
    assert got[1:] == [(3, "not CSV: unexpected end of data (up to line 5)")]


UNREADABLE: list[tuple[bytes | str, Form | None, str]] = [
    ("", None, "it is empty"),
    ("", "csv", "it is empty"),
    (b"\xef\xbb\xbf", None, "it is empty"),
    ("\n \n", None, "nothing in it but blank lines"),
    (f"{HEADER}\n".encode("utf-16"), None, "UTF-16"),
    ('[{"trader_id": 1}]', None, "JSON array"),
    (f"{HEADER},foo\n", None, "unknown column 'foo'; the columns are trader_id, daily_pnl"),
    (f"{HEADER},reason,reason\n", None, "a column twice"),
    ("trader_id,daily_pnl,peak_equity\n", None, "no column drawdown_pct, current_equity;"),
    (HEADER.replace(",", ";"), None, "separated by ';'"),
    (ROW, None, "unknown column 't1'"),
    (b"\xff\x00", "csv", "its first line is no header row of CSV"),
    (gzip.compress(ROW.encode()), None, "it is compressed; pipe it: gunzip -c FILE | riskstream push -"),
    (gzip.compress(ROW.encode()), "jsonl", "it is compressed; pipe it: gunzip -c FILE"),
    (bz2.compress(ROW.encode()), None, "it is compressed; pipe it: bunzip2 -c FILE"),
    (lzma.compress(ROW.encode()), None, "it is compressed; pipe it: xz -dc FILE"),
    ("x" * (LINE_BYTES_MAX + 1), None, "its first line is no header row of CSV"),
]


@pytest.mark.parametrize(("content", "form", "says"), UNREADABLE, ids=[says[:30] for *_, says in UNREADABLE])
def test_a_file_that_is_none_is_refused_as_a_whole(
    content: bytes | str, form: Form | None, says: str
) -> None:
    with pytest.raises(UnreadableFile, match=re.escape(says)):
        read(content, form)


def test_a_header_alone_is_a_file_without_snapshots() -> None:
    assert read(f"{HEADER}\n") == []


class _Endless(io.RawIOBase):
    """A line, repeated without end (until told), so that a file need not be in memory."""

    def __init__(self, chunk: bytes, times: int) -> None:
        self._chunks: Iterator[bytes] = iter([chunk] * times)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = next(self._chunks, b"")
        buffer[: len(chunk)] = chunk
        return len(chunk)


@pytest.mark.parametrize(
    ("chunk", "times"),
    [
        ((json_line() + "\n").encode(), 30_000),
        (b"x" * 8192, 5_000),  # one line of 40 MB
        (f'"{"x" * 8000}\n'.encode(), 2_000),
    ],
    ids=["many lines", "one huge line", "quotes never closed"],
)
def test_memory_does_not_grow_with_the_file(chunk: bytes, times: int) -> None:
    lines = SnapshotLines(io.BufferedReader(_Endless(chunk, times)), "jsonl")
    tracemalloc.start()
    try:
        for _ in lines:
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert lines.bytes_read == len(chunk) * times
