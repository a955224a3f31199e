"""A worker's /healthz and /readyz, over HTTP, from a process of its own."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from risk_worker.stream.workers import LEASE_S, RegisteredWorker, registered_workers
from tests.support.process import ChildProcess
from tests.support.wait import wait_until


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_worker_is_heard_of_from_the_moment_it_is_at_a_job(
    tmp_path: Path, environ: dict[str, str], client: Any
) -> None:
    """By how long Redis keeps its registration, whatever RQ would have it expire after."""

    def busy() -> RegisteredWorker | None:
        return next((each for each in registered_workers(client) if each.job), None)

    with ChildProcess(tmp_path / "log", environ):
        worker = wait_until(busy, 20, "a worker at its job")
    assert worker is not None
    assert (worker.job, worker.heard_s < LEASE_S) == ("drain-0", True)


def test_a_worker_serves_its_health_and_stores_without_it(tmp_path: Path, environ: dict[str, str]) -> None:
    listening = {**environ, "RISK_HEALTH_LISTEN": "127.0.0.1:0"}
    with ChildProcess(tmp_path / "first", listening) as first:
        pattern = r"The worker serves http://127\.0\.0\.1:(\d+)/healthz"
        [port] = map(int, wait_until(lambda: re.findall(pattern, first.log), 20, "the port in the log"))
        assert get(port, "/healthz") == (200, "ok\n")
        wait_until(lambda: get(port, "/readyz") == (200, "ready\n"), 20, "the worker to be ready")
        assert get(port, "/healthz", "HEAD") == (200, "")
        assert get(port, "/healthz", "POST")[0] == 405
        assert get(port, "/metrics")[0] == 404

        taken = {**environ, "RISK_HEALTH_LISTEN": f"127.0.0.1:{port}"}
        with ChildProcess(tmp_path / "second", taken) as second:
            wait_until(lambda: "The worker is ready" in second.log, 20, "the other worker")
            assert "goes on without /healthz and /readyz (RISK_HEALTH_LISTEN)" in second.log
            assert second.stop() == 0
        assert first.stop() == 0
        assert "Traceback" not in first.log
