"""Seven hard passwords through every command and every set-up, and no part of one is seen anywhere.

Searched are: all that a command shows or logs, with the causes of errors; the files that it writes; all keys
of Redis; the logs of the servers; the command lines of processes, and the environments of those that need
none.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import redis
from psycopg import sql

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey
from risk_producer import RiskProducer
from risk_producer.settings import Settings
from risk_worker.audit import verify
from risk_worker.database import dbmate, migrations
from risk_worker.web import server
from tests.support import passwords
from tests.support.factory import snapshot
from tests.support.passwords import (
    MALFORMED,
    MARK,
    PASSWORDS,
    REFUSED,
    SLOW,
    STAY,
    UNREACHED,
    Records,
    Setup,
    Site,
    escaped,
)
from tests.support.process import ChildProcess
from tests.support.servers import QUICK_POSTGRES, server_folder
from tests.support.wait import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


ALL = os.environ.get("RISK_TEST_SECRETS") == "all"
"""Every command in every set-up with every password, not with one of them: some minutes more."""


@dataclass(frozen=True)
class Servers:
    """A Redis and a Postgres that ask for a password, and have a user `user` for each of PASSWORDS."""

    valkey: EmbeddedValkey
    postgres: EmbeddedPostgres

    @property
    def redis(self) -> str:
        return f"127.0.0.1:{self.valkey.port}"

    @property
    def database(self) -> str:
        return f"127.0.0.1:{self.postgres.port}"

    def admit(self, password: str) -> None:
        """Let `user` in with this password, and with no other."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()
            client.execute_command(
                "ACL", "SETUSER", "user", "reset", "on", f">{password}", "~*", "&*", "+@all"
            )
        with psycopg.connect(self.postgres.url, autocommit=True) as db:
            db.execute("DROP DATABASE IF EXISTS risk WITH (FORCE)")
            db.execute('DROP ROLE IF EXISTS "user"')
            db.execute(sql.SQL('CREATE ROLE "user" LOGIN PASSWORD {}').format(password))
            db.execute('CREATE DATABASE risk OWNER "user"')


