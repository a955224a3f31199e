"""TLS with an authority of one's own: all works, and another authority is refused in plain words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from risk_producer import RiskProducer, StreamUnavailable
from tests.support.debian import authority, certificate, redis_with_tls
from tests.support.factory import snapshot
from tests.support.forms import ALL_OK, use
from tests.support.process import ChildProcess
from tests.support.servers import server_folder
from tests.support.wait import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
REFUSED = "the certificate of Redis at localhost:{} is not accepted"


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[int, Path, Path]]:
    """Port of a Redis with TLS, the authority that signed its certificate, and another one."""
    with server_folder() as folder:
        ours = authority(folder, "ours")
        other, _ = authority(folder, "other")
        with redis_with_tls(folder, *certificate(folder, ours), signed_by=ours[0]) as port:
            yield port, ours[0], other


def url_of(port: int, signed_by: Path) -> str:
    return f"rediss://localhost:{port}/0?ssl_ca_certs={signed_by}"


def test_every_command_works(site: tuple[int, Path, Path], empty_database_url: str) -> None:
    """The producer, the worker with RQ, verify and dead."""
    port, ours, _ = site
    assert use({"POSTGRES_URL": empty_database_url}, url_of(port, ours)) == ALL_OK


def test_a_producer_refuses_another_authority(site: tuple[int, Path, Path]) -> None:
    port, _, other = site
    with RiskProducer(url_of(port, other)) as producer:
        made = snapshot("a", 1.0)
        assert producer.save(made)
        wait_until(lambda: REFUSED.format(port) in str(producer.health().reason))
        with pytest.raises(StreamUnavailable, match=REFUSED.format(port)):
            producer.push(made, 0.2)
        health = producer.health()
        assert (health.backend, health.buffered) == ("memory", 2)
        assert REFUSED.format(port) in str(health.reason)
        producer.close(0)


@pytest.mark.parametrize("command", ["verify", "worker"])
def test_a_command_refuses_another_authority(
    command: str, site: tuple[int, Path, Path], database_url: str, tmp_path: Path
) -> None:
    port, _, other = site
    environ = {"POSTGRES_URL": database_url, "REDIS_URL": url_of(port, other)}
    with ChildProcess(tmp_path / "log", environ, [sys.executable, "-m", "risk_worker", command]) as process:
        wait_until(lambda: REFUSED.format(port) in process.log, 20, "the reason in the log")
