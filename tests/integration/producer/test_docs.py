"""The examples of docs/producer.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.support.redis import mark_restored, stream_of

PAGE = Path(__file__).parents[3] / "docs" / "producer.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, redis_url: str, redis_client: redis.Redis) -> None:
    mark_restored(redis_client)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        env={"REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    if "save(" in EXAMPLES[number]:
        assert stream_of(redis_client)
