"""What /metrics says, from what stands in Redis."""

from __future__ import annotations

import gzip
import re
import threading
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import fakeredis
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from rq.utils import utcformat

from risk_devkit.meter import Meter
from risk_producer.contract.counters import LATENCY_BOUNDS_MS
from risk_producer.contract.keys import Keys
from risk_worker.monitor.catalogue import METRICS
from risk_worker.monitor.exporter import Exporter, Sources, application
from risk_worker.monitor.traders import Traders
from risk_worker.stream import partitions as partitions_in_use
from tests.support.factory import payload
from tests.support.wait import wait_until


@pytest.fixture(autouse=True)
def few_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at all that there can be takes a fake longer than everything else."""
    monkeypatch.setattr(partitions_in_use, "PARTITIONS_MAX", 16)


def get(client: redis.Redis, path: str = "/metrics", partitions: int = 1) -> tuple[str, str]:
    """(status, body) of a request."""
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    serve = application(client, sources=Sources(partitions))
    body = serve(environ, lambda status, headers: statuses.append(status))
    return statuses[0], b"".join(body).decode()


def samples(client: redis.Redis, partitions: int = 1) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, values of the labels in order of their names) -> value."""
    status, body = get(client, partitions=partitions)
    assert status.startswith("200")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def fill(client: redis.Redis, partition: int = 0) -> None:
    keys = Keys(partition)
    client.hset(keys.attempts, mapping={"t1": 7, "trädér 2": 5})
    client.hset(keys.failures, mapping={"t1": 2})
    client.hset(keys.latency_ms, mapping={"t1": "12.500"})
    client.hset(keys.counters, mapping={"accepted": 20, "stored": 12, "dead": 3, "batches": 4, "retries": 1})
    client.hset(keys.counters, "latency_sum_ms", 61_500)
    client.hset(keys.latency_buckets, mapping={"1": 2, "1.5": 1, "1000": 4, "3.6e+06": 1, "+Inf": 5})
    for _ in range(5):
        client.xadd(keys.snapshots, {"s": "{}"})


def test_traders_are_told_apart_under_the_known_names(client: redis.Redis) -> None:
    fill(client)
    got = samples(client)
    assert got["risk_persistence_attempts_total", ("postgres", "t1")] == 7
    assert got["risk_persistence_attempts_total", ("postgres", "trädér 2")] == 5
    assert got["risk_persistence_failures_total", ("postgres", "t1")] == 2
    assert got["risk_persist_latency_ms", ("postgres", "t1")] == 12.5


def test_counters_and_the_stream_by_partition(client: redis.Redis) -> None:
    fill(client, 0)
    client.hset(Keys(1).counters, mapping={"accepted": 9, "conflated": 2, "duplicates": 6})
    got = samples(client, partitions=2)
    assert got["risk_up", ("redis",)] == 1
    assert [got["risk_snapshots_accepted_total", (p,)] for p in "01"] == [20, 9]
    assert [got["risk_snapshots_stored_total", (p,)] for p in "01"] == [12, 0]
    assert [got["risk_snapshots_dead_total", (p,)] for p in "01"] == [3, 0]
    assert [got["risk_snapshots_conflated_total", (p,)] for p in "01"] == [0, 2]
    assert [got["risk_snapshots_duplicate_total", (p,)] for p in "01"] == [0, 6]
    assert [got["risk_batches_stored_total", (p,)] for p in "01"] == [4, 0]
    assert [got["risk_batches_retried_total", (p,)] for p in "01"] == [1, 0]
    assert [got["risk_stream_length", (p,)] for p in "01"] == [5, 0]
    assert 0 <= got["risk_stream_oldest_age_seconds", ("0",)] < 60
    assert got["risk_stream_oldest_age_seconds", ("1",)] == 0


def test_every_partition_that_holds_something_is_served(client: redis.Redis) -> None:
    for partition in (0, 1, 2, 7):
        client.xadd(Keys(partition).snapshots, {"s": "{}"})
    client.set(Keys(0).partitioning, "3:4,2")
    got = samples(client, partitions=2)
    assert got["risk_partitions", ()] == 4
    assert [got["risk_stream_length", (str(partition),)] for partition in range(8)] == [
        1,
        1,
        1,
        0,
        0,
        0,
        0,
        1,
    ]


