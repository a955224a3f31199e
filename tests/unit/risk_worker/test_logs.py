"""Lines of the log: text and JSON, without passwords, one an event."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from risk_worker import logs


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("riskstream.drain", logging.ERROR, "f.py", 1, message, arguments, None)
    made.created = 1_795_700_000.25
    made.__dict__.update(extra)
    return made


def test_json_is_an_object_on_a_line() -> None:
    line = logs.JsonFormatter().format(record("%d of\n%s", 3, 'a "b"', trace_id="order-7"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-11-26T13:33:20.250+00:00",
        "level": "ERROR",
        "logger": "riskstream.drain",
        "message": '3 of\na "b"',
        "trace_id": "order-7",
    }
    assert "trace_id" not in json.loads(logs.JsonFormatter().format(record("none")))


def test_json_has_the_traceback() -> None:
    try:
        raise ValueError("redis://u:s3cret@host/0")
    except ValueError:
        found = record("failed")
        found.exc_info = sys.exc_info()
    fields = json.loads(logs.JsonFormatter().format(found))
    assert fields["exception"].startswith("Traceback")
    assert "redis://u:***@host/0" in fields["exception"]


@pytest.mark.parametrize("form", [logs.TextFormatter(), logs.JsonFormatter()], ids=["text", "json"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@host:6379/0",
        "postgresql://user:s3cret@host/risk",
        "a rediss://u:s3cret@h, and more",
        "redis://:a/s3cret@b:s3cret@host",
    ],
)
def test_a_password_in_a_url_is_masked(form: logging.Formatter, url: str) -> None:
    line = form.format(record("cannot use %s", url))
    assert "s3cret" not in line and "***@h" in line


def test_text_is_one_line_whatever_the_message_holds() -> None:
    line = logs.TextFormatter().format(record("trader %s", "x\n2026 CRITICAL forged\r\x1b[31m"))
    assert line.endswith("ERROR    riskstream.drain: trader x\\x0a2026 CRITICAL forged\\x0d\\x1b[31m")


def test_what_is_logged_before_the_form_is_known_has_that_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with logs.HeldBack() as held:
        logging.getLogger("riskstream.settings").warning("early")
    logs.to_stderr("warning", "json")
    assert stream.getvalue() == ""
    held.write()
    assert json.loads(stream.getvalue())["message"] == "early"
