"""`riskstream dashboard`: rq-dashboard, made to read the JSON in which riskstream's jobs are written."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings, declare, mask
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_worker.runtime import rq_prefix
from risk_worker.stream.workers import QUEUE, registered_workers
from risk_worker.wsgi import REDIS_TIMEOUT_S, Server

log = logging.getLogger("riskstream.dashboard")

# rq-dashboard's own names for them.
USERNAME: Final = "RQ_DASHBOARD_USERNAME"
PASSWORD: Final = "RQ_DASHBOARD_PASSWORD"  # noqa: S105  # the name of a variable


def serve(settings: Settings, *, host: str, port: int, environ: Mapping[str, str] | None = None) -> None:
    """Serve rq-dashboard until SIGTERM or SIGINT. Port 0 takes a free one; the log names it."""
    url = settings.require_rq_redis_url()
    rq_prefix.agree(settings.keyspace)
    login = _login(os.environ if environ is None else environ)
    if login is None and not _is_loopback(host):
        log.warning(
            "Everyone who reaches %s can requeue and delete jobs: no password is set (%s, %s)",
            host,
            USERNAME,
            PASSWORD,
        )
    with Server(application(url, login, settings.keyspace), host=host, port=port) as server:
        server.serve_until_signalled(lambda: log.info("Serving %s, read from %s", server.url, mask(url)))
    log.info("Stopped")


def application(url: str, login: tuple[str, str] | None = None, keyspace: Keyspace = NO_NAMESPACE) -> Any:
    """rq-dashboard as a Flask application on the Redis at url; login: (user, password) to ask for."""
    _read_json_only()
    import rq_dashboard.web
    from flask import Flask, redirect, request, url_for
    from rq_dashboard.cli import add_basic_auth
    from rq_dashboard.web import blueprint, setup_rq_connection

    rq_dashboard.web.Worker = _WorkersShown(keyspace)

    flask = Flask("rq_dashboard")  # whose folders hold its scripts and styles
    flask.config["RQ_DASHBOARD_REDIS_URL"] = (url,)
    if login is not None:
        add_basic_auth(flask, *login, realm="riskstream")
    flask.register_blueprint(blueprint)
    setup_rq_connection(flask)
    _say_when_redis_is_away(flask, url)

    def open_the_drain_jobs() -> Any:
        """RQ's default queue has no job of riskstream; and each drain job is started, unless it waits."""
        if request.endpoint != "rq_dashboard.jobs_overview" or (request.view_args or {}).get("queue_name"):
            return None
        values = {**(request.view_args or {}), "queue_name": QUEUE, "registry_name": "started"}
        return redirect(url_for("rq_dashboard.jobs_overview", **values))

    flask.before_request(open_the_drain_jobs)
    return flask


class _WorkersShown:
    """Stands for RQ's class of workers in rq-dashboard: a worker that is dead is not shown, while its
    registration waits to be removed or to expire."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace

    def all(self, connection: RedisClient) -> list[Any]:
        """The workers that are alive."""
        from rq import Worker

        alive = {each.key for each in registered_workers(connection, self._keyspace) if each.is_alive}
        return [each for each in Worker.all(connection=connection) if each.key.encode() in alive]


def _say_when_redis_is_away(flask: Any, url: str) -> None:
    """Every page answers 503 and why then; the log says once that it went, and once that it is back."""
    client = _connect(url)  # rq-dashboard's own waits without end where Redis is frozen
    answered = True

    def look() -> None:
        nonlocal answered
        client.ping()
        if not answered:
            log.warning("Redis answers again")
        answered = True

    def say(error: Exception) -> tuple[str, int, dict[str, str]]:
        nonlocal answered
        message = f"Redis at {mask(url)} does not answer: {error}"
        if answered:
            log.error("%s", message)
        answered = False
        return f"{message}\n", 503, {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}

    flask.before_request(look)
    for kind in REDIS_ERRORS:
        flask.register_error_handler(kind, say)


def _read_json_only() -> None:
    """Before rq_dashboard is imported: it takes RQ's default serializer in several places.

    The default is pickle, which cannot read our jobs, and would run the code of any client that can write to
    Redis.
    """
    import rq.serializers

    rq.serializers.DefaultSerializer = rq.serializers.PickleSerializer = rq.serializers.JSONSerializer
    import rq_dashboard.web

    rq_dashboard.web.from_url = lambda url, **_options: (None, _connect(url))
    rq_dashboard.web.config.serializer = rq.serializers.JSONSerializer


def _connect(url: str) -> RedisClient:
    return redis_client(url, answer_timeout_s=REDIS_TIMEOUT_S, connect_timeout_s=REDIS_TIMEOUT_S)


def _login(environ: Mapping[str, str]) -> tuple[str, str] | None:
    username, password = environ.get(USERNAME, ""), declare.secret(environ, PASSWORD)
    if bool(username) != bool(password):
        missing = PASSWORD if username else USERNAME
        raise ConfigurationError(f"{missing} is not set; {USERNAME} and {PASSWORD} go together")
    return (username, password) if username else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
