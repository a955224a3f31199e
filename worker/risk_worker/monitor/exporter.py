"""`riskstream exporter`: one process that serves /metrics for Prometheus.

The worker's counters live in Redis, written by the script that acknowledges, and are read when Prometheus
asks. So they are as exact as the data, whichever worker did the work, and no process's death resets them.
While Redis does not answer, risk_up is 0 and nothing that is kept there is shown: no number is better than an
old one. A page never waits longer than BOUND_S, whatever Redis and Postgres do.
"""

from __future__ import annotations

import gzip
import logging
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from time import monotonic
from typing import Any, Final
from urllib.parse import parse_qs

from risk_producer.contract import counters as names
from risk_producer.contract.counters import LATENCY_BOUNDS_MS, LATENCY_BUCKETS
from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.settings import Settings, mask
from risk_producer.settings.address import redis_address
from risk_producer.transport.connect import NODE_ANSWER_S, REDIS_ERRORS, RedisClient, redis_client
from risk_producer.transport.servers import AWAY, Question, ask
from risk_worker.monitor import catalogue
from risk_worker.monitor.page import CONTENT_TYPE, Page
from risk_worker.monitor.postgres import PostgresWatch
from risk_worker.monitor.reconciliation import Reconciliation
from risk_worker.monitor.traders import Traders
from risk_worker.stream import server
from risk_worker.stream.counters import numbers
from risk_worker.stream.partitions import Known
from risk_worker.stream.progress import Watch
from risk_worker.stream.readiness import Readiness, workers_of
from risk_worker.web.exchange import ARRIVED
from risk_worker.web.pages import REDIS_TIMEOUT_S, Answer, Application, Environ, health, pages
from risk_worker.web.server import Server

log = logging.getLogger("riskstream.exporter")

BOUND_S: Final = 5.0
"""How long a page waits for Redis at the most: Prometheus waits for 10 s by default."""
_GZIP_LEVEL: Final = 1
"""A tenth of the time that the default takes, for a tenth more bytes."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a page is made of, beside Redis itself."""

    partitions: int = 1
    """RISK_PARTITIONS, where nothing is agreed on."""
    keyspace: Keyspace = NO_NAMESPACE
    maxlen: int = 1_000_000
    """RISK_STREAM_MAXLEN."""
    traders: Traders = field(default_factory=Traders)
    postgres: PostgresWatch | None = None
    reconciliation: Reconciliation | None = None


