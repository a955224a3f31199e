"""A program that saves from processes of multiprocessing, and ends them in one of several ways.

    python -m tests.support.pool URL METHOD END OPTION...

END      terminate: by the pool's with statement, as soon as half of the work is accepted
         close: close() without join(), once the results are there
         abandon: close() without join(), and the results are not taken
         join: close() and join()
         processes: two processes without a pool, which leave it to their end to send 100 snapshots each
OPTION   through: save() waits for Redis, which is the default; buffer: it does not
         sigterm: each process calls close_on_sigterm(); hasty: and gives it 0.1 s
         function: each task closes its producer

Prints how many snapshots save() had accepted, as counted by the processes themselves: a byte in a file for
each. (A counter with a lock would stay locked for ever where a process is ended while it counts.)
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from risk_producer import RiskProducer, close_on_sigterm, engine
from tests.support.factory import snapshot
from tests.support.wait import wait_until

TASKS = 20
EACH = 20

producer: RiskProducer
accepted: int
"""The descriptor of the file."""


def prepare(url: str, options: list[str], path: str) -> None:
    """In each process of the pool."""
    global producer, accepted
    logging.basicConfig()
    # That save() waits for Redis is what is tested, and not how quick this machine is just now.
    vars(engine).update(PUSH_THROUGH_S=30.0, PUSH_THROUGH_FIRST_S=30.0)
    accepted = os.open(path, os.O_WRONLY | os.O_APPEND)
    producer = RiskProducer(url, push_through=False if "buffer" in options else None)
    if "sigterm" in options:
        close_on_sigterm(producer, timeout=0.1 if "hasty" in options else 5.0)


def work(task: tuple[str, int, list[str]]) -> None:
    """Save EACH snapshots."""
    url, number, options = task
    mine = RiskProducer(url, push_through=False) if "function" in options else producer
    for each in range(EACH):
        if mine.save(snapshot(f"p{os.getpid()}", number * EACH + each)):
            os.write(accepted, b".")
    if "function" in options:
        mine.close()


def save_and_end(url: str, trader_id: str) -> None:
    """In a process without a pool."""
    mine = RiskProducer(url)
    for number in range(100):
        assert mine.save(snapshot(trader_id, number))


def run_processes(url: str, context: Any) -> None:
    children = [context.Process(target=save_and_end, args=(url, f"t{number}")) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]


def main(url: str, method: str, end: str, *options: str) -> None:
    context: Any = multiprocessing.get_context(method)
    if end == "processes":
        return run_processes(url, context)
    with NamedTemporaryFile() as file:
        run_pool(context, url, end, list(options), file.name)
        print(Path(file.name).stat().st_size)
    return None


def run_pool(context: Any, url: str, end: str, options: list[str], path: str) -> None:
    tasks = [(url, number, options) for number in range(TASKS)]
    pool = context.Pool(2, prepare, (url, options, path))
    if end == "terminate":
        with pool:
            pool.map_async(work, tasks, chunksize=1)
            wait_until(lambda: Path(path).stat().st_size >= TASKS * EACH // 2, 30)
    else:
        results = pool.map_async(work, tasks, chunksize=1)
        pool.close()
        if end == "join":
            pool.join()
        if end != "abandon":
            results.get(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
