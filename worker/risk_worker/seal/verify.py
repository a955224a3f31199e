"""`riskstream seal verify`: whether history and its seals are what was sealed.

Without `deep` the chain, the leaves and the running totals are compared with each other; rows are read only
of runs whose seals do not fit. With it, the leaves of every run are made again from the rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Final

import psycopg

from risk_producer.errors import RiskError
from risk_worker.database import connection as database
from risk_worker.database.extension import retention_policies
from risk_worker.database.reader import as_of_one_moment, connected
from risk_worker.seal.chain import (
    AT_ONCE,
    DROPPED,
    EXPIRED,
    REOPENED,
    ROWS_MAX,
    RUNS_MAX,
    SEALED,
    SQL,
    VERSION,
    Leaf,
    LeafKey,
    Run,
    encoding,
    end_of_chain,
    leaves_of_runs,
    run_of,
    runs,
    runs_of,
    sealed_leaves,
    show_time,
)

SHOWN_SEQS: Final = 200  # characters of a list of seq numbers

_Sums = tuple[int, int, bytes | None]
"""(leaves, rows, digest over the leaves); None: there is none."""

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
    """added, removed, changed: rows; seal, leaf, total, head: what was sealed; clock: of a time to come."""
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
    expired: int = 0
    """How many of the rows retention has removed."""
    expired_until: str | None = None
    """The UTC day before which it did."""
    dropped: int = 0
    """How many dead letters operators have dropped."""
    drop_entries: int = 0
    last_drop: int = 0
    """How many entries did so, and the number of the last."""
    head: bytes | None = None
    """Of the last entry."""
    sealed_until: datetime | None = None
    closed_until: datetime | None = None
    deep: bool = False
    rows_read: int = 0
    seconds: float = 0.0
    """Of reading rows."""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What an auditor has to know, and is not wrong: which runs were undone, say."""

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def proves_nothing(self) -> bool:
        """Whether nothing is sealed."""
        return self.runs == 0 and self.sealed_until is None


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
            [(now,)] = connection.execute(SQL["clock"]).fetchall()
            first = _first(connection, since)
            suspects, last = _check_chain(connection, report, first)
            _check_heads(connection, report, heads)
            _check_totals(connection, report, trader)
            _check_times(connection, report, now, trader)
            _check_expiries(connection, report)
            report.notes += retention_policies(connection)
        wanted = range(first, last + 1) if deep else sorted(suspects)
        began, done = monotonic(), 0
        while done < len(wanted):
            found, rows, looked_at = _look(connection, wanted[done : done + RUNS_MAX], trader)
            if found:  # rows may have expired, or a run may have been undone, since it was asked for
                found, rows, looked_at = _look(connection, wanted[done : done + RUNS_MAX], trader)
            report.findings += found
            report.rows_read += rows
            report.seconds = monotonic() - began
            done += looked_at
            if progress is not None:
                progress(done, len(wanted), report.rows_read, report.seconds)
    return report


def last_run(url: str) -> Run | None:
    """The last of the chain. Raises as verify() does."""
    with connected(url) as connection, connection.transaction():
        last, _, _ = end_of_chain(connection)
        return None if last is None else run_of(connection, last)


def is_known(url: str, trader: str) -> bool:
    """Whether anything is sealed or stored of a trader. Raises as verify() does."""
    with connected(url) as connection:
        return connection.execute(SQL["knows"], {"trader": trader}).fetchone() == (True,)


def run_with_leaves(url: str, number: int, trader: str | None = None) -> tuple[Run, list[Leaf]] | None:
    """A run as it was sealed. None: there is none of that number. Raises as verify() does."""
    with connected(url) as connection, as_of_one_moment(connection):
        run = run_of(connection, number)
        return None if run is None else (run, sealed_leaves(connection, number, number, trader)[number])


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
        last, _, _ = end_of_chain(connection)
        return 1 if last is None else last + 1
    return int(number)


def _check_chain(connection: psycopg.Connection, report: Report, first: int) -> tuple[set[int], int]:
    """Returns the numbers of the runs whose leaves are not those that were sealed, and of the last entry."""
    before = run_of(connection, first - 1) if first > 1 else None
    with connection.cursor("sums") as cursor:
        cursor.itersize = AT_ONCE
        asked = {"first": first, **encoding(connection)}
        dropped = {
            number: (count, rows, digest)
            for number, count, rows, digest in connection.execute(SQL["sums_of_drops"], asked)
        }
        sums = cursor.execute(SQL["sums_of_leaves"], asked)
        return _check_entries(report, runs(connection, first), iter(sums), dropped, before, first)


