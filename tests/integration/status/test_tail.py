"""`riskstream tail` on a real Redis: what arrives is shown, or counted as missed; nothing is consumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from tests.conftest import MakeValkey
from tests.support.factory import payload
from tests.support.wait import slowness, wait_until


class Tail:
    """The command in a process; its lines are collected."""

    def __init__(self, url: str, *arguments: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RISK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "risk_worker", "tail", *arguments],
            env={**environ, "REDIS_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        pipes = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._threads = [threading.Thread(target=self._collect, args=of) for of in pipes]
        for each in self._threads:
            each.start()

    def _collect(self, stream: Any, lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.decode().rstrip("\n"))

    def end(self) -> None:
        self.process.kill()
        self.process.wait(30)
        for each in self._threads:
            each.join(30)


@pytest.fixture
def start() -> Iterator[Any]:
    started: list[Tail] = []

    def make(url: str, *arguments: str) -> Tail:
        started.append(Tail(url, *arguments))
        return started[-1]

    yield make
    for each in started:
        each.end()


def add(client: Any, trader: str, seq: int, partition: int = 0) -> bytes:
    added: bytes = client.xadd(Keys(partition).snapshots, {"s": payload(trader, seq)})
    return added


def until_it_follows(client: Any, tail: Tail, trader: str = "first") -> None:
    """Snapshots that were there before it began are not shown."""
    seq = 0

    def shown() -> bool:
        nonlocal seq
        seq += 1
        client.xdel(Keys(0).snapshots, add(client, trader, seq))
        return bool(tail.out)

    wait_until(shown, 30, f"the first line; stderr: {tail.err}")


def test_what_a_worker_takes_off_at_once_is_seen_or_counted(client: Any, redis_url: str, start: Any) -> None:
    add(client, "before", 1)
    tail = start(redis_url, "--json")
    until_it_follows(client, tail)
    for seq in range(1, 301):
        client.xdel(Keys(0).snapshots, add(client, "alice", seq))
    add(client, "alice", 301)

    def of_alice() -> list[int]:
        found = [json.loads(line) for line in tail.out]
        return [each["seq"] for each in found if each["trader_id"] == "alice"]

    wait_until(lambda: of_alice()[-1:] == [301], 20, "the last one")
    missed = sum(int(line.split()[1].replace(",", "")) for line in tail.err if "'alice'" in line)
    assert len(of_alice()) + missed == 301 - of_alice()[0] + 1
    assert of_alice() == sorted(set(of_alice()))
    assert not any('"before"' in line for line in tail.out)
    assert client.xlen(Keys(0).snapshots) == 2, "nothing is consumed"


def test_one_trader_in_whatever_partition(client: Any, redis_url: str, start: Any) -> None:
    agreed = Partitioning(1, 4)
    for partition in range(4):
        client.set(Keys(partition).partitioning, agreed.text)
    names = [f"t{number}" for number in range(20)]
    wanted = next(name for name in names if agreed.places(name) == (3,))
    tail = start(redis_url, wanted)
    numbers = iter(range(1, 10_000))

    def shown() -> bool:
        seq = next(numbers)
        for name in names:
            add(client, name, seq, agreed.places(name)[0])
        return bool(tail.out)

    wait_until(shown, 30, f"a line; stderr: {tail.err}")
    add(client, wanted, 20_000, 3)
    wait_until(lambda: any("pnl +20,000.00" in line for line in tail.out), 20, "the last one")
    assert {line.split()[1] for line in tail.out} == {wanted}
    assert tail.err == [
        f"riskstream: {20_000 - 1 - int(float(tail.out[-2].split('pnl +')[1].split()[0])):,} "
        f"snapshots of {wanted!r} came and went too quickly to be shown"
    ]


def test_an_entry_that_is_none_is_named(client: Any, redis_url: str, start: Any) -> None:
    tail = start(redis_url)
    until_it_follows(client, tail)
    client.xadd(Keys(0).snapshots, {"s": "{}"})
    client.xadd(Keys(0).snapshots, {"other": "x"})
    wait_until(lambda: len(tail.err) == 2, 20, "two lines on stderr")
    assert all("becomes a dead letter" in line for line in tail.err)


def test_a_key_that_is_no_stream_hinders_no_other_partition(client: Any, redis_url: str, start: Any) -> None:
    client.set(Keys(0).partitioning, Partitioning(1, 4).text)
    client.set(Keys(2).snapshots, "no stream")
    tail = start(redis_url)
    until_it_follows(client, tail)
    assert len(tail.err) == 1
    assert "does not answer for partition 2, and is asked again: WRONGTYPE" in tail.err[0]
    client.delete(Keys(2).snapshots)
    wait_until(lambda: "answers for partition 2 again" in "".join(tail.err), 20, "the end of it")
    wait_until(lambda: add(client, "late", 1, 2) and any(" late " in line for line in tail.out), 20, "a line")


def test_redis_goes_away_and_comes_back(make_valkey: MakeValkey, start: Any) -> None:
    import redis

    server = make_valkey()
    tail = start(server.url)
    with redis.Redis.from_url(server.url) as client:
        until_it_follows(client, tail)
    server.kill()
    wait_until(lambda: any("does not answer" in line for line in tail.err), 20, "the outage")
    server.start()
    wait_until(lambda: any("again, and what" in line for line in tail.err), 20, "the end of it")
    with redis.Redis.from_url(server.url) as client:
        add(client, "later", 1)
        wait_until(lambda: any(" later " in line for line in tail.out), 20, "what came later")
        client.flushall()
        add(client, "anew", 1)
        wait_until(lambda: any(" anew " in line for line in tail.out), 20, "what came after the loss")
    assert len(tail.err) == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_end_it_quietly(redis_url: str, client: Any, start: Any, number: int, status: int) -> None:
    tail = start(redis_url)
    until_it_follows(client, tail)
    tail.process.send_signal(number)
    assert tail.process.wait(20 * slowness()) == status
    assert tail.err == []


def test_it_ends_with_its_reader(redis_url: str, client: Any) -> None:
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "risk_worker", "tail"],
        env={**os.environ, "REDIS_URL": redis_url},
        stdout=write,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(write)
        os.close(read)
        seq = iter(range(1, 10_000))

        def ended() -> bool:
            add(client, "t", next(seq))
            return process.poll() is not None

        wait_until(ended, 30, "its end")
        assert process.returncode == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""
