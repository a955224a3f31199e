"""What the log has of each fault: a line for the event, one for its end, and nothing of what is routine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from risk_producer.session import fullness
from risk_worker.stream.workers import QUEUE
from tests.conftest import MakeValkey
from tests.support.factory import payload, snapshot
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

KEYS = Keys(0)
# An hour of time slices in some seconds.
QUICK = """
import os, sys
os.environ["RQ_KEY_PREFIX"] = "rq"
from risk_worker.runtime import worker
from risk_worker.runtime.time_slice import TimeSlice
from risk_worker.stream.source import StreamSource
TimeSlice.LENGTH_S, worker.LOOK_S = 0.01, 0.01
StreamSource.__init__.__kwdefaults__["block_s"] = 0.01
from risk_worker.__main__ import main
sys.argv = ["riskstream", "worker"]
main()
"""


def lines(worker: ChildProcess, level: str = "") -> list[dict[str, Any]]:
    """The log of a worker with RISK_LOG_FORMAT=json: nothing else is in it."""
    found = [json.loads(line) for line in worker.log.splitlines()]
    return [each for each in found if level in ("", each["level"])]


def messages(worker: ChildProcess) -> str:
    return "\n".join(each["message"] for each in lines(worker))


@pytest.fixture
def json_environ(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "RISK_LOG_FORMAT": "json"}


@pytest.mark.system
def test_a_quiet_hour_logs_nothing(tmp_path: Path, json_environ: dict[str, str], redis_client: Any) -> None:
    """Nor would one of 180 time slices: what is logged in each would be in a few."""

    def slices() -> int:
        keys = redis_client.smembers(f"rq:workers:{QUEUE}")
        return sum(int(redis_client.hget(key, "successful_job_count") or 0) for key in keys)

    with ChildProcess(tmp_path / "log", json_environ, [sys.executable, "-c", QUICK]) as worker:
        wait_until(lambda: "The worker is ready" in worker.log, 30, "the worker")
        begun = len(lines(worker))
        wait_until(lambda: slices() >= 20, 60, "20 time slices")
        assert [each["message"] for each in lines(worker)[begun:]] == []
        first = lines(worker)[0]["message"]
        assert re.match(rf"riskstream \S+, process {worker.pid} on \S+, with RQ 3\.", first), first
        assert re.search(r"streams in redis://\S+ \((Valkey|Redis) \d+\.\d+\.\d+\)", first), first
        assert re.search(r"stores in postgresql://\S+ \(Postgres \d+\.\d+", first), first
        assert worker.stop() == 0
        assert lines(worker)[-1]["message"] == "The worker has stopped"
        assert {each["level"] for each in lines(worker)} == {"INFO"}


@pytest.fixture
def served(make_valkey: MakeValkey) -> Iterator[Any]:
    """A client of a Valkey of the test's own, which every fault leaves alive."""
    with redis.Redis.from_url(make_valkey().url) as client:
        yield client


def url_of(client: Any) -> str:
    return f"redis://127.0.0.1:{client.get_connection_kwargs()['port']}/0"


@pytest.mark.system
def test_each_fault_is_a_sentence_and_so_is_its_end(tmp_path: Path, database_url: str, served: Any) -> None:
    url = url_of(served)
    environ = {"REDIS_URL": url, "POSTGRES_URL": database_url, "RISK_LOG_FORMAT": "json"}

    def waits_for(pattern: str, level: str = "") -> None:
        def there() -> bool:
            return any(re.search(pattern, each["message"]) for each in lines(worker, level))

        wait_until(there, 30, f"{pattern} in the log")

    with ChildProcess(tmp_path / "log", environ) as worker, RiskProducer(url) as producer:
        waits_for("The worker is ready")
        producer.push(snapshot("t", 1), timeout=30)

        served.xadd(KEYS.snapshots, {"s": payload("t", 9, trace_id="order-7")[:-1] + b',"seq":-1}'})
        waits_for(r"1 of \d+ entries could not be stored and are dead letters", "ERROR")
        [dead] = [each for each in lines(worker, "ERROR") if "dead letters" in each["message"]]
        assert dead["trace_id"] == "order-7"

        served.flushall()
        waits_for("which is new or had lost data, got 1 traders back from Postgres", "WARNING")

        for setting, value, reason in (
            ("requirepass", "s3cret", "NOAUTH|authenticat"),
            ("maxmemory", "1", "maxmemory|OOM"),
        ):
            served.execute_command("CLIENT", "NO-EVICT", "on")
            served.config_set(setting, value)
            if setting == "requirepass":
                served.execute_command("AUTH", value)
            for kind in ("normal", "pubsub"):
                served.client_kill_filter(_type=kind, skipme=True)
            waits_for(reason)
            served.config_set(setting, "" if setting == "requirepass" else "0")
            before = len(lines(worker))
            producer.push(snapshot("t", 2), timeout=60)
            wait_until(lambda: served.xlen(KEYS.snapshots) == 0, 60, "the snapshot to be stored")
            assert len(lines(worker)) - before < 20, "one line an event"
        assert worker.stop() == 0
    assert "s3cret" not in worker.log
    assert [each for each in lines(worker) if "exception" in each] == []


def test_a_full_stream_is_logged_when_it_begins_and_when_it_is_over(
    redis_url: str,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fullness, "QUIET_S", 0.5)
    with RiskProducer(redis_url, stream_maxlen=5, buffer_size=10, on_full="refuse") as producer:

        def full() -> bool:
            producer.save(snapshot("t"))
            return any("a stream is full (its cap is 5 entries)" in each for each in caplog.messages)

        wait_until(full)
        before = producer.health().rejected
        wait_until(lambda: not producer.save(snapshot("t")) and producer.health().rejected >= before + 3)

        def over() -> bool:
            redis_client.xtrim(KEYS.snapshots, maxlen=0, approximate=False)
            producer.save(snapshot("t", 1))
            return any(each.startswith("The streams were full for") for each in caplog.messages)

        wait_until(over, 30, "the end")
    found = [each for each in caplog.messages if "full" in each]
    assert len(found) == 2
    assert int(re.findall(r": (\d+) snapshots were rejected", found[1])[0]) >= 3
