"""`riskstream seal verify`: whether history and its seals are what was sealed.

Without `deep` the chain, the leaves and the running totals are compared with each other; rows are read only
of runs whose seals do not fit. With it, the leaves of every run are made again from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Final

import psycopg

from risk_producer.errors import RiskError
from risk_worker.database.reader import as_of_one_moment, connected
from risk_worker.seal.chain import (
    SQL,
    VERSION,
    Leaf,
    Run,
    encoding,
    leaves_of_rows,
    runs,
    sealed_leaves,
    show_time,
)

SHOWN_SEQS: Final = 200  # characters of a list of seq numbers

Progress = Callable[[int, int, int, float], None]
"""(runs read, runs in all, rows read, seconds)"""


class SealsNewer(RiskError):
    """The seals were made by a newer version of riskstream."""


class HeadsUnreadable(RiskError):
    """A file of kept heads has a line that is none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was sealed."""

    kind: str
    """added, removed, changed: rows; seal, leaf, total, head: what was sealed."""
    message: str
    run: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    trader_id: str | None = None
    epoch: int | None = None
    day: str | None = None


@dataclass(slots=True)
class Report:
    """What was found."""

    runs: int = 0
    leaves: int = 0
    rows: int = 0
    head: bytes | None = None
    """Of the last run."""
    sealed_until: datetime | None = None
    closed_until: datetime | None = None
    deep: bool = False
    rows_read: int = 0
    seconds: float = 0.0
    """Of reading rows."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(
    url: str,
    *,
    deep: bool = False,
    since: datetime | None = None,
    trader: str | None = None,
    heads: Sequence[tuple[int, bytes]] = (),
    progress: Progress | None = None,
) -> Report:
    """Verify the seals of the database at a libpq URL.

    since: begin with the run that this time of storing falls into. trader: read the rows of this one alone.
    heads: the numbers and heads of runs that were kept elsewhere.
    Raises DatabaseUnavailable, ConfigurationError, SealsNewer.
    """
    report = Report(deep=deep)
    with connected(url) as connection:
        with as_of_one_moment(connection):
            first = _first(connection, since)
            before = next(runs(connection, first - 1), None) if first > 1 else None
            chain = list(runs(connection, first))
            suspects = _check_chain(connection, report, chain, before, first)
            _check_heads(connection, report, heads)
            if since is None:
                _check_totals(connection, report, trader)
        wanted = chain if deep else [run for run in chain if run.number in suspects]
        began = monotonic()
        for number, run in enumerate(wanted, start=1):
            sealed = sealed_leaves(connection, run.number, trader)
            found = leaves_of_rows(connection, run.since, run.until, trader)
            report.findings += _differences(connection, run, sealed, found)
            report.rows_read += sum(leaf.rows for leaf in found)
            report.seconds = monotonic() - began
            if progress is not None:
                progress(number, len(wanted), report.rows_read, report.seconds)
    return report


def last_run(url: str) -> Run | None:
    """The last of the chain. Raises as verify() does."""
    with connected(url) as connection, connection.transaction():
        [(last, _, _)] = connection.execute(SQL["end_of_chain"]).fetchall()
        return None if last is None else next(runs(connection, last))


def run_with_leaves(url: str, number: int, trader: str | None = None) -> tuple[Run, list[Leaf]] | None:
    """A run as it was sealed. None: there is none of that number. Raises as verify() does."""
    with connected(url) as connection, as_of_one_moment(connection):
        run = next(runs(connection, number), None)
        if run is None or run.number != number:
            return None
        return run, sealed_leaves(connection, number, trader)


def read_heads(lines: Sequence[str]) -> list[tuple[int, bytes]]:
    """What `riskstream seal head` printed, line by line: a number, a head, and what follows them.

    Raises HeadsUnreadable.
    """
    heads = []
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        number, _, rest = line.strip().partition(" ")
        try:
            head = bytes.fromhex(rest.split()[0])
            if not number.isascii() or not number.isdigit() or len(head) != 32:
                raise ValueError
        except (ValueError, IndexError):
            raise HeadsUnreadable(
                f"line {place} of the kept heads is none: a line has a number, a blank and 64 hexadecimal "
                "digits, as riskstream seal head prints it"
            ) from None
        heads.append((int(number), head))
    return heads


def _first(connection: psycopg.Connection, since: datetime | None) -> int:
    if since is None:
        return 1
    [(number,)] = connection.execute(SQL["run_at"], {"since": since}).fetchall()
    if number is None:
        [(last, _, _)] = connection.execute(SQL["end_of_chain"]).fetchall()
        return 1 if last is None else int(last) + 1
    return int(number)


