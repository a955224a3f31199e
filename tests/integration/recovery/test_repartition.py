"""The number of partitions changes while traders trade, and workers are killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from risk_producer.contract.keys import Keys
from risk_worker.stream.source import connect
from tests.support.moving import Moving
from tests.support.wait import wait_until


def test_it_grows_and_shrinks_under_load(tmp_path: Path, redis_url: str, database_url: str) -> None:
    with Moving(tmp_path, redis_url, database_url, producers=3, pause_s=0.01) as moving:
        moving.go_on(10)
        moving.report()
        wait_until(moving.reported, 30, "the process has sent one")
        for number, frozen in ((16, True), (4, False)):
            if frozen:
                moving.process.signal(signal.SIGSTOP)
                moving.report()
            moving.change(number)
            wait_until(lambda number=number: moving.have_all_moved(number), 30, f"all are in {number}")  # type: ignore[misc]
            moving.kill_worker(0)
            moving.go_on(10)
            if frozen:
                moving.process.signal(signal.SIGCONT)
            wait_until(moving.reported, 30, "the process goes on")
            moving.report()
        moving.end()


@pytest.mark.system
def test_through_all_numbers_with_workers_killed_and_redis_emptied(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    with Moving(tmp_path, redis_url, database_url, producers=4, pause_s=0.012) as moving:
        moving.go_on(20)
        for at, number in enumerate((16, 64, 16, 4, 5, 64, 3)):
            moving.process.signal(signal.SIGSTOP if at % 2 else signal.SIGCONT)
            moving.report()
            moving.change(number)
            wait_until(lambda number=number: moving.have_all_moved(number), 30, f"all are in {number}")  # type: ignore[misc]
            moving.kill_worker(at % 2)
            moving.go_on(100)
            if at % 3 == 1:
                moving.process.signal(signal.SIGCONT)
                wait_until(moving.reported, 30, "the process has sent all")
                moving.empty_redis()
                moving.go_on(100)
        moving.process.signal(signal.SIGCONT)
        moving.end()
        with connect(redis_url) as client:
            copy = client.get(Keys(0).partitioning)
        assert isinstance(copy, bytes) and copy.split(b":")[1].startswith(b"3,")
