"""What a line of a file may look like, and what is said about one that is none."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from risk_producer.contract.snapshot import RiskSnapshot
from risk_worker.ingest.plain_json import plain_line
from risk_worker.ingest.records import (
    LINE_BYTES_MAX,
    Defaults,
    Form,
    SnapshotLines,
    UnreadableFile,
)

REQUIRED = {
    "trader_id": "t1",
    "daily_pnl": 1.5,
    "drawdown_pct": 0.25,
    "current_equity": 99,
    "peak_equity": 100,
    "trading_paused": False,
    "recorded_at": "2026-01-31T09:30:00Z",
}
WHOLE = REQUIRED | {
    "trading_paused": True,
    "paused_until": "2026-02-01T10:00:00+02:00",
    "last_reset_time": "2026-01-31T00:00:00Z",
    "recorded_at": "2026-01-31T09:30:00.250Z",
    "trace_id": "abc",
    "reason": 'a "quoted", multi-lingual рeason ✓',
}
HEADER = "trader_id,daily_pnl,drawdown_pct,current_equity,peak_equity,trading_paused,recorded_at"
ROW = "t1,1.5,0.25,99,100,false,2026-01-31T09:30:00Z"
REST = "false,2026-01-31T09:30:00Z"
ANY = Defaults(recorded_now=True, trading_paused=False)


class Pipe(io.BytesIO):
    """A stream that cannot go back to its beginning."""

    def seekable(self) -> bool:
        return False


def read(
    content: bytes | str,
    form: Form | None = None,
    defaults: Defaults | None = None,
    kind: type[io.BytesIO] = io.BytesIO,
) -> list[tuple[int, RiskSnapshot | str]]:
    raw = content.encode() if isinstance(content, str) else content
    return list(SnapshotLines(kind(raw), form, defaults))


def only(content: bytes | str, form: Form | None = None, defaults: Defaults | None = None) -> RiskSnapshot:
    [(_, snapshot)] = read(content, form, defaults)
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
        json_line(trading_paused=..., recorded_at=...),
        json_line(paused_until=None, reason=None, trading_paused=None, recorded_at=None),
        "trader_id,daily_pnl,drawdown_pct,current_equity,peak_equity\nt1,1,2,3,4\n",
        f"{HEADER},paused_until,reason\nt1,1,2,3,4,,,,\n",
    ],
)
def test_what_is_left_out_has_the_default_that_the_user_gave(content: str) -> None:
    before = datetime.now(UTC)
    assert only(content, defaults=replace(ANY, trading_paused=True)).trading_paused is True
    snapshot = only(content, defaults=ANY)
    assert snapshot.last_reset_time is None
    assert snapshot.paused_until is None
    assert snapshot.reason == ""
    assert snapshot.trading_paused is False
    assert before <= snapshot.recorded_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("text", "flag"),
    [("true", True), ("1", True), ("TRUE", True), ("t", True), ("false", False), ("0", False), ("f", False)],
)
def test_flags_are_the_same_in_both_forms(text: str, flag: bool) -> None:
    assert only(f"{HEADER}\nt1,1,2,3,4,{text},2026-01-31T09:30:00Z\n").trading_paused is flag
    assert only(json_line(trading_paused=text)).trading_paused is flag
    if text in ("true", "false", "1", "0"):
        assert only(json_line(trading_paused="x").replace('"x"', text)).trading_paused is flag


def test_columns_may_stand_in_any_order_with_blanks_around_their_names() -> None:
    names = " peak_equity , current_equity,drawdown_pct,daily_pnl,trader_id"
    assert only(f"{names}\n100,99,0.25,1.5,t1\n", defaults=ANY).peak_equity == 100


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
    got = read(f'{HEADER},reason\n{ROW},"first\nsecond"\n{ROW},x\n')
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
    (json_line(trading_paused="yes"), "trading_paused must be true, false, t, f, 1 or 0, got 'yes'"),
    (json_line(trading_paused=2), "trading_paused must be true, false, t, f, 1 or 0, got 2"),
    (json_line(trading_paused=...), "trading_paused must be given; --trading-paused false says"),
    (json_line(trading_paused=None), "trading_paused must be given; --trading-paused false says"),
    (json_line(recorded_at=...), "recorded_at must be given; --recorded-at now takes the time"),
    (json_line(recorded_at="2026-01-31T09:30:00"), "recorded_at must be an ISO 8601 time with a zone"),
    (json_line(paused_until="20260131"), "paused_until must be an ISO 8601 time with a zone"),
    (json_line(paused_until=1769850000), "paused_until must be an ISO 8601 time with a zone"),
    (json_line(recorded_at="1999-01-31T09:30:00Z"), "recorded_at must lie between 2000-01-01"),
    (json_line(reason="a\0b"), "reason must not hold a NUL"),
    (json_line(reason="x" * 1025), "reason must have 0..1024 characters, got 1025"),
    (json_line(trader_id=7.5), "trader_id must be a text or a whole number, got 7.5"),
    (json_line(trader_id=True), "trader_id must be a text, got True"),
    (json_line(trader_id=" alice"), "trader_id must not begin or end with a blank, got ' alice'"),
    (json_line(daily_pnl=2**53 + 1), "daily_pnl must be a number that a float can hold"),
    (json_line(daily_pnl=math.nan), "not JSON: NaN is no number of JSON"),
    (json_line()[:-1] + ', "trading_paused": true}', "a key is there more than once"),
    (json_line() + json_line(), "not JSON: Extra data"),
    ("[1]", "one JSON object a line is expected, got [1]"),
    ('{"trader_id": ', "not JSON: Expecting value"),
    (b'{"trader_id": "\xff"}', "not UTF-8: byte 0xff at byte 16"),
    (b"\0\0\0", "not JSON: Expecting value at character 1"),
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
    ("t1,1.5,0.25,99", "4 fields where the header has 7"),
    (f"{ROW},7", "8 fields where the header has 7"),
    (f"t1,,0.25,99,100,{REST}", "daily_pnl must be given"),
    (
        ",,,,,,",
        "trader_id, daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused, recorded_at",
    ),
    (f"t1,abc,0.25,99,100,{REST}", "daily_pnl must be a number, got 'abc'"),
    (f"t1,inf,0.25,99,100,{REST}", "daily_pnl must be a finite number"),
    (f"t1,9007199254740993,0.25,99,100,{REST}", "daily_pnl must be a number that a float can hold"),
    (f"t1,1e-400,0.25,99,100,{REST}", "daily_pnl must be a number that a float can hold"),
    (f"t1,1e-{'9' * 30},0.25,99,100,{REST}", "daily_pnl must be a number"),
    (f"t1,١,0.25,99,100,{REST}", "daily_pnl must be a number"),
    (f" t1,1.5,0.25,99,100,{REST}", "trader_id must not begin or end with a blank, got ' t1'"),
    ("t1,1.5,0.25,99,100,,2026-01-31T09:30:00Z", "trading_paused must be given; --trading-paused false"),
    ("t1,1.5,0.25,99,100,f,", "recorded_at must be given; --recorded-at now"),
    ("t1,1.5,0.25,99,100,f,2026-01-31T09:30:00", "recorded_at must be an ISO 8601 time with a zone"),
    ("t1,1.5,0.25,99,100,f,2026-01-31é09:30:00Z", "recorded_at must be an ISO 8601 time with a zone"),
    (b"t1\xff,1.5,0.25,99,100,f,", "not UTF-8: byte 0xff at byte 3"),
    (f"t\0,1.5,0.25,99,100,{REST}", "trader_id must not hold a NUL"),
    (f"{'x' * 300},1.5,0.25,99,100,{REST}", "trader_id must have 1..255 characters, got 300"),
    ("x" * (LINE_BYTES_MAX + 5), f"not CSV: longer than {LINE_BYTES_MAX} bytes"),
    (f"t1,{'9' * 60_000}x,0.25,99,100,{REST}", "daily_pnl must be a number, got '999"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_CSV, ids=[reason[:30] for _, reason in BAD_CSV])
def test_a_bad_line_of_csv_is_named_and_the_others_are_read(line: bytes | str, reason: str) -> None:
    raw = line.encode() if isinstance(line, str) else line
    first, bad, last = read(f"{HEADER}\n{ROW}\n".encode() + raw + f"\n{ROW}\n".encode(), "csv")
    assert isinstance(first[1], RiskSnapshot)
    assert bad[0] == 3
    assert isinstance(bad[1], str)
    assert bad[1].startswith(reason), bad[1]
    assert len(bad[1]) < 400
    assert last[0] == 4
    assert isinstance(last[1], RiskSnapshot)


BROKEN: list[tuple[str, str]] = [
    ('t1,"1.5,0.25,99,100', "a quote is never closed"),
    ('t1,"1"2,0.25,99,100', "a closing quote is followed by more text"),
    ('t1,1"2,0.25,99,100', "a quote is inside a field that is not quoted"),
    ('t1, "1.5",0.25,99,100', "a quote is inside a field that is not quoted"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_of_a_file_with_broken_quotes_nothing_is_used(line: str, reason: str) -> None:
    content = f"{HEADER}\n{ROW}\n{line}\n{ROW}\n{ROW}\n"
    with pytest.raises(UnreadableFile, match=f"^line 3: {reason}"):
        read(content)
    first, bad = read(content, kind=Pipe)
    assert isinstance(first[1], RiskSnapshot)
    assert bad == (3, f"not CSV: {reason}; nothing from this line on is read")


EVIL = "evil,-999999,99,1,1,false,2026-01-31T09:30:00Z,"


@pytest.mark.parametrize("kind", [io.BytesIO, Pipe])
@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        (b"caf\xe9", "not UTF-8: byte 0xe9"),
        (b"x" * (LINE_BYTES_MAX + 5), "not CSV: longer than"),
        (b"x" * 200_000, "not CSV: longer than"),
        (b"x" * 2_000, "reason must have 0..1024 characters"),
        (b'""' * 40_000, "not CSV: longer than"),
        (b"\0", "reason must not hold a NUL"),
    ],
    ids=["latin-1", "64 kB", "200 kB", "2 kB", "doubled quotes", "NUL"],
)
def test_a_bad_record_is_bad_up_to_its_closing_quote(
    inside: bytes, reason: str, kind: type[io.BytesIO]
) -> None:
    quoted = b'"first\n' + inside + f"\n{EVIL}\n{EVIL}\n".encode() + b'last"'
    content = f"{HEADER},reason\n{ROW},\n{ROW},".encode() + quoted + f"\n{ROW},x\n".encode()
    first, bad, last = read(content, kind=kind)
    assert (first[0], bad[0], last[0]) == (2, 3, 8)
    assert isinstance(bad[1], str)
    assert bad[1].startswith(reason), bad[1]
    assert isinstance(last[1], RiskSnapshot)


@pytest.mark.parametrize("kind", [io.BytesIO, Pipe])
def test_the_last_record_of_csv_is_trusted_only_with_its_line_break(kind: type[io.BytesIO]) -> None:
    cut = f"{HEADER}\n{ROW}\nt2,1,0,105,10,{REST}"
    first, bad = read(cut, kind=kind)
    assert isinstance(first[1], RiskSnapshot)
    assert bad[0] == 3
    assert isinstance(bad[1], str)
    assert bad[1].startswith("the file ends without a line break, so this record may be cut off")
    assert isinstance(read(f"{cut}\n", kind=kind)[1][1], RiskSnapshot)
    assert isinstance(read(json_line())[0][1], RiskSnapshot)  # the closing brace is sign enough


def test_a_value_means_the_same_in_both_forms() -> None:
    fields = {
        "trader_id": 7,
        "daily_pnl": "9007199254740992",
        "trading_paused": 1,
        "recorded_at": "2026-01-31T09:30:00.123456789Z",
        "paused_until": "2026-01-31 09:30:00.9999999+05:30",
        "trace_id": 123456789012345678901234567890,
    }
    from_json, from_csv = only(json.dumps(REQUIRED | fields)), only(csv_of(REQUIRED | fields))
    assert from_json == from_csv
    assert from_json.trader_id == "7"
    assert from_json.trace_id == "123456789012345678901234567890"
    assert from_json.trading_paused is True
    assert from_json.recorded_at == datetime(2026, 1, 31, 9, 30, 0, 123_456, tzinfo=UTC)
    assert from_json.paused_until == datetime(2026, 1, 31, 4, 0, 0, 999_999, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Z", "z", " Z", " z", "+00", " +00:00", " -0000"])
@pytest.mark.parametrize("between", ["T", "t", " "])
def test_a_time_may_be_written_in_these_ways(between: str, zone: str) -> None:
    text = f"2026-01-31{between}09:30:00{zone}"
    for content in (json_line(recorded_at=text), csv_of(REQUIRED | {"recorded_at": text})):
        assert only(content).recorded_at == datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def test_what_psql_copies_out_is_read_and_columns_of_the_table_are_passed_over() -> None:
    exported = (
        "trader_id,recorded_at,epoch,seq,trace_id,reason,daily_pnl,drawdown_pct,current_equity,peak_equity,"
        "trading_paused,paused_until,last_reset_time,merged,stored_at\n"
        "desk-7,2026-01-31 09:30:00.25+00,1767323045678,7,,,-5,0.1,1,1,t,2026-02-01 00:00:00+00,"
        "2026-01-31 00:00:00+05:30,0,2026-01-31 09:30:01.5+00\n"
        'desk-7,2026-01-31 09:31:00+00,1767323045678,8,"","a, b",-5,0.1,1,1,f,,2026-01-31 00:00:00+00,3,'
        "2026-01-31 09:31:01+00\n"
    )
    said: list[str] = []
    first, second = (got for _, got in SnapshotLines(io.BytesIO(exported.encode()), warn=said.append))
    assert isinstance(first, RiskSnapshot)
    assert isinstance(second, RiskSnapshot)
    assert (first.trading_paused, second.trading_paused) == (True, False)
    assert first.recorded_at == datetime(2026, 1, 31, 9, 30, 0, 250_000, tzinfo=UTC)
    assert second.reason == "a, b"
    assert len(said) == 1
    assert said[0].startswith("Not read: epoch, seq, merged, stored_at. What is pushed is a new snapshot")
    said.clear()
    rows = f"{json_line(epoch=1, seq=1)}\n{json_line(epoch=1, seq=2, stored_at=None)}\n"
    got = [got for _, got in SnapshotLines(io.BytesIO(rows.encode()), warn=said.append)]
    assert all(isinstance(snapshot, RiskSnapshot) for snapshot in got)
    assert len(said) == 2


UNREADABLE: list[tuple[bytes | str, Form | None, str]] = [
    ("", None, "it is empty"),
    ("", "csv", "it is empty"),
    (b"\xef\xbb\xbf", None, "it is empty"),
    ("\n \n", None, "nothing in it but blank lines"),
    (f"{HEADER}\n".encode("utf-16"), None, "UTF-16"),
    ('[{"trader_id": 1}]', None, "JSON array"),
    (
        json.dumps(REQUIRED, indent=2),
        None,
        "spread over several lines; one object a line is expected: jq -c .",
    ),
    ('{ "trader_id": "t1",\n"daily_pnl": 1 }', None, "spread over several lines"),
    (json.dumps([REQUIRED], indent=2), None, "JSON array"),
    (f"{HEADER},foo\n", None, "unknown column 'foo'; the columns are trader_id, daily_pnl"),
    (f"{HEADER},reason,reason\n", None, "a column twice"),
    (
        "trader_id,daily_pnl,peak_equity,trading_paused,recorded_at\n",
        None,
        "no column drawdown_pct, current_equity;",
    ),
    (HEADER.replace(",recorded_at", ""), None, "; --recorded-at now takes the time"),
    (HEADER.replace(",trading_paused", ""), None, "; --trading-paused false says"),
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

    def __init__(self, chunk: bytes, times: int, head: bytes = b"") -> None:
        self._chunks: Iterator[bytes] = iter([*([head] if head else []), *([chunk] * times)])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = next(self._chunks, b"")
        buffer[: len(chunk)] = chunk
        return len(chunk)


@pytest.mark.parametrize(
    ("form", "head", "chunk", "times"),
    [
        ("jsonl", b"", f"{json_line()}\n".encode(), 8_000),
        ("jsonl", b"", b"x" * 8192, 5_000),  # one line of 40 MB
        ("csv", f"{HEADER}\n".encode(), f"{ROW}\n".encode(), 8_000),
        ("csv", f"{HEADER}\n".encode(), b"x" * 8192, 5_000),
        ("csv", f'{HEADER}\n"'.encode(), b"x" * 4095 + b"\n", 4_000),
    ],
    ids=["many objects", "one huge line", "many records", "one huge record", "a quote never closed"],
)
def test_memory_does_not_grow_with_the_file(form: Form, head: bytes, chunk: bytes, times: int) -> None:
    lines = SnapshotLines(io.BufferedReader(_Endless(chunk, times, head)), form)
    tracemalloc.start()
    try:
        for _ in lines:
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert lines.bytes_read == len(head) + len(chunk) * times


def test_a_quote_after_the_first_part_of_a_long_line_is_inside_a_field() -> None:
    _, bad = read(f"{HEADER}\n{ROW}\n" + "x" * LINE_BYTES_MAX + '",\n', kind=Pipe)
    assert bad == (
        3,
        "not CSV: a quote is inside a field that is not quoted; nothing from this line on is read",
    )


@pytest.mark.parametrize(
    "line",
    [
        json_line(),
        json.dumps(WHOLE),
        json.dumps(WHOLE, separators=(",", ":"), ensure_ascii=False),
        json_line(daily_pnl=0, drawdown_pct=0.0, reason="one, two", paused_until=None, trace_id=""),
        json_line().replace('":', '" :'),
    ],
)
def test_what_is_usual_goes_the_quick_way(line: str) -> None:
    assert plain_line(line.encode()) is not None
