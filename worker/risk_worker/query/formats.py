"""Rows as text, in pieces: a table for a person, JSON, JSON lines and CSV. The one place that makes them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import chain, islice
from typing import Any, Final, get_args, get_type_hints

import msgspec

_MEASURED: Final = 200
"""Rows that a table's columns are as wide as."""
_WIDEST: Final = 60
"""Characters that a table shows of a text."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

Rows = Iterable[msgspec.Struct]


def as_table(rows: Rows, row: type[msgspec.Struct], zone: tzinfo = UTC) -> Iterator[str]:
    """Aligned columns under their names, as wide as the first rows need. Nothing where there is no row."""
    cells = ([_cell(name, getattr(each, name), zone) for name in row.__struct_fields__] for each in rows)
    first = list(islice(cells, _MEASURED))
    if not first:
        return
    head = list(row.__struct_fields__)
    widths = [max(map(len, column)) for column in zip(head, *first, strict=True)]
    hints = get_type_hints(row)
    numbers = [not {int, float}.isdisjoint((hints[name], *get_args(hints[name]))) for name in head]
    for line in chain([head], first, cells):
        yield (
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(line, widths, numbers, strict=True)
            ).rstrip()
            + "\n"
        )


def as_jsonl(rows: Rows, row: type[msgspec.Struct], zone: tzinfo = UTC) -> Iterator[str]:
    """An object a line. Times are ISO 8601, numbers exact."""
    for each in rows:
        yield _json(each, row, zone) + "\n"


def as_json(rows: Rows, row: type[msgspec.Struct], zone: tzinfo = UTC) -> Iterator[str]:
    """An array with an object a line."""
    separator = "[\n  "
    for each in rows:
        yield separator + _json(each, row, zone)
        separator = ",\n  "
    yield "[]\n" if separator == "[\n  " else "\n]\n"


def as_csv(
    rows: Rows, row: type[msgspec.Struct], zone: tzinfo = UTC, *, spreadsheet: bool = True
) -> Iterator[str]:
    """RFC 4180 with a header row. Numbers are exact; nothing stands for None.

    spreadsheet: a text that a spreadsheet would run as a formula gets a ' before it.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    names = row.__struct_fields__
    writer.writerow(names)
    for each in rows:
        writer.writerow([_csv_value(getattr(each, name), zone, spreadsheet=spreadsheet) for name in names])
        if buffer.tell() > 60_000:
            yield _taken(buffer)
    yield _taken(buffer)


FORMATS: Final[dict[str, Callable[..., Iterator[str]]]] = {
    "table": as_table,
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
}


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _json(each: msgspec.Struct, row: type[msgspec.Struct], zone: tzinfo) -> str:
    return json.dumps(
        {name: _plain(getattr(each, name), zone) for name in row.__struct_fields__}, ensure_ascii=False
    )


def _plain(value: Any, zone: tzinfo) -> Any:
    """A value for JSON."""
    if isinstance(value, datetime):
        return _in_zone(value, zone).isoformat()
    return value.isoformat() if isinstance(value, date) else value


def _csv_value(value: Any, zone: tzinfo, *, spreadsheet: bool) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return _in_zone(value, zone).isoformat(" ")
    if spreadsheet and isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value  # csv writes a float as repr() does


def _cell(name: str, value: Any, zone: tzinfo) -> str:
    """A value for a person."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float() if name.endswith("_s"):
            return _length(value)
        case float():
            return f"{value:,.2f}"
        case int():
            return str(value)
        case datetime():
            return _moment(_in_zone(value, zone))
        case date():
            return value.isoformat()
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _moment(value: datetime) -> str:
    """To the millisecond, with its offset."""
    offset = value.strftime("%z")
    return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}{'Z' if offset == '+0000' else offset}"


def _length(seconds: float) -> str:
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds))) if seconds > 0 else f"-{timedelta(seconds=round(-seconds))}"


def _in_zone(value: datetime, zone: tzinfo) -> datetime:
    try:
        return value.astimezone(zone)
    except OverflowError:  # at the ends of Python's calendar
        return value
