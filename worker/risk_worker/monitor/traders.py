"""The series of each trader: what was stored of it, when it last sent something, and its risk.

All of it is in Redis: the counts that workers keep, and the newest admitted snapshot of each trader. Hashes
are read a page at a time; what has not changed since the last time is neither decoded nor written again.

What several namespaces hold under one name stays apart, each with a label `namespace`: traders of one of them
may write there whatever they like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
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

_BACKEND: Final = ',backend="postgres"'

Raw = tuple[bytes | None, ...]
"""What Redis holds of a trader, as it is: newest, attempts, failures, latency_ms; of each partition."""
_HASHES: Final = ("latest", "attempts", "failures", "latency_ms")
_Name = tuple[str, bytes]
"""The namespace, "" where there is one alone; and the name in it."""


class _Trader:
    """One trader as it was last read and written."""

    __slots__ = (
        "changed_at",
        "lines",
        "name",
        "outdated",
        "prefixes",
        "raw",
        "recorded_at",
        "shown",
        "unreadable",
    )

    def __init__(self, name: _Name, metrics: Sequence[Metric]) -> None:
        namespace, raw_name = name
        self.name = text(raw_name)
        labels = f'{{trader_id="{escaped(self.name)}"' + (f',namespace="{namespace}"' if namespace else "")
        self.prefixes = [
            f"{metric.name}{labels}{_BACKEND if 'backend' in metric.labels else ''}}} " for metric in metrics
        ]
        """Of its lines, by metric."""
        self.raw: Raw = ()
        self.outdated = False
        """Whether the lines are of something older than raw."""
        self.lines: Sequence[str] = ()
        """By metric; empty: there is no such sample."""
        self.unreadable: Sequence[str] = ()
        self.recorded_at: float | None = None
        """Of its newest snapshot, in seconds since 1970."""
        self.changed_at = 0.0
        """When it last sent something, by the clock of this process."""
        self.shown = False

    def write(self) -> None:
        """Write its lines, from what Redis holds of it."""
        raw = self.raw
        self.outdated = False
        self.unreadable = unreadable = list[str]()
        newest, at = self._newest(raw[0::4], unreadable)
        latencies = [each for each in (raw[4 * at + 3], *raw[3::4]) if each is not None]
        values: list[str | None] = [
            self._total(raw[1::4], "attempts", unreadable),
            self._total(raw[2::4], "failures", unreadable),
            self._total(latencies[:1], "latency_ms", unreadable),
        ]
        self.recorded_at = None
        if newest is not None:
            self.recorded_at = newest.recorded_at.timestamp()
            values.append(f"{self.recorded_at:.3f}")
            if len(self.prefixes) > len(_COUNTS):
                values += (
                    repr(newest.current_equity),
                    repr(newest.drawdown_pct),
                    repr(newest.daily_pnl),
                    "1" if newest.trading_paused else "0",
                )
        self.lines = [
            "" if value is None else f"{prefix}{value}\n"
            for prefix, value in zip_longest(self.prefixes, values)
        ]

    def _total(self, raws: Sequence[bytes | None], field: str, unreadable: list[str]) -> str | None:
        """The sum as text; None: there is nothing, or it cannot be read."""
        total: int | float | None = None
        for raw in raws:
            if raw is None:
                continue
            value: int | float | None = int(raw) if raw.isdigit() and len(raw) < 17 else number(raw)
            if value is None:
                unreadable.append(f"field {self.name[:100]!r} of {field} ({text(raw)[:50]!r})")
                return None
            total = value if total is None else total + value
        return None if total is None else repr(total)

    def _newest(
        self, payloads: Sequence[bytes | None], unreadable: list[str]
    ) -> tuple[WireSnapshot | None, int]:
        """The newest snapshot, and in which of the partitions it is."""
        newest: WireSnapshot | None = None
        newest_at = 0
        for at, payload in enumerate(payloads):
            if payload is None:
                continue
            try:
                found = decode(payload)
                if found.trader_id != self.name:
                    raise InvalidSnapshot("it names another trader")
            except InvalidSnapshot as error:
                unreadable.append(f"the newest snapshot of {self.name[:100]!r} ({error})")
            else:
                if newest is None or (found.epoch, found.seq) > (newest.epoch, newest.seq):
                    newest, newest_at = found, at
        return newest, newest_at


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
        self._known: dict[_Name, _Trader] = {}

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
        self._known = {
            name: self._update(name, raw, at, time_of_day) for name, raw in found.items() if name[1]
        }
        active = [trader for trader in self._known.values() if not self._is_silent(trader, at)]
        chosen = self._chosen(active)
        for trader in chosen:
            if trader.outdated:
                trader.write()
        for trader in self._known.values():
            if trader.unreadable:
                unreadable.extend(trader.unreadable)
        for number_of, metric in enumerate(self._metrics):
            page.add_lines(metric, [line for each in chosen if (line := each.lines[number_of])])
        page.add(catalogue.TRADERS, len(chosen), "shown")
        page.add(catalogue.TRADERS, len(active) - len(chosen), "left_out")
        page.add(catalogue.TRADERS, len(self._known) - len(active), "silent")

    def _read(
        self, client: RedisClient, partitions: Sequence[Keys], unreadable: list[str]
    ) -> dict[_Name, Raw]:
        """A trader that moved to another partition has left its counts in the old one: all are read."""
        is_several = len({keys.namespace for keys in partitions}) > 1
        hashes = scan.hashes(client, [getattr(keys, name) for keys in partitions for name in _HASHES])
        found: dict[_Name, Raw] = {}
        for keys in partitions:
            held: list[Mapping[bytes, bytes]] = []
            for name in _HASHES:
                answer = hashes[getattr(keys, name)]
                if isinstance(answer, Exception):
                    if not isinstance(answer, AWAY):
                        unreadable.append(f"{getattr(keys, name)} ({answer})")
                    answer = {}
                held.append(answer)
            of_newest, attempts, failures, latency_ms = (each.get for each in held)
            namespace = keys.namespace if is_several else ""
            for name_of in set().union(*held):
                raw = (of_newest(name_of), attempts(name_of), failures(name_of), latency_ms(name_of))
                of = (namespace, name_of)
                found[of] = found[of] + raw if of in found else raw
        return found

    def _update(self, name: _Name, raw: Raw, at: float, time_of_day: float) -> _Trader:
        trader = self._known.get(name)
        if trader is not None and trader.raw == raw:
            return trader
        is_new = trader is None
        trader = trader or _Trader(name, self._metrics)
        trader.raw, trader.outdated, trader.changed_at = raw, True, at
        if is_new:
            trader.write()
            if trader.recorded_at is not None:  # what is ahead of the clock says nothing
                trader.changed_at -= max(0.0, time_of_day - trader.recorded_at)
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
