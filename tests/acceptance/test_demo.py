"""The demo as a newcomer runs it: it balances, and leaves nothing running."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from risk_devkit.embedded import EmbeddedPostgres
from risk_producer import RiskProducer
from tests.support.factory import snapshot
from tests.support.process import ChildProcess, processes_of
from tests.support.servers import server_folder
from tests.support.wait import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


def worker_of(folder: Path) -> psutil.Process:
    """The worker of a demo in the folder."""
    [worker] = [found for found in processes_of(folder) if found.cmdline()[-2:] == ["risk_worker", "worker"]]
    return worker


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[ChildProcess]:
    # An environment that would lead it astray, and a mark in it by which all its processes can be found.
    environ = {
        "POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "RISK_PARTITIONS": "7",
        "DEMO_OF": str(folder),
    }
    command = [sys.executable, "-m", "risk_worker", "demo", "--data", str(folder / "data"), *options]
    with ChildProcess(folder / "log", environ, command) as process:
        yield process


def rows_in(data: Path) -> int:
    """How many rows the demo has left behind."""
    with (
        EmbeddedPostgres(data / "postgres", database="risk") as server,
        psycopg.connect(server.url) as connection,
    ):
        [(count,)] = connection.execute("SELECT count(*) FROM risk_state_history")
    return int(count)


def test_it_balances_twice_on_the_same_data_and_leaves_nothing_running(folder: Path) -> None:
    with demo(folder, "--seconds", "6", "--traders", "3", "--rate", "500") as process:
        assert process.wait(60) == 0, process.log
        assert re.search(r"Worker \d+ killed with SIGKILL", process.log)
        assert re.search(r'The oldest: {"v":1,"trader_id":"trader-', process.log)
        assert re.search(r"Worker \d+ stores again", process.log)
        assert (
            "✓ Reconciled: nothing is lost, nothing is duplicated, every state is the newest." in process.log
        )
        assert re.search(r"equity of trader-\d as stored in Postgres", process.log)
        assert "\x1b[" not in process.log, "escape sequences where there is no terminal"
    assert processes_of(folder) == []
    first = rows_in(folder / "data")
    assert 2_000 < first < 3_010
    [sum_line] = re.findall(r"│ all +│ +([\d,]+) │ +([\d,]+) │", process.log)
    assert sum_line == (f"{first:,}", f"{first:,}")

    with demo(folder, "--seconds", "2", "--traders", "2", "--no-kill", "--no-dashboard") as process:
        assert process.wait(60) == 0, process.log
        assert f"{first:,} rows of earlier runs are there as well" in process.log
        assert "Dashboard" not in process.log.rpartition("Starting Valkey")[2]
    assert processes_of(folder) == []
    assert rows_in(folder / "data") > first


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(each, marks=pytest.mark.system) for each in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_interrupted_it_leaves_nothing_running(folder: Path, number: signal.Signals) -> None:
    with demo(folder, "--seconds", "60", "--traders", "2") as process:
        wait_until(lambda: re.search(r"stored [1-9]", process.log), 60, "the first rows")
        assert len(processes_of(folder)) > 5, "the look-out sees nothing"
        process.signal(number)
        process.signal(number)
        assert process.wait(30) == 130, process.log
        assert "Interrupted: stopping everything." in process.log
        assert "Traceback" not in process.log
    assert processes_of(folder) == []


@pytest.mark.system
def test_killed_it_leaves_nothing_running_either(folder: Path) -> None:
    with demo(folder, "--seconds", "60", "--traders", "2") as process:
        wait_until(lambda: re.search(r"stored [1-9]", process.log), 60, "the first rows")
        process.kill()
    wait_until(lambda: processes_of(folder) == [], 40, "all of its processes to end")


def test_a_worker_that_dies_is_a_failure_with_its_log(folder: Path) -> None:
    with demo(folder, "--seconds", "60", "--traders", "2", "--no-kill") as process:
        wait_until(lambda: re.search(r"stored [1-9]", process.log), 60, "the first rows")
        worker_of(folder).kill()
        assert process.wait(30) == 1
        assert "the worker ended by itself; its log says:" in process.log
    assert processes_of(folder) == []


def test_kept_it_goes_on_until_interrupted(folder: Path) -> None:
    options = ["--seconds", "2", "--traders", "1", "--rate", "50", "--no-kill", "--no-dashboard", "--keep"]
    with demo(folder, *options) as process:
        wait_until(lambda: "Everything keeps running" in process.log, 60, "the end")
        [url] = re.findall(r"^ +\S+ (postgresql://\S+) -c 'TABLE risk_state'$", process.log, re.M)
        with psycopg.connect(url) as connection:
            [(trader,)] = connection.execute("SELECT trader_id FROM risk_state")
        assert trader == "trader-1"
        process.signal(signal.SIGINT)
        assert process.wait(30) == 0, process.log
    assert processes_of(folder) == []


@pytest.mark.system
def test_kept_it_goes_on_without_its_worker_and_says_how_to_start_another(folder: Path) -> None:
    options = ["--seconds", "2", "--traders", "1", "--rate", "50", "--no-kill", "--no-dashboard", "--keep"]
    with demo(folder, *options) as process:
        wait_until(lambda: "Everything keeps running" in process.log, 60, "the end")
        worker_of(folder).terminate()
        pattern = r"^Worker \d+ has ended.*: REDIS_URL=(\S+) POSTGRES_URL=(\S+) \S*riskstream worker$"
        [(redis_url, url)] = wait_until(lambda: re.findall(pattern, process.log, re.M), 30, "the line")
        environ = {"REDIS_URL": redis_url, "POSTGRES_URL": url}
        with RiskProducer(redis_url) as producer:
            producer.push(snapshot("late"))
        with ChildProcess(folder / "worker", environ), psycopg.connect(url, autocommit=True) as connection:
            stored = "SELECT 1 FROM risk_state WHERE trader_id = 'late'"
            wait_until(lambda: connection.execute(stored).fetchone(), 30, "the other worker")
        process.signal(signal.SIGINT)
        assert process.wait(30) == 0, process.log
    assert processes_of(folder) == []
