"""riskstream and its peers, each with what it promises."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.peers import celery_batches, faststream_batches, rq_jobs, taskiq_tasks
from benchmarks.peers.peer import Peer, Promise
from benchmarks.servers import Servers
from risk_producer.contract.keys import Keys

_PYTHON: Final = (sys.executable, "-m")
_TASKIQ: Final = (*_PYTHON, "taskiq", "worker", "--workers", "1", "--log-level", "WARNING")
_TASKS: Final = "benchmarks.peers.taskiq_tasks:broker"
_RQ: Final = (*_PYTHON, "rq.cli", "worker", "--worker-class", "rq.SimpleWorker", "--quiet")
_CELERY: Final = (*_PYTHON, "celery", "--app", "benchmarks.peers.celery_batches", "worker")
_TRIMMED: Final = "none, or `maxlen`, which removes what is not stored yet"


def catalogue(redis_url: str) -> Sequence[Peer]:
    """All of them, on this Redis."""
    return (
        Peer(
            "riskstream: `riskstream worker`",
            (*_PYTHON, "risk_worker", "worker"),
            _to_stream,
            Promise(
                acknowledged="after COMMIT",
                refused="waits in the stream; a row that is to blame becomes a dead letter",
                order="by (epoch, seq); the state never goes back",
                bound="`RISK_STREAM_MAXLEN`; then `save()` waits or says no",
            ),
            share=1,
        ),
        Peer(
            "taskiq, a task for a batch that the sender gathers",
            (*_TASKIQ, _TASKS),
            _to(taskiq_tasks.send_batches),
            Promise(
                acknowledged="after the task, also after one that failed",
                refused="is lost, unless a middleware sends it again",
                order="none: up to 100 tasks at a time",
                bound=_TRIMMED,
            ),
            share=0.5,
        ),
        Peer(
            "FastStream, batches of a Redis stream",
            (*_PYTHON, "benchmarks.peers.faststream_batches"),
            _to(faststream_batches.send),
            Promise(
                acknowledged="after the handler, if it did not fail",
                refused="stays pending; is claimed row by row, again and again",
                order="of the stream; what is claimed comes later",
                bound=_TRIMMED,
            ),
            share=0.25,
            watched_s=120,
        ),
        Peer(
            "celery-batches, a task a snapshot",
            (*_CELERY, "--pool", "solo", "--without-mingle", "--without-gossip", "--loglevel", "ERROR"),
            _to(celery_batches.send),
            Promise(
                acknowledged="after the task (`acks_late`), also after one that failed",
                refused="is lost; a line of the log says so",
                order="of the list; what is given out again comes later",
                bound="none",
            ),
            share=0.05,
        ),
        Peer(
            "taskiq, a task a snapshot",
            (*_TASKIQ, _TASKS),
            _to(taskiq_tasks.send),
            Promise(
                acknowledged="after the task, also after one that failed",
                refused="is lost, unless a middleware sends it again",
                order="none: up to 100 tasks at a time",
                bound=_TRIMMED,
            ),
            share=0.05,
        ),
        Peer(
            "RQ, a job a snapshot",
            (
                *_RQ,
                "--maintenance-interval",
                "5",
                "--url",
                redis_url,
                rq_jobs.QUEUE,
            ),
            _to(rq_jobs.send),
            Promise(
                acknowledged="after the job",
                refused="is tried again (`Retry`), then kept as a failed job for a year",
                order="of the queue; what is tried again comes later",
                bound="none",
            ),
            share=0.0015,
            watched_s=100,
        ),
    )


def _to_stream(servers: Servers, payloads: Sequence[bytes]) -> None:
    """As the script that admits them would."""
    servers.note(payloads, Keys(0))
    servers.fill(payloads)


def _to(send: Callable[[str, Sequence[bytes]], None]) -> Callable[[Servers, Sequence[bytes]], None]:
    return lambda servers, payloads: send(servers.valkey.url, payloads)
