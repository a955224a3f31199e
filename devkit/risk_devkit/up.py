"""`riskstream up`: all that a bot needs, on this machine until Ctrl-C: servers, worker, exporter, dashboard.

What is stored stays in the folder, and so do the ports: a later run has the same addresses where no other
program took them meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Final, NoReturn

import msgspec

from risk_devkit.children import Child, environment, exports, interruptible, is_free
from risk_devkit.embedded import (
    EmbeddedPostgres,
    EmbeddedServer,
    EmbeddedServerError,
    EmbeddedValkey,
    FolderInUse,
    free_port,
)
from risk_producer.errors import RiskError
from risk_worker.installation import command, shown

DATA: Final = Path(".riskstream/up")
USUAL_PORTS: Final = {"exporter": 9400, "dashboard": 9181}
READY_TIMEOUT_S: Final = 60.0
DIES_EARLY_S: Final = 10.0
"""What ends sooner after its start than this is not started again."""
LOOK_EVERY_S: Final = 0.1

BOT: Final = """\
from risk_producer import RiskProducer

producer = RiskProducer.from_env()
bot = producer.bind("my-bot")
bot.save(daily_pnl=-120.0, drawdown_pct=1.2, current_equity=9_880.0, peak_equity=10_000.0)
producer.close()
"""
"""The bot that is printed, to be pasted into Python: examples/first_bot.py."""


class UpFailed(RiskError):
    """Something did not start, or has ended; the message says what, and what its log says."""


def run(data: Path, chosen: Mapping[str, int], say: Callable[[str], None]) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP, and stop all that was started, also where something fails.

    chosen: name (redis, postgres, exporter, dashboard) -> its port; the others are as in the last run, usual
    or free ones. Returns the exit status: 0, or 130 where it was interrupted before all was there.
    Raises UpFailed.
    """
    with interruptible() as ignore_signals:
        stack = ExitStack()
        up = Up(stack, data.absolute(), chosen, say)
        try:
            up.start()
            up.stay()
        except KeyboardInterrupt:
            say("Stopping everything ...")
            return 0 if up.complete else 130
        finally:
            ignore_signals()  # a second Ctrl-C must not leave half of it running
            stack.close()


class Up:
    """What one run has started. Closing the stack stops it."""

    def __init__(
        self, stack: ExitStack, data: Path, chosen: Mapping[str, int], say: Callable[[str], None]
    ) -> None:
        self._stack = stack
        self._data = data
        self._chosen = chosen
        self._say = say
        self._ports = _remembered(data / "ports.json")
        self._servers: list[EmbeddedServer] = []
        self._children: dict[str, tuple[Child, float]] = {}
        self._starts: Counter[str] = Counter()
        self.complete = False

    def start(self) -> None:
        """Everything, one after the other. Raises UpFailed."""
        first = "" if self._data.exists() else ", for the first time, which takes some seconds"
        self._say(f"Starting Valkey and Postgres in {shown(self._data)}{first} ...")
        valkey = self._start_server("redis", EmbeddedValkey(self._data / "valkey"))
        postgres = self._start_server("postgres", EmbeddedPostgres(self._data / "postgres", database="risk"))
        self._urls = (valkey.url, postgres.url)
        for name in USUAL_PORTS:
            self._ports[name] = self._port(name)
        (self._data / "ports.json").write_bytes(msgspec.json.encode(self._ports))
        self._say("Starting the worker, which makes the tables, the exporter and the dashboard ...")
        for name in ("worker", *USUAL_PORTS):
            self._start_child(name)
        self._wait_until_ready()
        self.complete = True
        self._say(self._guide())

    def stay(self) -> NoReturn:
        """Until a signal raises KeyboardInterrupt: start again what ends. Raises UpFailed."""
        while True:
            for server in self._servers:
                if not server.running:
                    raise UpFailed(f"{server.name} has ended; its log is {shown(server.log_file)}")
            for name, (child, began) in self._children.items():
                if child.running:
                    continue
                if monotonic() - began < DIES_EARLY_S:
                    raise UpFailed(f"the {name} has ended; its log says:\n{child.log_tail()}")
                self._start_child(name)
                self._say(f"The {name}, process {child.pid}, has ended; it is started again.")
            sleep(LOOK_EVERY_S)

    def _start_server(self, name: str, server: EmbeddedServer) -> EmbeddedServer:
        server.port = self._port(name)
        try:
            self._stack.enter_context(server)
        except FolderInUse as error:
            raise UpFailed(f"{error}. Is riskstream up running there? --data names another folder") from None
        except EmbeddedServerError as error:
            raise UpFailed(str(error)) from None
        if server.port != self._chosen.get(name, server.port):
            raise _taken(name, self._chosen[name])
        self._servers.append(server)
        self._ports[name] = server.port
        return server

    def _port(self, name: str) -> int:
        """The chosen one; else that of the last run, the usual one, or any that is free."""
        if name in self._chosen:
            if not is_free(self._chosen[name]):
                raise _taken(name, self._chosen[name])
            return self._chosen[name]
        for port in (self._ports.get(name), USUAL_PORTS.get(name)):
            if port is not None and is_free(port):
                return port
        return free_port()

    def _start_child(self, name: str) -> None:
        options = ["--port", str(self._ports[name])] if name in USUAL_PORTS else []
        self._starts[name] += 1
        again = f"-{self._starts[name]}" if self._starts[name] > 1 else ""  # the log of the first one stays
        log = self._data / "logs" / f"{name}{again}.log"
        child = Child(
            name,
            ["risk_worker", name, *options],
            environment(*self._urls, dashboard=name == "dashboard"),
            log,
        )
        self._stack.callback(child.stop)
        self._children[name] = (child, monotonic())

    def _wait_until_ready(self) -> None:
        deadline = monotonic() + READY_TIMEOUT_S
        for name, (child, _) in self._children.items():
            sign = "Serving http" if name in USUAL_PORTS else "The worker is ready"
            while sign not in child.log:
                if not child.running:
                    raise UpFailed(f"the {name} does not start; its log says:\n{child.log_tail()}")
                if monotonic() > deadline:
                    late = f"the {name} is not ready after {READY_TIMEOUT_S:.0f} s"
                    raise UpFailed(f"{late}; its log says:\n{child.log_tail()}")
                sleep(LOOK_EVERY_S)

    def _guide(self) -> str:
        redis_url, database_url = self._urls
        lines = [
            f"  Valkey     {redis_url}",
            f"  Postgres   {database_url}",
            f"  Metrics    http://127.0.0.1:{self._ports['exporter']}/metrics",
            f"  Dashboard  http://127.0.0.1:{self._ports['dashboard']}",
            f"  Logs       {shown(self._data / 'logs')}",
            "",
            "In another terminal:",
            "",
            *exports(redis_url, database_url),
            "",
            f"A bot, to paste into {command('python')}:",
            "",
            *BOT.splitlines(),
            "",
            "What has arrived:",
            "",
            f"{command()} history my-bot",
            "",
            f"As it arrives: {command()} tail. How everything is: {command()} status.",
            "",
            f"Ctrl-C stops everything; what is stored stays in {shown(self._data)}.",
        ]
        return "\n".join(lines)


def _taken(name: str, port: int) -> UpFailed:
    return UpFailed(f"the port {port} of 127.0.0.1 is taken; --{name}-port chooses another one")


def _remembered(file: Path) -> dict[str, int]:
    """The ports of the last run; none where the file is not there, or holds something else."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return {name: port for name, port in found.items() if 0 < port < 65536}
