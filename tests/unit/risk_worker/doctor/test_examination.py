"""Settings without a server, and how findings are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from risk_worker.doctor.check import Finding, examine
from risk_worker.doctor.examination import as_json, as_text
from risk_worker.doctor.of_redis import apart, encrypted, is_here
from risk_worker.doctor.of_settings import link

FINDINGS = [
    Finding("ok", "fine", "", "redis", "tls"),
    Finding("warning", "so\nso", "do it", "postgres", "version"),
    Finding("failure", "no", "", "both", "clocks"),
]


def test_a_line_each_and_one_more_for_what_to_do() -> None:
    assert as_text(FINDINGS).splitlines() == [
        "✓ redis tls         fine",
        "! postgres version  so\\nso",
        "                    → do it",
        "✗ both clocks       no",
        "",
        "1 failure, 1 warning",
    ]
    assert as_text(FINDINGS[:1]).splitlines()[-1] == "✓ Everything is as it should be."


def test_json() -> None:
    found = json.loads(as_json(FINDINGS))
    assert found["worst"] == "failure"
    assert found["findings"][1] == {
        "level": "warning",
        "what": "so\nso",
        "todo": "do it",
        "link": "postgres",
        "check": "version",
    }


def lines(environ: dict[str, str]) -> list[tuple[str, str]]:
    return [(each.level, each.what) for each in examine([link(environ)])]


def test_settings_say_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "risk.json"
    file.write_text('{"risk_partitions": 4, "redis_url": "redis://elsewhere:1/0"}')
    found = lines(
        {
            "RISK_CONFIG": str(file),
            "REDIS_URL": "redis://u:geheim@h:1/0",
            "POSTGRES_URL": "postgresql://u:geheim@h/d",
            "RISK_PARTITION": "7",
        }
    )
    assert ("ok", "REDIS_URL=redis://u:***@h:1/0 from the environment") in found
    assert ("ok", f"RISK_PARTITIONS=4 from risk_partitions in {file}") in found
    assert ("warning", "RISK_PARTITION is no setting") in found
    assert not any("geheim" in what for _, what in found)


def test_settings_that_cannot_be_used() -> None:
    [(level, what), *_] = lines({"RISK_PARTITIONS": "many"})
    assert level == "failure"
    assert "RISK_PARTITIONS expects a whole number" in what
    contradicts = lines(
        {"RISK_SPOOL_FSYNC": "always", "REDIS_URL": "redis://h", "POSTGRES_URL": "postgresql://h/d"}
    )
    assert any(level == "failure" and "a trader would not start" in what for level, what in contradicts)


@pytest.mark.parametrize(
    ("url", "level", "text"),
    [
        ("redis://localhost:6379/0", "ok", "on this machine"),
        ("redis://127.0.0.7/0", "ok", "on this machine"),
        ("redis://[::1]:6379/0", "ok", "on this machine"),
        ("unix:///run/redis.sock", "ok", "on this machine"),
        ("redis://:pw@redis.example/0", "warning", "redis.example is not encrypted"),
        ("redis+cluster://127.0.0.1:1,10.0.0.7:1", "warning", "10.0.0.7 is not encrypted"),
        ("rediss://redis.example/0", "ok", "encrypted and verified"),
        ("rediss://redis.example/0?ssl_cert_reqs=none", "warning", "not verified"),
        ("rediss://redis.example/0?ssl_check_hostname=false", "warning", "not verified"),
        ("rediss+sentinel://s1,s2/mymaster", "ok", "encrypted and verified"),
    ],
)
def test_what_crosses_a_network_should_be_encrypted(url: str, level: str, text: str) -> None:
    found = encrypted(url)
    assert found.level == level
    assert text in found.what
    assert "pw" not in found.what


@pytest.mark.parametrize(
    ("ahead_s", "uncertain_s", "level"),
    [(0.9, 0.0, "ok"), (-0.9, 0.0, "ok"), (1.2, 0.3, "ok"), (1.2, 0.0, "warning"), (-3600.0, 0.1, "warning")],
)
def test_clocks(ahead_s: float, uncertain_s: float, level: str) -> None:
    assert apart("Redis", ahead_s, uncertain_s).level == level


def test_hosts() -> None:
    assert is_here("localhost")
    assert not is_here("localhost.example")
    assert not is_here("0.0.0.0")
    assert not is_here("10.0.0.1")
