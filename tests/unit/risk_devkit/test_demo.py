"""What the demo says, as far as no server is needed."""

from __future__ import annotations

import fcntl
import io
import os
from contextlib import ExitStack
from pathlib import Path

import fakeredis
import pytest
from rich.console import Console

from risk_devkit import demo, embedded
from risk_devkit.demo import Demo, DemoFailed, Screen
from risk_devkit.meter import Meter
from risk_producer.contract.keys import Keys
from risk_worker.audit.reconcile import EpochReport, Report
from tests.support.clock import FakeClock


def test_the_time_goes_on_after_the_traders_have_ended_and_the_last_line_is_the_end(tmp_path: Path) -> None:
    output = io.StringIO()
    clock = FakeClock(1_000.0)
    screen = Screen(Console(file=output), clock)
    with fakeredis.FakeRedis() as client, ExitStack() as stack:
        play = Demo(screen, stack, tmp_path, seconds=20, traders=1, rate=1, clock=clock)
        play._meter = Meter(client)
        clock.now += 30
        with screen.live():
            play._watch(lambda: True, None, 1, "all is well")
            client.hset(Keys(0).counters, "accepted", 7)
            play._watch(lambda: True, None, 1, "all is well")
            client.hset(Keys(0).counters, "accepted", 8)
            play._watch(lambda: True, None, 1, "all is well")
    waits, first, last = output.getvalue().splitlines()
    assert waits == "Waiting until all is well ..."
    assert first.startswith(" 30.0 s  accepted 0  ")
    assert last.startswith(" 30.0 s  accepted 8  ")


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (1, "Once a trader paused, trader-2"),
        (1_234, "1,234 times a trader paused, the first was trader-2"),
    ],
)
def test_pauses_are_counted_in_good_english(count: int, says: str) -> None:
    assert demo._paused(count, "trader-2") == says


def test_the_traders_own_counts_are_compared_with_what_redis_admitted() -> None:
    epochs = [EpochReport("a", 1, 5, 5, 0, 0, 0, 0, 0), EpochReport("b", 2, 3, 2, 0, 0, 1, 0, 0)]
    found = Report(epochs, ())
    assert found.problems == []
    assert demo._differences({("a", 1): 5}, Report(epochs[:1], ())) == []
    assert demo._differences({("a", 1): 6, ("b", 2): 3, ("c", 3): 1}, found) == [
        "a, epoch 1: it counted 6 accepted, Redis 5",
        "c, epoch 3: it counted 1 accepted, Redis 0",
        "1 are still in flight",
    ]


@pytest.mark.parametrize("lives", [True, False])
def test_a_folder_in_use_may_be_that_of_a_kept_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.1)
    folder = tmp_path / "valkey"
    folder.mkdir()
    pid = os.getppid() if lives else 2**31 - 1
    (folder / "valkey.lock").write_text(str(pid))
    by_whom = f", started by process {pid}" if lives else ""
    says = f"{folder}{by_whom}: stop it, or use another folder. Is it a demo with --keep?"
    with (folder / "valkey.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DemoFailed, match=says.replace("?", r"\?")):
            demo.run(seconds=2, traders=1, rate=1, kill=False, dashboard=False, data=tmp_path)
    assert (folder / "valkey.lock").read_text() == str(pid)