class Exporter:
    """Makes the pages. Thread-safe."""

    LOG_AGAIN_S: Final = 60.0

    def __init__(
        self,
        client: RedisClient,
        rq: RedisClient | None = None,
        sources: Sources | None = None,
        *,
        bound_s: float = BOUND_S,
    ) -> None:
        """rq: a client of the Redis that has RQ's keys; None: it is the same one."""
        self._client = client
        self._rq = rq
        self._sources = sources or Sources()
        self._keyspace = self._sources.keyspace
        self._bound_s = bound_s
        self._known = Known()
        self._watch = Watch(client, self._numbers, self._keyspace)
        self.readiness = Readiness(client, rq or client, self._numbers, self._keyspace, self._watch)
        self._lock = threading.Lock()
        self._reading: _Reading | None = None
        self._answered = True
        self._misses_nodes = False
        self._unreadable = _Named("The exporter leaves out what cannot be read in Redis", self.LOG_AGAIN_S)
        self._refusals = _Named("Traders cannot send", self.LOG_AGAIN_S)

    def page(self) -> Page:
        """The metrics as they are now."""
        return self._read(monotonic()).page

    def body(self, asked_s: float, names: Sequence[str] = (), *, packed: bool = False) -> bytes:
        """The page as it was at some time after it was asked for, in seconds of monotonic().

        names: of these metrics alone. packed: by gzip. So however many ask at the same time, Redis is read,
        and the page made, once or twice for all of them, and their answers are the same bytes.
        """
        return self._read(asked_s).body(names, packed)

    def problems(self) -> list[str]:
        """A sentence for each reason why what traders send now may not be stored. Raises nothing of Redis."""
        postgres = self._sources.postgres
        own = [] if postgres is None or not postgres.problem else [postgres.problem]
        return [*own, *self.readiness.problems()]

    def _read(self, asked_s: float) -> _Read:
        """What a thread of its own reads: pages that are asked for meanwhile get the same, and one that is
        stuck has no other beside it."""
        with self._lock:
            reading = self._reading
            if reading is None or (reading.result is not None and reading.began_s < asked_s):
                reading = self._reading = _Reading(self._read_and_complete)
                reading.start()
        reading.join(max(0.0, self._bound_s - reading.seconds))
        result = reading.result
        if result is None:
            page = self._completed(None, reading.seconds)
            result = _Read(page, f"no answer within {self._bound_s:g} s")
        self._log_answer(result)
        return result

    def _read_and_complete(self) -> _Read:
        page, reason, began_s = None, None, monotonic()
        try:
            page = self._read_page()
        except REDIS_ERRORS as error:
            reason = str(error)
        except Exception as error:  # a page has to be answered
            log.exception("The exporter could not read Redis")
            reason = f"{type(error).__name__}: {error}"
        return _Read(self._completed(page, monotonic() - began_s), reason)

    def _completed(self, page: Page | None, seconds: float) -> Page:
        """With what does not come from Redis. None: Redis does not answer."""
        if page is None:
            page = Page()
            page.add(catalogue.UP, 0, "redis")
        postgres, reconciliation = self._sources.postgres, self._sources.reconciliation
        if postgres is not None and (answers := postgres.up) is not None:
            page.add(catalogue.UP, int(answers), "postgres")
        page.add(catalogue.BUILD, 1, version("riskstream"), platform.python_version())
        page.add(catalogue.READ_SECONDS, round(seconds, 4))
        if reconciliation is not None:
            reconciliation.add_to(page)
        return page

    def _log_answer(self, result: _Read) -> None:
        if result.reason is not None and self._answered:
            log.error("The exporter gets no answer from Redis, and serves risk_up 0: %s", result.reason)
        elif result.reason is None and not self._answered:
            log.warning("The exporter gets answers from Redis again, and serves all metrics")
        self._answered = result.reason is None

    def _numbers(self) -> Sequence[int]:
        """Of all streams."""
        wish = self._sources.partitions
        if self._known.seen is None:
            self._known.look(self._client, self._keyspace, wish)
        return self._known.numbers(self._keyspace, wish)

    def _label(self, keys: Keys) -> str:
        """Of a partition: 3, or desk1/3 where there are several namespaces."""
        return self._keyspace.name(self._keyspace.number_of(keys))

    def _read_page(self) -> Page:
        """Raises one of REDIS_ERRORS."""
        page, unreadable = Page(), list[str]()
        seen = self._known.look(self._client, self._keyspace, self._sources.partitions)
        wish, maxlen, unknown = self._sources.partitions, self._sources.maxlen, seen.away
        everything = [self._keyspace.keys(number) for number in seen.numbers]
        partitions = [self._keyspace.keys(number) for number in seen.numbers if number not in unknown]
        away = self._add_counters(page, partitions, unreadable)
        reasons = {self._label(keys): error for keys, error in away.items()}
        self._name_away({**dict.fromkeys(map(self._keyspace.name, sorted(unknown))), **reasons})
        page.add(catalogue.UP, 1, "redis")
        page.add(catalogue.PARTITIONS, wish if seen.agreed is None else seen.agreed)
        self._add_progress(page, seen.caps(maxlen, wish), unreadable)
        self._add_workers(page, seen.numbers, unreadable)
        self._add_servers(page, everything)
        served = [keys for keys in partitions if keys not in away]
        self._sources.traders.add_to(page, self._client, served, unreadable)
        page.add(catalogue.UNREADABLE, len(unreadable))
        self._unreadable.report(unreadable)
        return page

    def _add_counters(
        self, page: Page, partitions: Sequence[Keys], unreadable: list[str]
    ) -> dict[Keys, Exception]:
        """What workers count. Returns the partitions whose node does not answer, and why."""
        questions: list[Question] = []
        for keys in partitions:
            commands = (("PING",), ("HGETALL", keys.counters), ("HGETALL", keys.latency_buckets))
            questions += [(keys.snapshots, words) for words in commands]
        answers = ask(self._client, questions)
        pongs = answers[::3]
        if pongs and all(isinstance(pong, Exception) for pong in pongs):
            raise pongs[0]
        away: dict[Keys, Exception] = {}
        for at, keys in enumerate(partitions):
            pong, counted, latencies = answers[3 * at : 3 * at + 3]
            if isinstance(pong, AWAY):
                away[keys] = pong
                continue
            partition = self._label(keys)
            counts = numbers(counted, keys.counters, unreadable)
            for counter, metric in catalogue.OF_PARTITION.items():
                if counter in counts or not _holds(counted, counter):
                    page.add(metric, counts.get(counter, 0), partition)
            if (at_ms := counts.get(names.ACKNOWLEDGED_MS)) is not None:
                page.add(catalogue.LAST_COMMIT, at_ms / 1000, partition)
            if (restored_ms := counts.get(names.RESTORED_MS)) is not None:
                page.add(catalogue.LAST_RESTORE, restored_ms / 1000, partition)
            of_latency = numbers(latencies, keys.latency_buckets, unreadable)
            if isinstance(latencies, Mapping):
                total_s = counts.get(names.LATENCY_SUM_MS, 0) / 1000
                page.add_histogram(catalogue.LATENCY, _cumulative(of_latency), total_s, partition)
        return away

    def _add_progress(self, page: Page, caps: Mapping[int, int], unreadable: list[str]) -> None:
        of_former = max(caps.values(), default=0)  # of a partition that traders are not divided into any more
        for each in self._watch.look():
            partition = each.shown
            page.add(catalogue.STALLED, each.stalled_s, partition)
            if each.away:
                continue
            if each.error:
                unreadable.append(f"{each.keys.snapshots} ({each.error})")
                continue
            page.add(catalogue.LENGTH, each.length, partition)
            page.add(catalogue.MAXLEN, caps.get(self._keyspace.number_of(each.keys), of_former), partition)
            page.add(catalogue.OLDEST, each.oldest_age_s, partition)

    def _add_workers(self, page: Page, partitions: Sequence[int], unreadable: list[str]) -> None:
        """What RQ's Redis knows; only risk_up where it does not answer."""
        rq = self._rq or self._client
        try:
            workers, counts = workers_of(rq, partitions, self._keyspace)
            pipeline = rq.pipeline(transaction=False)
            pipeline.hgetall(self._keyspace.drain_jobs)
            [jobs] = pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            if self._rq is not None:
                page.add(catalogue.UP, 0, "rq")
            unreadable.append(f"the workers ({error})")
            return
        if self._rq is not None:
            page.add(catalogue.UP, 1, "rq")
        alive = [each for each in workers if each.is_alive]
        busy = sum(bool(each.job) for each in alive)
        page.add(catalogue.WORKERS, busy, "busy")
        page.add(catalogue.WORKERS, len(alive) - busy, "idle")
        page.add(catalogue.WORKERS, len(workers) - len(alive), "dead")
        for number, count in counts.items():
            page.add(catalogue.PARTITION_WORKERS, count, self._keyspace.name(number))
        page.add(catalogue.COMMIT_WAIT, max((each.commit_wait_s for each in alive), default=0.0))
        enqueued = numbers(jobs, self._keyspace.drain_jobs, unreadable)
        page.add(catalogue.JOBS_ENQUEUED, enqueued.get("enqueued", 0))
        page.add(catalogue.JOBS_FAILED, enqueued.get("failed", 0))

    def _add_servers(self, page: Page, partitions: Sequence[Keys]) -> None:
        servers = server.look(self._client, partitions, self._keyspace)
        for each in servers:
            page.add(catalogue.REDIS_WRITES, int(each.refusal is None), each.address)
            if each.version is not None:
                says = (each.version, each.role or "", each.eviction_policy or "", each.persistence or "")
                page.add(catalogue.REDIS, 1, each.address, *says)
            if each.memory_used is not None:
                page.add(catalogue.REDIS_MEMORY, each.memory_used, each.address)
            if each.memory_limit is not None:
                page.add(catalogue.REDIS_LIMIT, each.memory_limit, each.address)
        # Of one that does not answer another line says so.
        self._refusals.report(server.refusals([each for each in servers if not each.away]))

    def _name_away(self, away: Mapping[str, Exception | None]) -> None:
        """Log which partitions' nodes do not answer, once; and that all do again."""
        if away and not self._misses_nodes:
            reasons = [str(each) for each in away.values() if each is not None]
            log.error(
                "The exporter gets no answer from the nodes of Redis that have the partitions %s, and leaves "
                "these out%s",
                ", ".join(away),
                f": {reasons[0]}" if reasons else "",
            )
        elif self._misses_nodes and not away:
            log.warning("The exporter gets answers for all partitions again")
        self._misses_nodes = bool(away)


