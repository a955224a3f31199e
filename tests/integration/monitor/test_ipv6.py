"""Exporter and dashboard listen on IPv6 too, and print it in brackets."""

from __future__ import annotations

import threading
import urllib.request

import pytest

from risk_producer.errors import ConfigurationError
from risk_worker.monitor import exporter
from risk_worker.runtime import dashboard
from risk_worker.wsgi import Server


@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "127.0.0.1", "0.0.0.0", "localhost"])
@pytest.mark.parametrize("page", ["exporter", "dashboard"])
def test_a_page_is_served_on(host: str, page: str, redis_url: str) -> None:
    if page == "exporter":
        application = exporter.application(exporter.connect(redis_url))
    else:
        application = dashboard.application(redis_url)
    with Server(application, host=host, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert server.url.startswith("http://[") == (":" in host)
            url = server.url.replace("[::]", "[::1]").replace("0.0.0.0", "127.0.0.1")
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.status == 200
        finally:
            server.shutdown()
            thread.join(10)


def test_an_address_that_is_taken_is_named_in_brackets() -> None:
    with (
        Server(lambda *_: [b""], host="::1", port=0) as server,
        pytest.raises(ConfigurationError, match=r"cannot listen on \[::1\]:\d+: .*--port chooses another"),
    ):
        Server(lambda *_: [b""], host="::1", port=server.server_port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", ":::", "[::1", "x" * 70])
def test_an_address_that_is_none_is_said(host: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        Server(lambda *_: [b""], host=host, port=0)
