"""rq-dashboard as a process, over jobs written in JSON while one of them runs."""

from __future__ import annotations

import base64
import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_worker.runtime import dashboard
from tests.conftest import MakeValkey
from tests.support.process import ChildProcess
from tests.support.wait import wait_until


def started(log: Path, url: str, *options: str, **environ: str) -> ChildProcess:
    command = [sys.executable, "-m", "risk_worker", "dashboard", "--port", "0", *options]
    return ChildProcess(log, {"REDIS_URL": url, **environ}, command)


def port_of(process: ChildProcess) -> int:
    pattern = r"Serving http://[\d.]+:(\d+)"
    [port] = wait_until(lambda: re.findall(pattern, process.log), 20, "the port in the log")
    return int(port)


def get(port: int, path: str, login: str | None = None) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.read().decode(errors="replace"))


def test_queue_worker_and_running_job_are_shown(tmp_path: Path, redis_url: str, database_url: str) -> None:
    settings = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    with (
        started(tmp_path / "dashboard", redis_url) as process,
        ChildProcess(tmp_path / "worker", settings) as worker,
    ):
        port = port_of(process)

        def running() -> dict[str, Any] | None:
            workers = json.loads(get(port, "/0/data/workers.json"))["workers"]
            return next((w for w in workers if w["state"] == "busy"), None)

        wait_until(running, 30, f"a busy worker; the worker's log: {worker.log}")
        queues = json.loads(get(port, "/0/data/queues.json"))["queues"]
        assert "risk-drain" in [queue["name"] for queue in queues]
        job = json.loads(get(port, "/0/data/job/drain-0.json"))
        assert job["description"] == "drain share 0 of 1: 1 partition(s)"
        assert job["status"] == "started"
        for path in ("/", "/0/view/workers", "/0/view/jobs", "/0/view/job/drain-0"):
            page = get(port, path)
            assert "<html" in page.lower()
            for part in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
                assert get(port, part)
            assert "/static/" in page
        jobs = get(port, "/0/view/jobs")
        assert 'title="Queue name" value="risk-drain"' in jobs
        assert re.search(r"<option\s+selected\s*>started</option>", jobs)
        listed = json.loads(get(port, "/0/data/jobs/risk-drain/started/8/asc/1.json"))["jobs"]
        assert [each["id"] for each in listed] == ["drain-0"]

        [shown] = json.loads(get(port, "/0/data/workers.json"))["workers"]
        assert re.fullmatch(rf"[\w.-]+-{worker.pid}-[0-9a-f]{{6}}", shown["name"])
        worker.kill()
        assert json.loads(get(port, "/0/data/workers.json")) == {"workers": []}
        assert process.stop(5) == 0
        assert "Traceback" not in process.log


def test_without_redis_every_page_says_so_and_the_log_once(tmp_path: Path, make_valkey: MakeValkey) -> None:
    server = make_valkey(requirepass="s3cret")
    url = server.url.replace("://", "://:s3cret@")
    says = rf"Redis at redis://:\*\*\*@127\.0\.0\.1:{server.port}/0 does not answer: .+"
    with started(tmp_path / "log", url) as process:
        port = port_of(process)
        get(port, "/0/data/queues.json")
        server.kill()
        for path in ("/", "/0/view/workers", "/0/data/queues.json", "/0/data/job/drain-0.json"):
            with pytest.raises(urllib.error.HTTPError, match="503") as caught:
                get(port, path)
            with caught.value as answer:
                assert re.fullmatch(says, answer.read().decode().rstrip("\n"))
        server.start()
        get(port, "/0/data/queues.json")
        assert process.stop(5) == 0
        assert len(re.findall(says, process.log)) == 1
        assert process.log.count("The dashboard gets answers from Redis again") == 1
        assert "Traceback" not in process.log


def test_a_password_is_asked_for_everywhere(tmp_path: Path, redis_url: str) -> None:
    login = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "s3cret"}
    with started(tmp_path / "log", redis_url, "--host", "0.0.0.0", **login) as process:
        port = port_of(process)
        for path in ("/", "/0/data/queues.json", "/static/js/app.js", "/nowhere"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                get(port, path)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(port, "/", "ops:wrong")
        assert "<html" in get(port, "/", "ops:s3cret").lower()
        assert "no password is set" not in process.log
        assert "s3cret" not in process.log


def test_listening_to_all_the_world_without_a_password_is_warned_of(tmp_path: Path, redis_url: str) -> None:
    with started(tmp_path / "log", redis_url, "--host", "0.0.0.0") as process:
        port_of(process)
        assert "no password is set (RQ_DASHBOARD_USERNAME, RQ_DASHBOARD_PASSWORD)" in process.log


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"allow_actions": True}, "--allow-actions needs a login: set RQ_DASHBOARD_USERNAME and"),
        ({"allowed_hosts": ["https://dash.example"]}, "--allow-host 'https://dash.example' is no host"),
        ({"host": ""}, "no host is named"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1:0"),
    ],
)
def test_what_it_cannot_do_is_named_at_the_start(options: dict[str, Any], names: str) -> None:
    settings = Settings.load({"REDIS_URL": "redis://127.0.0.1:1"})
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        dashboard.serve(settings, **{"host": "127.0.0.1", "port": 0, "environ": {}, **options})


def test_a_user_without_a_password_is_a_mistake(tmp_path: Path, redis_url: str) -> None:
    with started(tmp_path / "log", redis_url, RQ_DASHBOARD_USERNAME="ops") as process:
        assert process.wait(20) == 2
        assert "RQ_DASHBOARD_PASSWORD is not set" in process.log
