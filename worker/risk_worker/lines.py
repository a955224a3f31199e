"""Snapshots in a file: JSON lines, or CSV with a header row. Read line by line, in constant memory.

The fields are those of RiskSnapshot. Times are ISO 8601 with a zone. An empty field of CSV, like null in
JSON, stands for the field's default. Lines are counted from 1, as an editor counts them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, BinaryIO, Final, Literal

import msgspec

from risk_producer.errors import InvalidSnapshot, RiskError
from risk_producer.snapshot import RiskSnapshot

Form = Literal["jsonl", "csv"]

LINE_BYTES_MAX: Final = 64 * 1024
"""No snapshot is longer: its texts have at most 1,534 characters."""

_BOM: Final = b"\xef\xbb\xbf"
_COMPRESSED: Final = {
    b"\x1f\x8b": "gunzip -c",
    b"BZh": "bunzip2 -c",
    b"\xfd7zXZ\0": "xz -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
    b"PK\x03\x04": "unzip -p",
}
"""How such a file begins -> the command that unpacks it into a pipe."""
_FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(RiskSnapshot))
_REQUIRED: Final = tuple(field.name for field in msgspec.structs.fields(RiskSnapshot) if field.required)
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}


class UnreadableFile(RiskError):
    """The file as a whole cannot be read as snapshots; the message says why and what helps."""


class SnapshotLines:
    """Iterates over (line number, snapshot); in place of a snapshot that is none stands why, as a text.

    form: None means to tell by the first line: an object is JSON, anything else is CSV's header.
    Raises UnreadableFile when the header is wrong or the file is empty; later, one line is at fault alone.
    """

    def __init__(self, stream: BinaryIO, form: Form | None = None) -> None:
        self._lines = _Lines(stream)
        self._form = form

    @property
    def bytes_read(self) -> int:
        """How much of the file has been read."""
        return self._lines.bytes_read

    def __iter__(self) -> Iterator[tuple[int, RiskSnapshot | str]]:
        first = self._lines.peek()
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnreadableFile("this is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8")
        for magic, unpack in _COMPRESSED.items():
            if first.startswith(magic):
                raise UnreadableFile(f"it is compressed; pipe it: {unpack} FILE | riskstream push -")
        if not first:
            raise UnreadableFile(
                "there is nothing in it but blank lines" if self._lines.number else "it is empty"
            )
        if self._form is None:
            self._form = "jsonl" if first.startswith((b"{", b"[")) else "csv"
        if self._form == "jsonl" and first.startswith(b"["):
            raise UnreadableFile(
                "this is a JSON array; one object a line is expected: jq -c '.[]' makes them"
            )
        return _json_lines(self._lines) if self._form == "jsonl" else _csv_lines(self._lines)


class _LineTooLong(Exception):
    pass


class _Lines:
    """The lines of a file as bytes, none longer than LINE_BYTES_MAX. Goes on after _LineTooLong."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._peeked: bytes | None = None
        self.number = 0
        self.bytes_read = 0

    def peek(self) -> bytes:
        """The first line that is not blank, without blanks around it and without a byte order mark."""
        while True:
            raw = self._stream.readline(LINE_BYTES_MAX + 1)
            if self.number == 0 and raw.startswith(_BOM):
                self.bytes_read += len(_BOM)
                raw = raw[len(_BOM) :]
            if raw.strip() or not raw:
                self._peeked = raw
                return raw.strip()
            self.number += 1
            self.bytes_read += len(raw)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._peeked is None:
            raw = self._stream.readline(LINE_BYTES_MAX + 1)
        else:
            raw, self._peeked = self._peeked, None
        if not raw:
            raise StopIteration
        self.number += 1
        self.bytes_read += len(raw)
        if len(raw) > LINE_BYTES_MAX:
            while raw and not raw.endswith(b"\n"):
                raw = self._stream.readline(LINE_BYTES_MAX + 1)
                self.bytes_read += len(raw)
            raise _LineTooLong(f"longer than {LINE_BYTES_MAX} bytes")
        return raw


