"""Each process on a host of its own, and cables between them: network namespaces of Linux, for root.

The hosts are joined by a switch, from which the chaos itself sees them all. A cable is cut at the switch; two
hosts lose each other where one of them has a permanent neighbour entry for the other, with an address that no
card has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import ClassVar, Final, Self
from uuid import uuid4

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from tests.chaos.engine import Begun, Engine, Role
from tests.chaos.schedule import WORKERS, Fault, Kind

PRODUCERS: Final = ("producer-0", "producer-1")
HOSTS: Final = ("redis", "postgres", *WORKERS, *PRODUCERS)
SWITCH: Final = "switch"
PAIRS: Final = (
    *(f"{process} and redis" for process in (*WORKERS, *PRODUCERS)),
    *(f"{worker} and postgres" for worker in WORKERS),
)
_NOWHERE: Final = "02:00:00:00:00:99"
_CLONE_NEWNET: Final = 0x40000000
_REMOVE: Final = 'read -r _; for each in "$@"; do ip netns del "$each"; done'


def missing() -> str:
    """Why there can be no hosts here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        done = subprocess.run(["ip", "-V"], capture_output=True, check=False)
    except FileNotFoundError:
        return "network namespaces need the command ip (Debian's iproute2)"
    if done.returncode != 0:
        return f"the command ip does not work: {done.stderr.decode(errors='replace').strip()}"
    try:
        with Network(()):
            return ""
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.decode(errors='replace').strip()}"


class Network:
    """Hosts on a switch. All are gone afterwards, also where this process was killed."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self.prefix = f"risk-{uuid4().hex[:8]}"
        self._remover: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        names = [self._name(each) for each in (SWITCH, *self._hosts)]
        # It waits until its pipe is closed, which happens however this process ends.
        self._remover = subprocess.Popen(
            ["/bin/sh", "-c", _REMOVE, "sh", *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._make(names)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._remover.stdin is not None
        self._remover.stdin.close()
        self._remover.wait(30)

    def address(self, host: str) -> str:
        """Of a host."""
        return f"10.99.0.{1 + self._hosts.index(host)}"

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """This thread, and the processes that it starts, are on a host."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            with open(f"/run/netns/{self._name(host)}", "rb") as namespace:
                _enter(namespace.fileno())
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def cut(self, host: str) -> None:
        """Take its cable out."""
        _ip("-n", self._name(SWITCH), "link", "set", _cable(host), "down")

    def join(self, host: str) -> None:
        """Put its cable in again."""
        _ip("-n", self._name(SWITCH), "link", "set", _cable(host), "up")

    def part(self, one: str, other: str) -> None:
        """They lose each other alone."""
        where = self._neighbour(one, other)
        _ip(*where[:2], "neigh", "replace", *where[2:], "lladdr", _NOWHERE, "nud", "permanent")

    def unite(self, one: str, other: str) -> None:
        """Undo part()."""
        where = self._neighbour(one, other)
        _ip(*where[:2], "neigh", "del", *where[2:])

    def _neighbour(self, one: str, other: str) -> list[str]:
        return ["-n", self._name(one), self.address(other), "dev", "eth0"]

    def _make(self, names: Sequence[str]) -> None:
        switch = names[0]
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "addr", "add", "10.99.0.254/24", "dev", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for host, name in zip(self._hosts, names[1:], strict=True):
            pair = ("eth0", "netns", name, "type", "veth", "peer", "name", _cable(host), "netns", switch)
            _ip("link", "add", *pair)
            _ip("-n", switch, "link", "set", _cable(host), "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")

    def _name(self, host: str) -> str:
        return f"{self.prefix}-{host}"


class _OnHost(EmbeddedServer):
    """A server on a host of its own, where all of its network may reach it."""

    def __init__(self, folder: Path, network: Network) -> None:
        self._network = network
        super().__init__(folder)

    def start(self) -> Self:
        with self._network.inside(self.name):
            return super().start()


class _HostValkey(_OnHost, EmbeddedValkey):
    name = "redis"

    def __init__(self, folder: Path, network: Network) -> None:
        super().__init__(folder, network)
        self.appendfsync = "always"
        self.config = {"bind": "0.0.0.0", "protected-mode": False}

    @property
    def url(self) -> str:
        return f"redis://{self._network.address('redis')}:{self.port}/0"


class _HostPostgres(_OnHost, EmbeddedPostgres):
    name = "postgres"

    def __init__(self, folder: Path, network: Network) -> None:
        super().__init__(folder, network)
        self.database = "risk"
        self.config = {"listen_addresses": "*", "ssl": False}

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@{self._network.address('postgres')}:{self.port}/{database}"

    def _prepare(self, lock: object) -> None:
        super()._prepare(lock)  # type: ignore[arg-type]
        (self._data / "pg_hba.conf").write_text("host all all 0.0.0.0/0 trust\n")


class Hosts(Engine):
    """Six hosts, one fault after the other."""

    name = "hosts"
    in_turn = True
    producers = PRODUCERS
    links: ClassVar = ()
    partitions = 4
    kinds = (
        Kind("unplug", tuple(f"host {each}" for each in HOSTS), 2, 20, 6),
        Kind("part", PAIRS, 2, 20, 4),
        Kind("kill -9", WORKERS, 0, 4, 1),
    )

    def _start(self, folder: Path, stack: ExitStack) -> None:
        if reason := missing():
            raise RuntimeError(f"the engine hosts cannot be used: {reason}")
        self.network = stack.enter_context(Network(HOSTS))
        stack.enter_context(self.network.inside(SWITCH))
        self.redis = stack.enter_context(_HostValkey(folder / "valkey", self.network))
        self.postgres = stack.enter_context(_HostPostgres(folder / "postgres", self.network))

    @property
    def targets(self) -> set[str]:
        return {*(f"host {each}" for each in HOSTS), *PAIRS}

    def host_of(self, process: str) -> AbstractContextManager[object]:
        return self.network.inside(process)

    def _redis(self, role: Role) -> dict[str, str]:
        return {"REDIS_URL": self.redis.url}

    def server_of(self, key: str) -> str:
        return self.redis.url

    def _hit(self, fault: Fault) -> Begun:
        if fault.kind == "unplug":
            host = fault.target.removeprefix("host ")
            self.network.cut(host)
            return Begun(lambda: self.network.join(host))
        one, _, other = fault.target.partition(" and ")
        self.network.part(one, other)
        return Begun(lambda: self.network.unite(one, other))


def _cable(host: str) -> str:
    """Its end at the switch."""
    return f"to-{host}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def _enter(namespace: int) -> None:
    """This thread alone. os.setns() is of Python 3.12."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
