"""Commands say what they have to say in any encoding, and end quietly where their output is not read."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest
from click.testing import CliRunner

from risk_worker.audit import verify
from risk_worker.cli import cli

COMMANDS = (
    ["verify", "--trader", "ü✓"],
    ["dead", "list"],
    ["dead", "show", "s", "1-0"],
    ["migrate", "status"],
    ["--help"],
)


@pytest.fixture
def shell_environ(redis_url: str, database_url: str) -> dict[str, str]:
    with psycopg.connect(database_url) as db:
        db.execute(
            "INSERT INTO risk_dead_letter (stream, entry_id, reason, trader_id, epoch, seq, payload)"
            " SELECT 's', n || '-0', 'no ü✓', 'ü✓', 1, n, '\\xc3bce29c93' FROM generate_series(1, 400) n"
        )
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**ours, "REDIS_URL": redis_url, "POSTGRES_URL": database_url}


def run(shell_environ: dict[str, str], *command: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "risk_worker", *command],
        env={**shell_environ, **more},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_encoding_makes_a_command_fail(shell_environ: dict[str, str], command: list[str]) -> None:
    done = run(shell_environ, *command, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [["dead", "list"], ["dead", "list", "--json", "--limit", "0"], ["verify"]]
)
def test_a_pipe_that_is_closed_ends_a_command_quietly(
    shell_environ: dict[str, str], command: list[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "risk_worker", *command],
        env=shell_environ,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")


UNASKED: tuple[tuple[list[str], dict[str, str]], ...] = (
    (["verify"], {"POSTGRES_URL": "postgresql://x:geheim@127.0.0.1:1/x"}),
    (["verify"], {"POSTGRES_URL": "postgresql://x:ge heim%@127.0.0.1:1/x"}),
    (["verify"], {"REDIS_URL": "redis://127.0.0.1:1/0"}),
    (["verify"], {"POSTGRES_URL": ""}),
    (["dead", "list"], {"POSTGRES_URL": "postgresql://x:geheim@127.0.0.1:1/x"}),
    (["dead", "show", "s", "1-0"], {"POSTGRES_URL": "postgresql://x:geheim@127.0.0.1:1/x"}),
    (["dead", "retry"], {"POSTGRES_URL": "postgresql://x:geheim@127.0.0.1:1/x"}),
    (["dead", "drop", "--all", "--yes"], {"POSTGRES_URL": "postgresql://x:geheim@127.0.0.1:1/x"}),
    (["migrate", "status"], {"POSTGRES_URL": "postgresql://x:geheim@127.0.0.1:1/x"}),
    (["migrate", "up"], {"POSTGRES_URL": "postgresql://x:geheim@127.0.0.1:1/x"}),
    (["config"], {"RISK_BATCH_SIZE": "many"}),
    (["verify", "--what"], {}),
)


def test_what_cannot_be_asked_is_exit_status_2(
    shell_environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "REDIS_WAIT_S", 0.1)
    for command, change in UNASKED:
        done = CliRunner().invoke(cli, command, env={**shell_environ, **change})
        assert (done.exit_code, done.stdout) == (2, ""), f"{command} {change}"
        assert "geheim" not in done.stderr and "ge heim" not in done.stderr


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
BUFFERED = pytest.mark.parametrize("more", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])


@FULL
@BUFFERED
@pytest.mark.parametrize("command", [["dead", "list"], ["verify"], ["config"], ["--help"]], ids=" ".join)
def test_a_full_disk_under_the_output_is_named(
    shell_environ: dict[str, str], command: list[str], more: dict[str, str]
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "risk_worker", *command],
            env={**shell_environ, **more},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, b"riskstream: [Errno 28] No space left on device\n")


@FULL
@BUFFERED
@pytest.mark.parametrize(
    "command", [["dead", "list"], ["dead", "show", "s", "x"], ["config", "--what"]], ids=" ".join
)
def test_a_full_disk_under_the_messages_is_exit_status_2(
    shell_environ: dict[str, str], command: list[str], more: dict[str, str]
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "risk_worker", *command],
            env={**shell_environ, **more},
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2


def test_a_command_that_began_without_stdout_ends_as_usual(shell_environ: dict[str, str]) -> None:
    command = 'exec "$0" -m risk_worker config >&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        env=shell_environ,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