def test_age_is_that_of_the_oldest_entry(client: redis.Redis) -> None:
    seconds, _ = client.time()
    client.xadd(Keys(0).snapshots, {"s": "{}"}, id=f"{(seconds - 90) * 1000}-0")
    client.xadd(Keys(0).snapshots, {"s": "{}"})
    assert 89 <= samples(client)["risk_stream_oldest_age_seconds", ("0",)] <= 95


def test_buckets_are_cumulative_and_in_seconds(client: redis.Redis) -> None:
    fill(client)
    got = samples(client)
    buckets = {k[1][0]: v for k, v in got.items() if k[0] == "risk_store_latency_seconds_bucket"}
    assert len(buckets) == len(LATENCY_BOUNDS_MS) + 1
    assert got["risk_store_latency_seconds_count", ("0",)] == buckets["+Inf"] == 13
    assert got["risk_store_latency_seconds_sum", ("0",)] == 61.5
    assert [buckets[le] for le in ("0.001", "0.0015", "0.7", "1", "3600", "+Inf")] == [2, 3, 3, 7, 8, 13]
    in_order = sorted(buckets.items(), key=lambda item: float(item[0]))
    assert [v for _, v in in_order] == sorted(buckets.values())


def test_an_empty_redis_is_no_error(client: redis.Redis) -> None:
    got = samples(client)
    assert got["risk_up", ("redis",)] == 1
    assert got["risk_snapshots_accepted_total", ("0",)] == 0


OF_OTHERS = {
    *("risk_verify_success", "risk_verify_timestamp_seconds", "risk_verify_duration_seconds"),
    *("risk_verify_reconciled", "risk_snapshots_lost", "risk_snapshots_stored_twice", "risk_states_behind"),
    *("risk_dead_letters", "risk_redis_info"),
    *("risk_redis_memory_used_bytes", "risk_redis_memory_limit_bytes"),
}
"""What is not read of Redis, or not of a fake, which has no INFO."""


def test_what_is_served_is_what_the_catalogue_says(client: redis.Redis) -> None:
    """The names, types and help; and the labels of each sample."""
    fill(client)
    client.hset(Keys(0).counters, mapping={"acknowledged_ms": 1_000, "restored_ms": 1_000})
    client.hset(Keys(0).latest, "t1", payload("t1", 1))
    serve = application(client, sources=Sources(traders=Traders("risk")))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}
    body = b"".join(serve(environ, lambda *_: None)).decode()
    wanted = [each for each in METRICS if each.name not in OF_OTHERS]
    assert re.findall(r"^# HELP (\S+) (.*)$", body, re.M) == [(each.name, each.help) for each in wanted]
    assert re.findall(r"^# TYPE (\S+) (\S+)$", body, re.M) == [(each.name, each.kind) for each in wanted]
    for metric in wanted:
        lines = re.findall(rf"^{metric.name}(?:_bucket|_sum|_count)?(?:{{(.*)}})? \S+$", body, re.M)
        assert lines, metric.name
        for labels in lines:
            assert set(re.findall(r'(\w+)="', labels)) - {"le"} == set(metric.labels), (metric.name, labels)


def test_the_catalogue_says_everything() -> None:
    assert len({each.name for each in METRICS}) == len(METRICS)
    for each in METRICS:
        assert each.meaning.endswith(".") and each.action.endswith("."), each.name
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name


class _Away(fakeredis.FakeRedis):
    """Redis that fails in one way or another."""

    failing: Exception | None = None

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        if self.failing is not None:
            raise self.failing
        return super().pipeline(*args, **kwargs)


