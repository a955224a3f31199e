"""Jobs, queues and workers of RQ with a given text wherever there is one, as any client can make them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from risk_worker.stream.workers import KEPT_S

JOBS = {"failed": "failed-job", "finished": "finished-job", "started": "started-job", "queued": "queued-job"}
"""Registry -> id of the job in it."""
_LISTS = [
    f"risk-drain/{registry}/8/{order}/1"
    for registry in (*JOBS, "deferred", "scheduled", "canceled")
    for order in ("asc", "dsc")
]
PAGES = [
    *("/", "/0/view/queues", "/0/view/workers", "/0/view/jobs"),
    *(f"/0/view/job/{each}" for each in JOBS.values()),
    *(f"/0/view/jobs/{each}" for each in _LISTS),
]
DATA = [
    *("/0/data/queues.json", "/0/data/workers.json"),
    *(f"/0/data/job/{each}.json" for each in JOBS.values()),
    *(f"/0/data/jobs/{each}.json" for each in _LISTS),
]
FILES = ["/favicon.ico", "/static/css/main.css", "/static/js/jquery-3.5.1.min.js"]
"""All that the dashboard answers, after fill(): pages, what their scripts ask for, other files."""


def fill(client: Any, text: str, queue: str = "risk-drain") -> None:
    """A job in each registry of the queue, and a worker at one of them, with this text wherever one is."""
    now = datetime.now(UTC)
    client.sadd("rq:queues", f"rq:queue:{queue}", f"rq:queue:{text}")
    for registry, job_id in JOBS.items():
        job = Job.create(
            "risk_worker.nothing",
            args=(text,),
            kwargs={"key": text},
            id=job_id,
            description=text,
            meta={"key": text, text: "value"},
            origin=queue,
            connection=client,
            serializer=JSONSerializer,
        )
        job.enqueued_at = job.started_at = job.ended_at = now
        job.save()
        client.hset(job.key, "status", registry)
        if registry == "failed":
            Result.create_failure(job, ttl=600, exc_string=text)
        elif registry == "finished":
            Result.create(job, Result.Type.SUCCESSFUL, ttl=600, return_value={text: text})
        name = {"started": "wip"}.get(registry, registry)
        if registry == "queued":
            client.rpush(f"rq:queue:{queue}", job_id)
        else:
            client.zadd(f"rq:{name}:{queue}", {f"{job_id}:1" if registry == "started" else job_id: 9e9})
    add_worker(client, text, {"queues": text.replace(",", ""), "version": text, "python_version": text})


def add_worker(client: Any, name: str, fields: dict[str, Any], *, job_id: str = JOBS["started"]) -> None:
    """One that is alive and at a job."""
    key = f"rq:worker:{name}"
    now = utcformat(datetime.now(UTC))
    usual = {
        "birth": now,
        "last_heartbeat": now,
        "hostname": "h",
        "pid": 1,
        "state": "busy",
        "queues": "risk-drain",
    }
    client.hset(key, mapping={**usual, **fields})
    client.pexpire(key, 100 * KEPT_S * 1000)  # as if it had just been heard of, whenever that is looked at
    client.sadd("rq:workers", key)
    client.sadd("rq:workers:risk-drain", key)
    client.sadd(f"{key}:executions", f"{job_id}:1")
