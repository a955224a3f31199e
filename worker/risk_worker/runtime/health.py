"""A worker's /healthz and /readyz, where RISK_HEALTH_LISTEN names a host and a port."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_producer.transport.connect import redis_client
from risk_worker.runtime import jobs
from risk_worker.stream.readiness import Readiness
from risk_worker.web.pages import REDIS_TIMEOUT_S, health, pages
from risk_worker.web.server import Server

log = logging.getLogger("riskstream.worker")


class Health:
    """Serves from a thread of its own, over connections of its own, until stop()."""

    def __init__(self, settings: Settings, listen: str, own: Callable[[], Sequence[str]]) -> None:
        """own: a sentence for each problem of this worker itself. Raises ConfigurationError where it cannot
        listen there."""
        host, _, port = listen.rpartition(":")
        with ExitStack() as stack:
            client, rq = (
                stack.enter_context(
                    redis_client(url, answer_timeout_s=REDIS_TIMEOUT_S, connect_timeout_s=REDIS_TIMEOUT_S)
                )
                for url in (settings.require_redis_url(), settings.require_rq_redis_url())
            )
            keyspace = settings.keyspace
            ready = Readiness(client, rq, lambda: jobs.known.numbers(keyspace, settings.partitions), keyspace)
            routes = health(lambda: [*own(), *ready.problems()])
            self._server = stack.enter_context(
                Server(pages(routes, "see /healthz and /readyz"), host=host, port=int(port))
            )
            self._stack = stack.pop_all()
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()
        log.info("The worker serves %s/healthz and /readyz", self._server.url)

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._thread.join(1)
        self._stack.close()


def serve(settings: Settings, own: Callable[[], Sequence[str]]) -> Health | None:
    """None: RISK_HEALTH_LISTEN is not set, or another worker of this machine listens there: a worker stores
    whether its health can be asked or not."""
    if settings.health_listen == "off":
        return None
    try:
        return Health(settings, settings.health_listen, own)
    except ConfigurationError as error:
        log.error("The worker goes on without /healthz and /readyz (RISK_HEALTH_LISTEN): it %s", error)
        return None
