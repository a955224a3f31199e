"""A trader with a spool, killed with -9 at random moments, Redis away half of the time.

Each snapshot for which save() returned True is in the stream exactly once. RISK_TEST_KILLS sets how many
times; RISK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry

from risk_producer import RiskProducer
from tests.conftest import MakeValkey
from tests.support.producers import stream_of
from tests.support.wait import wait_until

_TRADER = """
import os, random, sys, time
from risk_producer import RiskProducer, RiskSnapshot
url, spool, accepted, first, on_full, ready = sys.argv[1:]
said = os.open(accepted, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
producer = RiskProducer(url, spool_dir=spool, buffer_size=2000, on_full=on_full, save_timeout_s=0.01,
                        spool_max_bytes=400_000)
for number in range(int(first), int(first) + 1_000_000):
    snapshot = RiskSnapshot(trader_id=f"t{number % 3}", daily_pnl=number, drawdown_pct=0, current_equity=1,
                            peak_equity=1, reason="" if random.random() < 0.9 else f"r{number}")
    if producer.save(snapshot):
        os.write(said, b"%d\\n" % number)
    if number % 10 == 0:
        time.sleep(0.001)
    if number == int(first):
        open(ready, "w").close()
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("on_full", ["refuse", "conflate"])
def test_killed_at_random_moments(tmp_path: Path, make_valkey: MakeValkey, on_full: str) -> None:
    seed = int(os.environ.get("RISK_TEST_SEED", random.randrange(1 << 30)))
    rounds = int(os.environ.get("RISK_TEST_KILLS", 8))
    print(f"RISK_TEST_SEED={seed} RISK_TEST_KILLS={rounds}")
    rng = random.Random(seed)
    valkey = make_valkey()
    said = tmp_path / "accepted"
    said.touch()
    for number in range(rounds):
        if rng.random() < 0.5 and valkey.running:
            valkey.kill()
        elif not valkey.running:
            valkey.start()
        ready = tmp_path / f"ready-{number}"
        arguments = [valkey.url, str(tmp_path / "spool"), str(said), str(number * 1_000_000)]
        trader = subprocess.Popen(
            [sys.executable, "-c", _TRADER, *arguments, on_full, str(ready)], stderr=subprocess.DEVNULL
        )
        try:
            wait_until(ready.exists, 30)
            time.sleep(rng.uniform(0, 0.3))  # the random moment
        finally:
            trader.send_signal(signal.SIGKILL)
            trader.wait(10)
    if not valkey.running:
        valkey.start()
    with RiskProducer(valkey.url, spool_dir=tmp_path / "spool", registry=CollectorRegistry()) as last:
        assert last.flush(60)
    with redis.Redis.from_url(valkey.url) as client:
        stored = stream_of(client)
    accepted = {int(line) for line in said.read_text().split()}
    assert len(accepted) > rounds
    identities = Counter((wire.trader_id, wire.epoch, wire.seq) for wire in stored)
    assert max(identities.values()) == 1
    times = Counter(int(wire.daily_pnl) for wire in stored)
    assert max(times.values()) == 1, "stored twice"
    merged = sum(wire.merged for wire in stored)
    if on_full == "refuse":
        assert merged == 0
        assert accepted <= times.keys(), "lost"
    # At the most one a life was written down and not reported, as the kill came in between.
    assert len(accepted) <= len(stored) + merged <= len(accepted) + rounds
    explained: dict[tuple[str, int], list[int]] = defaultdict(list)
    for wire in stored:
        explained[wire.trader_id, wire.epoch] += range(wire.seq - wire.merged, wire.seq + 1)
    for seqs in explained.values():
        assert seqs == list(range(1, len(seqs) + 1)), "in order, without holes"