def _check_chain(
    connection: psycopg.Connection, report: Report, chain: Sequence[Run], before: Run | None, first: int
) -> set[int]:
    """Returns the numbers of the runs whose leaves are not those that were sealed."""
    asked = {"first": first, **encoding(connection)}
    sums = {
        number: (count, rows, digest)
        for number, count, rows, digest in connection.execute(SQL["sums_of_leaves"], asked)
    }
    suspects = set()
    for run in chain:
        if run.version > VERSION:
            raise SealsNewer(
                f"run {run.number} was sealed in version {run.version} of the digests, and this "
                f"riskstream knows {VERSION}: verify it with a newer one"
            )
        report.findings += _link_findings(run, before, first)
        if not run.fits:
            report.findings.append(
                _of_run("seal", run, "the run was changed: its head is not that of its columns")
            )
        leaves = sums.pop(run.number, (0, 0, None))
        if leaves[:2] != (run.leaves, run.rows) or (leaves[2] is not None and leaves[2] != run.digest):
            suspects.add(run.number)
            report.findings.append(
                _of_run(
                    "leaf",
                    run,
                    f"its leaves were changed: {run.leaves:,} leaves of {run.rows:,} rows were sealed, "
                    f"there are {leaves[0]:,} of {leaves[1]:,}",
                )
            )
        before = run
        report.runs += 1
        report.leaves += run.leaves
        report.rows += run.rows
    for number, (count, rows, _) in sorted(sums.items()):
        report.findings.append(
            Finding("seal", f"run {number} was removed: {count:,} leaves of {rows:,} rows have none", number)
        )
    [(_, _, report.closed_until)] = connection.execute(SQL["end_of_chain"]).fetchall()
    if before is not None:
        report.head, report.sealed_until = before.head, before.until
        if report.closed_until is None or report.closed_until < before.until:
            report.findings.append(
                _of_run("seal", before, "history is not closed as far as it is sealed: the mark was changed")
            )
    return suspects


def _link_findings(run: Run, before: Run | None, first: int) -> Iterator[Finding]:
    number = first if before is None else before.number + 1
    if run.number != number:
        which = f"run {number}" if run.number == number + 1 else f"runs {number} to {run.number - 1}"
        yield _of_run("seal", run, f"the chain has a gap before it: {which} removed")
        return
    previous, until = (None, None) if before is None else (before.head, before.until)
    if run.previous != previous:
        yield _of_run(
            "seal", run, f"it does not follow the head of run {number - 1}: one of the two was changed"
        )
    elif run.since != until:
        yield _of_run("seal", run, "it does not begin where the run before ends")


def _check_heads(connection: psycopg.Connection, report: Report, heads: Sequence[tuple[int, bytes]]) -> None:
    for number, head in sorted(heads):
        run = next(runs(connection, number), None)
        if run is None or run.number != number:
            ends = "there are no seals"
            if report.sealed_until is not None:
                ends = f"the chain ends at {show_time(report.sealed_until)}"
            report.findings.append(
                Finding(
                    "head",
                    f"run {number}, whose head was kept, is not there ({ends}): the last runs were removed, "
                    "or an older copy of the database was restored",
                    number,
                )
            )
        elif run.head != head:
            report.findings.append(
                _of_run(
                    "head",
                    run,
                    "its head is not the one that was kept: this run or one before it was sealed anew",
                )
            )


def _check_totals(connection: psycopg.Connection, report: Report, trader: str | None) -> None:
    for trader_id, epoch, total, rows in connection.execute(SQL["wrong_totals"], {"trader": trader}):
        report.findings.append(
            Finding(
                "total",
                f"{trader_id}, epoch {epoch}: the running total is not the sum of its leaves ({total:,} "
                f"rows, and {rows:,} of the leaves): leaves or runs were removed or added, or the total was "
                "changed",
                trader_id=trader_id,
                epoch=epoch,
            )
        )


def _differences(
    connection: psycopg.Connection, run: Run, sealed: Sequence[Leaf], found: Sequence[Leaf]
) -> Iterator[Finding]:
    """Where the rows of a run are not those that were sealed."""
    leaves, rows = {leaf.key: leaf for leaf in sealed}, {leaf.key: leaf for leaf in found}
    for key in sorted(leaves.keys() | rows.keys()):
        leaf, row = leaves.get(key), rows.get(key)
        if leaf == row:
            continue
        if leaf is None and row is not None:
            kind, what = (
                "added",
                f"{row.rows:,} rows were added, of which none was sealed (seq {_shown(row.covered)})",
            )
        elif row is None and leaf is not None:
            kind, what = "removed", f"all {leaf.rows:,} rows were removed (seq {_shown(leaf.covered)})"
        elif leaf is not None and row is not None:
            kind, what = _explain(connection, leaf, row)
        trader_id, epoch, day = key
        message = f"{run.window}: {trader_id}, epoch {epoch}, recorded on {day}: {what}"
        yield Finding(kind, message, run.number, run.since, run.until, trader_id, epoch, day)


def _explain(connection: psycopg.Connection, leaf: Leaf, row: Leaf) -> tuple[str, str]:
    """(kind, what) of a leaf and the rows, which differ."""
    gone, new = (_less(connection, leaf.covered, row.covered), _less(connection, row.covered, leaf.covered))
    where = ""
    if gone != "{}":
        where += f"; seq {_shown(gone)} gone"
    if new != "{}":
        where += f"; seq {_shown(new)} not sealed"
    if row.rows < leaf.rows:
        return "removed", f"{leaf.rows - row.rows:,} of {leaf.rows:,} rows were removed{where}"
    if row.rows > leaf.rows:
        return "added", f"{row.rows - leaf.rows:,} rows were added to {leaf.rows:,}{where}"
    if row.digest == leaf.digest:
        return "leaf", "its leaf was changed, and the rows are those whose digest it has"
    return (
        "changed",
        f"rows were changed or exchanged; there are {leaf.rows:,}, as many as were sealed{where}",
    )


def _less(connection: psycopg.Connection, some: str, others: str) -> str:
    [(left,)] = connection.execute(SQL["less"], {"some": some, "others": others}).fetchall()
    return str(left)


def _shown(covered: str) -> str:
    return covered if len(covered) <= SHOWN_SEQS else f"{covered[:SHOWN_SEQS]} …"


def _of_run(kind: str, run: Run, what: str) -> Finding:
    return Finding(kind, f"{run.window}: {what}", run.number, run.since, run.until)
