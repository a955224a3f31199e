"""Three minutes of chaos on each engine beside one Redis, and that an engine can be believed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import run as chaos
from tests.chaos.engine import Engine
from tests.chaos.engines import hosts
from tests.chaos.engines.cluster import Cluster
from tests.chaos.engines.hosts import Hosts, Network
from tests.chaos.engines.sentinel import Sentinel
from tests.chaos.engines.single import Single
from tests.chaos.schedule import WORKERS, schedule
from tests.support.process import ChildProcess
from tests.support.servers import server_folder
from tests.support.wait import wait_until

SEED = 7
ENGINES: list[type[Engine]] = [Single, Cluster, Sentinel, Hosts]
NAMESPACES = Path("/run/netns")

needs_hosts = pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing())


def three_minutes(kind: type[Engine]) -> chaos.Result:
    with server_folder() as folder:
        return chaos.run(folder, kind(), seed=SEED, seconds=180, rate=100, say=lambda _: None)


def check(result: chaos.Result, own: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{chaos.report(result)}")
    assert not result.wrong, "\n".join(result.wrong)
    assert result.promised > 5_000
    assert result.totals["accepted"] >= result.promised
    assert sum(count for name, count in result.faults.items() if name.partition(":")[0] in own) > 5


@pytest.mark.system
@pytest.mark.timeout(1_500)
def test_three_minutes_of_chaos_on_a_cluster_and_behind_sentinels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One after the other: two at a time are more than two cores can do."""
    for kind in (Cluster, Sentinel):
        check(three_minutes(kind), kind().targets, capsys)


@pytest.mark.system
@pytest.mark.timeout(900)
@needs_hosts
def test_three_minutes_of_chaos_between_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    check(three_minutes(Hosts), Hosts().targets, capsys)


@pytest.mark.parametrize("kind", ENGINES)
def test_every_fault_of_an_engine_comes_up_and_has_a_target(kind: type[Engine]) -> None:
    faults = [fault for seed in range(40) for fault in schedule(seed, 600, kinds=kind.kinds)]
    assert {fault.kind for fault in faults} == {each.name for each in kind.kinds}
    known = {
        *kind().targets,
        *WORKERS,
        *kind.producers,
        "postgres",
        "operator",
        "stream",
        "fields",
        "nothing",
    }
    assert {fault.target for fault in faults} <= known


def test_faults_in_turn_do_not_overlap() -> None:
    over = 0.0
    for fault in schedule(SEED, 3_600, kinds=Hosts.kinds, in_turn=True):
        assert fault.at_s > over
        over = fault.at_s + fault.lasts_s


def reaches(network: Network, one: str, other: str, port: int) -> bool:
    with network.inside(one):
        try:
            socket.create_connection((network.address(other), port), timeout=0.3).close()
        except OSError:
            return False
        return True


@pytest.mark.system
@needs_hosts
def test_hosts_lose_each_other_and_find_each_other_again() -> None:
    with Network(("a", "b", "c")) as network:
        with network.inside("b"):
            listener = socket.create_server(("0.0.0.0", 0))
        port = listener.getsockname()[1]
        with listener:
            assert reaches(network, "a", "b", port)
            network.part("a", "b")
            assert not reaches(network, "a", "b", port)
            assert reaches(network, "c", "b", port)
            network.unite("a", "b")
            assert reaches(network, "a", "b", port)
            network.cut("b")
            assert not reaches(network, "a", "b", port)
            assert not reaches(network, "c", "b", port)
            network.join("b")
            wait_until(lambda: reaches(network, "a", "b", port), what="the cable")
        names = [each.name for each in NAMESPACES.iterdir()]
        assert sum(name.startswith(network.prefix) for name in names) == 4
    assert not [each for each in NAMESPACES.iterdir() if each.name.startswith(network.prefix)]


@pytest.mark.system
@needs_hosts
def test_hosts_are_gone_after_their_process_was_killed(tmp_path: Path) -> None:
    code = (
        "from tests.chaos.engines.hosts import Network\n"
        "with Network(('a',)) as network:\n"
        "    print(network.prefix, flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", code]
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with ChildProcess(tmp_path / "log", environ, command, stdin=subprocess.PIPE) as process:
        prefix = wait_until(lambda: process.log.strip(), what="the hosts")
        assert [each for each in NAMESPACES.iterdir() if each.name.startswith(prefix)]
        process.signal(signal.SIGKILL)
        process.wait(10)
        wait_until(
            lambda: not [each for each in NAMESPACES.iterdir() if each.name.startswith(prefix)],
            what="the hosts to go",
        )
