"""The pages of a command or a worker, as a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

REDIS_TIMEOUT_S: Final = 2.0
"""A page answers within about this time, whatever Redis does."""

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
TEXT: Final = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """To a request."""

    body: str | bytes
    status: str = "200 OK"
    content_type: str = TEXT
    headers: Sequence[tuple[str, str]] = ()


def pages(paths: Mapping[str, Callable[[Environ], Answer]], hint: str) -> Application:
    """The WSGI application that answers GET and HEAD of these paths; hint: what it says of any other path."""

    def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "GET")
        page = paths.get(environ.get("PATH_INFO", ""))
        if method not in ("GET", "HEAD"):
            answer = Answer(
                "GET and HEAD are answered\n", "405 Method Not Allowed", headers=[("Allow", "GET, HEAD")]
            )
        elif page is None:
            answer = Answer(f"{hint}\n", "404 Not Found")
        else:
            answer = page(environ)
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(body))), *answer.headers]
        start_response(answer.status, headers)
        return [b"" if method == "HEAD" else body]

    return application


def health(problems: Callable[[], Sequence[str]]) -> dict[str, Callable[[Environ], Answer]]:
    """/healthz, which answers as long as the process does; and /readyz, with a sentence for each problem."""

    def ready(_: Environ) -> Answer:
        found = problems()
        if found:
            return Answer("".join(f"{each}\n" for each in found), "503 Service Unavailable")
        return Answer("ready\n")

    return {"/healthz": lambda _: Answer("ok\n"), "/readyz": ready}
