"""Traders for the demo: equity on a random walk, a drawdown, and pauses with a reason.

    python -m risk_devkit.traders alice bob --rate 250 --seconds 20

runs them in one process, through the same RiskProducer as real ones, with settings from the environment.
On SIGTERM they stop early. At the end one line of JSON reports how many snapshots were accepted.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import cycle
from time import monotonic, sleep
from typing import Final

import click
import msgspec

from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.settings import Settings
from risk_producer.threaded import RiskProducer

START_EQUITY: Final = 100_000.0
DRAWDOWN_LIMIT_PCT: Final = 2.0
PAUSE: Final = timedelta(seconds=1.5)
FLUSH_TIMEOUT_S: Final = 30.0


class TradersReport(msgspec.Struct, frozen=True):
    """What a process of traders says at its end."""

    accepted: dict[str, int]
    """Trader -> snapshots that save() took."""
    rejected: int
    """Snapshots for which there was no room."""
    delivered: bool
    """Whether Redis has all that were accepted."""


class RandomTrader:
    """Trades on a random walk, and pauses for a while when it has lost too much."""

    def __init__(self, trader_id: str, chance: random.Random) -> None:
        self.trader_id = trader_id
        self._chance = chance
        self._equity = self._peak = START_EQUITY
        self._day_began = datetime.now(UTC)
        self._paused_until: datetime | None = None
        self._count = 0

    def step(self, now: datetime) -> RiskSnapshot:
        """One moment of trading, and the risk state after it."""
        reason = ""
        if self._paused_until is not None and now >= self._paused_until:
            self._paused_until = None
            self._peak = self._equity  # the drawdown starts anew
            reason = "pause is over"
        if self._paused_until is None:
            self._equity *= 1 + self._chance.gauss(0.00001, 0.0007)
            self._peak = max(self._peak, self._equity)
        drawdown_pct = (self._peak - self._equity) / self._peak * 100
        if self._paused_until is None and drawdown_pct > DRAWDOWN_LIMIT_PCT:
            self._paused_until = now + PAUSE
            reason = f"drawdown of {drawdown_pct:.2f} % is over the limit of {DRAWDOWN_LIMIT_PCT:g} %"
        self._count += 1
        return RiskSnapshot(
            trader_id=self.trader_id,
            daily_pnl=round(self._equity - START_EQUITY, 2),
            drawdown_pct=round(drawdown_pct, 4),
            current_equity=round(self._equity, 2),
            peak_equity=round(self._peak, 2),
            trading_paused=self._paused_until is not None,
            paused_until=self._paused_until,
            last_reset_time=self._day_began,
            recorded_at=now,
            trace_id=f"{self.trader_id}-{self._count}",
            reason=reason,
        )


def trade(
    producer: RiskProducer, names: list[str], *, rate: float, seconds: float, stop: threading.Event
) -> TradersReport:
    """Let the traders take turns, rate snapshots a second in all, until the time is over or stop is set."""
    accepted = dict.fromkeys(names, 0)
    rejected = 0
    traders = cycle([RandomTrader(name, random.Random(name)) for name in names])
    began = monotonic()
    due_s = 0.0  # since the beginning
    while due_s < seconds and _sleep_until(began + due_s, stop):
        snapshot = next(traders).step(datetime.now(UTC))
        if producer.save(snapshot):
            accepted[snapshot.trader_id] += 1
        else:
            rejected += 1
        # A trader that had to wait for room does not make up for it in a rush.
        due_s = max(due_s + 1 / rate, monotonic() - began - 0.1)
    return TradersReport(accepted, rejected, delivered=producer.flush(FLUSH_TIMEOUT_S))


def _sleep_until(moment_s: float, stop: threading.Event) -> bool:
    """False when stop is set. Not by stop.wait(): the signal handler that sets it would wait for its lock."""
    while not stop.is_set():
        left_s = moment_s - monotonic()
        if left_s <= 0:
            return True
        sleep(min(left_s, 0.1))
    return False


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=100.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0), default=20.0, show_default=True)
def main(names: tuple[str, ...], rate: float, seconds: float) -> None:
    """Run the traders NAMES in this process, --rate snapshots a second in all."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with RiskProducer.from_settings(Settings.load(role="trader")) as producer:
        report = trade(producer, list(names), rate=rate, seconds=seconds, stop=stop)
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


if __name__ == "__main__":
    main()
