"""rq-dashboard as a site: on our Redis, with the JSON in which riskstream's jobs are written."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.settings import Settings, mask
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_worker.runtime import rq_prefix
from risk_worker.runtime.dashboard.access import PASSWORD, USERNAME, Access, access, is_loopback
from risk_worker.runtime.dashboard.guard import FILES, Refusal, guard, refusal
from risk_worker.runtime.dashboard.shown import show
from risk_worker.runtime.dashboard.templates import SafeFlask
from risk_worker.stream.workers import QUEUE
from risk_worker.web.pages import REDIS_TIMEOUT_S
from risk_worker.web.server import Server

log = logging.getLogger("riskstream.dashboard")

_CLIENT: Final = "riskstream.redis"
"""Of a site's extensions: its client of Redis."""


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    allowed_hosts: Sequence[str] = (),
    allow_actions: bool = False,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Serve rq-dashboard until SIGTERM or SIGINT. Port 0 takes a free one; the log names it.

    allowed_hosts: names under which it is served, beside the host that it listens on and localhost.
    allow_actions: jobs can be requeued and deleted, which needs a login. Raises ConfigurationError.
    """
    url = settings.require_rq_redis_url()
    rq_prefix.agree(settings.keyspace)
    chosen = access(
        host, allowed_hosts, os.environ if environ is None else environ, allow_actions=allow_actions
    )
    if chosen.login is None and not is_loopback(host):
        log.warning(
            "Everyone who reaches %s can read the dashboard: no password is set (%s, %s)",
            host,
            USERNAME,
            PASSWORD,
        )
    with Server(application(url, chosen, settings.keyspace), host=host, port=port) as server:
        server.serve_until_signalled(lambda: log.info("Serving %s, read from %s", server.url, mask(url)))
    log.info("The dashboard has stopped")


def application(url: str, access: Access | None = None, keyspace: Keyspace = NO_NAMESPACE) -> Any:
    """rq-dashboard as a Flask application on the Redis at url."""
    chosen = access or Access()
    _read_json_only()
    show(keyspace)
    from flask import redirect, request, url_for
    from rq_dashboard.web import blueprint

    flask: Any = SafeFlask("rq_dashboard")  # whose folders hold its scripts and styles
    flask.config["RQ_DASHBOARD_REDIS_URL"] = (url,)
    flask.config["RQ_DASHBOARD_DISABLE_DELETE"] = not chosen.allows_actions
    client = redis_client(url, answer_timeout_s=REDIS_TIMEOUT_S, connect_timeout_s=REDIS_TIMEOUT_S, retries=1)
    flask.extensions[_CLIENT] = flask.redis_conn = client
    guard(flask, chosen)
    flask.register_blueprint(blueprint)
    _say_when_redis_is_away(flask, client, url)
    _say_what_cannot_be_shown(flask)

    def open_the_drain_jobs() -> Any:
        """RQ's default queue has no job of riskstream; and each drain job is started, unless it waits."""
        if request.endpoint != "rq_dashboard.jobs_overview" or (request.view_args or {}).get("queue_name"):
            return None
        values = {**(request.view_args or {}), "queue_name": QUEUE, "registry_name": "started"}
        return redirect(url_for("rq_dashboard.jobs_overview", **values))

    flask.before_request(open_the_drain_jobs)
    return flask


def _say_when_redis_is_away(flask: Any, client: RedisClient, url: str) -> None:
    """Every page answers 503 and why then; the log says once that it went, and once that it is back."""
    from flask import request

    answered = True

    def look() -> None:
        nonlocal answered
        if request.endpoint in FILES:
            return
        client.ping()
        if not answered:
            log.warning("The dashboard gets answers from Redis again")
        answered = True

    def say(error: Exception) -> Refusal:
        nonlocal answered
        verb = "refuses what the dashboard asks" if isinstance(error, ResponseError) else "does not answer"
        message = f"Redis at {mask(url)} {verb}: {error}"
        if answered:
            log.error("%s", message)
        answered = False
        return refusal(message, 503)

    flask.before_request(look)
    for kind in REDIS_ERRORS:
        flask.register_error_handler(kind, say)


def _say_what_cannot_be_shown(flask: Any) -> None:
    """A job that is not there, or whose bytes are none of RQ's: one line, in the log too."""
    from flask import request
    from rq.exceptions import NoSuchJobError

    def not_there(_: Exception) -> Refusal:
        return refusal("There is no such job", 404)

    def unreadable(error: Exception) -> Any:
        if hasattr(error, "get_response"):  # one of Flask's own answers, like 404
            return error
        log.error("The dashboard cannot show %r: %s: %r", request.path, type(error).__name__, str(error))
        log.debug("The error was", exc_info=error)
        return refusal(
            f"Redis holds something for this page that cannot be read ({type(error).__name__})", 500
        )

    flask.register_error_handler(NoSuchJobError, not_there)
    flask.register_error_handler(Exception, unreadable)


def _read_json_only() -> None:
    """Before rq_dashboard is imported: it takes RQ's default serializer in several places.

    The default is pickle, which cannot read our jobs, and would run the code of any client that can write to
    Redis.
    """
    import rq.serializers

    rq.serializers.DefaultSerializer = rq.serializers.PickleSerializer = rq.serializers.JSONSerializer
    import rq_dashboard.web
    from flask import current_app

    # Its own makes a client for each request, which waits without end where Redis is frozen.
    rq_dashboard.web.from_url = lambda *_, **__: (None, current_app.extensions[_CLIENT])
    rq_dashboard.web.config.serializer = rq.serializers.JSONSerializer