def _check_entries(
    report: Report,
    chain: Iterable[Run],
    sums: Iterator[tuple[int, int, int, bytes]],
    dropped: dict[int, _Sums],
    before: Run | None,
    first: int,
) -> tuple[set[int], int]:
    """sums: of the leaves of each run: (run, leaves, rows, digest), in order. dropped: of the dead letters of
    each entry that dropped some; what is left of it afterwards has no entry."""
    suspects = set()
    undone: dict[int, tuple[int, int]] = {}  # by an entry: the first and the last run
    rest = next(sums, None)
    for run in chain:
        if run.version > VERSION:
            raise SealsNewer(
                f"entry {run.number} was sealed in version {run.version} of the digests, and this "
                f"riskstream knows {VERSION}: verify it with a newer one"
            )
        report.findings += _link_findings(run, before, first)
        if not run.fits:
            report.findings.append(
                _of_run("seal", run, "it was changed: its head is not that of its columns")
            )
        while rest is not None and rest[0] < run.number:
            report.findings.append(_without_run(*rest[:3]))
            rest = next(sums, None)
        leaves: _Sums = (0, 0, None)
        if rest is not None and rest[0] == run.number:
            leaves, rest = rest[1:], next(sums, None)
        if run.kind == SEALED:
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
            report.runs += 1
            report.leaves += run.leaves
            report.rows += run.rows
            if run.undone_by is not None:
                undone[run.undone_by] = undone.get(run.undone_by, (run.number, 0))[0], run.number
        elif leaves[0]:
            report.findings.append(_of_run("leaf", run, f"{leaves[0]:,} leaves were added to it"))
        if run.kind == DROPPED:
            report.findings += _drop_findings(run, dropped.pop(run.number, (0, 0, None)))
            report.dropped += run.leaves
            report.drop_entries += 1
            report.last_drop = run.number
        elif run.kind == EXPIRED:
            report.expired += run.rows
            report.expired_until = run.expired_until
        elif run.kind == REOPENED:
            report.notes.append(_undone(run, undone.get(run.number)))
        before = run
    while rest is not None:
        report.findings.append(_without_run(*rest[:3]))
        rest = next(sums, None)
    for number, (count, _, _) in sorted(dropped.items()):
        what = f"{count:,} dropped dead letters have no entry {number}: they were added, or it was removed"
        report.findings.append(Finding("seal", what, number))
    if before is not None:
        report.head, report.sealed_until = before.head, before.until
    return suspects, 0 if before is None else before.number


def _drop_findings(entry: Run, found: _Sums) -> Iterator[Finding]:
    if found != (entry.leaves, entry.rows, entry.digest):
        yield _of_run(
            "leaf",
            entry,
            f"what it dropped was changed: {entry.leaves:,} dead letters of {entry.rows:,} snapshots were "
            f"dropped, there are {found[0]:,} of {found[1]:,}",
        )


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


def _undone(entry: Run, runs: tuple[int, int] | None) -> str:
    which = "runs"
    if runs is not None:
        which = f"run {runs[0]}" if runs[0] == runs[1] else f"runs {runs[0]} to {runs[1]}"
    since = "the beginning" if entry.until is None else show_time(entry.until)
    return (
        f"Entry {entry.number} undid {which}, of {entry.rows:,} rows, because a clock had run ahead: what "
        f"was stored from {since} on is sealed anew. The rows that were sealed then are verified as before; "
        "rows may have been added to them."
    )


def _without_run(number: int, leaves: int, rows: int) -> Finding:
    return Finding("seal", f"run {number} was removed: {leaves:,} leaves of {rows:,} rows have none", number)


def _check_heads(connection: psycopg.Connection, report: Report, heads: Sequence[tuple[int, bytes]]) -> None:
    for number, head in sorted(heads):
        run = run_of(connection, number)
        if run is None:
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


def _check_expiries(connection: psycopg.Connection, report: Report) -> None:
    """Note which entries let another number of rows expire than was sealed: an operator has accepted that."""
    entries = connection.execute(SQL["expiries"]).fetchall()
    if not entries:
        return
    numbers, days = [entry[0] for entry in entries], [entry[1] for entry in entries]
    sealed = [0] * len(entries)
    with connection.cursor("sealed_days") as cursor:
        cursor.itersize = AT_ONCE
        for run, day, rows, undone_by in cursor.execute(SQL["sealed_days"]):
            place = max(bisect_right(numbers, run), bisect_right(days, day))  # the first that is about it
            if place < len(entries) and (undone_by is None or undone_by > numbers[place]):
                sealed[place] += rows
    for (number, _, rows), were in zip(entries, sealed, strict=True):
        if rows != were:
            report.notes.append(
                f"Entry {number} let {rows:,} rows expire where {were:,} were sealed: the others had been "
                "removed, or added, by another way, and an operator let riskstream retain accept that."
            )


