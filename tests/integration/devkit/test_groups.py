"""Groups of Valkeys: they work together when started, and nothing of them runs afterwards."""

from __future__ import annotations

import pytest

from risk_devkit.embedded import EmbeddedServerError
from risk_devkit.groups import EmbeddedSentinel, Group, ValkeyCluster, ValkeySentinels
from risk_producer.contract.keys import Keys
from tests.support.servers import server_folder


def test_all_of_a_group_is_gone_afterwards() -> None:
    with server_folder() as folder:
        with ValkeySentinels(folder, replicas=1, sentinels=1) as group:
            assert len(group.servers) == 3
            assert all(server.running for server in group.servers)
            assert group.master() is group.valkeys[0]
        assert not any(server.running for server in group.servers)
        with pytest.raises(EmbeddedServerError, match="none of the servers is a master"):
            group.master()


def test_a_start_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_server: EmbeddedSentinel) -> None:
        raise EmbeddedServerError("no Sentinel starts")

    monkeypatch.setattr(EmbeddedSentinel, "start", fails)
    with server_folder() as folder:
        group: Group = ValkeySentinels(folder, replicas=0, sentinels=1)
        with pytest.raises(EmbeddedServerError, match="no Sentinel starts"):
            group.start()
        assert not any(server.running for server in group.servers)


def test_a_cluster_without_replicas_is_whole() -> None:
    with server_folder() as folder, ValkeyCluster(folder, replicas=0) as cluster:
        masters = {cluster.master_of(Keys(partition).snapshots).port for partition in range(16)}
        assert masters == {node.port for node in cluster.nodes}
        port = cluster.nodes[0].port
        cluster.nodes[0].restart()
        cluster.wait_until_whole()
        assert cluster.nodes[0].port == port