LONG_RUNNING = {
    "worker": ["worker"],
    "exporter": ["exporter", "--port", "0"],
    "dashboard": ["dashboard", "--port", "0"],
    "tail": ["tail"],
    "status": ["status", "--watch"],
}
"""Commands that go on until they are ended."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with server_folder() as folder:
        with (
            EmbeddedValkey(folder / "valkey") as valkey,
            EmbeddedPostgres(folder / "postgres", config=QUICK_POSTGRES) as postgres,
        ):
            access = postgres.folder / "pgdata" / "pg_hba.conf"
            access.write_text(f'host all "user",other all scram-sha-256\n{access.read_text()}')
            with psycopg.connect(postgres.url, autocommit=True) as db:
                db.execute("CREATE ROLE other LOGIN PASSWORD 'another'")
                db.execute("SELECT pg_reload_conf()")
            with redis.Redis.from_url(valkey.url) as client:
                client.execute_command("ACL", "SETUSER", "other", "on", ">another")
            yield Servers(valkey, postgres)
        logs = [path.read_text(errors="replace") for path in folder.glob("*/*.log")]
        assert len(logs) == 2
        assert [found for log in logs for found in passwords.hits(log)] == []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in this empty folder, wait for no server, and serve nothing."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(migrations, "WAIT_TIMEOUT_S", 0.001)
    monkeypatch.setattr(verify, "REDIS_WAIT_S", 0.001)
    monkeypatch.setattr(server.Server, "serve_until_signalled", lambda _self, ready=lambda: None: ready())
    return folder


@pytest.fixture
def site(tmp_path: Path, servers: Servers) -> Site:
    files = tmp_path / "files"
    files.mkdir()
    return Site(files, servers.redis, servers.database)


def searched(site: Site, setups: dict[str, Setup], words: dict[str, list[str]]) -> int:
    """Run each command in each set-up, with the passwords in turn, or with all. Returns how many runs.

    What a program shows that imports the classes is searched, too.
    """
    runs = 0
    leaks = []
    turns = cycle(PASSWORDS)
    with Records() as records:
        for name, setup in setups.items():
            for command, each in words.items():
                every = ALL or command == "config"
                for password in PASSWORDS if every else [next(turns)]:
                    environ = setup(site, password)
                    if command in STAY and passwords.can_be_used(environ):
                        continue  # it would wait for its server
                    shown = passwords.run(each, environ) + records.taken()
                    runs += 1
                    leaks += [(name, command, found) for found in passwords.hits(shown)]
            for password in PASSWORDS if ALL else [next(turns)]:
                shown = passwords.use_in_python(setup(site, password)) + records.taken()
                leaks += [(name, "Python", found) for found in passwords.hits(shown)]
    assert leaks == []
    assert passwords.hits_in_files(Path.cwd()) == []
    return runs


def test_settings_that_cannot_be_used(site: Site, here: Path) -> None:
    words = passwords.commands()
    assert searched(site, MALFORMED, words) > len(MALFORMED) * (len(words) - len(STAY) + len(PASSWORDS) - 1)


def test_servers_that_do_not_answer_or_refuse(site: Site, here: Path) -> None:
    words = {name: each for name, each in passwords.commands().items() if name not in STAY}
    assert searched(site, {**UNREACHED, **REFUSED}, words) > 12 * len(words)


@pytest.mark.parametrize("number", [0, 1])
def test_servers_that_speak_another_language(number: int, site: Site, here: Path) -> None:
    words = passwords.commands()
    with Records() as records:
        for setup in SLOW.values():
            environ = setup(site, PASSWORDS[number])
            shown = "".join(passwords.run(words[name], environ) for name in ("config", "doctor", "state"))
            assert passwords.hits(shown + records.taken()) == []


GOOD: dict[str, Setup] = {
    "URLs": passwords.both("redis://user:{esc}@{redis}/0", "postgresql://user:{esc}@{postgres}/risk"),
    "options": passwords.both(
        "redis://{redis}/0?username=user&password={esc}", "postgresql://user@{postgres}/risk?password={esc}"
    ),
    "parts": lambda site, password: {
        "REDIS_URL": f"redis://user:{escaped(password)}@{site.redis}/0",
        **parts(site),
        "DB_PASSWORD_FILE": site.file("password", password + "\n"),
    },
    "files": lambda site, password: {
        "REDIS_URL_FILE": site.file("redis", f"redis://user:{escaped(password)}@{site.redis}/0\n"),
        "POSTGRES_URL_FILE": site.file(
            "postgres", f"postgresql://user:{escaped(password)}@{site.postgres}/risk\n"
        ),
    },
    "JSON": lambda site, password: {
        "RISK_CONFIG": site.file(
            "config.json",
            json.dumps(
                {
                    "redis_url": f"redis://user:{escaped(password)}@{site.redis}/0",
                    **{name.lower(): value for name, value in parts(site).items()},
                    "db_password": password,
                }
            ),
        )
    },
}
"""Ways to give the right password."""


def parts(site: Site) -> dict[str, str]:
    host, _, port = site.postgres.partition(":")
    return {"DB_HOST": host, "DB_PORT": port, "DB_USER": "user", "DB_NAME": "risk"}


@pytest.mark.parametrize("number", range(len(PASSWORDS)) if ALL else [0, 6])
def test_all_that_works(number: int, servers: Servers, site: Site, here: Path) -> None:
    """Every command does its work; then all that is in Redis is searched."""
    password = PASSWORDS[number]
    servers.admit(password)
    words = {name: each for name, each in passwords.commands().items() if name not in STAY}
    setups = {name: setup(site, password) for name, setup in GOOD.items()}
    leaks = []
    with Records() as records:
        shown = passwords.run(["migrate", "up"], setups["URLs"])
        assert "Applied" in shown
        with RiskProducer(setups["URLs"]["REDIS_URL"]) as producer:
            producer.push(snapshot("1", 1.0))
        turns = cycle(setups.items())
        for command, each in words.items():
            name, environ = next(turns)
            shown = passwords.run(each, environ) + records.taken()
            leaks += [(name, command, found) for found in passwords.hits(shown)]
        for name, environ in setups.items():
            shown = passwords.use_in_python(environ) + records.taken()
            leaks += [(name, "Python", found) for found in passwords.hits(shown)]
    with redis.Redis.from_url(servers.valkey.url) as client:
        assert client.dbsize() > 3
        assert passwords.hits_in_redis(client) == []
    assert leaks == []
    assert passwords.hits_in_files(here) == []


def test_processes_hold_no_password_where_it_stands_in_a_file(
    servers: Servers, site: Site, here: Path, tmp_path: Path
) -> None:
    """Neither their command lines nor their environments; and a file is read once."""
    password = PASSWORDS[0]
    servers.admit(password)
    environ = dict(GOOD["files"](site, password))
    [program] = [dbmate.program(None)]
    own = tmp_path / "dbmate"
    own.write_text(
        f"#!/bin/sh\ntr '\\0' '\\n' </proc/$$/cmdline >{own}.line\nenv >{own}.env\nexec {program} \"$@\"\n"
    )
    own.chmod(0o755)
    environ |= {"RISK_DBMATE": str(own), "RISK_SEAL_EVERY": "off", "RISK_VERIFY_EVERY": "1s"}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(
                ChildProcess(tmp_path / f"{name}.log", environ, [sys.executable, "-m", "risk_worker", *words])
            )
            for name, words in LONG_RUNNING.items()
        }
        wait_until(lambda: "The worker is ready" in running["worker"].log, 30, "a worker that is ready")
        for name in ("exporter", "dashboard"):
            wait_until(partial(says, running[name], "Serving http://"), 30, f"the {name}")
        for path in ("redis", "postgres"):
            (site.files / path).unlink()
        with RiskProducer(f"redis://user:{escaped(password)}@{site.redis}/0") as producer:
            for at in range(3):
                producer.push(snapshot(f"trader-{at}", 1.0))
        wait_until(lambda: stored(servers) == 3, 30, "a worker that goes on")
        pages = [
            *(page(running["exporter"], path) for path in ("/metrics", "/readyz", "/healthz")),
            *(page(running["dashboard"], path) for path in ("/", "/view/jobs/", "/0/view/workers")),
        ]
        processes = [psutil.Process(each.pid) for each in running.values()]
        processes += [below for each in processes for below in each.children(recursive=True)]
        held = [str(each.cmdline()) + str(each.environ()) for each in processes]
        for each in running.values():
            each.stop()
    texts = [*pages, *held, *(each.log for each in running.values()), own.with_suffix(".line").read_text()]
    assert [found for text in texts for found in passwords.hits(text)] == []
    gets = dict(
        line.split("=", 1) for line in own.with_suffix(".env").read_text().splitlines() if "=" in line
    )
    assert gets.pop("PGPASSWORD") == password
    assert passwords.hits(str(gets)) == []
    with redis.Redis.from_url(servers.valkey.url) as client:
        assert passwords.hits_in_redis(client) == []


def says(process: ChildProcess, text: str = "") -> bool:
    """Whether its log has a text, or anything; or it has ended."""
    return (bool(process.log) and text in process.log) or not process.running


def page(process: ChildProcess, path: str) -> str:
    [url] = re.findall(r"Serving (http://\S+?)[,\s]", process.log)
    try:
        with urllib.request.urlopen(url + path, timeout=20) as answer:
            return str(answer.read().decode()) + str(answer.headers)
    except urllib.error.HTTPError as error:
        return str(error.read().decode()) + str(error.headers)


def stored(servers: Servers) -> int:
    with psycopg.connect(servers.postgres.url_of("risk"), autocommit=True) as db:
        [(number,)] = db.execute("SELECT count(*) FROM risk_state_history").fetchall()
    return int(number)


@pytest.mark.parametrize("setups", [UNREACHED, REFUSED], ids=["away", "refused"])
def test_what_stays_while_servers_cannot_be_used(
    setups: dict[str, Setup], servers: Servers, site: Site, here: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        turns = cycle(zip(cycle(setups.values()), PASSWORDS, strict=False))
        running = []
        for number, (name, words) in enumerate(LONG_RUNNING.items()):
            setup, password = next(turns)
            environ = {**setup(site, password), "RISK_LOG_LEVEL": "debug"}
            command = [sys.executable, "-m", "risk_worker", *words]
            running.append(
                (name, stack.enter_context(ChildProcess(tmp_path / f"{number}.log", environ, command)))
            )
        for _, each in running:
            wait_until(partial(says, each), 30, "a line of its log")
        pages = [
            page(each, "/")
            for name, each in running
            if name in ("exporter", "dashboard") and each.running and "Serving" in each.log
        ]
        lines = [str(psutil.Process(each.pid).cmdline()) for _, each in running if each.running]
        for _, each in running:
            if each.running:
                each.signal(signal.SIGINT)
                each.wait(30)
    logs = [each.log for _, each in running]
    assert [found for text in [*pages, *lines, *logs] for found in passwords.hits(text)] == []


def test_embedded_servers_and_their_children_get_no_secret_of_other_servers() -> None:
    """Only the dashboard gets a login, its own."""
    secret = dict.fromkeys((*Settings.variables(), "RISK_CONFIG"), f"redis://user:{MARK}@127.0.0.1:1")
    environ = {**secret, "RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": MARK}
    with server_folder() as folder:
        command = [sys.executable, "-m", "risk_worker", "up", "--data", str(folder / "up")]
        with ChildProcess(folder / "log", environ, command, cwd=folder) as process:
            wait_until(lambda: "Ctrl-C" in process.log or not process.running, 90, "all of it")
            assert process.running, process.log
            below = psutil.Process(process.pid).children(recursive=True)
            held = {str(each.cmdline()): each.environ() for each in below}
            assert process.stop(30) in (0, 128 + signal.SIGTERM)
        shown = [process.log, *(path.read_text(errors="replace") for path in folder.rglob("*.log"))]
    assert len(held) >= 5
    for line, gets in held.items():
        if "'dashboard'" in line:
            assert gets.pop("RQ_DASHBOARD_PASSWORD") == MARK
        assert passwords.hits(line + str(gets)) == [], line
    assert [found for text in shown for found in passwords.hits(text)] == []