def _check_times(connection: psycopg.Connection, report: Report, now: datetime, trader: str | None) -> None:
    """now: by the database's clock."""
    _, sealed_until, report.closed_until = end_of_chain(connection)
    if sealed_until is not None and (report.closed_until is None or report.closed_until < sealed_until):
        what = f"history is not closed as far as it is sealed, until {show_time(sealed_until)}"
        report.findings.append(Finding("seal", f"{what}: the mark was changed"))
    if report.closed_until is not None and report.closed_until > now:
        report.findings.append(
            Finding(
                "clock",
                f"history is closed until {show_time(report.closed_until)}, and the database's clock shows "
                f"{show_time(now)}: nothing can be stored until then. A clock has run ahead: set it, then "
                "run riskstream seal reopen",
            )
        )
    asked = {"now": now, "sealed_until": sealed_until, "trader": trader}
    for trader_id, epoch, rows, first, last in connection.execute(SQL["rows_to_come"], asked):
        report.findings.append(
            Finding(
                "clock",
                f"{trader_id}, epoch {epoch}: {rows:,} rows have a stored_at of a time to come ({first} to "
                f"{last}, UTC), so no run has them: they were written by hand, or by a database whose clock "
                "ran ahead",
                trader_id=trader_id,
                epoch=epoch,
            )
        )


def _look(
    connection: database.Connection, wanted: Sequence[int], trader: str | None
) -> tuple[list[Finding], int, int]:
    """Make the leaves of the first of some runs again, of as many as one statement reads.

    Returns (where they differ, how many rows were read, of how many of the wanted ones).
    """
    findings: list[Finding] = []
    read = 0
    with as_of_one_moment(connection):
        chain = runs_of(connection, wanted)
        together, looked_at = _together(map(chain.get, wanted))
        if together:
            sealed = sealed_leaves(connection, together[0].number, together[-1].number, trader)
            undone = None if together[0].undone_by is None else together[0].number
            ends = [run.until for run in together]
            for run, found in zip(
                together,
                leaves_of_runs(connection, together[0].since, ends, trader, undone=undone),
                strict=True,
            ):
                findings += _differences(connection, run, sealed[run.number], found)
                read += sum(leaf.rows for leaf in found)
    return findings, read, looked_at


def _together(wanted: Iterable[Run | None]) -> tuple[list[Run], int]:
    """Those of some runs that can be read with one statement: one follows the other, with not too many rows.

    wanted: None: it was removed. Returns them, and how many of the wanted ones are done with by that.
    """
    together: list[Run] = []
    rows = done = 0
    for run in wanted:
        if run is not None and run.kind == SEALED:
            rows += run.rows
            if together and (rows > ROWS_MAX or not _follows(run, together[-1])):
                break
            together.append(run)
        done += 1
    return together, done


def _follows(run: Run, before: Run) -> bool:
    """Whether a run begins where another one ends, and neither was undone."""
    return (
        (run.undone_by, before.undone_by, run.since) == (None, None, before.until)
        and run.since is not None
        and run.until is not None
        and run.since < run.until
    )


def _differences(
    connection: psycopg.Connection, run: Run, sealed: Sequence[Leaf], found: Sequence[Leaf]
) -> Iterator[Finding]:
    """Where the rows of a run are not those that were sealed."""
    leaves, rows = {leaf.key: leaf for leaf in sealed}, {leaf.key: leaf for leaf in found}
    for key in sorted(leaves.keys() | rows.keys()):
        difference = _difference(connection, run, leaves.get(key), rows.get(key))
        if difference is not None:
            yield _of_leaf(run, key, *difference)


def _difference(
    connection: psycopg.Connection, run: Run, leaf: Leaf | None, row: Leaf | None
) -> tuple[str, str] | None:
    """(kind, what) of a leaf, and of the rows."""
    if leaf is not None and leaf.expired:
        # What an undone run has of a time to come is not sealed yet, and does not expire.
        if row is None or run.undone_by is not None:
            return None
        return "added", f"{row.rows:,} rows are there (seq {_shown(row.covered)}), though they have expired"
    if leaf == row:
        return None
    if leaf is None:
        assert row is not None
        return "added", f"{row.rows:,} rows were added, of which none was sealed (seq {_shown(row.covered)})"
    if row is None:
        return "removed", f"all {leaf.rows:,} rows were removed (seq {_shown(leaf.covered)})"
    return _explain(connection, leaf, row)


def _of_leaf(run: Run, key: LeafKey, kind: str, what: str) -> Finding:
    trader_id, epoch, day = key
    message = f"{run.name}: {trader_id}, epoch {epoch}, recorded on {day}: {what}"
    return Finding(kind, message, run.number, run.since, run.until, trader_id, epoch, day)


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
    return Finding(kind, f"{run.name}: {what}", run.number, run.since, run.until)
