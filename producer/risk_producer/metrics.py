"""The trader's Prometheus metrics, in the trader's own registry.

All producers that share a registry are summed up in one collector; a closed one's totals stay in the sums.
Counting is plain additions in the producer, and Prometheus' objects are made when it scrapes.

The three inherited metrics with backend="postgres" are the worker's to count, and `riskstream exporter`
serves them: only the worker knows what Postgres did, and counting here as well would count them again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from risk_producer.contract.rejected import invalid_total
from risk_producer.session.counts import SUMMED, MetricsSample


class Sampled(Protocol):
    """A producer's session, as the collector sees it."""

    ended: bool
    """Its values change no more."""

    def sample(self) -> MetricsSample:
        """A copy of its values now."""


class ProducerCollector(Collector):
    """Sums up the producers of one registry. Made by collector_of()."""

    fields = SUMMED
    """What it sums up: a collector of another copy of this module is used where it sums up the same."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sources: set[Sampled] = set()
        self._past = MetricsSample()

    def watch(self, source: Sampled) -> None:
        """Include this producer, from now on."""
        with self._lock:
            self._retire_ended()
            self._sources.add(source)

    def retire(self) -> None:
        """A producer ended: keep its totals and release it. Never waits: a later call does it where the
        lock is in use."""
        if self._lock.acquire(blocking=False):
            try:
                self._retire_ended()
            finally:
                self._lock.release()

    def forget(self) -> None:
        """After a fork, in the child: the producers and what was counted before are the parent's."""
        self._lock = threading.RLock()
        self._sources = set()
        self._past = MetricsSample()

    def _retire_ended(self) -> None:
        for source in [each for each in self._sources if each.ended]:
            if source in self._sources:
                self._sources.discard(source)
                last = source.sample()
                last.buffered = last.fenced = last.away = last.on_postgres = last.on_memory = 0
                self._past.add(last)

    def collect(self) -> Iterable[Metric]:
        """The metrics, when Prometheus scrapes."""
        total = MetricsSample()
        with self._lock:
            self._retire_ended()
            total.add(self._past)
            for source in list(self._sources):
                total.add(source.sample())
        return _families(total)

    def describe(self) -> Iterable[Metric]:
        """The names, for the registry's check of duplicates."""
        return _families(MetricsSample())


_ATTRIBUTE = "_riskstream_collector"
"""Where a registry keeps its collector: every copy of this module, after a reload, finds the same one."""

_collectors_lock = threading.RLock()


def collector_of(registry: CollectorRegistry | None) -> ProducerCollector:
    """The one collector of a registry; None: Prometheus' default registry."""
    registry = REGISTRY if registry is None else registry
    with _collectors_lock:
        known: Any = getattr(registry, _ATTRIBUTE, None)
        if known is not None and getattr(known, "fields", None) == ProducerCollector.fields:
            return cast("ProducerCollector", known)
        if known is not None:  # of another version of this module
            registry.unregister(known)
        collector = ProducerCollector()
        registry.register(collector)
        setattr(registry, _ATTRIBUTE, collector)
        return collector


def _families(total: MetricsSample) -> Iterator[Metric]:
    by = ["trader_id", "backend"]
    attempts = CounterMetricFamily(
        "risk_persistence_attempts",
        "Snapshots that only memory held: saved while Redis was away, or in the buffer when the outage "
        "began, or saved with persistence off. Most of them reach Postgres after all, and are then counted "
        "there too.",
        labels=by,
    )
    failures = CounterMetricFamily(
        "risk_persistence_failures",
        "Snapshots that memory could not hold either: rejected while Redis was away, or unsent at close().",
        labels=by,
    )
    latency = GaugeMetricFamily(
        "risk_persist_latency_ms",
        "Milliseconds from recorded_at to memory, of the latest of them.",
        labels=by,
    )
    for trader_id, count in total.attempts.items():
        attempts.add_metric([trader_id, "memory"], count)
    for trader_id, count in total.failures.items():
        failures.add_metric([trader_id, "memory"], count)
    for trader_id, milliseconds in total.latency_ms.items():
        latency.add_metric([trader_id, "memory"], milliseconds)
    yield from (attempts, failures, latency)
    for name, text, value in (
        (
            "accepted",
            "Snapshots that Redis has confirmed, merged ones included.",
            total.accepted,
        ),
        (
            "rejected",
            "Snapshots that the producer did not accept: save() answered False, or push() raised.",
            total.rejected,
        ),
        ("conflated", "Snapshots merged into a newer one while the buffer was full.", total.conflated),
        (
            "invalid",
            "Snapshots rejected in this process because a field breaks a rule. Growing: the log names it.",
            invalid_total(),
        ),
        (
            "unsent",
            "Snapshots accepted and never sent: close() gave up, or they cannot be encoded.",
            total.unsent,
        ),
        (
            "unknown",
            "Snapshots sent, and not answered at close(): Redis may have them.",
            total.unknown,
        ),
        ("outages", "Times that Redis went away. Growing: the log has the reason.", total.outages),
        (
            "unreplicated",
            "Calls that fewer replicas of Redis than RISK_REPLICAS confirmed within a second. Growing: see "
            "to the replicas; what the calls carried stays in memory and is asked again.",
            total.unreplicated,
        ),
    ):
        yield CounterMetricFamily(f"risk_producer_{name}", text, value=value)
    yield GaugeMetricFamily(
        "risk_producer_buffered", "Snapshots in memory that Redis has not confirmed.", value=total.buffered
    )
    yield GaugeMetricFamily(
        "risk_producer_oldest_age_seconds",
        "For how long the oldest of them has waited. Above 60: the log and health() have the reason.",
        value=total.oldest_s,
    )
    yield GaugeMetricFamily(
        "risk_producer_fenced", "Traders for which a newer producer has taken over.", value=total.fenced
    )
    yield GaugeMetricFamily(
        "risk_producer_partitions_away",
        "Partitions whose snapshots Redis does not take. Above 0: health() and the log have the reason.",
        value=total.away,
    )
    backend = GaugeMetricFamily(
        "risk_producer_backend", "Producers on this backend just now.", labels=["backend"]
    )
    backend.add_metric(["postgres"], total.on_postgres)
    backend.add_metric(["memory"], total.on_memory)
    yield backend