@pytest.mark.parametrize(
    "error",
    [redis.ConnectionError("refused"), redis.TimeoutError("slow"), redis.AuthenticationError("WRONGPASS")],
)
def test_without_redis_there_is_no_number_but_that(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with _Away() as client:
        fill(client)
        assert samples(client)["risk_up", ("redis",)] == 1
        client.failing = error
        left = {name for name, _ in samples(client)}
        assert left == {"risk_up", "risk_build_info", "risk_exporter_read_seconds"}
        assert samples(client)["risk_up", ("redis",)] == 0


BAD_VALUES: list[Any] = [b"abc", b"", b"nan", b"inf", b"1e999", b"\xff\xfe", b"12 monkeys", b"0x10"]


def replace(client: redis.Redis, key: str, kind: str) -> None:
    """Put a value of another type in the place of a key."""
    client.delete(key)
    kinds: dict[str, Any] = {
        "string": lambda: client.set(key, b"\xff"),
        "list": lambda: client.rpush(key, "x"),
        "set": lambda: client.sadd(key, "x"),
        "zset": lambda: client.zadd(key, {"x": 1}),
        "hash": lambda: client.hset(key, "x", "y"),
        "stream": lambda: client.xadd(key, {"x": "y"}),
    }
    kinds[kind]()


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "hash", "stream"])
@pytest.mark.parametrize(
    "name", ["attempts", "failures", "latency_ms", "counters", "latency_buckets", "snapshots"]
)
def test_a_key_of_another_type_costs_its_own_numbers_alone(
    client: redis.Redis, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if (name == "snapshots") == (kind == "stream") and kind in ("hash", "stream"):
        return  # the right type
    fill(client, 0)
    fill(client, 1)
    key = getattr(Keys(0), name)
    replace(client, key, kind)
    got = samples(client, partitions=2)
    assert got["risk_up", ("redis",)] == 1
    assert got["risk_unreadable_fields", ()] == 1
    assert key in caplog.text
    assert got["risk_snapshots_accepted_total", ("1",)] == 20
    assert got["risk_stream_length", ("1",)] == 5
    if name == "counters":
        assert ("risk_snapshots_accepted_total", ("0",)) not in got, "no number is better than a wrong one"
    if name == "snapshots":
        assert got["risk_partition_stalled_seconds", ("0",)] == float("inf")


@pytest.mark.parametrize("value", BAD_VALUES)
def test_a_field_that_is_no_number_is_named_and_the_others_are_shown(
    client: redis.Redis, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    fill(client)
    client.hset(Keys(0).counters, "stored", value)
    client.hset(Keys(0).attempts, b"\xff\x00t", value)
    client.hset(Keys(0).latency_buckets, "1", value)
    got = samples(client)
    assert got["risk_unreadable_fields", ()] == 3
    assert got["risk_snapshots_accepted_total", ("0",)] == 20
    assert ("risk_snapshots_stored_total", ("0",)) not in got
    assert got["risk_persistence_attempts_total", ("postgres", "t1")] == 7
    assert "'stored' of risk:{0}:counters" in caplog.text
    reading = Meter(client).read()
    assert (reading.accepted, reading.stored, reading.in_flight) == (0, 0, 5)


def test_what_cannot_be_read_is_named_once_and_again_each_minute(
    client: redis.Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.hset(Keys(0).counters, "stored", "abc")
    exporter = Exporter(client)
    for _ in range(3):
        exporter.page()
    assert len(caplog.records) == 1
    monkeypatch.setattr(exporter._unreadable, "_again_s", 0.0)
    exporter.page()
    assert len(caplog.records) == 2


def test_workers_are_counted_by_their_heartbeats(client: redis.Redis) -> None:
    def worker(name: str, heartbeat: Any) -> None:
        client.sadd("rq:workers:risk-drain", f"rq:worker:{name}")
        client.hset(f"rq:worker:{name}", "last_heartbeat", heartbeat)

    now = datetime.now(UTC)
    worker("alive", utcformat(now))
    worker("dead", utcformat(now - timedelta(seconds=30)))
    worker("odd", "yesterday")
    client.set("rq:worker:wrong", "x")
    client.sadd("rq:workers:risk-drain", "rq:worker:wrong", b"\xff")
    client.sadd("rq:worker:alive:executions", "drain-0:0123")
    got = samples(client)
    assert [got["risk_workers", (state,)] for state in ("busy", "idle", "dead")] == [1, 0, 4]
    client.hset("risk:drain-jobs", mapping={"enqueued": 3, "failed": 1})
    assert samples(client)["risk_drain_jobs_failed_total", ()] == 1
    client.delete("rq:workers:risk-drain")
    client.set("rq:workers:risk-drain", "x")
    assert samples(client)["risk_workers", ("busy",)] == 0


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with _Away() as client:
        exporter = Exporter(client)
        for failing in (redis.ConnectionError("refused"), None):
            client.failing = failing
            exporter.page()
            exporter.page()
    caplog.set_level("INFO")
    assert [r.message for r in caplog.records] == [
        "The exporter gets no answer from Redis, and serves risk_up 0: refused",
        "The exporter gets answers from Redis again, and serves all metrics",
    ]


def test_when_redis_had_lost_its_data(client: redis.Redis) -> None:
    fill(client)
    assert not any(name == "risk_last_restore_timestamp_seconds" for name, _ in samples(client, 2))
    client.hset(Keys(1).counters, mapping={"restored": 3, "restored_ms": 1_790_000_000_500})
    assert samples(client, 2)["risk_last_restore_timestamp_seconds", ("1",)] == 1_790_000_000.5


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/healthz", "200"), ("/", "200"), ("/metrics", "200"), ("/metricsx", "404")),
        *(("/readyz", "503"), ("", "404")),
    ],
)
def test_paths(client: redis.Redis, path: str, status: str) -> None:
    assert get(client, path)[0].startswith(status)


def ask(
    client: redis.Redis, method: str = "GET", query: str = "", **headers: str
) -> tuple[dict[str, str], bytes]:
    """(headers, body) of /metrics."""
    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/metrics", "QUERY_STRING": query, **headers}
    got: dict[str, str] = {}

    def start(status: str, headers: list[tuple[str, str]]) -> None:
        got.update({"status": status, **dict(headers)})

    return got, b"".join(application(client)(environ, start))


def test_head_has_the_headers_of_get_and_no_body(client: redis.Redis) -> None:
    headers, body = ask(client, "HEAD")
    assert (headers["status"], body) == ("200 OK", b"")
    assert int(headers["Content-Length"]) > 1_000
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    headers, body = ask(client, "POST")
    assert (headers["status"], headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD")


def test_a_page_is_packed_for_who_takes_it(client: redis.Redis) -> None:
    fill(client)
    headers, body = ask(client, HTTP_ACCEPT_ENCODING="deflate, gzip;q=1.0")
    assert headers["Content-Encoding"] == "gzip"
    assert int(headers["Content-Length"]) == len(body)
    assert "trädér 2" in gzip.decompress(body).decode()


def test_metrics_can_be_chosen(client: redis.Redis) -> None:
    fill(client)
    _, body = ask(client, query="name[]=risk_up&name[]=risk_stream_length&name[]=nothing")
    assert set(re.findall(r"^# HELP (\S+)", body.decode(), re.M)) == {"risk_up", "risk_stream_length"}


class _Stuck(fakeredis.FakeRedis):
    """Redis that says nothing until it is let go, and longer than any time-out."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.go = threading.Event()
        self.go.set()
        self.asked = 0

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        assert self.go.wait(60)
        return super().pipeline(*args, **kwargs)


def test_a_page_does_not_wait_for_a_redis_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with _Stuck() as client:
        exporter = Exporter(client, bound_s=0.05)
        client.go.clear()
        for _ in range(3):
            assert 'risk_up{server="redis"} 0\n' in exporter.page().text()
        assert client.asked == 1, "one reading at a time, however many pages"
        assert caplog.messages == [
            "The exporter gets no answer from Redis, and serves risk_up 0: no answer within 0.05 s"
        ]
        client.go.set()
        wait_until(lambda: 'risk_up{server="redis"} 1\n' in exporter.page().text())


def test_a_page_answers_each_request_from_before_it_was_begun(client: redis.Redis) -> None:
    exporter = Exporter(client)
    asked_s = monotonic()
    plain, packed = (exporter.body(asked_s, packed=each) for each in (False, True))
    assert exporter.body(asked_s) is plain
    assert exporter.body(asked_s, packed=True) is packed
    assert gzip.decompress(packed) == plain
    assert exporter.body(asked_s, ["risk_up"]).endswith(b'\nrisk_up{server="redis"} 1\n')
    client.hset(Keys(0).counters, "accepted", 5)
    assert exporter.body(asked_s) is plain
    assert b'risk_snapshots_accepted_total{partition="0"} 5\n' in exporter.body(monotonic())


def test_pages_of_one_reading_are_the_same_bytes_with_each_sample_once() -> None:
    with _Stuck() as client:
        exporter = Exporter(client)
        client.go.clear()
        bodies: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: bodies.append(exporter.body(monotonic()))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.asked == 1)
        client.go.set()
        for thread in threads:
            thread.join(60)
    # One that came too late for the first reading is answered by a second one.
    assert len({id(body) for body in bodies}) <= 2
    for body in bodies:
        lines = body.decode().splitlines()
        assert len(lines) == len(set(lines))


def test_what_fails_unexpectedly_is_answered_too(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Traders):
        def add_to(self, *_: Any) -> None:
            raise RuntimeError("unexpected")

    text = Exporter(client, sources=Sources(traders=Broken())).page().text()
    assert 'risk_up{server="redis"} 0\n' in text
    assert "RuntimeError: unexpected" in caplog.text
