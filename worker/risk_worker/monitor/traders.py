"""The series of each trader: what was stored of it, when it last sent something, and its risk.

All of it is in Redis: the counts that workers keep, and the newest admitted snapshot of each trader. Hashes
are read a page at a time; what has not changed since the last time is neither decoded nor written again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time
from typing import Final, Literal

from risk_producer.contract.keys import Keys
from risk_producer.contract.metric import Metric
from risk_producer.contract.wire import WireSnapshot, decode
from risk_producer.errors import InvalidSnapshot
from risk_producer.transport.connect import RedisClient
from risk_producer.transport.servers import AWAY
from risk_worker.monitor import catalogue
from risk_worker.monitor.page import Page, escaped
from risk_worker.stream import scan
from risk_worker.stream.counters import number, text

Shown = Literal["off", "counts", "risk"]
"""Of RISK_METRICS_TRADERS: no series of traders; counts and times; and the risk itself too."""

_COUNTS: Final = (
    catalogue.ATTEMPTS,
    catalogue.FAILURES,
    catalogue.LATENCY_MS,
    catalogue.LAST_SNAPSHOT,
)
_RISK: Final = (catalogue.EQUITY, catalogue.DRAWDOWN, catalogue.DAILY_PNL, catalogue.PAUSED)

Raw = tuple[bytes | None, ...]
"""What Redis holds of a trader, as it is: newest, attempts, failures, latency_ms; of each partition."""
_HASHES: Final = ("latest", "attempts", "failures", "latency_ms")


class _Trader:
    """One trader as it was last read and written."""

    __slots__ = ("changed_at", "lines", "raw", "recorded_at", "shown", "unreadable")

    def __init__(self) -> None:
        self.raw: Raw = ()
        self.lines: Sequence[str] = ()
        """By the metrics of _COUNTS, then _RISK; empty: there is no such sample."""
        self.unreadable: Sequence[str] = ()
        self.recorded_at: float | None = None
        """Of its newest snapshot, in seconds since 1970."""
        self.changed_at = 0.0
        """When it last sent something, by the clock of this process."""
        self.shown = False


class Traders:
    """Reads the traders again and again. Called by one thread at a time."""

    def __init__(
        self,
        shown: Shown = "counts",
        *,
        most: int = 10_000,
        forget_after_s: float | None = None,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
    ) -> None:
        """most: how many may have series of their own. forget_after_s: who sent nothing for so long has none.

        now: the time of day in seconds since 1970, for what was sent before this process began to look.
        """
        self._shown = shown
        self._metrics = (*_COUNTS, *_RISK) if shown == "risk" else _COUNTS
        self._most = most
        self._forget_after_s = forget_after_s
        self._clock = clock
        self._now = now
        self._known: dict[bytes, _Trader] = {}

    def add_to(
        self, page: Page, client: RedisClient, partitions: Sequence[Keys], unreadable: list[str]
    ) -> None:
        """Read, and write the series; what cannot be read is named in unreadable. Raises one of REDIS_ERRORS.

        What the node of a cluster that does not answer has is left out.
        """
        if self._shown == "off":
            return
        found = self._read(client, partitions, unreadable)
        at, time_of_day = self._clock(), self._now()
        self._known = {name: self._update(name, raw, at, time_of_day) for name, raw in found.items() if name}
        for trader in self._known.values():
            if trader.unreadable:
                unreadable.extend(trader.unreadable)
        active = [trader for trader in self._known.values() if not self._is_silent(trader, at)]
        chosen = self._chosen(active)
        for number_of, metric in enumerate(self._metrics):
            page.add_lines(metric, [line for each in chosen if (line := each.lines[number_of])])
        page.add(catalogue.TRADERS, len(chosen), "shown")
        page.add(catalogue.TRADERS, len(active) - len(chosen), "left_out")
        page.add(catalogue.TRADERS, len(self._known) - len(active), "silent")

    def _read(
        self, client: RedisClient, partitions: Sequence[Keys], unreadable: list[str]
    ) -> dict[bytes, Raw]:
        """A trader that moved to another partition has left its counts in the old one: all are read."""
        hashes = scan.hashes(client, [getattr(keys, name) for keys in partitions for name in _HASHES])
        found: dict[bytes, Raw] = {}
        for keys in partitions:
            held: list[Mapping[bytes, bytes]] = []
            for name in _HASHES:
                answer = hashes[getattr(keys, name)]
                if isinstance(answer, Exception):
                    if not isinstance(answer, AWAY):
                        unreadable.append(f"{getattr(keys, name)} ({answer})")
                    answer = {}
                held.append(answer)
            latest, attempts, failures, latency_ms = held
            for name_of in dict.fromkeys((*latest, *attempts, *failures, *latency_ms)):
                raw = (
                    latest.get(name_of),
                    attempts.get(name_of),
                    failures.get(name_of),
                    latency_ms.get(name_of),
                )
                found[name_of] = found[name_of] + raw if name_of in found else raw
        return found

    def _update(self, name: bytes, raw: Raw, at: float, time_of_day: float) -> _Trader:
        trader = self._known.get(name)
        if trader is not None and trader.raw == raw:
            return trader
        is_new = trader is None
        trader = trader or _Trader()
        trader.raw = raw
        _write(trader, text(name), risk=self._shown == "risk")
        sent_s = 0.0
        if is_new and trader.recorded_at is not None:
            sent_s = max(0.0, time_of_day - trader.recorded_at)  # what is ahead of the clock says nothing
        trader.changed_at = at - sent_s
        return trader

    def _is_silent(self, trader: _Trader, at: float) -> bool:
        return self._forget_after_s is not None and at - trader.changed_at >= self._forget_after_s

    def _chosen(self, active: Sequence[_Trader]) -> Sequence[_Trader]:
        """Those that have series: who had them keeps them, and then who sent something last comes first."""
        if len(active) > self._most:
            ranked = sorted(active, key=lambda each: (not each.shown, -each.changed_at))
            active, left_out = ranked[: self._most], ranked[self._most :]
            for trader in left_out:
                trader.shown = False
        for trader in active:
            trader.shown = True
        return active


def _write(trader: _Trader, name: str, *, risk: bool) -> None:
    """The lines of a trader, from what Redis holds of it."""
    unreadable: list[str] = []
    labels = f'trader_id="{escaped(name)}"'
    newest: WireSnapshot | None = None
    for payload in trader.raw[0::4]:
        if payload is not None:
            try:
                found = decode(payload)
                if found.trader_id != name:
                    raise InvalidSnapshot("it names another trader")
            except InvalidSnapshot as error:
                unreadable.append(f"the newest snapshot of {name[:100]!r} ({error})")
            else:
                if newest is None or (found.epoch, found.seq) > (newest.epoch, newest.seq):
                    newest = found
    counts = [_sum(trader.raw[at::4], field, name, unreadable) for at, field in enumerate(_HASHES[1:3], 1)]
    latencies = [each for each in trader.raw[3::4] if each is not None]
    latency = number(latencies[-1]) if latencies else None
    if latencies and latency is None:
        unreadable.append(f"field {name[:100]!r} of latency_ms ({text(latencies[-1])[:50]!r})")

    def line(metric: Metric, value: object) -> str:
        if value is None:
            return ""
        backend = ',backend="postgres"' if "backend" in metric.labels else ""
        return f"{metric.name}{{{labels}{backend}}} {value}\n"

    values: list[object] = [*counts, latency]
    if newest is None:
        trader.recorded_at = None
        values += [None] * (1 + len(_RISK) * risk)
    else:
        trader.recorded_at = newest.recorded_at.timestamp()
        values.append(f"{trader.recorded_at:.3f}")
        if risk:
            values += [
                newest.current_equity,
                newest.drawdown_pct,
                newest.daily_pnl,
                int(newest.trading_paused),
            ]
    metrics = (*_COUNTS, *_RISK) if risk else _COUNTS
    trader.lines = [line(metric, value) for metric, value in zip(metrics, values, strict=True)]
    trader.unreadable = unreadable


def _sum(raws: Sequence[bytes | None], field: str, name: str, unreadable: list[str]) -> int | float | None:
    """Of all partitions; None: there is nothing, or it cannot be read."""
    total: int | float | None = None
    for raw in raws:
        if raw is None:
            continue
        value: int | float | None = int(raw) if raw.isdigit() and len(raw) < 17 else number(raw)
        if value is None:
            unreadable.append(f"field {name[:100]!r} of {field} ({text(raw)[:50]!r})")
            return None
        total = value if total is None else total + value
    return total
