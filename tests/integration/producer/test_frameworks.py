"""The examples of docs/frameworks.md run as they stand, in their hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import decode
from tests.support.redis import mark_restored

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(*command: str, **environ: str) -> str:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RISK_", "REDIS_"))}
    done = subprocess.run(
        [sys.executable, *command],
        env={**ours, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=EXAMPLES,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("example", "traders"),
    [
        ("in_threads.py", {"thread-1", "thread-2", "thread-3", "thread-4"}),
        ("in_a_pool.py", {"process-1", "process-2", "process-3"}),
        ("in_joblib.py", {"job-1", "job-2", "job-3"}),
        ("in_apscheduler.py", {"scheduled"}),
    ],
)
def test_all_that_was_saved_has_arrived(
    example: str, traders: set[str], redis_url: str, redis_client: redis.Redis
) -> None:
    mark_restored(redis_client)
    printed = run(example, REDIS_URL=redis_url)
    assert "False" not in printed
    entries: Any = redis_client.xrange(Keys(0).snapshots)
    arrived = [decode(fields[b"s"]).trader_id for _, fields in entries]
    assert set(arrived) == traders
    if traders != {"scheduled"}:
        assert len(arrived) == len(traders)


def test_the_fake_redis_takes_it() -> None:
    assert run("with_fakeredis.py") == "1\n"


def test_the_tests_of_the_page_pass() -> None:
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "risk_producer.pytest_plugin",
        "-W",
        "error",
        "-c",
        os.devnull,
    )
    assert "2 passed" in run("-m", "pytest", *options, "test_my_bot.py")
