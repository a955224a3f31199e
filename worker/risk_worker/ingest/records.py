"""Snapshots in a file: JSON lines, or CSV with a header row. Read record by record, in constant memory.

The fields are those of RiskSnapshot, and a value means the same in both forms. Times are ISO 8601 with a
zone. An empty field of CSV, like null in JSON, is one that is missing. RiskSnapshot's defaults are made for
snapshots of now, so a record needs recorded_at and trading_paused too, unless the caller says what stands for
them (Defaults). Lines are counted from 1, as an editor counts them.

The quotes of a CSV file decide where a record ends. A record that cannot be read is bad up to its own end,
whatever it holds. Where the quotes themselves are broken no record's end is known: a file is then refused as
a whole, before anything of it is used, and a pipe is read no further.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import Any, BinaryIO, Final, Literal

import msgspec

from risk_producer.contract.snapshot import RiskSnapshot, plain_number, shown
from risk_producer.errors import InvalidSnapshot, RiskError
from risk_worker.ingest.plain_json import plain_line

Form = Literal["jsonl", "csv"]
_Converter = Callable[[str, object], object]
_Column = tuple[str, _Converter | None]
"""Its name, and what makes its value; None: it is passed over."""

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
_REQUIRED: Final = (
    *(field.name for field in msgspec.structs.fields(RiskSnapshot) if field.required),
    *("trading_paused", "recorded_at"),
)
_STORED: Final = ("epoch", "seq", "merged", "stored_at", "updated_at")
"""Columns of the database's tables that are no fields of a snapshot."""
_FLAGS: Final = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_HINTS: Final = {
    "recorded_at": "--recorded-at now takes the time of reading where it is missing",
    "trading_paused": "--trading-paused false says what a missing one means",
}
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]([01][0-9]|2[0-3]):[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?"
    r" ?([Zz]|[+-][0-9]{2}(:?[0-9]{2}(:[0-9]{2})?)?)"
)


class UnreadableFile(RiskError):
    """The file as a whole cannot be read as snapshots; the message says why and what helps."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a record means that does not say it."""

    recorded_now: bool = False
    """A missing recorded_at is the time of reading."""
    trading_paused: bool | None = None
    """A missing trading_paused; None: the record is bad."""

    @property
    def required(self) -> list[str]:
        """The fields without which a record is bad."""
        given = {"recorded_at": self.recorded_now, "trading_paused": self.trading_paused is not None}
        return [name for name in _REQUIRED if not given.get(name)]