class _Read:
    """What was read of Redis once. Thread-safe."""

    def __init__(self, page: Page, reason: str | None) -> None:
        """reason: why Redis did not answer; None: it did."""
        self.page = page
        self.reason = reason
        self._lock = threading.Lock()
        self._bodies: dict[bool, bytes] = {}

    def body(self, names: Sequence[str], packed: bool) -> bytes:
        """The page as bytes; all of it is made once."""
        if names:
            return self._made(names, packed)
        with self._lock:
            if packed not in self._bodies:
                self._bodies[packed] = self._made((), packed)
            return self._bodies[packed]

    def _made(self, names: Sequence[str], packed: bool) -> bytes:
        text = self.page.text(names).encode()
        return gzip.compress(text, _GZIP_LEVEL) if packed else text


class _Reading(threading.Thread):
    """One read of Redis."""

    def __init__(self, read: Callable[[], _Read]) -> None:
        super().__init__(name="reading", daemon=True)
        self._read = read
        self.began_s = monotonic()
        self.result: _Read | None = None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return monotonic() - self.began_s

    def run(self) -> None:
        self.result = self._read()


class _Named:
    """Logs sentences: each once, and all again each minute."""

    def __init__(self, beginning: str, again_s: float) -> None:
        self._beginning = beginning
        self._again_s = again_s
        self._named: frozenset[str] = frozenset()
        self._named_at = 0.0

    def report(self, sentences: Sequence[str]) -> None:
        found = frozenset(sentences)
        if found and (found - self._named or monotonic() - self._named_at >= self._again_s):
            more = f", and {len(sentences) - 10} more" if len(sentences) > 10 else ""
            log.error("%s: %s%s", self._beginning, "; ".join(sentences[:10]), more)
            self._named_at = monotonic()
        self._named = found


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve /metrics, /readyz and /healthz until SIGTERM or SIGINT.

    Port 0 takes a free one; the log names it.
    """
    url, rq_url = settings.require_redis_url(), settings.require_rq_redis_url()
    database_url = settings.database_url
    postgres = None if database_url is None else PostgresWatch(database_url)
    every_s = settings.verify_every_s
    reconciliation = None
    if postgres is not None and every_s is not None:
        reconciliation = Reconciliation(every_s, away=lambda: postgres.problem.removesuffix("."))
    sources = Sources(
        settings.partitions,
        settings.keyspace,
        settings.stream_maxlen,
        Traders(
            settings.metrics_traders,
            most=settings.metrics_traders_max,
            forget_after_s=settings.forget_trader_after_s,
        ),
        postgres,
        reconciliation,
    )
    with ExitStack() as stack:
        client = stack.enter_context(connect(url))
        rq = None if rq_url == url else stack.enter_context(connect(rq_url))
        listening = stack.enter_context(Server(application(client, rq, sources), host=host, port=port))
        for thread in (postgres, reconciliation):
            if thread is not None:
                stack.callback(thread.stop)
                thread.start()
        listening.serve_until_signalled(
            lambda: log.info("Serving %s/metrics, read from %s", listening.url, mask(url))
        )
    log.info("The exporter has stopped")


def connect(url: str) -> RedisClient:
    """A client that gives up soon: Prometheus waits for the answer, and asks again."""
    is_cluster = redis_address(url, "REDIS_URL").kind == "cluster"
    answer_s = NODE_ANSWER_S if is_cluster else REDIS_TIMEOUT_S
    return redis_client(url, answer_timeout_s=answer_s, connect_timeout_s=REDIS_TIMEOUT_S)


def application(
    client: RedisClient, rq: RedisClient | None = None, sources: Sources | None = None
) -> Application:
    """The WSGI application: /metrics; /readyz, which answers 503 with a sentence for each reason why what
    traders send may not be stored; and /healthz, which answers as long as the process does.

    /metrics?name[]=risk_up&name[]=... has these metrics alone.
    """
    exporter = Exporter(client, rq, sources)

    def metrics(environ: Environ) -> Answer:
        wanted = parse_qs(environ.get("QUERY_STRING", "")).get("name[]", ())
        packed = "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
        body = exporter.body(environ.get(ARRIVED, monotonic()), wanted, packed=packed)
        encoding = [("Content-Encoding", "gzip")] if packed else []
        return Answer(body, content_type=CONTENT_TYPE, headers=encoding)

    return pages(
        {
            "/metrics": metrics,
            **health(exporter.problems),
            "/": lambda _: Answer("riskstream exporter: see /metrics\n"),
        },
        "see /metrics",
    )


def _holds(answer: Any, field: str) -> bool:
    """Whether there is something in the field, or may be: then no number is not 0."""
    return not isinstance(answer, Mapping) or field.encode() in answer


def _cumulative(counts: Mapping[str, float]) -> list[tuple[str, float]]:
    """Prometheus' buckets in seconds, from counts by upper bound in ms."""
    total = 0.0
    buckets = []
    shown = (*(f"{bound_ms / 1000:g}" for bound_ms in LATENCY_BOUNDS_MS), "+Inf")
    for bucket, bound in zip(LATENCY_BUCKETS, shown, strict=True):
        total += counts.get(bucket, 0)
        buckets.append((bound, total))
    return buckets
