"""Producers in the processes of a multiprocessing.Pool, however it ends; docs/producer.md says what holds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import redis

from risk_producer.contract.keys import Keys
from tests.support.pool import EACH, TASKS
from tests.support.proxy import Proxy

ALL = TASKS * EACH
NOBODY = "redis://127.0.0.1:1/0"


def run(url: str, method: str, end: str, *options: str) -> tuple[int, str]:
    """How many snapshots were accepted, and the log."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pool", url, method, end, *options],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout), done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("end", ["terminate", "close", "join"])
def test_save_waits_for_redis_so_that_no_way_to_end_a_pool_loses_anything(
    redis_url: str, redis_client: redis.Redis, method: str, end: str
) -> None:
    with Proxy(redis_url) as proxy:
        proxy.delay_s = 0.002  # longer than from the last save() to SIGTERM
        accepted, _ = run(proxy.url, method, end)
    stored = redis_client.xlen(Keys(0).snapshots)
    if end == "terminate":
        assert ALL // 2 <= accepted <= stored <= accepted + 2, (
            "the call that SIGTERM interrupts may be stored"
        )
    else:
        assert accepted == stored == ALL


@pytest.mark.parametrize("options", [("buffer", "sigterm"), ("function",)], ids="-".join)
def test_without_that_the_way_to_lose_nothing_is_to_close(
    redis_url: str, redis_client: redis.Redis, options: tuple[str, ...]
) -> None:
    with Proxy(redis_url) as proxy:
        proxy.delay_s = 0.02
        accepted, _ = run(proxy.url, "fork", "close" if options == ("function",) else "terminate", *options)
    assert accepted >= ALL // 2
    assert redis_client.xlen(Keys(0).snapshots) >= accepted


def test_a_process_that_is_terminated_while_redis_is_away_says_what_is_lost() -> None:
    accepted, said = run(NOBODY, "fork", "terminate", "sigterm", "hasty")
    lost = sum(
        int(line.split("was closed with ")[1].split()[0])
        for line in said.splitlines()
        if "was closed with" in line
    )
    assert lost >= accepted >= ALL // 2


def test_a_pool_whose_results_are_not_taken_is_ended_by_python_before_its_work() -> None:
    """So nothing was accepted that could be lost: the docs say to wait."""
    accepted, _ = run(NOBODY, "fork", "abandon")
    assert accepted < ALL
