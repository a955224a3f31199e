"""Rows as text: exact for programs, harmless for terminals and spreadsheets, never held at once."""

from __future__ import annotations

import csv
import io
import json
import sys
import types
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from risk_worker.query import files, frames
from risk_worker.query.formats import FORMATS


class Thing(msgspec.Struct, frozen=True):
    trader_id: str
    at: datetime
    until: datetime | None
    day: date
    pnl: float
    lasted_s: float
    paused: bool
    seq: int
    waiting: int | None
    reason: str


AT = datetime(2026, 7, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def thing(**changes: Any) -> Thing:
    return msgspec.structs.replace(
        Thing("a", AT, None, date(2026, 7, 1), -1234.5678901234567, 90.25, True, 2**53, None, ""), **changes
    )


def made(form: str, *things: Thing, zone: Any = UTC, **more: Any) -> str:
    return "".join(FORMATS[form](things, Thing, zone, **more))


def test_a_table() -> None:
    lines = made("table", thing(), thing(trader_id="much longer", lasted_s=0.5, paused=False)).splitlines()
    assert lines[0].split() == list(Thing.__struct_fields__)
    assert lines[1].split(maxsplit=2)[0] == "a"
    assert "2026-07-01 12:00:00.123Z" in lines[1]
    assert "-1,234.57" in lines[1] and "0:01:30" in lines[1] and "yes" in lines[1] and " -  " in lines[1]
    assert "0.5 s" in lines[2] and "no" in lines[2]
    ends = [lines[0].index("pnl") + 3, *(line.index("-1,234.57") + 9 for line in lines[1:])]
    assert len(set(ends)) == 1
    assert "2026-07-01 14:00:00.123+0200" in made("table", thing(), zone=ZoneInfo("Europe/Berlin"))
    assert made("table") == ""


def test_a_table_shows_nothing_that_a_terminal_would_obey() -> None:
    text = made("table", thing(reason="\x1b[31mred\x07\n\t\u202eevil" + "x" * 100))
    assert len(text.splitlines()) == 2
    assert all(each.isprintable() or each == "\n" for each in text)
    assert "\\x1b[31mred\\x07\\n\\t\\u202eevil" in text
    assert text.rstrip().endswith("x…")


def test_json_is_exact() -> None:
    things = [thing(), thing(reason='"ü\n', until=AT)]
    [first, second] = json.loads(made("json", *things))
    assert first["pnl"] == things[0].pnl and first["seq"] == 2**53 and first["until"] is None
    assert (second["reason"], second["until"]) == ('"ü\n', "2026-07-01T12:00:00.123456+00:00")
    assert [json.loads(line) for line in made("jsonl", *things).splitlines()] == [first, second]
    assert json.loads(made("json")) == []
    assert made("jsonl") == ""


HARMFUL = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]


@pytest.mark.parametrize("text", HARMFUL)
def test_a_spreadsheet_runs_nothing(text: str) -> None:
    [head, row] = csv.reader(io.StringIO(made("csv", thing(trader_id=text, reason=text)), newline=""))
    assert head == list(Thing.__struct_fields__)
    assert (row[0], row[-1]) == ("'" + text, "'" + text)
    assert float(row[4]) == thing().pnl  # a number begins with - and is none
    [_, row] = csv.reader(io.StringIO(made("csv", thing(trader_id=text), spreadsheet=False), newline=""))
    assert row[0] == text


def test_csv_is_exact() -> None:
    things = [thing(reason='a,"b"\nc'), thing(pnl=1e-300, paused=False)]
    rows = list(csv.DictReader(io.StringIO(made("csv", *things), newline="")))
    assert rows[0]["reason"] == 'a,"b"\nc'
    assert (rows[0]["at"], rows[0]["until"]) == ("2026-07-01 12:00:00.123456+00:00", "")
    assert (rows[1]["pnl"], rows[1]["paused"]) == ("1e-300", "false")
    assert made("csv") == ",".join(Thing.__struct_fields__) + "\r\n"


@pytest.mark.parametrize("form", FORMATS)
def test_rows_are_not_held(form: str) -> None:
    given = 0

    def endless() -> Iterator[Thing]:
        nonlocal given
        while True:
            given += 1
            yield thing()

    pieces = FORMATS[form](endless(), Thing)
    next(pieces)
    next(pieces)
    assert given < 2_000


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    files.write([thing(trader_id="ü")], Thing, path, "csv")
    assert path.read_bytes().startswith(b"\xef\xbb\xbftrader_id,")
    before = path.read_bytes()

    def breaking() -> Iterator[Thing]:
        yield thing()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write(breaking(), Thing, path, "jsonl")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    files.write([thing()], Thing, path, "csv", spreadsheet=False)
    assert path.read_bytes().startswith(b"trader_id,")


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_a_library_that_is_missing_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"arrow": "pyarrow"}.get(library, library)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(frames.MissingLibrary, match=f"{package} cannot be imported.*pip install {package}"):
        frames.frame_of([thing()], Thing, library)
    with pytest.raises(ValueError, match="'excel' is none of pandas, polars, arrow"):
        frames.frame_of([], Thing, "excel")


def test_pandas_gets_columns_with_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in: pandas is no requirement."""
    fake = types.ModuleType("pandas")
    fake.Series = lambda values, dtype: (dtype, values)  # type: ignore[attr-defined]
    fake.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", fake)
    frame = frames.frame_of([thing(), thing(until=AT)], Thing, "pandas")
    assert frame["until"] == ("datetime64[us, UTC]", [None, AT])
    assert frame["seq"] == ("int64", [2**53, 2**53])
    assert frame["waiting"] == ("Int64", [None, None])
    assert list(frame) == list(Thing.__struct_fields__)
