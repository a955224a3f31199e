"""Two children of multiprocessing that save and end. python -m tests.support.children METHOD REDIS_URL"""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

from risk_producer import RiskProducer
from tests.support.producers import snapshot


def save(redis_url: str, trader_id: str) -> None:
    """Leaves it to the end of the process to send."""
    producer = RiskProducer(redis_url)
    for number in range(100):
        assert producer.save(snapshot(trader_id, number))


def main(method: str, redis_url: str) -> int:
    """Exit status 0: both children ended well."""
    context: Any = multiprocessing.get_context(method)
    children = [context.Process(target=save, args=(redis_url, f"t{number}")) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return int(any(child.exitcode != 0 for child in children))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
