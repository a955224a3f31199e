"""Jobs that another client has written into RQ's keys: whatever they name, a worker runs nothing of it."""

from __future__ import annotations

import json
import os
import pickle
import socket
import zlib
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from risk_worker.runtime import jobs
from risk_worker.runtime.jobs import DRAIN, DrainJob
from risk_worker.runtime.worker import DrainWorker
from risk_worker.stream.workers import QUEUE


class Planted:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self._folder,)


def packed(name: Any, instance: Any = None, args: Any = (), kwargs: Any = None) -> bytes:
    return zlib.compress(json.dumps([name, instance, args, kwargs or {}]).encode())


def plant(client: Any, job_id: str, **fields: Any) -> None:
    """As any client can that may write these keys."""
    whole = {"status": "queued", "origin": QUEUE, "timeout": 5, "created_at": "2026-11-26T00:00:00.000000Z"}
    client.hset(f"rq:job:{job_id}", mapping={**whole, **fields})
    client.rpush(f"rq:queue:{QUEUE}", job_id)


def planted(kind: str, folder: str, url: str) -> dict[str, Any]:
    """The fields of a job that would make a folder or ask a URL under RQ's default worker."""
    run: dict[str, Any] = {"data": packed("os.mkdir", args=[folder])}
    hooks = json.dumps([{"url": url, "job_status": each, "timeout": 5} for each in ("finished", "failed")])
    harmless: dict[str, Any] = {"data": packed(DRAIN, args=[0, 1])}
    return {
        "function": run,
        "method": {"data": packed("mkdir", instance="os", args=[folder])},
        "builtin": {"data": packed("builtins.exec", args=[f"import os; os.mkdir({folder!r})"])},
        "module-of-the-worker": {"data": packed("risk_worker.runtime.worker.os.mkdir", args=[folder])},
        "pickle": {"data": zlib.compress(pickle.dumps(Planted(folder)))},
        "pickle-in-pieces": {"data": pickle.dumps(("os.mkdir", None, (Planted(folder),), {}))},
        "meta": {**harmless, "meta": pickle.dumps(Planted(folder)), "result": pickle.dumps(Planted(folder))},
        "callbacks": {
            **harmless,
            **{f"{when}_callback_name": "os.mkdir" for when in ("success", "failure", "stopped")},
        },
        "webhooks": {**harmless, "webhooks": hooks},
        "failing-with-webhooks": {**run, "webhooks": hooks, "failure_callback_name": "os.mkdir"},
    }[kind]


KINDS = (
    *("function", "method", "builtin", "module-of-the-worker", "pickle", "pickle-in-pieces", "meta"),
    *("callbacks", "webhooks", "failing-with-webhooks"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_a_client_wrote_runs_no_code_of_its_own(
    kind: str, redis_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DrainJob.ALLOWED, jobs.DRAIN, lambda *_args: 0)
    folder = tmp_path / "made"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        plant(redis_client, "drain-0", **planted(kind, str(folder), url))
        worker = DrainWorker(connection=redis_client)
        queue = Queue(QUEUE, connection=redis_client, serializer="json", job_class=DrainJob)
        job, _ = Queue.dequeue_any(
            [queue], None, connection=redis_client, job_class=DrainJob, serializer="json"
        )
        succeeded = worker.perform_job(job, queue, worker.prepare_execution(job))
        assert succeeded is (kind in ("meta", "callbacks", "webhooks"))
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not folder.exists()
    assert redis_client.llen(f"rq:queue:{QUEUE}") == 0


def test_rqs_default_worker_would_run_it(redis_client: Any, tmp_path: Path) -> None:
    """So the users of Redis are kept away from these keys, and RQ's Redis is shared with no such worker."""
    folder = tmp_path / "made"
    plant(redis_client, "mine", data=zlib.compress(pickle.dumps(Planted(str(folder)))))
    with pytest.raises(Exception):  # noqa: B017  # what it makes of the rest does not matter
        Job.fetch("mine", connection=redis_client).func  # noqa: B018
    assert folder.exists()
