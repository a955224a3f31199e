"""A trading process that notes its answers.

python -m tests.chaos.producer NOTES NAME threaded|asyncio RATE TRADER...
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from risk_producer import (
    AsyncRiskProducer,
    InvalidSnapshot,
    RiskProducer,
    RiskSnapshot,
    StreamFull,
    StreamUnavailable,
)
from tests.chaos.oracle import Notes
from tests.chaos.values import disguise, spoil
from tests.support.producers import OnLoop

POISON: Final = "poison"
"""A reason that the chaos' database does not take."""
POISON_SHARE: Final = 0.003
WRONG_SHARE: Final = 0.3
CLOSE_TIMEOUT_S: Final = 60.0
FLUSH_EVERY: Final = 40
FLUSH_S: Final = 0.5
"""A trader waits so long for all partitions, and sends nothing meanwhile."""


class Trader:
    """One trading loop. Every second one uses save() and a flush() now and then, the others push()."""

    def __init__(
        self,
        producer: RiskProducer | OnLoop,
        notes: Notes,
        life: str,
        name: str,
        period_s: float,
        orders: Path,
    ) -> None:
        self._producer = producer
        self._notes = notes
        self._life = life
        self._name = name
        self._period_s = period_s
        self._orders = orders
        self._count = 0

    def run(self, stop: threading.Event, *, saving: bool) -> None:
        try:
            self._trade(stop, saving=saving)
        except BaseException as error:
            self._notes.write("error", self._name, repr(error).replace("\n", " "))
            raise

    def _trade(self, stop: threading.Event, *, saving: bool) -> None:
        due_s = time.monotonic()
        while not stop.is_set():
            fields = self._next()
            if self._told("values") is not None:
                if random.random() < WRONG_SHARE:
                    self._be_refused(fields)
                fields = disguise(fields, random.Random())
            snapshot = RiskSnapshot(**fields)
            content = (snapshot.trader_id, snapshot.recorded_at.isoformat(), snapshot.daily_pnl)
            self._notes.write("try", snapshot.trace_id, *content, snapshot.current_equity)
            if saving:
                self._save(snapshot)
            else:
                self._push(snapshot)
            due_s = max(due_s + self._period_s, time.monotonic() - 1)
            stop.wait(max(0.0, due_s - time.monotonic()))

    def _told(self, kind: str) -> str | None:
        """What the chaos wants of this process just now; None: nothing of that kind."""
        # Not a Path made each time: pathlib interns its parts, and the table of interned strings, rebuilt
        # now and then by whichever thread comes then, takes 1.9 MB in each thread's arena.
        try:
            with open(f"{self._orders}/{kind}-{self._life.partition('.')[0]}") as order:
                return order.read()
        except FileNotFoundError:
            return None

    def _be_refused(self, fields: dict[str, Any]) -> None:
        """A snapshot with a wrong value: InvalidSnapshot, and it is never stored."""
        trace = f"{fields['trace_id']}.wrong"
        self._notes.write("try", trace, self._name, fields["recorded_at"].isoformat(), 0.0, 0.0)
        self._notes.write("no", trace)
        try:
            snapshot = RiskSnapshot(**spoil({**fields, "trace_id": trace}, random.Random()))
        except InvalidSnapshot:
            return
        self._notes.write("error", self._name, "made", repr(snapshot))

    def _push(self, snapshot: RiskSnapshot) -> None:
        try:
            self._producer.push(snapshot)
        except StreamFull:
            self._notes.write("no", snapshot.trace_id)
        except StreamUnavailable:
            self._accepted("later", snapshot)
        else:
            self._notes.write("ok", snapshot.trace_id)

    def _save(self, snapshot: RiskSnapshot) -> None:
        if self._producer.save(snapshot):
            self._accepted("saved", snapshot)
        else:
            self._notes.write("no", snapshot.trace_id)
        if self._count % FLUSH_EVERY == 0:
            mark = f"{self._name}-{self._count}"
            self._notes.write("begin", mark)
            if self._producer.flush(FLUSH_S):
                self._notes.write("end", mark)

    def _accepted(self, word: str, snapshot: RiskSnapshot) -> None:
        """It is not in Redis yet, as far as is known."""
        spooled = self._producer.health().spool == "on"
        self._notes.write("spooled" if spooled else word, snapshot.trace_id)

    def _next(self) -> dict[str, Any]:
        self._count += 1
        offset = timedelta(seconds=float(self._told("clocks") or 0))
        return {
            "trader_id": self._name,
            "daily_pnl": random.gauss(0, 100),
            "drawdown_pct": 1.0,
            "current_equity": random.uniform(1e4, 1e5),
            "peak_equity": 1e5,
            "recorded_at": datetime.now(UTC) + offset,
            "trace_id": f"{self._life}.{self._name}.{self._count}",
            "reason": POISON if random.random() < POISON_SHARE else "",
        }


def main(notes_path: str, name: str, flavour: str, rate: str, *traders: str) -> int:
    """Run until SIGTERM. Exit status 1: something was left in memory at the end."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop.set).start())
    notes = Notes(Path(notes_path))
    producer: RiskProducer | OnLoop = (
        RiskProducer.from_env() if flavour == "threaded" else OnLoop(make=AsyncRiskProducer.from_env)
    )
    life = f"{name}.{time.time_ns():x}"
    period_s = len(traders) / float(rate)
    threads = []
    for number, trader in enumerate(traders):
        loop = Trader(producer, notes, life, trader, period_s, Path(notes_path).parent)
        threads.append(threading.Thread(target=loop.run, args=(stop,), kwargs={"saving": number % 2 == 1}))
        threads[-1].start()
    for thread in threads:
        while thread.is_alive():
            # With a time-out: a signal that comes as the process is thawed may go to another thread, and
            # Python handles it when the main one wakes.
            thread.join(0.2)
    if not producer.close(CLOSE_TIMEOUT_S):
        return 1
    notes.write("closed")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
