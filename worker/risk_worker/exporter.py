"""`riskstream exporter`: one process that serves /metrics for Prometheus.

The worker's counters live in Redis, written by the script that acknowledges, and are read when Prometheus
asks. So they are as exact as the data, whichever worker did the work, and no process's death resets them.
While Redis does not answer, risk_up is 0 and nothing else is shown: no number is better than an old one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

import redis
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from risk_producer.connect import redis_client
from risk_producer.keys import Keys
from risk_producer.settings import Settings, mask
from risk_worker.source import LATENCY_BOUNDS_MS
from risk_worker.stray import stray
from risk_worker.web import Application, Server

log = logging.getLogger("riskstream.exporter")

REDIS_TIMEOUT_S: Final = 2.0
"""A scrape answers within about this time, whatever Redis does."""

# Every metric served here: its meaning, and what to do about it. Totals count since Redis was first used.
MEANING: Final = {
    "risk_up": "1: Redis answers. 0: it does not, and no other metric is shown. Look at Redis.",
    "risk_persistence_attempts_total": (
        "Snapshots of a trader that workers tried to store, failed tries included. "
        "Flat while the trader trades: look at risk_stream_oldest_age_seconds."
    ),
    "risk_persistence_failures_total": (
        "Snapshots of a trader in tries that failed, and dead letters. Growing: the worker's log says why."
    ),
    "risk_persist_latency_ms": (
        "Milliseconds from recorded_at to COMMIT of the trader's newest stored snapshot. "
        "High: too few workers, a slow database, or clocks that differ."
    ),
    "risk_snapshots_accepted_total": "Snapshots admitted to the stream.",
    "risk_snapshots_conflated_total": "Snapshots merged into a later one of their trader, which says so.",
    "risk_snapshots_stored_total": (
        "Snapshots committed to Postgres. "
        "At rest: accepted = stored + dead + conflated + what is in the stream."
    ),
    "risk_snapshots_duplicate_total": (
        "Snapshots delivered again after a crash and found stored already. Harmless; many: workers crash."
    ),
    "risk_snapshots_dead_total": (
        "Entries that could not be stored and are kept in risk_dead_letter with the reason. "
        "Growing: read that table, mend who sends them."
    ),
    "risk_batches_stored_total": "Transactions committed.",
    "risk_batches_retried_total": "Tries to store a batch that failed. Growing: the database has trouble.",
    "risk_stream_length": (
        "Entries accepted and not yet stored, those in a worker's hands included. Near RISK_STREAM_MAXLEN "
        "traders have to wait: start a worker, look at the database."
    ),
    "risk_stream_oldest_age_seconds": (
        "Age of the oldest entry not yet stored; 0 when there is none. "
        "Growing: no worker drains the partition, or the database is away."
    ),
    "risk_stream_stray_length": (
        "Entries in partitions beyond RISK_PARTITIONS, which no worker drains. "
        "Above 0: give all traders and workers the same RISK_PARTITIONS."
    ),
    "risk_store_latency_seconds": "Seconds from recorded_at to COMMIT, of all snapshots stored.",
}

_COUNTERS: Final = {
    "accepted": "risk_snapshots_accepted_total",
    "conflated": "risk_snapshots_conflated_total",
    "stored": "risk_snapshots_stored_total",
    "duplicates": "risk_snapshots_duplicate_total",
    "dead": "risk_snapshots_dead_total",
    "batches": "risk_batches_stored_total",
    "retries": "risk_batches_retried_total",
}


class RedisCollector(Collector):
    """Reads everything from Redis, all partitions in one pipeline and the stray in another, when asked."""

    def __init__(self, client: redis.Redis, partitions: int) -> None:
        self._client = client
        self._partitions = [Keys(partition) for partition in range(partitions)]
        self._answered = True

    def collect(self) -> Iterator[Metric]:
        """The metrics; only risk_up where Redis does not answer."""
        up = _gauge("risk_up", "server")
        try:
            metrics = self._read()
        except RedisError as error:
            if self._answered:
                log.error("Redis does not answer: %s", error)
            self._answered = False
            up.add_metric(["redis"], 0)
            yield up
            return
        if not self._answered:
            log.warning("Redis answers again")
        self._answered = True
        up.add_metric(["redis"], 1)
        yield up
        yield from metrics

    def _read(self) -> list[Metric]:
        pipeline = self._client.pipeline(transaction=False)
        for keys in self._partitions:
            pipeline.hgetall(keys.attempts)
            pipeline.hgetall(keys.failures)
            pipeline.hgetall(keys.latency_ms)
            pipeline.hgetall(keys.counters)
            pipeline.hgetall(keys.latency_buckets)
            pipeline.xlen(keys.snapshots)
            pipeline.xrange(keys.snapshots, count=1)
            pipeline.time()
        answers = pipeline.execute()
        width = len(answers) // len(self._partitions)
        per_partition = [answers[i : i + width] for i in range(0, len(answers), width)]

        attempts = _counter("risk_persistence_attempts_total", "trader_id", "backend")
        failures = _counter("risk_persistence_failures_total", "trader_id", "backend")
        latest = _gauge("risk_persist_latency_ms", "trader_id", "backend")
        counters = {field: _counter(name, "partition") for field, name in _COUNTERS.items()}
        length = _gauge("risk_stream_length", "partition")
        oldest = _gauge("risk_stream_oldest_age_seconds", "partition")
        latency = HistogramMetricFamily(
            "risk_store_latency_seconds", MEANING["risk_store_latency_seconds"], labels=["partition"]
        )
        for keys, answer in zip(self._partitions, per_partition, strict=True):
            partition = str(keys.partition)
            for family, of_traders in ((attempts, answer[0]), (failures, answer[1]), (latest, answer[2])):
                for trader_id, value in of_traders.items():
                    family.add_metric([_text(trader_id), "postgres"], float(value))
            counts = {_text(name): float(value) for name, value in answer[3].items()}
            for field, counter in counters.items():
                counter.add_metric([partition], counts.get(field, 0))
            buckets, total_s = _cumulative({_text(bound): int(count) for bound, count in answer[4].items()})
            latency.add_metric([partition], buckets, total_s)
            length.add_metric([partition], answer[5])
            oldest.add_metric([partition], _age_s(answer[6], answer[7]))
        beyond = _gauge("risk_stream_stray_length")
        beyond.add_metric([], sum(stray(self._client, len(self._partitions)).values()))
        return [attempts, failures, latest, *counters.values(), length, oldest, beyond, latency]


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve /metrics and /healthz until SIGTERM or SIGINT. Port 0 takes a free one; the log tells which."""
    url = settings.require_redis_url()
    with (
        connect(url) as client,
        Server(application(client, settings.partitions), host=host, port=port) as server,
    ):
        log.info("Serving %s/metrics, read from %s", server.url, mask(url))
        server.serve_until_signalled()
    log.info("Stopped")


