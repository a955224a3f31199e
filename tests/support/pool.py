"""A program that saves from the processes of a Pool, and ends the pool in one of several ways.

    python -m tests.support.pool URL METHOD END OPTION...

END      terminate: by the pool's with statement, as soon as half of the work is accepted
         close: close() without join(), once the results are there
         abandon: close() without join(), and the results are not taken
         join: close() and join()
OPTION   through: save() waits for Redis, which is the default; buffer: it does not
         sigterm: each process calls close_on_sigterm(); hasty: and gives it 0.1 s
         function: each task closes its producer

Prints how many snapshots save() had accepted, as counted by the processes themselves.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from typing import Any

from risk_producer import RiskProducer, close_on_sigterm
from tests.support.producers import snapshot
from tests.support.wait import wait_until

TASKS = 20
EACH = 20

producer: RiskProducer
accepted: Any


def prepare(url: str, options: list[str], counter: Any) -> None:
    """In each process of the pool."""
    global producer, accepted
    logging.basicConfig()
    accepted = counter
    producer = RiskProducer(url, push_through=False if "buffer" in options else None)
    if "sigterm" in options:
        close_on_sigterm(producer, timeout=0.1 if "hasty" in options else 5.0)


def work(task: tuple[str, int, list[str]]) -> None:
    """Save EACH snapshots."""
    url, number, options = task
    mine = RiskProducer(url, push_through=False) if "function" in options else producer
    for each in range(EACH):
        if mine.save(snapshot(f"p{os.getpid()}", number * EACH + each)):
            with accepted.get_lock():
                accepted.value += 1
    if "function" in options:
        mine.close()


def main(url: str, method: str, end: str, *options: str) -> None:
    context: Any = multiprocessing.get_context(method)
    counter = context.Value("i", 0)
    tasks = [(url, number, list(options)) for number in range(TASKS)]
    pool = context.Pool(2, prepare, (url, list(options), counter))
    if end == "terminate":
        with pool:
            pool.map_async(work, tasks, chunksize=1)
            wait_until(lambda: counter.value >= TASKS * EACH // 2, 30)
    else:
        results = pool.map_async(work, tasks, chunksize=1)
        pool.close()
        if end == "join":
            pool.join()
        if end != "abandon":
            results.get(60)
    print(counter.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
