"""Files of snapshots: whatever is in a line, the two ways to read it agree, and damage makes up nothing."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from risk_producer.contract.snapshot import RiskSnapshot
from risk_worker.ingest import records as lines
from risk_worker.ingest.records import (
    LINE_BYTES_MAX,
    Defaults,
    Form,
    UnreadableFile,
    _are_whole,
    _csv_row,
    _quoted_csv_row,
    _Quotes,
    _Record,
)
from tests.unit.risk_worker.ingest.test_records import EVIL, REQUIRED, WHOLE, json_line, read


@given(
    st.text(st.sampled_from(["a", ",", '"', "\r", "\n", " ", "\0", "é", "\u2028"]), min_size=1, max_size=12)
)
def test_a_row_without_quotes_is_the_same_as_what_the_csv_reader_gives(text: str) -> None:
    record = _Record(1, 1, text.encode() + b"\n", ended=True)

    def outcome(row: Callable[[_Record], list[str]]) -> list[str] | str:
        try:
            return row(record)
        except csv.Error as error:
            return str(error)

    if not record.raw.isspace():
        assert outcome(_csv_row) == outcome(_quoted_csv_row)


@given(st.text(st.sampled_from(["a", ",", '"', '"', "\r", "\n", " "]), min_size=1, max_size=14))
def test_lines_that_are_whole_at_one_look_are_so_quote_by_quote(text: str) -> None:
    lines = re.findall(rb"[^\n]*\n", f"{text}\n".encode())
    if not _are_whole(b"".join(lines)):
        return
    quotes = _Quotes()
    for line in lines:
        assert _are_whole(line)
        quotes.read(line, 1)
        assert not quotes.open


# The quick way and the slow way: what the one accepts, the other reads just so.

RAW_NUMBERS = st.sampled_from(
    [
        *("0", "-0", "0.0", "-0.0", "0.000", "0e5", "0E-7", "1e-400", "-1e-400", "2.4e-324", "5e-324"),
        *("1.5", "-12.25", "1e15", "1E+16", "1e308", "1e400", "-1e400", f"0.{'0' * 330}1"),
        *("9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993", "1" * 40),
        *(
            "0.1000000000000000055511151231257827021181583404541015625",
            f"1.{'0' * 900}1",
            "9007199254740991.5",
        ),
        *(
            "NaN",
            "Infinity",
            "-Infinity",
            "true",
            "false",
            "null",
            '"1.5"',
            '"0"',
            '""',
            "1.",
            "01",
            ".5",
            "+1",
        ),
        *("1_0", "0x1", "[1]", "{}", '" 1"', '"1_0"'),
    ]
) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
RAW_TEXTS = st.sampled_from(
    [
        *(
            '"t1"',
            '""',
            '" t1"',
            '"t1 "',
            '"a,b"',
            '",,,"',
            r'"a\u002cb"',
            r'"\u002C"',
            r'"\u0020t"',
            '"é ✓"',
        ),
        *(
            r'"\ud800"',
            r'"\ud83d\ude00"',
            r'"\u0000"',
            r'"\"reason\":0"',
            r'"\\"',
            '"\t"',
            '"\x7f"',
            '"a\x01"',
        ),
        *('":"', '"reason"', '"0.0,"', "7", "7.5", "-0", "1e3", "true", "null", "[]", '"x', "'x'"),
        *(f'"{"x" * 255}"', f'"{"x" * 256}"', f'"{"x" * 1025}"', '"\u2028"', '"\u00a0t"'),
    ]
) | st.tuples(st.text(max_size=5), st.booleans()).map(lambda it: json.dumps(it[0], ensure_ascii=it[1]))
RAW_FLAGS = st.sampled_from(
    ["true", "false", "null", "1", "0", "1.0", "-0", '"t"', '"false"', '""', '"x"', "2"]
)
RAW_TIMES = st.sampled_from(["null", '""', "0", "1769851800", "true", "[]"]) | st.builds(
    '"{}{}{}{}{}{}"'.format,
    st.sampled_from(
        ["2026-01-31", "2026-02-30", "0001-01-01", "9999-12-31", "1999-12-31", "20260131", "2026-W05-6"]
    ),
    st.sampled_from(["T", "t", " ", "_", ""]),
    st.sampled_from(["09:30:00", "23:59:59", "09:30", "24:00:00", "09:30:60", "00:00:00"]),
    st.sampled_from(["", ".25", ".123456", ".1234567", ".9999999", ",5", ".", ".0000004999"]),
    st.sampled_from(["", " "]),
    st.sampled_from(
        ["Z", "z", "+00:00", "-00:00", "+05:30", "-23:59", "+24:00", "+00", "+0130", "+01:00:30", ""]
    ),
)
RAW_VALUES = {
    "trader_id": RAW_TEXTS,
    **dict.fromkeys(("daily_pnl", "drawdown_pct", "current_equity", "peak_equity"), RAW_NUMBERS),
    "trading_paused": RAW_FLAGS,
    **dict.fromkeys(("paused_until", "last_reset_time", "recorded_at"), RAW_TIMES),
    **dict.fromkeys(("trace_id", "reason"), RAW_TEXTS),
}
RAW_PLAIN = {name: json.dumps(value) for name, value in WHOLE.items()}


@st.composite
def json_lines(draw: st.DrawFn) -> bytes:
    """A line that is right but for a few values, keys, blanks or bytes."""
    names = draw(st.permutations(list(RAW_PLAIN)))
    left_out = draw(st.sets(st.sampled_from(names), max_size=2) | st.just({*RAW_PLAIN} - {*REQUIRED}))
    members = [(name, RAW_PLAIN[name]) for name in names if name not in left_out]
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        at = draw(st.integers(0, len(members)))
        again = draw(st.integers(0, 3)) == 0  # as one more member
        members[at : at if again else at + 1] = [(name, draw(RAW_VALUES[name]))]
    if draw(st.integers(0, 9)) == 0:
        members.append((draw(st.sampled_from(["x", "epoch", "Reason", r"re\u0061son", "reason "])), "1"))
    blank = (
        st.sampled_from(["", "", "", " ", "\t", "\r", "\x0c", "\u00a0"])
        if draw(st.booleans())
        else st.just("")
    )
    line = "{" + ",".join(f'{draw(blank)}"{name}"{draw(blank)}:{draw(blank)}{raw}' for name, raw in members)
    whole = f"{line}{draw(blank)}}}{draw(blank)}".encode(errors="surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(whole)))
        instead = draw(
            st.sampled_from([b"", b",", b'"', b"\\", b"0", b"-", b"\xff", b"\xed\xa0\x80", b"}", b"e"])
        )
        whole = whole[:at] + instead + whole[at + draw(st.integers(0, 1)) :]
    return whole.replace(b"\n", b" ")


def in_full(got: RiskSnapshot | str) -> object:
    """Equal only where all is: 0.0 and -0.0 are not, nor two classes."""
    return got if isinstance(got, str) else (type(got), repr(got))


def odd(old: str, new: str, **changes: Any) -> bytes:
    return json_line(**changes).replace(old, new).encode()


@example(odd("}", ', "daily_pnl": 2}'), Defaults())
@example(odd("_", r"\u002c", reason="a_b").replace(b"}", b', "reason": "x"}'), Defaults())
@example(odd('"a_b"}', r'"a\u002cb", "daily_pnl": 2}', reason="a_b"), Defaults())
@example(odd("00Z", "00.1234567Z"), Defaults())
@example(odd("00Z", "00"), Defaults())
@example(odd("00Z", "00z"), Defaults())
@example(odd("1.5", "1e-400"), Defaults())
@example(odd("1.5", "-0"), Defaults())
@example(odd("1.5", "9007199254740993"), Defaults())
@example(odd("t1", " t1"), Defaults())
@example(odd("}", ', "x": 2}'), Defaults())
@example(odd("false", "null"), Defaults())
@example(odd("false", "null"), Defaults(trading_paused=True))
@given(json_lines(), st.sampled_from([Defaults(), Defaults(trading_paused=True)]))
def test_the_quick_way_reads_a_line_of_json_as_the_slow_way_does(line: bytes, defaults: Defaults) -> None:
    content = json_line().encode() + b"\n" + line
    quick = read(content, "jsonl", defaults)
    with mock.patch.object(lines, "plain_line", return_value=None):
        slow = read(content, "jsonl", defaults)
    assert [(number, in_full(got)) for number, got in quick] == [
        (number, in_full(got)) for number, got in slow
    ]


# Damage: whatever happens to a file, nothing is accepted that was no record of it.

texts = st.lists(
    st.sampled_from(
        [EVIL, f"\n{EVIL},\n", f"\n{EVIL},{'y' * 20}", "\n", ",", '"', '""', "x", ", ", "é", "\r\n"]
    ),
    max_size=6,
).map("".join)


@st.composite
def files(draw: st.DrawFn) -> tuple[Form, bytes, list[RiskSnapshot]]:
    """A whole file, and what is in it."""
    records = [
        REQUIRED
        | {"trader_id": f"t{number}", "daily_pnl": 10 + number, "reason": reason, "trace_id": f"id-{number}"}
        for number, reason in enumerate(draw(st.lists(texts, min_size=1, max_size=6)))
    ]
    form: Form = draw(st.sampled_from(["jsonl", "csv"]))
    if form == "jsonl":
        content = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    else:
        out = io.StringIO()
        writer = csv.DictWriter(out, records[0], lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
        writer.writeheader()
        writer.writerows(records)
        content = out.getvalue()
    whole = content.encode()
    snapshots = [got for _, got in read(whole, form) if isinstance(got, RiskSnapshot)]
    assert len(snapshots) == len(records)
    return form, whole, snapshots


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> tuple[int, int, bytes]:
    """(at, length, instead): which bytes are replaced by which others; often it is a quote that is hit."""
    size = len(whole)
    quotes = [found.start() for found in re.finditer(b'"', whole)] or [0]
    at = draw(st.integers(0, size - 1) | st.sampled_from(quotes))
    return draw(
        st.sampled_from(
            [
                (at, size - at, b""),  # cut off
                (at, 0, b'"'),
                (at, 0, b"\n"),
                (at, 0, b"x" * (LINE_BYTES_MAX + 1)),
                (at, 1, b""),
                (at, 1, b'"'),
                (at, 1, b"\xe9"),
                (at, 1, b","),
                (at, 1, b"\r"),
                (at, draw(st.integers(1, 60)), b""),
                (at, 1, draw(st.binary(min_size=1, max_size=1))),
            ]
        )
    )


@given(st.data())
@settings(suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
def test_a_damaged_file_gives_no_snapshot_that_was_not_in_it(data: st.DataObject) -> None:
    form, whole, originals = data.draw(files())
    at, length, instead = data.draw(damage(whole))
    damaged = whole[:at] + instead + whole[at + length :]
    try:
        got = read(damaged, form)
    except UnreadableFile:
        return
    accepted = [snapshot for _, snapshot in got if isinstance(snapshot, RiskSnapshot)]
    assert not [snapshot for snapshot in accepted if snapshot.trader_id == "evil"]
    changed = [snapshot for snapshot in accepted if snapshot not in originals]
    assert len(changed) <= 1  # the damage may leave a record that is whole, but another
    if at < len(damaged) and not instead and at + length == len(whole):
        assert not changed  # cut off
    if changed:
        numbers = [number for number, snapshot in got if snapshot is changed[0]]
        assert numbers[0] <= damaged.count(b"\n", 0, at + len(instead)) + 1
