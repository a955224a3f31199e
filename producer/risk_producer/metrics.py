"""The trader's Prometheus metrics, in the trader's own registry.

All producers that share a registry are summed up in one collector; a closed one's totals stay in the sums.
Counting is plain additions in the producer, and Prometheus' objects are made when it scrapes.

The three inherited metrics with backend="postgres" are the worker's to count, and `riskstream exporter`
serves them: only the worker knows what Postgres did, and counting here as well would count them again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol, cast

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from risk_producer.contract.metric import Metric
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

    def collect(self) -> Iterable[Family]:
        """The metrics, when Prometheus scrapes."""
        total = MetricsSample()
        with self._lock:
            self._retire_ended()
            total.add(self._past)
            for source in list(self._sources):
                total.add(source.sample())
        return _families(total)

    def describe(self) -> Iterable[Family]:
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


_BY: Final = ("trader_id", "backend")
_ATTEMPTS: Final = Metric(
    "risk_persistence_attempts_total",
    "counter",
    _BY,
    "Snapshots that only memory held: saved while Redis was away, or in the buffer when the outage began, or "
    "saved with persistence off. Most of them reach Postgres after all, and are then counted there too.",
    "Growing: Redis is away, or persistence is off; health() and the log say which.",
)
_FAILURES: Final = Metric(
    "risk_persistence_failures_total",
    "counter",
    _BY,
    "Snapshots that memory could not hold either: rejected while Redis was away, or unsent at close().",
    "Growing: they are gone; look at Redis, and at RISK_BUFFER_SIZE and RISK_SPOOL_DIR.",
)
_LATENCY: Final = Metric(
    "risk_persist_latency_ms",
    "gauge",
    _BY,
    "Milliseconds from recorded_at to memory, of the latest of them.",
    "No action.",
)
_TOTALS: Final = {
    "accepted": Metric(
        "risk_producer_accepted_total",
        "counter",
        (),
        "Snapshots that Redis has confirmed, merged ones included.",
        "Flat while the trader saves: health() has the reason.",
    ),
    "rejected": Metric(
        "risk_producer_rejected_total",
        "counter",
        (),
        "Snapshots that the producer did not accept: save() answered False, or push() raised.",
        "Growing: the stream or the buffer is full; start a worker, look at the database.",
    ),
    "conflated": Metric(
        "risk_producer_conflated_total",
        "counter",
        (),
        "Snapshots merged into a newer one while the buffer was full.",
        "Growing: the stream is full or Redis is slow; start a worker, look at the database.",
    ),
    "invalid": Metric(
        "risk_producer_invalid_total",
        "counter",
        (),
        "Snapshots rejected in this process because a field breaks a rule.",
        "Growing: the log names it.",
    ),
    "unsent": Metric(
        "risk_producer_unsent_total",
        "counter",
        (),
        "Snapshots accepted and never sent: close() gave up, or they cannot be encoded.",
        "Growing: the log says why; give close() more time, or use a spool.",
    ),
    "unknown": Metric(
        "risk_producer_unknown_total",
        "counter",
        (),
        "Snapshots sent, and not answered at close(): Redis may have them.",
        "Growing: look at Redis; `riskstream verify` says whether they are stored.",
    ),
    "outages": Metric(
        "risk_producer_outages_total",
        "counter",
        (),
        "Times that Redis went away.",
        "Growing: the log has the reason.",
    ),
    "unreplicated": Metric(
        "risk_producer_unreplicated_total",
        "counter",
        (),
        "Calls that fewer replicas of Redis than RISK_REPLICAS confirmed within a second.",
        "Growing: see to the replicas; what the calls carried stays in memory and is asked again.",
    ),
}
"""Field of a sample -> the metric that shows it; `invalid` is no field."""
_BUFFERED: Final = Metric(
    "risk_producer_buffered",
    "gauge",
    (),
    "Snapshots in memory that Redis has not confirmed.",
    "Near RISK_BUFFER_SIZE: Redis is away, or the stream is full; health() says which.",
)
_OLDEST: Final = Metric(
    "risk_producer_oldest_age_seconds",
    "gauge",
    (),
    "For how long the oldest of them has waited.",
    "Above 60: the log and health() have the reason.",
)
_FENCED: Final = Metric(
    "risk_producer_fenced",
    "gauge",
    (),
    "Traders for which a newer producer has taken over.",
    "Above 0: two processes run the same trader; end the older one.",
)
_AWAY: Final = Metric(
    "risk_producer_partitions_away",
    "gauge",
    (),
    "Partitions whose snapshots Redis does not take.",
    "Above 0: health() and the log have the reason.",
)
_BACKEND: Final = Metric(
    "risk_producer_backend",
    "gauge",
    ("backend",),
    "Producers on this backend just now.",
    "memory above 0: Redis is away, or persistence is off; health() says which.",
)
METRICS: Final = (
    *(_ATTEMPTS, _FAILURES, _LATENCY, *_TOTALS.values()),
    *(_BUFFERED, _OLDEST, _FENCED, _AWAY, _BACKEND),
)
"""All of them: the trader's part of the catalogue."""


def _families(total: MetricsSample) -> Iterator[Family]:
    by_trader = ((_ATTEMPTS, total.attempts), (_FAILURES, total.failures), (_LATENCY, total.latency_ms))
    for metric, values in by_trader:
        family = _family(metric)
        for trader_id, value in values.items():
            family.add_metric([trader_id, "memory"], value)
        yield family
    for field, metric in _TOTALS.items():
        yield _only(metric, invalid_total() if field == "invalid" else getattr(total, field))
    yield _only(_BUFFERED, total.buffered)
    yield _only(_OLDEST, total.oldest_s)
    yield _only(_FENCED, total.fenced)
    yield _only(_AWAY, total.away)
    backend = _family(_BACKEND)
    backend.add_metric(["postgres"], total.on_postgres)
    backend.add_metric(["memory"], total.on_memory)
    yield backend


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)


def _only(metric: Metric, value: float) -> Family:
    family = _family(metric)
    family.add_metric([], value)
    return family
