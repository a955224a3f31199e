"""A Redis Cluster of three masters and three replicas for the stream, and one Redis for RQ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import ClassVar

import redis

from risk_devkit.embedded import EmbeddedServerError, EmbeddedValkey
from risk_devkit.groups import ValkeyCluster
from risk_producer.contract.keys import Keys
from tests.chaos.engine import Begun, Engine, Role, chosen
from tests.chaos.schedule import COMMON, Fault, Kind, of_links
from tests.support.wait import wait_until

TARGET = "cluster"
NODE_TIMEOUT_MS = 1_000
WHOLE_S = 5.0
"""How long a fault waits until every replica has what its master has: a failover to another loses data."""


class Cluster(Engine):
    """What a replica has confirmed is never lost: RISK_REPLICAS=1, and nothing is hit before all replicas
    have caught up again."""

    name = "cluster"
    links: ClassVar = ("worker-postgres", "worker-rq")
    partitions = 8
    replicas = 1
    kinds = (
        *COMMON,
        *of_links(links),
        Kind("kill a master", (TARGET,), 0, 8, 10),
        Kind("freeze a master", (TARGET,), 2, 8, 6),
        Kind("freeze a master for a moment", (TARGET,), 0.1, 0.8, 4),
        Kind("kill a replica", (TARGET,), 0, 4, 3),
        Kind("kill all nodes", (TARGET,), 2, 6, 3),
        Kind("move a slot", (TARGET,), 0, 0, 5),
        Kind("forget the scripts", (TARGET,), 0, 0, 3),
    )

    def _start(self, folder: Path, stack: ExitStack) -> None:
        self.cluster = stack.enter_context(ValkeyCluster(folder / "cluster", node_timeout_ms=NODE_TIMEOUT_MS))
        self._rq = stack.enter_context(EmbeddedValkey(folder / "rq", appendfsync="always"))
        super()._start(folder, stack)

    @property
    def targets(self) -> set[str]:
        return {TARGET, *self.links}

    def _redis(self, role: Role) -> dict[str, str]:
        way = self._way(f"{role}-rq", self._rq.port)
        return {"REDIS_URL": self.cluster.url, "RQ_REDIS_URL": f"redis://127.0.0.1:{way}/0"}

    def server_of(self, key: str) -> str:
        return self.cluster.master_of(key).url

    @contextlib.contextmanager
    def rq(self) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(self._rq.url, socket_timeout=2) as client:
            yield client

    def _behind(self, link: str) -> int:
        return self._rq.port if link.endswith("rq") else self.postgres.port

    def _hit(self, fault: Fault) -> Begun:
        try:
            wait_until(self.cluster.is_whole, WHOLE_S / 4, "the cluster")
        except AssertionError as error:
            raise EmbeddedServerError(str(error)) from None
        if fault.kind == "forget the scripts":
            for each in self.cluster.nodes:
                with redis.Redis.from_url(each.url, socket_timeout=2) as client:
                    client.script_flush()
            return Begun()
        if fault.kind == "kill all nodes":
            for each in self.cluster.nodes:
                each.kill()
            return Begun(self._start_all)
        masters = self._masters()
        partition = chosen(fault, range(self.partitions))
        node: EmbeddedValkey = masters[partition]
        if fault.kind == "move a slot":
            # To be undone at once: so it is tried again, as half of a move would leave a partition that no
            # script can use.
            to = next(each for each in masters.values() if each is not node)
            return Begun(partial(self._move, partition, to), frozenset((partition,)))
        hit = frozenset(number for number, master in masters.items() if master is node)
        if fault.kind == "kill a replica":
            node = chosen(fault, [each for each in self.cluster.nodes if each not in masters.values()])
            hit = frozenset()
        if fault.kind.startswith("kill"):
            node.kill()
            return Begun(node.start, hit)
        node.pause()
        return Begun(node.resume, hit)

    def _masters(self) -> dict[int, EmbeddedValkey]:
        """By partition."""
        return {each: self.cluster.master_of(Keys(each).snapshots) for each in range(self.partitions)}

    def _move(self, partition: int, to: EmbeddedValkey) -> None:
        stream = Keys(partition).snapshots
        if self.cluster.master_of(stream) is not to:
            self.cluster.move_slot(stream, to)
        with redis.Redis.from_url(to.url, socket_timeout=5) as client:
            client.wait(1, 4_000)  # what was moved has to reach the replica of its new master

    def _start_all(self) -> None:
        for node in self.cluster.nodes:
            if not node.running:
                node.start()