class _JsonLine(RiskSnapshot, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A snapshot in which a misspelt field is an error."""


def _json_lines(lines: _Lines) -> Iterator[tuple[int, RiskSnapshot | str]]:
    decode = msgspec.json.Decoder(_JsonLine).decode
    while True:
        try:
            line = next(lines)
            if line.isspace():
                continue
            yield lines.number, decode(line)
        except StopIteration:
            return
        except msgspec.ValidationError:
            # Not in the strict form. The slow way takes null and quoted numbers, or says what is wrong.
            yield lines.number, _lenient(line)
        except UnicodeDecodeError:
            yield lines.number, _not_utf8(line)
        except (msgspec.DecodeError, RecursionError) as error:
            yield lines.number, str(error)
        except _LineTooLong as error:
            yield lines.number, str(error)


def _lenient(line: bytes) -> RiskSnapshot | str:
    try:
        content = msgspec.json.decode(line)
        if not isinstance(content, dict):
            return f"one JSON object a line is expected, got {_short(content)}"
        return _snapshot(content)
    except (InvalidSnapshot, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return str(error)


def _csv_lines(lines: _Lines) -> Iterator[tuple[int, RiskSnapshot | str]]:
    rows = csv.reader(map(_text, lines), strict=True)
    columns = _header(rows)
    while True:
        number = lines.number + 1
        try:
            row = next(rows)
            if not row:
                continue
            if len(row) != len(columns):
                yield number, f"{len(row)} fields where the header has {len(columns)}"
            else:
                yield number, _snapshot(dict(zip(columns, row, strict=True)))
        except StopIteration:
            return
        except InvalidSnapshot as error:
            yield number, str(error)
        except UnicodeDecodeError as error:
            yield number, _not_utf8(error.object)
        except (csv.Error, _LineTooLong) as error:
            reach = f" (up to line {lines.number})" if lines.number > number else ""
            yield number, f"not CSV: {error}{reach}"


def _header(rows: Iterator[list[str]]) -> list[str]:
    try:
        columns = [name.strip() for name in next(rows)]
    except (csv.Error, UnicodeDecodeError, _LineTooLong, StopIteration) as error:
        raise UnreadableFile(f"its first line is no header row of CSV: {error}") from None
    known = f"the columns are {', '.join(_FIELDS)}"
    for other in (";", "\t", "|"):
        if len(columns) == 1 and other in columns[0]:
            raise UnreadableFile(f"its columns seem to be separated by {other!r}; a comma is expected")
    for name in columns:
        if name not in _FIELDS:
            raise UnreadableFile(f"its header row has an unknown column {_short(name)}; {known}")
    if len(set(columns)) < len(columns):
        raise UnreadableFile(f"its header row names a column twice: {', '.join(columns)}")
    if missing := [name for name in _REQUIRED if name not in columns]:
        raise UnreadableFile(f"its header row has no column {', '.join(missing)}; {known}")
    return columns


def _snapshot(fields: dict[str, Any]) -> RiskSnapshot:
    """From fields as texts, or as what JSON has. Raises InvalidSnapshot that names the field."""
    values = {}
    for name, value in fields.items():
        if value is None or value == "":
            continue
        convert = _CONVERTERS.get(name)
        if convert is not None and isinstance(value, str):
            value = convert(name, value)
        values[name] = value
    try:
        return RiskSnapshot(**values)
    except TypeError:
        if unknown := [name for name in values if name not in _FIELDS]:
            raise InvalidSnapshot(
                f"unknown key {_short(unknown[0])}; known are {', '.join(_FIELDS)}"
            ) from None
        if missing := [name for name in _REQUIRED if name not in values]:
            raise InvalidSnapshot(f"{', '.join(missing)} must be given") from None
        raise


def _number(name: str, text: str) -> float:
    try:
        if "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise InvalidSnapshot(f"{name} must be a number, got {_short(text)}")


def _flag(name: str, text: str) -> bool:
    flag = _FLAGS.get(text.strip().lower())
    if flag is None:
        raise InvalidSnapshot(f"{name} must be true, false, 1 or 0, got {_short(text)}")
    return flag


def _time(name: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        time = None
    if time is None or time.utcoffset() is None:
        raise InvalidSnapshot(
            f"{name} must be an ISO 8601 time with a zone, like 2026-01-31T09:30:00.250Z, got {_short(text)}"
        )
    return time


_CONVERTERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "daily_pnl": _number,
    "drawdown_pct": _number,
    "current_equity": _number,
    "peak_equity": _number,
    "trading_paused": _flag,
    "paused_until": _time,
    "last_reset_time": _time,
    "recorded_at": _time,
}


def _text(line: bytes) -> str:
    return line.decode()


def _not_utf8(line: bytes) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
    return "not UTF-8"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
