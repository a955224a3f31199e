"""Exporter and dashboard listen on IPv4, on IPv6 and on both, and print an address of IPv6 in brackets."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest

from risk_producer.errors import ConfigurationError
from risk_worker.monitor import exporter
from risk_worker.runtime import dashboard
from risk_worker.runtime.dashboard.access import access
from risk_worker.web.listen import listen
from risk_worker.web.server import Server
from tests.support.web import serving


@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "127.0.0.1", "0.0.0.0", "localhost"])
@pytest.mark.parametrize("page", ["exporter", "dashboard"])
def test_a_page_is_served_on(host: str, page: str, redis_url: str) -> None:
    application: Any
    if page == "exporter":
        application = exporter.application(exporter.connect(redis_url))
    else:
        application = dashboard.application(redis_url, access(host, [], {}))
    with serving(application, host) as server:
        assert server.url.startswith("http://[") == (":" in host)
        url = server.url.replace("[::]", "[::1]").replace("0.0.0.0", "127.0.0.1")
        for method in ("GET", "HEAD"):
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
                assert answer.status == 200
                assert (answer.read() == b"") == (method == "HEAD")


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("::", ["::1", "127.0.0.1"]),
        ("[::]", ["::1", "127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"]),
        ("::1", ["::1"]),
    ],
)
def test_a_host_is_reached_under(host: str, addresses: list[str]) -> None:
    sockets = listen(host, 0)
    try:
        ports = {each.getsockname()[1] for each in sockets}
        assert len(ports) == 1
        for address in addresses:
            socket.create_connection((address, *ports), timeout=60).close()
    finally:
        for each in sockets:
            each.close()


def test_a_name_is_listened_on_under_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        addresses = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    sockets = listen("both.example", 0)
    assert [each.family for each in sockets] == [socket.AF_INET6, socket.AF_INET]
    for each in sockets:
        each.close()


def test_an_address_of_a_name_that_this_machine_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_is_not_here(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        addresses = ["192.0.2.1", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", one_is_not_here)
    [listening] = listen("partly.example", 0)
    assert listening.getsockname()[0] == "127.0.0.1"
    listening.close()


def test_an_address_that_is_taken_is_named_in_brackets() -> None:
    with (
        Server(lambda *_: [b""], host="::1", port=0) as server,
        pytest.raises(ConfigurationError, match=r"cannot listen on \[::1\]:\d+: .*--port chooses another"),
    ):
        Server(lambda *_: [b""], host="::1", port=server.server_port)


@pytest.mark.parametrize("first", ["0.0.0.0", "::"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_that_is_taken_is_named(first: str, host: str) -> None:
    with (
        Server(lambda *_: [b""], host=first, port=0) as server,
        pytest.raises(ConfigurationError, match="in use; --port chooses another"),
    ):
        Server(lambda *_: [b""], host=host, port=server.server_port)


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "a..b", ":::", "[::1", "x" * 70, "", "[]", "a b", "a\0b"]
)
def test_an_address_that_is_none_is_named(host: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen"):
        Server(lambda *_: [b""], host=host, port=0)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        Server(lambda *_: [b""], host="192.0.2.1", port=0)
