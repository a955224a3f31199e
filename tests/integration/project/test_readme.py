"""The code in README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from risk_producer import LoadedState, RiskProducer
from risk_producer.contract.keys import Keys
from risk_producer.contract.snapshot import with_last_reset
from risk_producer.contract.wire import decode
from tests.support.redis import mark_restored

README = (Path(__file__).parents[3] / "README.md").read_text()


def test_the_producers_lines_run(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r"<!-- examples/restart_and_save.py -->\n```python\n(.*?)```", README, re.S)
    monkeypatch.setenv("REDIS_URL", redis_url)
    mark_restored(redis_client)
    names: dict[str, Any] = {}
    exec(code, names)  # what the page is for
    assert names["state"] is None
    assert names["accepted"] is True
    [(_, fields)] = cast(Any, redis_client.xrange(Keys(0).snapshots))
    accepted = with_last_reset(names["snapshot"], names["snapshot"].recorded_at)  # as the producer fills in
    assert decode(fields[b"s"]).snapshot == accepted
    with RiskProducer(redis_url) as again:
        found = again.load("alice")
    assert isinstance(found, LoadedState)
    assert found.snapshot == accepted
