"""`riskstream exporter`: one process that serves /metrics for Prometheus.

The worker's counters live in Redis, written by the script that acknowledges, and are read when Prometheus
asks. So they are as exact as the data, whichever worker did the work, and no process's death resets them.
While Redis does not answer, risk_up is 0 and nothing else is shown: no number is better than an old one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from risk_producer.contract import counters as names
from risk_producer.contract.counters import LATENCY_BOUNDS_MS, LATENCY_BUCKETS
from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.settings import Settings, mask
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_producer.transport.servers import AWAY, Question, ask
from risk_worker.stream.counters import numbers
from risk_worker.stream.partitions import Known
from risk_worker.stream.progress import Watch
from risk_worker.stream.workers import LEASE_S, registered_workers
from risk_worker.wsgi import REDIS_TIMEOUT_S, Application, Server

log = logging.getLogger("riskstream.exporter")

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
    "risk_snapshots_conflated_total": (
        "Snapshots merged into a later one of their trader, which counts them in `merged`."
    ),
    "risk_snapshots_stored_total": (
        "Snapshots committed to Postgres. "
        "At rest: accepted + foreign = stored + dead + conflated + what is in the stream."
    ),
    "risk_snapshots_duplicate_total": (
        "Snapshots delivered again after a crash and found stored already. Harmless; many: workers crash."
    ),
    "risk_snapshots_dead_total": (
        "Entries that could not be stored and are kept in risk_dead_letter with the reason. "
        "Growing: read that table, mend the program that sends them."
    ),
    "risk_snapshots_foreign_total": (
        "Entries that came into the stream by another way than a producer, and are stored or dead letters. "
        "Growing: find out which program writes into risk:{p}:snapshots."
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
    "risk_partition_stalled_seconds": (
        "For how long nothing of a partition was stored while entries wait in it, or its node of a cluster "
        "does not answer; +Inf: its stream cannot be read. Above 60: the worker's log says what hinders it; "
        "where there is none, start a worker (risk_workers is 0)."
    ),
    "risk_workers": (
        "Workers heard of within 12 s, by their own clocks, that can use Postgres. 0: start one, or look at "
        "Postgres. Not shown while RQ's Redis is away."
    ),
    "risk_commit_wait_seconds": (
        "For how long a worker has waited for a COMMIT, the longest of all; 0: none for 5 s. Growing: its "
        "log names what Postgres waits for (a lock, a synchronous standby), or why Postgres cannot be used."
    ),
    "risk_drain_jobs_enqueued_total": (
        "Drain jobs put on the queue: one at the end of each time slice, and those that went missing."
    ),
    "risk_drain_jobs_failed_total": (
        "Tries to put a drain job on the queue that failed. Growing: the worker's log says why."
    ),
    "risk_unreadable_fields": (
        "Keys and fields of the counters that hold no number, and are not shown. Above 0: the exporter's log "
        "names them; delete them with HDEL or DEL, and find out which program wrote them."
    ),
    "risk_partitions": (
        "How many partitions traders are divided into, as is agreed on in Redis. "
        "`riskstream partitions` changes it."
    ),
    "risk_store_latency_seconds": "Seconds from recorded_at to COMMIT, of all snapshots stored.",
}

_COUNTERS: Final = {
    names.ACCEPTED: "risk_snapshots_accepted_total",
    names.CONFLATED: "risk_snapshots_conflated_total",
    names.STORED: "risk_snapshots_stored_total",
    names.DUPLICATES: "risk_snapshots_duplicate_total",
    names.DEAD: "risk_snapshots_dead_total",
    names.FOREIGN: "risk_snapshots_foreign_total",
    names.BATCHES: "risk_batches_stored_total",
    names.RETRIES: "risk_batches_retried_total",
}


class RedisCollector(Collector):
    """Reads everything from Redis when asked; shows what can be read, and names what cannot."""

    LOG_AGAIN_S: Final = 60.0

    def __init__(
        self,
        client: RedisClient,
        partitions: int,
        watch: Watch,
        rq: RedisClient,
        known: Known,
        keyspace: Keyspace = NO_NAMESPACE,
    ) -> None:
        """rq: a client of the Redis that has RQ's keys. known: takes what is seen of the partitions."""
        self._client = client
        self._keyspace = keyspace
        self._wish = partitions
        self._known = known
        self._watch = watch
        self._rq = rq
        self._answered = True
        self._misses_nodes = False
        self._named: frozenset[str] = frozenset()
        self._named_at = 0.0

    def collect(self) -> Iterator[Metric]:
        """The metrics; only risk_up where Redis does not answer."""
        up = _gauge("risk_up", "server")
        try:
            metrics = self._read()
        except REDIS_ERRORS as error:
            if self._answered:
                log.error("The exporter gets no answer from Redis, and serves risk_up 0 alone: %s", error)
            self._answered = False
            up.add_metric(["redis"], 0)
            yield up
            return
        if not self._answered:
            log.warning("The exporter gets answers from Redis again, and serves all metrics")
        self._answered = True
        up.add_metric(["redis"], 1)
        yield up
        yield from metrics

    def _read(self) -> list[Metric]:
        questions: list[Question] = []
        seen = self._known.look(self._client, self._keyspace, self._wish)
        partitions = [self._keyspace.keys(partition) for partition in range(seen.width)]
        for keys in partitions:
            hashes = (keys.attempts, keys.failures, keys.latency_ms, keys.counters, keys.latency_buckets)
            commands = (("PING",), *(("HGETALL", name) for name in hashes))
            questions += [(keys.snapshots, words) for words in commands]
        answers = ask(self._client, questions)
        pongs = answers[::6]
        if all(isinstance(pong, Exception) for pong in pongs):
            raise pongs[0]
        unreadable: list[str] = []
        of_partition = zip(partitions, pongs, strict=True)
        away = {keys.partition: pong for keys, pong in of_partition if isinstance(pong, AWAY)}
        self._name_away(away)

        attempts = _counter("risk_persistence_attempts_total", "trader_id", "backend")
        failures = _counter("risk_persistence_failures_total", "trader_id", "backend")
        latest = _gauge("risk_persist_latency_ms", "trader_id", "backend")
        counters = {field: _counter(name, "partition") for field, name in _COUNTERS.items()}
        latency = HistogramMetricFamily(
            "risk_store_latency_seconds", MEANING["risk_store_latency_seconds"], labels=["partition"]
        )
        for keys, at in zip(partitions, range(1, len(answers), 6), strict=True):
            if keys.partition in away:
                continue
            partition = str(keys.partition)
            for trader_id, value in numbers(answers[at], keys.attempts, unreadable).items():
                attempts.add_metric([trader_id, "postgres"], value)
            for trader_id, value in numbers(answers[at + 1], keys.failures, unreadable).items():
                failures.add_metric([trader_id, "postgres"], value)
            for trader_id, value in numbers(answers[at + 2], keys.latency_ms, unreadable).items():
                latest.add_metric([trader_id, "postgres"], value)
            counts = numbers(answers[at + 3], keys.counters, unreadable)
            for field, counter in counters.items():
                if field in counts or not _holds(answers[at + 3], field):
                    counter.add_metric([partition], counts.get(field, 0))
            of_latency = numbers(answers[at + 4], keys.latency_buckets, unreadable)
            if isinstance(answers[at + 4], Mapping):
                buckets, total_s = _cumulative(of_latency)
                latency.add_metric([partition], buckets, total_s)
        metrics: list[Metric] = [attempts, failures, latest, *counters.values(), latency]
        metrics += self._progress(unreadable)
        metrics += self._workers(unreadable)
        agreed = _gauge("risk_partitions")
        agreed.add_metric([], self._wish if seen.agreed is None else seen.agreed.partitions)
        fields = _gauge("risk_unreadable_fields")
        fields.add_metric([], len(unreadable))
        self._name(unreadable)
        return [*metrics, agreed, fields]

    def _progress(self, unreadable: list[str]) -> list[Metric]:
        length = _gauge("risk_stream_length", "partition")
        oldest = _gauge("risk_stream_oldest_age_seconds", "partition")
        stalled = _gauge("risk_partition_stalled_seconds", "partition")
        for each in self._watch.look():
            partition = str(each.partition)
            stalled.add_metric([partition], each.stalled_s)
            if each.away:
                continue
            if each.error:
                unreadable.append(f"{each.keys.snapshots} ({each.error})")
                continue
            length.add_metric([partition], each.length)
            oldest.add_metric([partition], each.oldest_age_s)
        return [length, oldest, stalled]

    def _workers(self, unreadable: list[str]) -> list[Metric]:
        """What RQ's Redis knows; nothing where it does not answer."""
        try:
            now = datetime.now(UTC)
            alive = [
                each for each in registered_workers(self._rq, self._keyspace) if each.silent_s(now) <= LEASE_S
            ]
            pipeline = self._rq.pipeline(transaction=False)
            pipeline.hgetall(self._keyspace.drain_jobs)
            [answer] = pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            unreadable.append(f"the workers ({error})")
            return []
        counts = numbers(answer, self._keyspace.drain_jobs, unreadable)
        workers = _gauge("risk_workers")
        workers.add_metric([], len(alive))
        wait = _gauge("risk_commit_wait_seconds")
        wait.add_metric([], max((each.commit_wait_s for each in alive), default=0.0))
        jobs: list[Metric] = []
        for field in ("enqueued", "failed"):
            jobs.append(counter := _counter(f"risk_drain_jobs_{field}_total"))
            counter.add_metric([], counts.get(field, 0))
        return [workers, wait, *jobs]

    def _name_away(self, away: Mapping[int, Exception]) -> None:
        """Log which partitions' nodes do not answer, once; and that all do again."""
        if away and not self._misses_nodes:
            shown = ", ".join(map(str, away))
            reason = next(iter(away.values()))
            log.error(
                "The exporter gets no answer from the nodes of Redis that have the partitions %s, and leaves "
                "these out: %s",
                shown,
                reason,
            )
        elif self._misses_nodes and not away:
            log.warning("The exporter gets answers for all partitions again")
        self._misses_nodes = bool(away)

    def _name(self, unreadable: list[str]) -> None:
        """Log what is left out: once, and again each minute."""
        found = frozenset(unreadable)
        if found and (found - self._named or monotonic() - self._named_at >= self.LOG_AGAIN_S):
            more = f", and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
            shown = "; ".join(unreadable[:10])
            log.error("The exporter leaves out what is no number in Redis: %s%s", shown, more)
            self._named_at = monotonic()
        self._named = found


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve /metrics, /readyz and /healthz until SIGTERM or SIGINT.

    Port 0 takes a free one; the log names it.
    """
    url = settings.require_redis_url()
    with (
        connect(url) as client,
        connect(settings.require_rq_redis_url()) as rq,
        Server(
            application(client, settings.partitions, rq, settings.keyspace), host=host, port=port
        ) as server,
    ):
        server.serve_until_signalled(
            lambda: log.info("Serving %s/metrics, read from %s", server.url, mask(url))
        )
    log.info("Stopped")


def connect(url: str) -> RedisClient:
    """A client that gives up soon: Prometheus waits for the answer, and asks again."""
    return redis_client(url, answer_timeout_s=REDIS_TIMEOUT_S, connect_timeout_s=REDIS_TIMEOUT_S)


def application(
    client: RedisClient,
    partitions: int,
    rq: RedisClient | None = None,
    keyspace: Keyspace = NO_NAMESPACE,
) -> Application:
    """The WSGI application: /metrics; /readyz, which answers 503 with a sentence for each partition that is
    not drained; and /healthz, which answers as long as the process does."""
    registry = CollectorRegistry(auto_describe=False)
    known = Known()

    def width() -> int:
        if known.seen is None:
            known.look(client, keyspace, partitions)
        return known.width(partitions)

    watch = Watch(client, width, keyspace)
    registry.register(RedisCollector(client, partitions, watch, rq or client, known, keyspace))
    metrics = make_wsgi_app(registry)

    def route(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return cast(Iterable[bytes], metrics(environ, start_response))
        if path == "/readyz":
            status, body = _ready(watch)
        else:
            known = {"/healthz": ("200 OK", b"ok\n"), "/": ("200 OK", b"riskstream exporter: see /metrics\n")}
            status, body = known.get(path, ("404 Not Found", b"see /metrics\n"))
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return route


def _ready(watch: Watch) -> tuple[str, bytes]:
    try:
        stalled = watch.stalled()
    except REDIS_ERRORS as error:
        return "503 Service Unavailable", f"Redis does not answer: {error}\n".encode()
    if stalled:
        return "503 Service Unavailable", "".join(f"{each}\n" for each in stalled).encode()
    return "200 OK", b"ready\n"


def _counter(name: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, MEANING[name], labels=labels)


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, MEANING[name], labels=labels)


def _holds(answer: Any, field: str) -> bool:
    """Whether there is something in the field, or may be: then no number is not 0."""
    return not isinstance(answer, Mapping) or field.encode() in answer


def _cumulative(counts: dict[str, float]) -> tuple[list[tuple[str, float]], float | None]:
    """Prometheus' buckets in seconds, from counts by upper bound in ms.

    Redis keeps no sum of the latencies, so there is none: quantiles come from the buckets.
    """
    total = 0.0
    buckets = []
    shown = (*(f"{bound_ms / 1000:g}" for bound_ms in LATENCY_BOUNDS_MS), "+Inf")
    for bucket, bound in zip(LATENCY_BUCKETS, shown, strict=True):
        total += counts.get(bucket, 0)
        buckets.append((bound, total))
    return buckets, None
