"""How producers were answered, kept outside the system: each appends to a file of its own, a line at a time.

    try   trace trader recorded_at pnl equity    before push() or save()
    ok    trace                                  push() returned: a promise
    later trace                                  StreamUnavailable: a promise if it gets to close
    saved trace                                  save() returned True: likewise, or if a flush() came after it
    spooled trace                                accepted with a spool on disk: a promise, whatever comes
    no    trace                                  refused: it must never be stored
    error ...                                    an exception that save() or push() may not raise
    begin n / end n                              flush() was called / returned True
    closed                                       close() returned True: nothing was left

A killed process may lose the line that it was about to write, never one that it wrote.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec
import psycopg

OWN = "reason NOT LIKE 'the trader % belongs to namespace %'"
"""Of a dead letter: it is no copy by another desk, of which the own desk's original is looked for."""
Content = tuple[str, datetime, float, float]
"""trader_id, recorded_at, daily_pnl, current_equity"""


class Notes:
    """One producer's file, for writing."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *words: object) -> None:
        """One line, in one call: a kill -9 leaves all of it or nothing."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


@dataclass(slots=True)
class Answers:
    """How all producers were answered."""

    tried: dict[str, Content] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    """What was raised in a trading loop."""

    def read(self, path: Path) -> None:
        """Add one producer's file."""
        pending: list[str] = []
        at_begin: dict[str, int] = {}
        for line in path.read_text().splitlines():
            word, *rest = line.split(" ")
            if word == "try":
                trace, trader, recorded_at, pnl, equity = rest
                content = (trader, datetime.fromisoformat(recorded_at), float(pnl), float(equity))
                self.tried[trace] = content
            elif word in ("ok", "spooled"):
                self.promised.add(rest[0])
            elif word in ("later", "saved"):
                pending.append(rest[0])
            elif word == "error":
                self.errors.append(line)
            elif word == "no":
                self.refused.add(rest[0])
            elif word == "begin":
                at_begin[rest[0]] = len(pending)
            elif word == "end":
                self.promised.update(pending[: at_begin[rest[0]]])
            elif word == "closed":
                self.promised.update(pending)


def compare(
    answers: Answers, database_url: str, foreign: Collection[str] = (), poison: str | None = None
) -> list[str]:
    """Row by row: each promise exactly once, in history or among the dead letters; nothing else is stored.

    foreign: traces of entries that no producer sent; none of them is a state. poison: the reason of what may
    be a dead letter; None: anything may. Returns what is wrong, one sentence each.
    """
    wrong: list[str] = list(answers.errors)
    stored: Counter[str] = Counter()
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT trace_id, trader_id, recorded_at, daily_pnl, current_equity FROM risk_state_history"
        )
        for trace, *content in rows:
            stored[trace] += 1
            if trace in foreign:
                continue
            if trace not in answers.tried:
                wrong.append(f"{trace} is stored, and no producer sent it")
            elif answers.tried[trace] != tuple(content):
                wrong.append(f"{trace} is stored as {content}, and was sent as {answers.tried[trace]}")
        dead: set[str] = set()
        for (payload,) in connection.execute(f"SELECT payload FROM risk_dead_letter WHERE {OWN}"):
            trace, reason = trace_of(payload)
            if trace is None:
                continue
            dead.add(trace)
            if poison is not None and trace in answers.promised and reason != poison:
                wrong.append(f"{trace} was acknowledged and is a dead letter")
        for (trace,) in connection.execute("SELECT trace_id FROM risk_state"):
            if trace in foreign:
                wrong.append(f"{trace} is a state, and no producer sent it")
    for trace in answers.promised:
        if stored[trace] == 0 and trace not in dead:
            wrong.append(f"{trace} was acknowledged and is lost")
    wrong += [f"{trace} is stored {count} times" for trace, count in stored.items() if count > 1]
    wrong += [
        f"{trace} was refused and is stored" for trace in answers.refused if stored[trace] or trace in dead
    ]
    return wrong


class _Named(msgspec.Struct):
    trace_id: str
    reason: str = ""


def trace_of(payload: bytes) -> tuple[str | None, str]:
    """(trace_id, reason) of a dead letter; the trace is None where it names none."""
    try:
        named = msgspec.json.decode(payload, type=_Named)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, ""
    return named.trace_id, named.reason
