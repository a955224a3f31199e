"""No command shows a password, however it is written in the URL."""

from __future__ import annotations

import logging
import os

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from risk_producer.load import postgres as postgres_state
from risk_worker.cli import cli
from risk_worker.database import migrations
from tests.property.test_urls import pieces

# Letters that no message is made of.
PASSWORDS = st.text(st.sampled_from("qzxjQZXJ/@#?%&=: []+,;'\"\\é"), min_size=6, max_size=24)

COMMANDS = (
    ["config"],
    ["migrate", "up"],
    ["migrate", "status"],
    ["verify"],
    ["dead", "list"],
    ["dead", "retry"],
    ["worker", "--burst"],
)
URLS = (
    "postgresql://user:{}@127.0.0.1:1/risk",
    "postgresql://user:{}@[::1]:1,127.0.0.1:1/risk?sslmode=disable",
    "postgresql://user@127.0.0.1:1/risk?password={}",
)


@settings(
    max_examples=int(os.environ.get("RISK_TEST_EXAMPLES", "10")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(PASSWORDS, st.sampled_from(URLS))
@example("1234/abcd", URLS[0])
@example("s3cret#s3cret", URLS[0])
@example("pa%ssword", URLS[0])
@example("pass word", URLS[0])
@example("12?abcd=efgh", URLS[0])
def test_no_command_shows_it(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    password: str,
    form: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    url = form.format(password)
    monkeypatch.setattr(migrations, "WAIT_TIMEOUT_S", 0.001)
    shown = ""
    for command in COMMANDS:
        done = CliRunner().invoke(cli, command, env={"REDIS_URL": redis_url, "POSTGRES_URL": url})
        shown += f"{done.output}\n{done.exception!r}\n"
        assert isinstance(done.exception, SystemExit | None), done.exception
        assert done.exit_code != 0 or command == ["config"], done.output
    with pytest.raises(postgres_state.PostgresUnavailable) as caught:
        postgres_state.fetch(url, "alice")
    shown += str(caught.value) + caplog.text
    for piece in pieces(password):
        assert piece not in shown.replace(form.format(""), ""), shown
