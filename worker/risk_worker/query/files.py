"""Answers as files: what is at the path is whole, or as it was before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Final

import msgspec

from risk_worker.query.formats import FORMATS, as_csv

FORMS: Final = ("csv", "jsonl", "json", "parquet")
_BOM: Final = "\ufeff"
"""By it Excel knows that a file is UTF-8."""


def write(
    rows: Iterable[msgspec.Struct],
    row: type[msgspec.Struct],
    path: Path,
    form: str,
    zone: tzinfo = UTC,
    *,
    spreadsheet: bool = True,
) -> None:
    """Write rows into a file of a form in FORMS, in the place of one that is there.

    spreadsheet: CSV is made for Excel, see as_csv(). Times in Parquet are in UTC.
    Raises OSError, MissingLibrary, and what reading the rows raises.
    """
    with whole(path) as part:
        if form == "parquet":
            from risk_worker.query.frames import write_parquet

            write_parquet(rows, row, part)
        else:
            for_excel = form == "csv" and spreadsheet
            pieces = (
                as_csv(rows, row, zone, spreadsheet=spreadsheet)
                if form == "csv"
                else FORMATS[form](rows, row, zone)
            )
            with part.open("w", encoding="utf-8", newline="") as file:
                file.write(_BOM if for_excel else "")
                file.writelines(pieces)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file, which appears at its path when the block ends well. Raises OSError.

    What is no regular file, as a pipe or /dev/null, is written to itself. A link keeps leading to its file.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
