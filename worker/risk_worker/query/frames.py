"""Answers as data frames, and as files of Parquet. The libraries are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import msgspec

from risk_producer.errors import RiskError

_PACKAGES: Final = {"pandas": "pandas", "polars": "polars", "arrow": "pyarrow"}
_PANDAS: Final = {
    str: "object",
    int: "int64",
    float: "float64",
    bool: "bool",
    datetime: "datetime64[us, UTC]",
    date: "object",
}
_GROUP: Final = 50_000
"""Rows of a row group in a Parquet file."""


class MissingLibrary(RiskError):
    """A library is not installed; the message says how to install it."""


def frame_of(rows: Iterable[msgspec.Struct], row: type[msgspec.Struct], library: str) -> Any:
    """All rows as a frame of that library; the columns have their types where there is no row, too.

    Raises MissingLibrary, and ValueError for a library that is not known.
    """
    if library not in _PACKAGES:
        raise ValueError(f"{library!r} is none of {', '.join(_PACKAGES)}")
    module = _import(_PACKAGES[library])
    kinds = _kinds(row)
    columns = _columns(rows, kinds)
    if library == "arrow":
        return _table(module, columns, kinds)
    if library == "polars":
        return module.DataFrame(columns, schema=_polars(module, kinds))
    hints = get_type_hints(row)
    dtypes = {
        name: "Int64" if hints[name] == int | None else _PANDAS[kind]  # int64 has no room for None
        for name, kind in kinds.items()
    }
    return module.DataFrame(
        {name: module.Series(values, dtype=dtypes[name]) for name, values in columns.items()}
    )


def write_parquet(rows: Iterable[msgspec.Struct], row: type[msgspec.Struct], path: Path) -> int:
    """Write rows into a Parquet file, a group at a time. Returns how many. Raises MissingLibrary."""
    arrow, parquet = _import("pyarrow"), _import("pyarrow.parquet")
    kinds = _kinds(row)
    count = 0
    with parquet.ParquetWriter(path, _schema(arrow, kinds)) as writer:
        for group in _groups(rows):
            writer.write_table(_table(arrow, _columns(group, kinds), kinds))
            count += len(group)
    return count


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingLibrary(f"{package} cannot be imported ({error}); run: pip install {package}") from None


def _groups(rows: Iterable[msgspec.Struct]) -> Iterator[Sequence[msgspec.Struct]]:
    rest = iter(rows)
    while group := list(islice(rest, _GROUP)):
        yield group


def _kinds(row: type[msgspec.Struct]) -> dict[str, type]:
    """Field -> its type without None."""
    hints = get_type_hints(row)
    return {
        name: next((each for each in get_args(hints[name]) if each is not NoneType), hints[name])
        for name in row.__struct_fields__
    }


def _columns(rows: Iterable[msgspec.Struct], kinds: Iterable[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in kinds}
    for row in rows:
        for name, values in columns.items():
            values.append(getattr(row, name))
    return columns


def _polars(polars: Any, kinds: dict[str, type]) -> dict[str, Any]:
    types = {
        str: polars.String,
        int: polars.Int64,
        float: polars.Float64,
        bool: polars.Boolean,
        datetime: polars.Datetime("us", "UTC"),
        date: polars.Date,
    }
    return {name: types[kind] for name, kind in kinds.items()}


def _schema(arrow: Any, kinds: dict[str, type]) -> Any:
    types = {
        str: arrow.string(),
        int: arrow.int64(),
        float: arrow.float64(),
        bool: arrow.bool_(),
        datetime: arrow.timestamp("us", tz="UTC"),
        date: arrow.date32(),
    }
    return arrow.schema([(name, types[kind]) for name, kind in kinds.items()])


def _table(arrow: Any, columns: dict[str, list[Any]], kinds: dict[str, type]) -> Any:
    return arrow.table(columns, schema=_schema(arrow, kinds))