class SnapshotLines:
    """Iterates over (line number, snapshot); in place of a snapshot that is none stands why, as a text.

    form: None means to tell by the first line: an object is JSON, anything else is CSV's header.
    warn: gets what the user should know of the file, once.
    Raises UnreadableFile when the header is wrong, the file is empty, or the quotes of a CSV file are broken;
    later, one record is at fault alone.
    """

    def __init__(
        self,
        stream: BinaryIO,
        form: Form | None = None,
        defaults: Defaults | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._stream = stream
        self._lines = _Lines(stream)
        self._form = form
        self._defaults = defaults or Defaults()
        self._required = self._defaults.required
        self._required_set = frozenset(self._required)
        self._warn = warn
        self._passed_over: set[str] = set()

    @property
    def bytes_read(self) -> int:
        """How much of the file has been read."""
        return self._lines.bytes_read

    def __iter__(self) -> Iterator[tuple[int, RiskSnapshot | str]]:
        began = self._stream.tell() if self._stream.seekable() else None
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
        if self._form == "jsonl":
            if first.startswith(b"["):
                raise UnreadableFile(
                    "this is a JSON array; one object a line is expected: jq -c '.[]' makes them"
                )
            if first == b"{" or (first.startswith(b"{") and first.endswith(b",")):
                raise UnreadableFile(
                    "its first JSON object is spread over several lines; one object a line is expected: "
                    "jq -c . makes them"
                )
            return self._json()
        if began is not None:
            self._check_quotes(began)
        return self._csv()

    def _json(self) -> Iterator[tuple[int, RiskSnapshot | str]]:
        for record in self._lines.records():
            if record.too_long:
                yield record.number, record.too_long
            elif (plain := self._plain_snapshot(record.raw)) is not None:
                yield record.number, plain
            elif not record.raw.isspace():
                try:
                    yield record.number, self._snapshot(_json_object(record.raw))
                except UnicodeDecodeError as error:
                    yield record.number, _not_utf8(error)
                except (InvalidSnapshot, RecursionError) as error:
                    yield record.number, str(error)

    def _plain_snapshot(self, line: bytes) -> RiskSnapshot | None:
        """What _snapshot() makes of a line that is plain in all respects, sooner."""
        if (found := plain_line(line)) is None:
            return None
        trader_id, paused, recorded_at = found.trader_id, found.trading_paused, found.recorded_at
        if not isinstance(paused, bool):
            paused = self._defaults.trading_paused
        if not recorded_at and self._defaults.recorded_now:
            recorded_at = datetime.now(UTC)
        if paused is None or not recorded_at or trader_id != trader_id.strip():
            return None
        try:
            return _Pushed(
                trader_id=trader_id,
                daily_pnl=found.daily_pnl,
                drawdown_pct=found.drawdown_pct,
                current_equity=found.current_equity,
                peak_equity=found.peak_equity,
                trading_paused=paused,
                paused_until=found.paused_until or None,
                last_reset_time=found.last_reset_time or None,
                recorded_at=recorded_at,
                trace_id=found.trace_id or "",
                reason=found.reason or "",
            )
        except InvalidSnapshot:
            return None

    def _csv(self) -> Iterator[tuple[int, RiskSnapshot | str]]:
        columns: list[_Column] | None = None
        try:
            for record in self._lines.records(_Quotes()):
                if record.raw.isspace() and not record.too_long:
                    continue
                if columns is None:
                    columns = [(name, _CONVERTERS.get(name)) for name in self._header(record)]
                else:
                    yield record.number, self._csv_record(record, columns)
        except _BrokenQuotes as error:
            if columns is None:
                raise _no_header(error) from None
            yield error.number, f"not CSV: {error}; nothing from this line on is read"

    def _check_quotes(self, began: int) -> None:
        """Read the whole file once, and go back to its beginning. Raises UnreadableFile."""
        if self._has_whole_lines_alone(began):
            return
        first = self._lines.number + 1
        try:
            for _ in self._lines.records(_Quotes()):
                pass
        except _BrokenQuotes as error:
            if error.number == first:
                raise _no_header(error) from None
            raise UnreadableFile(
                f"line {error.number}: {error}; the ends of its records cannot be known, and none is used"
            ) from None
        self._begin_again(began)

    def _has_whole_lines_alone(self, began: int) -> bool:
        """Whether each line is a record, so that its quotes are right. It may be so where this says no."""
        self._stream.seek(began)
        rest = b""
        while chunk := self._stream.read(LINE_BYTES_MAX):
            lines, line_break, rest_of_chunk = chunk.rpartition(b"\n")
            if not line_break:
                rest += chunk
            elif _are_whole(rest + lines + line_break):
                rest = rest_of_chunk
            else:
                break
            if len(rest) > LINE_BYTES_MAX:
                break
        self._begin_again(began)
        return not chunk and b'"' not in rest

    def _begin_again(self, began: int) -> None:
        self._stream.seek(began)
        self._lines = _Lines(self._stream)
        self._lines.peek()

    def _csv_record(self, record: _Record, columns: list[_Column]) -> RiskSnapshot | str:
        reach = f" (up to line {record.last})" if record.last > record.number else ""
        if record.too_long:
            return f"not CSV: {record.too_long}{reach}"
        try:
            row = _csv_row(record)
            if len(row) != len(columns):
                return f"{len(row)} fields where the header has {len(columns)}{reach}"
            if not record.ended:
                return (
                    "the file ends without a line break, so this record may be cut off; "
                    "where it is whole, end it with a line break"
                )
            return self._made(
                {
                    name: convert(name, value)
                    for (name, convert), value in zip(columns, row, strict=True)
                    if value and convert is not None
                }
            )
        except InvalidSnapshot as error:
            return str(error)
        except UnicodeDecodeError as error:
            return f"{_not_utf8(error)}{reach}"
        except csv.Error as error:
            return f"not CSV: {error}{reach}"

    def _header(self, record: _Record) -> list[str]:
        try:
            if record.too_long:
                raise csv.Error(record.too_long)
            columns = [name.strip() for name in _csv_row(record)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise _no_header(error) from None
        known = f"the columns are {', '.join(_FIELDS)}"
        for other in (";", "\t", "|"):
            if len(columns) == 1 and other in columns[0]:
                raise UnreadableFile(f"its columns seem to be separated by {other!r}; a comma is expected")
        for name in columns:
            if name not in _FIELDS and name not in _STORED:
                raise UnreadableFile(f"its header row has an unknown column {shown(name)}; {known}")
        if len(set(columns)) < len(columns):
            raise UnreadableFile(f"its header row names a column twice: {', '.join(columns)}")
        if missing := [name for name in self._required if name not in columns]:
            raise UnreadableFile(
                f"its header row has no column {', '.join(missing)}; {known}{_hints(missing)}"
            )
        self._pass_over([name for name in columns if name in _STORED])
        return columns

    def _snapshot(self, fields: dict[str, Any]) -> RiskSnapshot:
        """From fields as JSON has them. Raises InvalidSnapshot that names the field."""
        values: dict[str, Any] = {}
        others = []
        for name, value in fields.items():
            convert = _CONVERTERS.get(name)
            if convert is None:
                others.append(name)
            elif value is not None and value != "":
                values[name] = convert(name, value)
        if others:
            self._pass_over(others)
        return self._made(values)

    def _made(self, values: dict[str, Any]) -> RiskSnapshot:
        """From the values that are given. Raises InvalidSnapshot that names the field."""
        if not values.keys() >= self._required_set:
            missing = [name for name in self._required if name not in values]
            raise InvalidSnapshot(f"{', '.join(missing)} must be given{_hints(missing)}")
        if "trading_paused" not in values:
            values["trading_paused"] = self._defaults.trading_paused
        return _Pushed(**values)

    def _pass_over(self, others: list[str]) -> None:
        """Names that are no fields of a snapshot: raises InvalidSnapshot, unless the tables have them."""
        for name in others:
            if name not in _STORED:
                raise InvalidSnapshot(f"unknown key {shown(name)}; known are {', '.join(_FIELDS)}")
        if not self._passed_over.issuperset(others):
            self._passed_over.update(others)
            self._warn(
                f"Not read: {', '.join(others)}. What is pushed is a new snapshot with its own identity."
            )


def _no_header(error: Exception) -> UnreadableFile:
    return UnreadableFile(f"its first line is no header row of CSV: {error}")


def _hints(missing: list[str]) -> str:
    return "".join(f"; {_HINTS[name]}" for name in missing if name in _HINTS)


class _Pushed(RiskSnapshot, frozen=True, kw_only=True):
    """A snapshot of a file: where it is refused, the line is reported, so the library need not."""

    def _report(self, error: InvalidSnapshot) -> None:
        pass


@dataclass(slots=True)
class _Record:
    """The bytes of one record, as far as they are kept."""

    number: int
    """Its first line."""
    last: int
    """Its last line."""
    raw: bytes
    ended: bool
    """Whether a line break ends it."""
    too_long: str = ""
    """Why it is bad already."""


class _Lines:
    """The records of a file as bytes: lines, or what their quotes make one. What is too long is not kept."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._peeked: bytes | None = None
        self._begins_line = True
        self.number = 0
        self.bytes_read = 0

    def peek(self) -> bytes:
        """The first line that is not blank, without blanks around it and without a byte order mark."""
        while True:
            raw = self._stream.readline(LINE_BYTES_MAX)
            if self.number == 0 and raw.startswith(_BOM):
                self.bytes_read += len(_BOM)
                raw = raw[len(_BOM) :]
            if raw.strip() or not raw:
                self._peeked = raw
                return raw.strip()
            self.number += 1
            self.bytes_read += len(raw)

    def records(self, quotes: _Quotes | None = None) -> Iterator[_Record]:
        """Raises _BrokenQuotes where the end of a record cannot be known."""
        pieces: list[bytes] = []
        size = number = 0
        while piece := self._piece():
            if not size:
                number = self.number
                if self._begins_line and (quotes is None or _are_whole(piece)):
                    yield _Record(number, number, piece, True)
                    continue
            size += len(piece)
            if size <= LINE_BYTES_MAX:
                pieces.append(piece)
            if quotes is not None:
                quotes.read(piece, number)
            if piece.endswith(b"\n") and (quotes is None or not quotes.open):
                yield self._record(number, pieces, size)
                pieces, size = [], 0
        if quotes is not None and quotes.open:
            raise _BrokenQuotes(number, "a quote is never closed")
        if size:
            yield self._record(number, pieces, size)

    def _record(self, number: int, pieces: list[bytes], size: int) -> _Record:
        too_long = f"longer than {LINE_BYTES_MAX} bytes" if size > LINE_BYTES_MAX else ""
        return _Record(number, self.number, b"".join(pieces), self._begins_line, too_long)

    def _piece(self) -> bytes:
        """A line, or the next part of one that is long; nothing at the end."""
        if self._peeked is None:
            raw = self._stream.readline(LINE_BYTES_MAX)
        else:
            raw, self._peeked = self._peeked, None
        if raw:
            self.number += self._begins_line
            self._begins_line = raw.endswith(b"\n")
            self.bytes_read += len(raw)
        return raw


_FIELD: Final = rb'(?:"[^"\n]*+(?:""[^"\n]*+)*+"|[^",\n]*+)'
_WHOLE_LINES: Final = re.compile(rb"(?:%s(?:,%s)*+\r?\n)*+" % (_FIELD, _FIELD))


def _are_whole(lines: bytes) -> bool:
    """Whether each line of CSV is a record, as _Quotes would find. It may be so where this says no."""
    return b'"' not in lines or _WHOLE_LINES.fullmatch(lines) is not None


class _BrokenQuotes(Exception):
    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.number = number


class _Quotes:
    """Whether a quote is open.

    A quote opens a field at its beginning, closes it at its end, or is doubled. Any other shows that one is
    missing or too many, here or before: what is inside of quotes and what outside may be swapped.
    """

    def __init__(self) -> None:
        self.open = False
        self._closing = False
        """A quote has been read that closes the field, unless another one follows."""
        self._before = b""
        """The byte before this piece, where it belongs to the same record."""

    def read(self, piece: bytes, number: int) -> None:
        """The next bytes of the record that began at line `number`. Raises _BrokenQuotes."""
        at = 0
        while at < len(piece):
            if self._closing:
                self._closing = False
                if piece.startswith(b'"', at):
                    self.open = True
                    at += 1
                elif piece[at] not in b",\r\n":
                    raise _BrokenQuotes(number, "a closing quote is followed by more text")
            if self.open:
                at = piece.find(b'"', at) + 1
                if not at:
                    break
                self.open, self._closing = False, True
            else:
                quote = piece.find(b'"', at)
                if quote < 0:
                    break
                before = piece[quote - 1 : quote] if quote else self._before
                if before not in (b"", b",", b"\n"):
                    raise _BrokenQuotes(number, "a quote is inside a field that is not quoted")
                self.open = True
                at = quote + 1
        self._before = piece[-1:]


class _Number(str):
    """A number of JSON as it is written, so that it means what the same text means in CSV."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str.__str__(self)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        content = _JSON.decode(line.decode())
    except json.JSONDecodeError as error:
        raise InvalidSnapshot(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(content, dict):
        raise InvalidSnapshot(f"one JSON object a line is expected, got {shown(content)}")
    return content


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise InvalidSnapshot("a key is there more than once")
    return content


def _no_constant(text: str) -> None:
    raise InvalidSnapshot(f"not JSON: {text} is no number of JSON")


_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_once_each, parse_float=_Number, parse_int=_Number, parse_constant=_no_constant
)


def _csv_row(record: _Record) -> list[str]:
    if b'"' not in record.raw:
        text = record.raw.decode().removesuffix("\n").removesuffix("\r")
        if "\r" not in text and "\n" not in text:
            return text.split(",")  # the same as below, in a fraction of the time
    return _quoted_csv_row(record)


def _quoted_csv_row(record: _Record) -> list[str]:
    return next(csv.reader((record.raw.decode(),), strict=True))


def _text(name: str, value: object) -> object:
    if isinstance(value, _Number):
        if not value.lstrip("-").isdigit():
            raise InvalidSnapshot(f"{name} must be a text or a whole number, got {shown(value)}")
        return str.__str__(value)
    return value


def _name(name: str, value: object) -> object:
    text = _text(name, value)
    if isinstance(text, str) and text != text.strip():
        raise InvalidSnapshot(f"{name} must not begin or end with a blank, got {shown(text)}")
    return text


def _number(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        if "_" in value or not value.isascii():
            raise ValueError
        number = float(value)
    except ValueError:
        raise InvalidSnapshot(f"{name} must be a number, got {shown(value)}") from None
    if 0 < abs(number) < 2**53 or not isfinite(number) or not value.strip("0."):
        return number
    try:
        return plain_number(name, Decimal(value.strip()))
    except ArithmeticError:  # an exponent of twenty digits
        raise InvalidSnapshot(f"{name} must be a number, got {shown(value)}") from None


def _flag(name: str, value: object) -> object:
    if isinstance(value, bool):
        return value
    flag = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if flag is None:
        raise InvalidSnapshot(f"{name} must be true, false, t, f, 1 or 0, got {shown(value)}")
    return flag


def _time(name: str, value: object) -> object:
    """Whatever is finer than microseconds is cut off."""
    time = None
    if isinstance(value, str):
        parse = _time_of if len(value) <= _REMEMBERED_MAX else _time_of.__wrapped__
        time = parse(value)
    if time is None:
        raise InvalidSnapshot(
            f"{name} must be an ISO 8601 time with a zone, like 2026-01-31T09:30:00.250Z, got {shown(value)}"
        )
    return time


_REMEMBERED_MAX: Final = 64  # characters: what is no time may be as long as a record


@lru_cache(maxsize=64)  # last_reset_time and paused_until stay the same for many records
def _time_of(text: str) -> datetime | None:
    text = text.strip()
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat((text[:11] + text[11:].replace(" ", "")).upper())
    except ValueError:
        pass
    return None


_CONVERTERS: Final[dict[str, _Converter]] = {
    "trader_id": _name,
    "daily_pnl": _number,
    "drawdown_pct": _number,
    "current_equity": _number,
    "peak_equity": _number,
    "trading_paused": _flag,
    "paused_until": _time,
    "last_reset_time": _time,
    "recorded_at": _time,
    "trace_id": _text,
    "reason": _text,
}


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1} of the record"
