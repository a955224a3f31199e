"""What a request may ask of rq-dashboard, and what a browser may do with the answer."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from flask import Flask, Response, g, request

from risk_worker.runtime.dashboard.access import Access, is_own
from risk_worker.runtime.dashboard.templates import NONCE
from risk_worker.web.pages import TEXT

log = logging.getLogger("riskstream.dashboard")

# A script runs by its nonce alone, so that none does which came in as text. underscore.js makes a function of
# each template, which a policy calls unsafe-eval.
POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'unsafe-eval'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

FILES: Final = frozenset({"static", "rq_dashboard.static", "rq_dashboard.favicon"})
_READS: Final = FILES.union(
    f"rq_dashboard.{view}"
    for view in (
        *("queues_overview", "jobs_overview", "workers_overview", "job_view"),
        *("list_queues", "list_jobs", "list_workers", "job_info"),
    )
)
"""The views that only read. Any other changes jobs, or is new in rq-dashboard and not known to read."""

_REGISTRIES: Final = ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled")
_JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]+")
"""As RQ has it."""
_PER_PAGE_MAX: Final = 200
"""As the page's own field has it; each job is a request to Redis."""
_PAGE_MAX: Final = 1_000_000

Refusal = tuple[str, int, dict[str, str]]


def guard(flask: Flask, access: Access) -> None:
    """Check each request before rq-dashboard sees it, and give each answer its headers."""

    @flask.before_request
    def check() -> Refusal | None:
        g.nonce = secrets.token_urlsafe(16)
        return _of_access(access) or _of_changes(access) or _of_arguments(request.view_args or {})

    @flask.after_request
    def finish(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers["Content-Security-Policy"] = POLICY.format(nonce=g.get("nonce", ""))
        if request.endpoint not in FILES:
            response.headers["Cache-Control"] = "no-store"
        return response

    flask.context_processor(lambda: {NONCE: g.nonce})


def refusal(sentence: str, status: int, **headers: str) -> Refusal:
    """An answer of one sentence."""
    return f"{sentence}\n", status, {"Content-Type": TEXT, **headers}


def _of_access(access: Access) -> Refusal | None:
    if not access.serves(request.environ.get("HTTP_HOST", "")):
        hint = "riskstream dashboard --allow-host NAME adds one"
        return refusal(f"The dashboard is not served under this name of a host; {hint}", 403)
    login = request.authorization
    user, password = (None, None) if login is None else (login.username, login.password)
    if not access.knows(user, password):
        return refusal("Log in", 401, **{"WWW-Authenticate": 'Basic realm="riskstream", charset="UTF-8"'})
    return None


def _of_changes(access: Access) -> Refusal | None:
    if request.endpoint is None:  # there is no such page, or not by this method: Flask says so
        return None
    if request.endpoint in _READS:
        if request.method in ("GET", "HEAD"):
            return None
        return refusal("This page is read by GET", 405, Allow="GET, HEAD")
    if not access.allows_actions:
        return refusal(
            "The dashboard only shows; riskstream dashboard --allow-actions lets it change jobs", 403
        )
    if request.method != "POST":
        return refusal("Jobs are changed by POST", 405, Allow="POST")
    # A page of another site could send a form here, with the login that the browser keeps.
    if not is_own(request.headers.get("Origin", ""), request.environ["HTTP_HOST"]):
        return refusal("Jobs are changed from a page of the dashboard itself (header Origin)", 403)
    log.info("The dashboard lets %r change jobs: POST %r", access.login and access.login[0], request.path)
    return None


def _of_arguments(arguments: Mapping[str, Any]) -> Refusal | None:
    """rq-dashboard takes whatever is in a path."""
    known = {
        "job_id": _JOB_ID.fullmatch(arguments.get("job_id", "-")) is not None,
        "instance_number": arguments.get("instance_number", 0) == 0,
        "registry_name": arguments.get("registry_name", "queued") in _REGISTRIES,
        "order": arguments.get("order", "asc") in ("asc", "dsc"),
        "per_page": _is_number(arguments.get("per_page", 1), 1, _PER_PAGE_MAX),
        "page": _is_number(arguments.get("page", 1), 0, _PAGE_MAX),  # 0: the last page of an empty list
    }
    wrong = [name for name, is_known in known.items() if not is_known]
    return refusal(f"There is no such page ({wrong[0]})", 404) if wrong else None


def _is_number(value: object, least: int, most: int) -> bool:
    text = str(value)
    return text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most
