"""Any bytes are answered, and answered as HTTP."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from risk_worker.web.exchange import answered
from risk_worker.web.pages import Answer, pages

PAGES = pages({"/": lambda _: Answer("here\n")}, "see /")

WORDS = st.sampled_from(
    [
        b"GET",
        b"HEAD",
        b"POST",
        b" ",
        b"/",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\n",
        b":",
        b"Host: a",
        b"%00",
        b"\x00",
        b"\xff",
        b"Content-Length: 5",
        b"Expect: 100-continue",
        b"http://x/",
        b"Connection: keep-alive",
        b"?a=b",
    ]
)


@given(st.lists(st.one_of(WORDS, st.binary(max_size=20)), max_size=15).map(b"".join))
def test_any_request_has_an_answer(request: bytes) -> None:
    parts: Any = answered(PAGES, request + b"\r\n\r\n", ("::1", 1, 0, 0), ("::1", 2, 0, 0), 0.0)
    assert b"".join(parts).startswith(b"HTTP/1.0 ") or not request.partition(b"\n")[0].strip()