def connect(url: str) -> redis.Redis:
    """A client that gives up soon: Prometheus waits for the answer, and asks again."""
    return redis_client(url, answer_timeout_s=REDIS_TIMEOUT_S, connect_timeout_s=REDIS_TIMEOUT_S)


def application(client: redis.Redis, partitions: int) -> Application:
    """The WSGI application: /metrics, and /healthz, which answers as long as the process does."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RedisCollector(client, partitions))
    metrics = make_wsgi_app(registry)

    def route(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return cast(Iterable[bytes], metrics(environ, start_response))
        known = {"/healthz": ("200 OK", b"ok\n"), "/": ("200 OK", b"riskstream exporter: see /metrics\n")}
        status, body = known.get(path, ("404 Not Found", b"see /metrics\n"))
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return route


def _counter(name: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, MEANING[name], labels=labels)


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, MEANING[name], labels=labels)


def _cumulative(counts: dict[str, int]) -> tuple[list[tuple[str, float]], float | None]:
    """Prometheus' buckets in seconds, from counts by upper bound in ms.

    Redis keeps no sum of the latencies, so there is none: quantiles come from the buckets.
    """
    total = 0
    buckets = []
    for bound_ms in LATENCY_BOUNDS_MS:
        total += counts.get(f"{bound_ms:g}", 0)
        buckets.append((f"{bound_ms / 1000:g}", float(total)))
    buckets.append(("+Inf", float(total + counts.get("+Inf", 0))))
    return buckets, None


def _age_s(first: list[tuple[bytes, Any]], server_time: tuple[int, int]) -> float:
    """Seconds since the first entry was added, by Redis' own clock, which also made its id."""
    if not first:
        return 0.0
    added_ms = int(_text(first[0][0]).partition("-")[0])
    return max(0.0, server_time[0] + server_time[1] / 1e6 - added_ms / 1000)


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="backslashreplace") if isinstance(raw, bytes) else raw
