"""The exporter as a process, against a real server that goes away and comes back."""

from __future__ import annotations

import re
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic

import pytest
import redis

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from tests.conftest import MakeValkey
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.wait import slowness, wait_until


def port_of(process: ChildProcess) -> int:
    """The port that the process says it listens on."""
    pattern = r"Serving http://[\d.]+:(\d+)"
    [port] = wait_until(lambda: re.findall(pattern, process.log), 20, "the port in the log")
    return int(port)


def get(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
        return str(response.read().decode())


def exporter(log: Path, url: str, **environ: str) -> ChildProcess:
    command = [sys.executable, "-m", "risk_worker", "exporter", "--port", "0"]
    return ChildProcess(log, {"REDIS_URL": url, "RISK_PARTITIONS": "2", **environ}, command)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_with_status_0(tmp_path: Path, redis_url: str, number: signal.Signals) -> None:
    with exporter(tmp_path / "log", redis_url) as process:
        port_of(process)
        process.signal(number)
        assert process.wait(5) == 0
        assert "Traceback" not in process.log


def test_numbers_go_away_with_redis_and_come_back(tmp_path: Path, make_valkey: MakeValkey) -> None:
    server = make_valkey()
    with redis.Redis.from_url(server.url) as client:
        client.hset(Keys(1).counters, "accepted", 41)
    with exporter(tmp_path / "log", server.url) as process:
        port = port_of(process)
        page = get(port)
        assert 'risk_snapshots_accepted_total{partition="1"} 41\n' in page
        address = f'address="127.0.0.1:{server.port}"'
        assert f"risk_redis_takes_writes{{{address}}} 1\n" in page
        assert re.search(rf'risk_redis_info\{{{address},version="Valkey [\d.]+",role="master",', page)
        assert re.search(rf"risk_redis_memory_used_bytes\{{{address}\}} \d+\n", page)
        with redis.Redis.from_url(server.url) as client:
            client.config_set("min-replicas-to-write", 1)
            assert f"risk_redis_takes_writes{{{address}}} 0\n" in get(port)
            assert "Traders cannot send: Redis at 127.0.0.1" in process.log
            client.config_set("min-replicas-to-write", 0)

        server.pause()
        began = monotonic()
        assert 'risk_up{server="redis"} 0\n' in get(port)
        assert "accepted_total" not in get(port)
        assert monotonic() - began < 8 * slowness()
        assert get(port, "/healthz") == "ok\n"
        server.resume()
        assert " 41\n" in get(port)

        server.kill()
        began = monotonic()
        assert 'risk_up{server="redis"} 0\n' in get(port)
        assert monotonic() - began < 4 * slowness()
        server.start()
        assert 'partition="1"} 41\n' in get(port)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/nothing")
        assert process.stop(5) == 0


@pytest.mark.system
def test_a_trader_that_fell_silent_leaves_the_page_and_comes_back(tmp_path: Path, redis_url: str) -> None:
    with (
        RiskProducer(redis_url, partitions=2) as producer,
        exporter(tmp_path / "log", redis_url, RISK_FORGET_TRADER_AFTER="5s") as process,
    ):
        port = port_of(process)
        series = 'risk_trader_last_snapshot_timestamp_seconds{trader_id="t"}'
        for seq in (1, 2):
            producer.push(snapshot("t", seq))
            assert series in get(port)
            wait_until(lambda: series not in get(port), 20, "the trader to leave the page")
            assert 'risk_traders{state="silent"} 1\n' in get(port)


def test_a_port_that_is_taken_is_said_so(tmp_path: Path, redis_url: str) -> None:
    with exporter(tmp_path / "log", redis_url) as first:
        port = port_of(first)
        command = [sys.executable, "-m", "risk_worker", "exporter", "--port", str(port)]
        with ChildProcess(tmp_path / "second", {"REDIS_URL": redis_url}, command) as second:
            assert second.wait(20) == 2
            says = f"cannot listen on 127.0.0.1:{port}: Address already in use; --port chooses another one\n"
            assert says in second.log
