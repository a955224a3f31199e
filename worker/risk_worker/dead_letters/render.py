"""Dead letters as text for a person, and as JSON for a program."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

import msgspec

from risk_worker.dead_letters.select import DeadLetterRow
from risk_worker.seal.render import printable


def as_json(rows: Iterable[DeadLetterRow]) -> Iterator[str]:
    """A JSON array, in pieces."""
    separator = "[\n"
    for row in rows:
        yield separator + msgspec.json.format(msgspec.json.encode(_members(row))).decode()
        separator = ",\n"
    yield "[]" if separator == "[\n" else "\n]"


def one_line(row: DeadLetterRow) -> str:
    """For the list."""
    when = row.failed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    identity = "-" if row.trader_id is None else f"{row.trader_id}/{row.epoch}/{row.seq}"
    state = f"[{row.sqlstate}] " if row.sqlstate else ""
    return printable(f"{row.stream} {row.entry_id}  {when}  {identity}  {state}{row.reason}")


def in_full(row: DeadLetterRow) -> str:
    """Everything about one dead letter."""
    members = _members(row)
    payload = members.pop("payload")
    encoded = members.pop("payload_base64")
    lines = [f"{name:<10} {'-' if value is None else value}" for name, value in members.items()]
    lines.append(f"{'payload':<10} {len(row.payload):,} bytes")
    lines.append(payload if payload is not None else f"base64:{encoded}")
    return "\n".join(lines)


def _members(row: DeadLetterRow) -> dict[str, Any]:
    """payload_base64 are the original bytes; payload is None where those are no text."""
    return {
        "stream": row.stream,
        "entry_id": row.entry_id,
        "failed_at": row.failed_at.astimezone(UTC),
        "reason": row.reason,
        "sqlstate": row.sqlstate,
        "trader_id": row.trader_id,
        "epoch": row.epoch,
        "seq": row.seq,
        "payload": row.text,
        "payload_base64": base64.b64encode(row.payload).decode(),
    }
