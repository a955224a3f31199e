"""Seals and what was found of them, as text for a person and as JSON for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import msgspec

from risk_worker.seal.chain import DROPPED, Leaf, Run, show_time
from risk_worker.seal.drops import Drop
from risk_worker.seal.verify import Report

SHOWN_MAX: Final = 50  # lines for a person; JSON has all


def printable(text: str) -> str:
    """In one line, whatever the names of traders hold; as Python writes what cannot be seen."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def head_line(run: Run) -> str:
    """What is kept elsewhere: number, head, and until when its rows were stored."""
    return f"{run.number} {run.head.hex()} {'-' if run.until is None else show_time(run.until)}"


def drop_line(drop: Drop) -> str:
    """A dead letter that was dropped."""
    when = "without an entry" if drop.dropped_at is None else show_time(drop.dropped_at)
    identity = "-"
    if drop.first_seq is not None:
        numbers = (
            f"{drop.first_seq}" if drop.first_seq == drop.last_seq else f"{drop.first_seq}-{drop.last_seq}"
        )
        identity = f"{drop.trader_id}/{drop.epoch}/{numbers}"
    return printable(
        f"{drop.run}  {when}  {drop.dropped_by} as {drop.database_user}  {drop.stream} {drop.entry_id}  "
        f"{identity}  {drop.digest.hex()}  {drop.reason}"
    )


def as_text(report: Report) -> str:
    """For a person."""
    lines = [
        f"{name:<14}{count:>15,}"
        for name, count in (("runs", report.runs), ("leaves", report.leaves), ("rows sealed", report.rows))
    ]
    if report.sealed_until is not None and report.head is not None:
        lines.append(f"Sealed until {show_time(report.sealed_until)}; head {report.head.hex()}")
    if report.closed_until is not None and report.closed_until != report.sealed_until:
        lines.append(
            f"Closed until {show_time(report.closed_until)}; the rows in between are not sealed yet."
        )
    if report.rows_read:
        rate = report.rows_read / max(report.seconds, 1e-9)
        lines.append(f"{report.rows_read:,} rows read, {rate:,.0f} rows/s")
    if report.expired_until is not None:
        lines.append(
            f"{report.expired:,} rows recorded before {report.expired_until} have expired; their seals stay."
        )
    if report.dropped:
        lines.append(
            f"{report.dropped:,} dead letters were dropped by operators, in {report.drop_entries:,} entries, "
            f"the last {report.last_drop}; riskstream dead dropped lists them."
        )
    lines += report.notes
    lines += [f"✗ {finding.message}" for finding in report.findings[:SHOWN_MAX]]
    more = len(report.findings) - SHOWN_MAX
    if more > 0:
        lines.append(f"✗ and {more:,} more; --json has all")
    if report.proves_nothing:
        lines.append("✗ Nothing is sealed, so nothing is proven.")
    elif not report.intact:
        lines.append("✗ Not as it was sealed: see above.")
    elif report.deep:
        lines.append("✓ The rows read are those that were sealed, and the seals are one chain.")
    else:
        lines.append("✓ The seals are one chain. Whether the rows are those that were sealed, --deep reads.")
    return "\n".join(map(printable, lines))


def as_json(report: Report) -> str:
    """One object: what was looked at, and what was found."""
    found: dict[str, Any] = {
        "intact": report.intact,
        "runs": report.runs,
        "leaves": report.leaves,
        "rows": report.rows,
        "expired": report.expired,
        "expired_until": report.expired_until,
        "dropped": report.dropped,
        "head": None if report.head is None else report.head.hex(),
        "sealed_until": report.sealed_until,
        "closed_until": report.closed_until,
        "deep": report.deep,
        "rows_read": report.rows_read,
        "notes": report.notes,
        "findings": report.findings,
    }
    return _json(found)


def run_as_text(run: Run, leaves: Sequence[Leaf], drops: Sequence[Drop] = ()) -> str:
    """A run, and its leaves; an entry "dropped", and the dead letters."""
    what = f"{run.rows:,} rows in {run.leaves:,} leaves"
    if run.kind == DROPPED:
        what = f"{run.leaves:,}, of {run.rows:,} snapshots"
    lines = [
        head_line(run),
        f"{run.name}: {what}; digest {run.digest.hex()}",
        f"previous head {'none: it is the first' if run.previous is None else run.previous.hex()}",
    ]
    lines += [
        f"{leaf.trader_id}, epoch {leaf.epoch}, {leaf.day}: {leaf.rows:,} rows, seq {leaf.covered}, "
        f"{leaf.digest.hex()}"
        for leaf in leaves[:SHOWN_MAX]
    ]
    lines += [drop_line(drop) for drop in drops[:SHOWN_MAX]]
    more = len(leaves) + len(drops) - SHOWN_MAX
    if more > 0:
        lines.append(f"and {more:,} more; --json has all")
    return "\n".join(map(printable, lines))


def run_as_json(run: Run, leaves: Sequence[Leaf], drops: Sequence[Drop] = ()) -> str:
    """A run, and its leaves; an entry "dropped", and the dead letters."""
    listed: list[Leaf | Drop] = [*leaves, *drops]
    return _json({**_fields(run), "leaves": [_fields(each) for each in listed]})


def _fields(thing: Run | Leaf | Drop) -> dict[str, Any]:
    values = {each.name: getattr(thing, each.name) for each in fields(thing)}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def _json(found: object) -> str:
    return msgspec.json.format(msgspec.json.encode(found)).decode()
