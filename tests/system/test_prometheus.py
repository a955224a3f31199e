"""What is in ops/prometheus, and what is served, as Prometheus' own tool checks them."""

from __future__ import annotations

import gzip
import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from risk_worker.monitor import exporter
from risk_worker.monitor.exporter import Exporter, Sources, application
from risk_worker.monitor.traders import Shown, Traders
from tests.support.factory import payload, snapshot

pytestmark = pytest.mark.system

OPS = Path(__file__).parents[2] / "ops" / "prometheus"
RULES = OPS / "rules" / "riskstream.yml"
TESTS = OPS / "tests" / "riskstream.yml"


def promtool(*words: str | Path, text: bytes = b"") -> str:
    done = subprocess.run(["promtool", *words], input=text, capture_output=True, timeout=60)
    return done.stdout.decode() + done.stderr.decode() + ("" if done.returncode in (0, 3) else "failed\n")


def test_names_are_as_prometheus_wants_them_but_the_inherited_one(redis_url: str) -> None:
    """Those of the exporter and of a producer; risk_persist_latency_ms is the name of the system before."""
    registry = CollectorRegistry()
    with RiskProducer(redis_url, registry=registry) as producer, exporter.connect(redis_url) as client:
        producer.push(snapshot("t", 1))
        text = Exporter(client, sources=Sources(traders=Traders("risk"))).page().text()
        assert 'risk_trader_equity{trader_id="t"}' in text
        client.hset("risk:{0}:latency_ms", "t", "1.5")
        text = Exporter(client, sources=Sources(traders=Traders("risk"))).page().text()
        inherited = "risk_persist_latency_ms metric names should not contain abbreviated units\n"
        assert promtool("check", "metrics", text=text.encode()) == inherited
        assert promtool("check", "metrics", text=generate_latest(registry)) == ""


def test_rules_and_configuration_are_valid() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)
    assert "failed" not in (said := promtool("check", "config", OPS / "prometheus.yml")), said


def test_the_rules_pass_their_tests() -> None:
    assert (said := promtool("test", "rules", TESTS)).strip().endswith("SUCCESS"), said


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for each in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in each["alert_rule_test"]:
            seen["exp_alerts" in case].add(case["alertname"])
    assert seen[True] == seen[False] == alerts


@pytest.mark.parametrize("shown", ["counts", "risk"])
def test_a_page_with_10_000_traders_takes_less_than_300_ms_of_the_processor(
    redis_url: str, shown: Shown
) -> None:
    """Each of them has sent something since the last one; written, packed, and all that is read of Redis."""
    keys = Keys(0)
    with exporter.connect(redis_url) as client:

        def send(seq: int) -> None:
            for first in range(0, 10_000, 1_000):
                names = [f"desk-{number % 10}/strategy-{number}" for number in range(first, first + 1_000)]
                client.hset(keys.latest, mapping={name: payload(name, seq) for name in names})
                client.hset(keys.attempts, mapping=dict.fromkeys(names, seq))
                client.hset(keys.latency_ms, mapping=dict.fromkeys(names, f"{seq}.125"))

        serve = application(client, sources=Sources(traders=Traders(shown)))
        environ = {"PATH_INFO": "/metrics", "HTTP_ACCEPT_ENCODING": "gzip"}
        taken_s = []
        for seq in range(1, 5):
            send(seq)
            began = time.process_time()
            body = b"".join(serve(environ, lambda *_: None))
            taken_s.append(time.process_time() - began)
        text = gzip.decompress(body).decode()
    assert text.count("risk_trader_last_snapshot_timestamp_seconds{") == 10_000
    assert text.count("risk_trader_equity{") == 10_000 * (shown == "risk")
    # A core that other processes share takes longer for the same; the load of the last minute says how much.
    busy = min(3.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
    assert min(taken_s) < 0.3 * busy, taken_s
