"""What rq-dashboard sees of RQ: reading removes nothing, and what cannot be read hides nothing else.

RQ removes from a queue, and from the list of workers, what it does not find when it is asked for it. And one
job that cannot be read would take the page of all with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from risk_producer.contract.keys import Keyspace
from risk_producer.settings import mask
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_worker.stream.workers import RegisteredWorker, registered_workers

_REGISTRIES: Final = (
    *("CanceledJobRegistry", "DeferredJobRegistry", "FailedJobRegistry", "FinishedJobRegistry"),
    *("ScheduledJobRegistry", "StartedJobRegistry"),
)


def show(keyspace: Keyspace) -> None:
    """Have rq-dashboard's views see RQ so, in this process."""
    import rq.registry
    import rq_dashboard.web as views

    views.Worker = WorkersShown(keyspace)
    views.Queue = _queue_class()
    for name in _REGISTRIES:
        setattr(views, name, _registry_class(getattr(rq.registry, name)))
    views.serialize_job = _readable(views.serialize_job)
    views.serialize_current_job = _readable(views.serialize_current_job)
    # Its own leaves a password in an option of the URL.
    views.escape_format_instance_list = lambda urls: [mask(each) for each in urls]


class WorkersShown:
    """Stands for RQ's class of workers: a worker that is dead is not shown, while its registration waits to
    be removed or to expire."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace

    def all(self, connection: RedisClient) -> list[Any]:
        """The workers that are alive, and can be read."""
        alive = [each for each in registered_workers(connection, self._keyspace) if each.is_alive]
        return [shown for each in alive if (shown := _worker(each, connection)) is not None]


def _worker(registered: RegisteredWorker, connection: RedisClient) -> Any:
    """None: what Redis holds of it cannot be read, or it has just left."""
    from rq import Worker
    from rq.job import Job

    def current_job() -> Any:
        if not registered.job:
            return None
        try:
            return Job.fetch(registered.job, connection=connection)
        except REDIS_ERRORS:
            raise
        except Exception:  # noqa: BLE001  # it is gone, or of any kind that bytes of others cause in RQ
            return None

    try:
        name = registered.key.decode().removeprefix(Worker.redis_worker_namespace_prefix)
        worker = Worker([], name, connection=connection, prepare_for_work=False)
        worker.refresh()
    except ValueError:
        return None
    worker.get_current_job = current_job
    return worker


def _queue_class() -> type[Any]:
    """RQ's class of queues, whose jobs are looked at and left where they are."""
    from rq import Queue
    from rq.exceptions import NoSuchJobError

    class QueueShown(Queue):  # type: ignore[misc]
        @classmethod
        def all(cls, connection: RedisClient, **options: Any) -> list[Any]:
            found = []
            keys: Any = connection.smembers(cls.redis_queues_keys)
            for key in keys:
                try:
                    found.append(cls.from_queue_key(key.decode(), connection=connection, **options))
                except ValueError:  # the name of no queue
                    continue
            return found

        def get_job_ids(self, offset: int = 0, length: int = -1) -> list[str]:
            last = offset + length - 1 if length >= 0 else length
            entries: Any = self.connection.lrange(self.key, offset, last) if length else []
            return [_text(each) for each in entries]

        def fetch_job(self, job_id: str) -> Any:
            try:
                job = self.job_class.fetch(job_id, connection=self.connection, serializer=self.serializer)
            except NoSuchJobError:
                return None
            except REDIS_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001  # of any kind that bytes of others cause in RQ
                return _UnreadableJob(job_id, error)
            return job if job.origin == self.name else None

    return QueueShown


def _registry_class(registry: type[Any]) -> type[Any]:
    """One of RQ's classes of registries, which names any job in it."""
    has_executions = registry.__name__ == "StartedJobRegistry"  # whose entries are job:execution

    class RegistryShown(registry):  # type: ignore[misc]
        @staticmethod
        def parse_job_id(entry: bytes | str) -> str:
            text = _text(entry)
            return text.partition(":")[0] if has_executions else text

    return RegistryShown


def _text(entry: bytes | str) -> str:
    return entry if isinstance(entry, str) else entry.decode(errors="backslashreplace")


def _readable(serialize: Callable[[Any], dict[str, Any] | str]) -> Callable[[Any], dict[str, Any] | str]:
    """rq-dashboard's function that describes a job, for jobs that cannot be read too."""
    if hasattr(serialize, "__wrapped__"):
        return serialize

    @wraps(serialize)
    def described(job: Any) -> dict[str, Any] | str:
        problem = job.error if isinstance(job, _UnreadableJob) else None
        if problem is None:
            try:
                return serialize(job)
            except REDIS_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001  # as above: what is decoded as it is used
                problem = error
        says = f"It cannot be read ({type(problem).__name__})"
        nothing = dict.fromkeys(("created_at", "started_at", "ended_at", "exc_info"))
        return {"id": job.id, "job_id": job.id, "description": says, "call_string": says, **nothing}

    return described


class _UnreadableJob:
    def __init__(self, job_id: str, error: Exception) -> None:
        self.id = job_id
        self.error = error
