"""`riskstream up` as a newcomer runs it: what it prints works as it is pasted, and nothing stays behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.process import ChildProcess, processes_of
from tests.support.servers import server_folder
from tests.support.wait import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


@contextmanager
def up(folder: Path, *options: str, **environ: str) -> Iterator[ChildProcess]:
    # Settings that would lead it astray, and a mark by which all its processes can be found.
    environ = {"POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/nothing", "UP_OF": str(folder), **environ}
    command = [sys.executable, "-m", "risk_worker", "up", "--data", str(folder / "data"), *options]
    with ChildProcess(folder / f"log-{len(list(folder.iterdir()))}", environ, command) as process:
        yield process


def guide(process: ChildProcess) -> tuple[str, str, str]:
    """What it prints: (the exports, the bot, the command that shows what has arrived)."""
    wait_until(lambda: "Ctrl-C stops everything" in process.log or not process.running, 90, "the guide")
    pattern = (
        r"^In another terminal:\n\n(.+?)\n\nA bot, to paste into (\S+):\n\n(.+?)\n\n"
        r"What has arrived:\n\n(.+?)\n\n"
    )
    [(exports, python, bot, command)] = re.findall(pattern, process.log, re.M | re.S)
    return exports, f"{python} - <<'END'\n{bot}\nEND", command


def shell(*lines: str) -> str:
    done = subprocess.run(
        ["sh", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_a_bot_that_is_pasted_arrives_and_is_there_in_a_second_run(folder: Path) -> None:
    with up(folder) as process:
        exports, bot, history = guide(process)
        assert shell(exports, bot) == ""
        wait_until(lambda: "my-bot" in shell(exports, history), 30, "the bot's snapshot")
        process.signal(signal.SIGINT)
        process.signal(signal.SIGINT)
        assert process.wait(30) == 0, process.log
    assert processes_of(folder) == []
    with up(folder) as process:
        again, _, history = guide(process)
        assert again == exports, "other ports"
        assert "-120" in shell(again, history)
        assert (folder / "data" / "ports.json").exists()
        process.signal(signal.SIGTERM)
        assert process.wait(30) == 0, process.log
        assert "Traceback" not in process.log
    assert processes_of(folder) == []


@pytest.mark.system
def test_where_one_does_not_start_all_are_stopped(folder: Path) -> None:
    """The dashboard wants both of its variables, and is the last to start."""
    with up(folder, RQ_DASHBOARD_USERNAME="ops") as process:
        assert process.wait(90) == 1
        assert "the dashboard does not start; its log says:" in process.log
        assert "RQ_DASHBOARD_PASSWORD is not set" in process.log
        assert "Traceback" not in process.log
    assert processes_of(folder) == []


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with up(folder, "--redis-port", str(port)) as process:
            assert process.wait(30) == 1
            assert f"the port {port} of 127.0.0.1 is taken; --redis-port chooses another one" in process.log
    assert processes_of(folder) == []


@pytest.mark.system
def test_killed_it_leaves_nothing_running_either(folder: Path) -> None:
    with up(folder) as process:
        guide(process)
        assert len(processes_of(folder)) > 5, "the look-out sees nothing"
        process.kill()
    wait_until(lambda: processes_of(folder) == [], 40, "all of its processes to end")
