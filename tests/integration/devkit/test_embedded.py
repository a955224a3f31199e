"""The embedded servers: they keep their data, hold one folder each, and leave nothing running."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from risk_devkit import embedded
from risk_devkit.embedded import (
    EmbeddedPostgres,
    EmbeddedServer,
    EmbeddedServerError,
    EmbeddedValkey,
    FolderInUse,
    free_port,
    program,
)
from tests.support.process import ChildProcess
from tests.support.servers import server_folder
from tests.support.wait import wait_until

KINDS: list[type[EmbeddedServer]] = [EmbeddedValkey, EmbeddedPostgres]


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as folder:
        yield folder


def write(server: EmbeddedServer, value: str) -> None:
    if isinstance(server, EmbeddedValkey):
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", value)
    else:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
            connection.execute("INSERT INTO kept VALUES (%s)", (value,))


def read(server: EmbeddedServer) -> str:
    if isinstance(server, EmbeddedValkey):
        with redis.Redis.from_url(server.url, socket_timeout=5) as client:
            answer = client.get("kept")
            assert isinstance(answer, bytes)
            return answer.decode()
    with psycopg.connect(server.url, connect_timeout=5) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
        assert row is not None
        return str(row[0])


def processes_of(server_pid: int) -> list[psutil.Process]:
    root = psutil.Process(server_pid)
    return [root, *root.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("kind", KINDS)
class TestBoth:
    def test_a_second_start_finds_the_data(self, kind: type[EmbeddedServer], folder: Path) -> None:
        with kind(folder) as server:
            write(server, "a")
        with kind(folder) as server:
            assert read(server) == "a"

    def test_stop_leaves_nothing_running(self, kind: type[EmbeddedServer], folder: Path) -> None:
        server = kind(folder).start()
        pid, watchdog = server.pid, server._watchdog
        assert watchdog is not None
        members = [*processes_of(pid), psutil.Process(watchdog._process.pid)]
        server.stop()
        assert alive(members) == []
        assert not server.running
        server.stop()
        with pytest.raises(EmbeddedServerError, match="is not running"):
            _ = server.pid

    def test_a_crash_loses_nothing_and_restart_keeps_the_url(
        self, kind: type[EmbeddedServer], folder: Path
    ) -> None:
        config = {"appendfsync": "always"} if kind is EmbeddedValkey else {}
        with kind(folder, config=config) as server:
            write(server, "a")
            url, members = server.url, processes_of(server.pid)
            server.kill()
            wait_until(lambda: not alive(members), 5, "zombies")  # they hold nothing any more
            server.restart()
            assert server.url == url
            assert read(server) == "a"

    def test_a_server_that_ended_by_itself_can_be_started_again(
        self, kind: type[EmbeddedServer], folder: Path
    ) -> None:
        with kind(folder) as server:
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not server.running, what="the server's end")
            server.start()
            write(server, "a")

    def test_pause_freezes_open_connections_too(self, kind: type[EmbeddedServer], folder: Path) -> None:
        with kind(folder) as server:
            write(server, "a")
            server.pause()
            assert server.running
            answered = threading.Event()

            def ask() -> None:
                read(server)
                answered.set()

            reader = threading.Thread(target=ask)
            reader.start()
            assert not answered.wait(0.3)
            server.resume()
            reader.join(10)
            assert answered.is_set()

    def test_a_paused_server_can_be_stopped(self, kind: type[EmbeddedServer], folder: Path) -> None:
        with kind(folder) as server:
            members = processes_of(server.pid)
            server.pause()
        assert alive(members) == []

    def test_one_server_a_folder(
        self, kind: type[EmbeddedServer], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.1)
        with kind(folder) as server:
            says = f"another {kind.name} is running on {folder}, started by process {os.getpid()}: stop it"
            with pytest.raises(FolderInUse, match=says):
                kind(folder).start()
            with pytest.raises(EmbeddedServerError, match="was started already"):
                server.start()
            write(server, "still there")

    def test_a_bad_setting_is_told_with_the_end_of_the_log(
        self, kind: type[EmbeddedServer], folder: Path
    ) -> None:
        server = kind(folder, config={"no-such-setting" if kind is EmbeddedValkey else "port": "x"})
        with pytest.raises(EmbeddedServerError, match=r"(?s)ended with status \d+.*log says.*(no-such|port)"):
            server.start()
        assert not server.running

    def test_another_port_when_somebody_was_quicker(
        self, kind: type[EmbeddedServer], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            ports = iter([taken.getsockname()[1], free_port()])
            monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
            with kind(folder) as server:
                assert server.port != taken.getsockname()[1]
                write(server, "a")

    def test_a_folder_that_cannot_be_made(self, kind: type[EmbeddedServer], folder: Path) -> None:
        (folder / "file").write_text("")
        with pytest.raises(EmbeddedServerError, match=r"cannot be started in .*file/x"):
            kind(folder / "file" / "x").start()

    def test_a_folder_that_others_may_not_enter(self, kind: type[EmbeddedServer], folder: Path) -> None:
        private = folder / "private"
        private.mkdir(mode=0o700)
        with kind(private / "data") as server:
            write(server, "a")
        assert private.stat().st_mode & 0o044 == 0, "others may pass at most, not look"

    def test_a_fork_is_not_the_owner(self, kind: type[EmbeddedServer], folder: Path) -> None:
        """A child that ends leaves the server alone; one that stays does not keep the watchdog waiting."""
        script = f"""if True:
            import os, sys, time
            from pathlib import Path
            from risk_devkit.embedded import {kind.__name__}
            server = {kind.__name__}(Path(sys.argv[1])).start()
            if os.fork() == 0:
                sys.exit(0)
            os.wait()
            if os.fork() == 0:
                os.close(1)
                time.sleep(60)
                os._exit(0)
            print(server.pid, server.running, flush=True)
            time.sleep(60)
        """
        self.kill_owner(script, folder)

    def test_nothing_is_left_when_the_owner_is_killed(self, kind: type[EmbeddedServer], folder: Path) -> None:
        script = f"""if True:
            import sys, time
            from pathlib import Path
            from risk_devkit.embedded import {kind.__name__}
            server = {kind.__name__}(Path(sys.argv[1])).start()
            print(server.pid, server.running, flush=True)
            time.sleep(60)
        """
        self.kill_owner(script, folder)

    def kill_owner(self, script: str, folder: Path) -> None:
        """Run a script that starts a server, kill it with -9, and see that the server goes."""
        with self.owner(script, folder) as owner:
            try:
                pid, running = owner.stdout.readline().split()
                assert running == b"True"
                members = processes_of(int(pid))
                owner.kill()
                wait_until(lambda: not alive(members), 15, "the server's end")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(owner.pid, signal.SIGKILL)  # what it forked

    def owner(self, script: str, folder: Path, *arguments: str) -> ChildProcess:
        command = [sys.executable, "-c", script, str(folder), *arguments]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "start_new_session": True}
        return ChildProcess(Path(os.devnull), {}, command, **options)

    @pytest.mark.parametrize("end", ["exit", "error", "SIGINT"])
    def test_nothing_is_left_however_the_owner_ends(
        self, kind: type[EmbeddedServer], folder: Path, end: str
    ) -> None:
        script = f"""if True:
            import sys, time
            from pathlib import Path
            from risk_devkit.embedded import {kind.__name__}
            server = {kind.__name__}(Path(sys.argv[1])).start()
            print(server.pid, flush=True)
            if sys.argv[2] == "error":
                raise RuntimeError("on purpose")
            if sys.argv[2] == "SIGINT":
                time.sleep(60)
        """
        with self.owner(script, folder, end) as owner:
            pid = int(owner.stdout.readline())
            if end == "SIGINT":
                os.killpg(owner.pid, signal.SIGINT)  # as a terminal does: to everybody in the group
            owner.wait(20)
        assert not psutil.pid_exists(pid)
        log = (folder / f"{kind.name}.log").read_text()
        assert "shut down" in log or "bye bye" in log, "stopped in good order, by its owner"


@pytest.mark.parametrize("kind", KINDS)
def test_somebody_elses_server_on_the_port_is_not_taken_for_ours(
    kind: type[EmbeddedServer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind(folder / "theirs") as theirs:
        ports = iter([theirs.port, free_port()])
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
        with kind(folder / "ours") as ours:
            assert ours.port != theirs.port


def test_valkey_has_started_when_it_has_read_its_data(folder: Path) -> None:
    slow = {"key-load-delay": 100}  # microseconds a command
    with EmbeddedValkey(folder, config=slow) as server:
        with redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0)) as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(20_000):  # it looks at connections every thousand
                pipeline.set("k", number)
            pipeline.execute()
        server.restart()
        with redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0)) as client:
            assert client.get("k") == b"19999"


def test_valkey_keeps_everything_and_evicts_nothing(folder: Path) -> None:
    with EmbeddedValkey(folder, appendfsync="always") as server, redis.Redis.from_url(server.url) as client:
        for setting, value in {
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
        }.items():
            assert client.config_get(setting) == {setting: value}


def test_postgres_is_as_asked_for(folder: Path) -> None:
    config: dict[str, embedded.Value] = {"fsync": False, "max_connections": 17, "statement_timeout": "7s"}
    with EmbeddedPostgres(folder, database='risk "x"', config=config) as server:
        url = server.url_of("risk%20%22x%22")
        with psycopg.connect(url) as connection:
            for setting, value in {
                "fsync": "off",
                "max_connections": "17",
                "statement_timeout": "7s",
                "server_encoding": "UTF8",
                "lc_messages": "C",
                "timezone": "UTC",
                "listen_addresses": "127.0.0.1",
                "unix_socket_directories": "",
            }.items():
                assert connection.execute(f"SHOW {setting}").fetchone() == (value,)
            row = connection.execute("SELECT datcollate FROM pg_database WHERE datname = 'risk \"x\"'")
            assert row.fetchone() == ("C",)
        server.restart()
        psycopg.connect(url).close()


def test_half_of_an_initdb_is_not_taken_for_a_whole_one(folder: Path) -> None:
    (folder / "pgdata.new").mkdir()
    (folder / "pgdata.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder) as server:
        write(server, "a")
    assert not (folder / "pgdata.new").exists()


def test_postgres_does_not_run_as_root(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        for member in processes_of(server.pid):
            with contextlib.suppress(psutil.NoSuchProcess):  # Postgres has children that live for moments
                assert member.uids().real != 0
                assert 0 not in (member.gids().real, member.gids().effective)
        assert psutil.Process(server.pid).uids().effective != 0


def test_a_thread_that_ends_does_not_take_the_server_along(folder: Path) -> None:
    server = EmbeddedValkey(folder)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join(60)
    with server:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            write(server, "a")


def test_programs() -> None:
    for name in ("psql", "pg_dump", "pgbench"):
        said = subprocess.run([program(name), "--version"], capture_output=True, text=True, check=True).stdout
        assert " 18." in said
    with pytest.raises(EmbeddedServerError, match="no-such is not among the programs"):
        program("no-such")
    with pytest.raises(EmbeddedServerError, match="data of Postgres 9; there are programs for 16 and 18"):
        program("psql", version=9)
