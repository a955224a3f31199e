"""A fork while the flusher makes its first call: the child sends too. RISK_TEST_FORKS sets how often."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import redis

from tests.support.redis import stream_of

ROUNDS = int(os.environ.get("RISK_TEST_FORKS", "6"))

_PARENT = """
import os, sys, time
from risk_producer import RiskProducer, RiskSnapshot
def snapshot(trader_id, number):
    return RiskSnapshot(trader_id=trader_id, daily_pnl=number,
        drawdown_pct=0, current_equity=1, peak_equity=1)
producer = RiskProducer(sys.argv[1])
before = set(sys.modules)
assert producer.save(snapshot("parent", 0))
time.sleep(float(sys.argv[2]))
child = os.fork()
if child == 0:
    saved = all([producer.save(snapshot("child", number)) for number in range(5)])
    os._exit(0 if saved and producer.close(30) else 1)
assert os.waitpid(child, 0)[1] == 0
assert producer.close(30)
assert set(sys.modules) == before, set(sys.modules) - before
"""


@pytest.mark.timeout(300 + 3 * ROUNDS)
def test_a_fork_at_any_moment_after_the_first_save(redis_url: str, redis_client: redis.Redis) -> None:
    """And nothing is imported by sending: such an import would be half done in the child."""
    for number in range(ROUNDS):
        redis_client.flushdb()
        delay_s = 0.05 * (number % 20 if ROUNDS > 20 else number / ROUNDS * 20) / 20
        done = subprocess.run(
            [sys.executable, "-c", _PARENT, redis_url, str(delay_s)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert len(stream_of(redis_client)) == 6, delay_s
