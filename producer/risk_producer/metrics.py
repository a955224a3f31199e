"""The trader's Prometheus metrics, in the trader's own registry.

All producers that share a registry are summed up in one collector; a closed one's totals stay in the sums.
Counting is plain additions in the producer, and Prometheus' objects are made when somebody scrapes.

risk_persistence_attempts_total{trader_id, backend="memory"}
    Snapshots that only memory held: saved while Redis was away, or caught by the outage in the buffer, or
    saved with persistence off. Most of them reach Postgres after all, and are then counted there too.
risk_persistence_failures_total{trader_id, backend="memory"}
    Snapshots that memory could not hold either: refused while Redis was away, or unsent at close().
risk_persist_latency_ms{trader_id, backend="memory"}
    From recorded_at to memory, of the latest of them, in milliseconds.

The same three with backend="postgres" are the worker's to count, and `riskstream exporter` serves them: only
the worker knows what Postgres did, and counting here as well would count twice.

risk_producer_accepted_total      snapshots that Redis has taken, those merged into others included
risk_producer_refused_total       save() answered False, or push() raised and took the snapshot back
risk_producer_invalid_total       snapshots of this process in which a field breaks a rule; the log says which
risk_producer_conflated_total     snapshots merged into a newer one while the buffer was full
risk_producer_unsent_total        accepted, but still in memory when close() gave up
risk_producer_outages_total       times that Redis went away
risk_producer_buffered            snapshots in memory that Redis has not confirmed
risk_producer_fenced              traders for which a newer producer has taken over
risk_producer_backend{backend}    producers whose backend is postgres, or memory, just now
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from risk_producer import invalid


@dataclass(slots=True)
class Reading:
    """What a producer has to tell."""

    accepted: int = 0
    refused: int = 0
    conflated: int = 0
    unsent: int = 0
    outages: int = 0
    buffered: int = 0
    fenced: int = 0
    on_postgres: int = 0
    """Producers whose backend is postgres."""
    on_memory: int = 0
    """Producers whose backend is memory."""
    attempts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    latency_ms: dict[str, float] = field(default_factory=dict)

    def add(self, other: Reading) -> None:
        """Sum another one up with this one."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.attempts.update(other.attempts)
        self.failures.update(other.failures)
        self.latency_ms.update(other.latency_ms)


_NUMBERS = (
    *("accepted", "refused", "conflated", "unsent", "outages"),
    *("buffered", "fenced", "on_postgres", "on_memory"),
)


class Source(Protocol):
    """A producer, as the collector sees it."""

    def reading(self) -> Reading:
        """A copy of what it has to tell now."""


class ProducerCollector(Collector):
    """Sums up the producers of one registry. Made by collector_of()."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: set[Source] = set()
        self._past = Reading()

    def watch(self, source: Source) -> None:
        """Read this producer too, from now on."""
        with self._lock:
            self._sources.add(source)

    def retire(self, source: Source) -> None:
        """The producer is closed: keep its totals and let it go."""
        with self._lock:
            if source not in self._sources:
                return
            self._sources.remove(source)
            last = source.reading()
            last.buffered = last.fenced = last.on_postgres = last.on_memory = 0
            self._past.add(last)

    def forget_past(self) -> None:
        """After a fork, in the child: what was counted before is the parent's."""
        self._lock = threading.Lock()
        self._past = Reading()

    def collect(self) -> Iterable[Metric]:
        """What Prometheus asks for."""
        total = Reading()
        with self._lock:
            total.add(self._past)
            for source in self._sources:
                total.add(source.reading())
        return _families(total)

    def describe(self) -> Iterable[Metric]:
        """The names, for the registry's check of duplicates."""
        return _families(Reading())


_collectors: WeakKeyDictionary[CollectorRegistry, ProducerCollector] = WeakKeyDictionary()
_collectors_lock = threading.Lock()


def collector_of(registry: CollectorRegistry | None) -> ProducerCollector:
    """The one collector of a registry; None: Prometheus' default registry."""
    registry = REGISTRY if registry is None else registry
    with _collectors_lock:
        collector = _collectors.get(registry)
        if collector is None:
            collector = ProducerCollector()
            registry.register(collector)
            _collectors[registry] = collector
        return collector


def _families(total: Reading) -> Iterator[Metric]:
    by = ["trader_id", "backend"]
    attempts = CounterMetricFamily(
        "risk_persistence_attempts", "Snapshots given to a backend to keep", labels=by
    )
    failures = CounterMetricFamily(
        "risk_persistence_failures", "Snapshots that a backend could not keep", labels=by
    )
    latency = GaugeMetricFamily(
        "risk_persist_latency_ms", "From recorded_at to the backend, latest, ms", labels=by
    )
    for trader_id, count in total.attempts.items():
        attempts.add_metric([trader_id, "memory"], count)
    for trader_id, count in total.failures.items():
        failures.add_metric([trader_id, "memory"], count)
    for trader_id, milliseconds in total.latency_ms.items():
        latency.add_metric([trader_id, "memory"], milliseconds)
    yield from (attempts, failures, latency)
    for name, text, value in (
        ("accepted", "Snapshots that Redis has taken, merged ones included", total.accepted),
        ("refused", "Snapshots refused to the trader", total.refused),
        ("conflated", "Snapshots merged into a newer one", total.conflated),
        ("invalid", "Snapshots refused in this process because a field breaks a rule", invalid.total()),
        ("unsent", "Snapshots accepted, and still in memory when close() gave up", total.unsent),
        ("outages", "Times that Redis went away", total.outages),
    ):
        yield CounterMetricFamily(f"risk_producer_{name}", text, value=value)
    yield GaugeMetricFamily(
        "risk_producer_buffered", "Snapshots in memory, not confirmed by Redis", value=total.buffered
    )
    yield GaugeMetricFamily(
        "risk_producer_fenced", "Traders for which a newer producer has taken over", value=total.fenced
    )
    backend = GaugeMetricFamily(
        "risk_producer_backend", "Producers on this backend just now", labels=["backend"]
    )
    backend.add_metric(["postgres"], total.on_postgres)
    backend.add_metric(["memory"], total.on_memory)
    yield backend
