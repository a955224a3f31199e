"""What is in ops/prometheus, and what is served, as Prometheus' own tool checks them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from risk_producer import RiskProducer
from risk_worker.monitor import exporter
from risk_worker.monitor.exporter import Exporter, Sources
from risk_worker.monitor.traders import Traders
from tests.support.factory import snapshot

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
