"""The HTTP server of exporter and dashboard."""

from __future__ import annotations

import signal

import pytest

from risk_worker.wsgi import Server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_from_the_moment_it_is_ready(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def ready() -> None:
        assert signal.getsignal(number) is not before
        signal.raise_signal(number)

    with Server(lambda _environ, _start: [], host="127.0.0.1", port=0) as server:
        server.serve_until_signalled(ready)
    assert signal.getsignal(number) is before
