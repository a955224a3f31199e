"""Forms of POSTGRES_URL and DB_*: each is one environment, and each leads to the same database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis
from click.testing import CliRunner
from psycopg import sql

from risk_devkit.embedded import EmbeddedPostgres
from risk_producer import RiskProducer, RiskSnapshot
from risk_producer.load import postgres as postgres_state
from risk_producer.settings import Settings
from risk_worker.cli import cli

USER = "risk user"
ODD_PASSWORD = "p@ss/w#rd?&=:% \"'\\ü"
RAW_PASSWORD = "pa#ss?wo:rd"  # libpq takes it as it is
CONNECTING = ("POSTGRES", "DB_", "PG", "RISK_", "REDIS_", "RQ_")


@dataclass(frozen=True)
class Site:
    """A Postgres on 127.0.0.1, ::1 and a socket, which asks both users for a password."""

    port: int
    sockets: Path
    files: Path
    """Where service and password files may be written."""
    database: str = ""
    pooler_port: int = 0
    tls: Path | None = None
    """The certificate of the authority, where the server has TLS."""

    @property
    def odd(self) -> str:
        return quote(ODD_PASSWORD, safe="")

    def login(self) -> str:
        return f"{quote(USER)}:{self.odd}"

    def service_file(self) -> str:
        path = self.files / "service.conf"
        path.write_text(
            f"[risk]\nhost=127.0.0.1\nport={self.port}\ndbname={self.database}\nuser=plain\n"
            f"password={RAW_PASSWORD}\n"
        )
        return str(path)

    def password_file(self) -> str:
        path = self.files / "passwords"
        escaped = ODD_PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        path.write_text(f"*:*:*:{USER}:{escaped}\n*:*:*:plain:{RAW_PASSWORD.replace(':', chr(92) + ':')}\n")
        path.chmod(0o600)
        return str(path)


Form = Callable[[Site], Mapping[str, str]]


def _url(rest: str, scheme: str = "postgresql", **more: str) -> Form:
    """rest: with {login}, {odd}, {port}, {db}, {dir}, {qdir}, {raw}, {passfile}, {dead}."""

    def form(site: Site) -> Mapping[str, str]:
        words = {
            "login": site.login(),
            "user": quote(USER),
            "odd": site.odd,
            "raw": RAW_PASSWORD,
            "port": site.port,
            "db": site.database,
            "dir": site.sockets,
            "qdir": quote(str(site.sockets), safe=""),
            "passfile": site.password_file(),
            "service": site.service_file(),
            "pooler": site.pooler_port,
            "cert": site.tls,
        }
        return {
            "POSTGRES_URL": f"{scheme}://{rest.format(**words)}",
            **{name: value.format(**words) for name, value in more.items()},
        }

    return form


def _parts(**parts: str) -> Form:
    def form(site: Site) -> Mapping[str, str]:
        given = {
            "HOST": "127.0.0.1",
            "PORT": "{port}",
            "USER": USER,
            "PASSWORD": ODD_PASSWORD,
            "NAME": "{db}",
        }
        words = {"port": site.port, "db": site.database, "dir": site.sockets}
        return {
            f"DB_{name}": value if name in ("USER", "PASSWORD") else value.format(**words)
            for name, value in {**given, **parts}.items()
        }

    return form


FORMS: dict[str, Form] = {
    "plain": _url("{login}@127.0.0.1:{port}/{db}"),
    "scheme postgres": _url("{login}@127.0.0.1:{port}/{db}", "postgres"),
    "a password with # ? : as it is": _url("plain:{raw}@127.0.0.1:{port}/{db}"),
    "the password as an option": _url("{user}@127.0.0.1:{port}/{db}?password={odd}"),
    "everything as options": _url("?user={user}&password={odd}&host=127.0.0.1&port={port}&dbname={db}"),
    "socket by host": _url("{login}@/{db}?host={dir}&port={port}"),
    "socket by host, escaped": _url("{login}@/{db}?host={qdir}&port={port}"),
    "socket before the port": _url("{login}@{qdir}:{port}/{db}"),
    "IPv6 in brackets": _url("{login}@[::1]:{port}/{db}"),
    "IPv6 as an option": _url("{login}@/{db}?host=::1&port={port}"),
    "hostaddr": _url("{login}@/{db}?hostaddr=127.0.0.1&port={port}"),
    "hostaddr beside a name": _url("{login}@no.such.host:{port}/{db}?hostaddr=127.0.0.1"),
    "two hosts, the first one away": _url("{login}@127.0.0.1:1,127.0.0.1:{port}/{db}"),
    "lists as options": _url("{login}@/{db}?host=127.0.0.1,::1&port=1,{port}"),
    "one port for all hosts": _url("{login}@/{db}?host=127.0.0.1,::1&port={port}"),
    "a list of hosts, the last one with a port": _url("{login}@127.0.0.1,[::1]:{port}/{db}"),
    "a list of sockets and hosts": _url("{login}@/{db}?host={dir}/none,{dir}&port={port}"),
    "a list with target_session_attrs": _url(
        "{login}@127.0.0.1:1,[::1]:{port}/{db}?target_session_attrs=any&load_balance_hosts=random"
    ),
    "search_path": _url("{login}@127.0.0.1:{port}/{db}?options=-csearch_path%3Drisk"),
    "search_path and a timeout": _url(
        "{login}@127.0.0.1:{port}/{db}?options=-c%20search_path%3Drisk%20-c%20statement_timeout%3D5min"
    ),
    "search_path by PGOPTIONS": _url("{login}@127.0.0.1:{port}/{db}", PGOPTIONS="-c search_path=risk"),
    "service file": _url("?service=risk", PGSERVICEFILE="{service}"),
    "password file": _url("{user}@127.0.0.1:{port}/{db}?passfile={passfile}"),
    "password file by PGPASSFILE": _url("{user}@127.0.0.1:{port}/{db}", PGPASSFILE="{passfile}"),
    "host and port by PGHOST, PGPORT": _url("{login}@/{db}", PGHOST="127.0.0.1", PGPORT="{port}"),
    "client_encoding": _url("{login}@127.0.0.1:{port}/{db}?client_encoding=latin1"),
    "connect_timeout, keepalives, application_name": _url(
        "{login}@127.0.0.1:{port}/{db}?connect_timeout=1&keepalives=0&application_name=mine&gssencmode=disable"
    ),
    "sslmode prefer": _url("{login}@127.0.0.1:{port}/{db}?sslmode=prefer"),
    "POSTGRES_SSLMODE": _url("{login}@127.0.0.1:{port}/{db}?connect_timeout=9", POSTGRES_SSLMODE="allow"),
    "DB_*": _parts(),
    "DB_HOST is a folder": _parts(HOST="{dir}"),
    "DB_HOST is an IPv6 address": _parts(HOST="::1"),
    "DB_HOST is a list with one port": _parts(HOST="127.0.0.1,::1"),
    "DB_HOST and DB_PORT are lists": _parts(HOST="127.0.0.1,127.0.0.1", PORT="1,{port}"),
}
WITH_TLS: dict[str, Form] = {
    "sslmode require": _url("{login}@127.0.0.1:{port}/{db}?sslmode=require"),
    "verify-full": _url("{login}@localhost:{port}/{db}?sslmode=verify-full&sslrootcert={cert}"),
    "verify-ca by an address": _url("{login}@127.0.0.1:{port}/{db}?sslmode=verify-ca&sslrootcert={cert}"),
}
POOLED: dict[str, Form] = {
    "pooler": _url("plain:{raw}@127.0.0.1:{pooler}/{db}"),
    "pooler in a list": _url("plain:{raw}@127.0.0.1:1,127.0.0.1:{pooler}/{db}"),
}


def prepare(server: EmbeddedPostgres) -> None:
    """Make the two users, and ask everybody but postgres for a password."""
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as db:
        for user, password in ((USER, ODD_PASSWORD), ("plain", RAW_PASSWORD)):
            db.execute(
                sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(
                    sql.Identifier(user), sql.Literal(password)
                )
            )
    hba = server.folder / "pgdata" / "pg_hba.conf"
    hba.write_text(
        "local all postgres trust\nhost all postgres all trust\n"
        "local all all scram-sha-256\nhost all all all scram-sha-256\n"
    )
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as db:
        db.execute("SELECT pg_reload_conf()")


def use(environment: Mapping[str, str], redis_url: str) -> dict[str, str]:
    """What each command makes of the database that the environment names: command -> outcome.

    All are the same where each command comes to the same, empty database. Redis is emptied.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CONNECTING)}
    whole = {**kept, **environment, "REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"}
    hidden = {name: None for name in os.environ if name.startswith(CONNECTING)}
    inside = {**hidden, **environment, "REDIS_URL": redis_url}
    outcome: dict[str, str] = {}

    def ran(name: str, *arguments: str, expected: str) -> None:
        done = CliRunner().invoke(cli, arguments, env=inside)
        outcome[name] = "ok" if done.exit_code == 0 and expected in done.output else _why(done)

    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    ran("migrate", "migrate", "up", expected="Applied")
    with RiskProducer(redis_url) as producer:
        producer.push(
            RiskSnapshot(
                trader_id="alice",
                daily_pnl=1.0,
                drawdown_pct=2.0,
                current_equity=3.0,
                peak_equity=4.0,
                reason="ü",
            )
        )
    worker = subprocess.run(
        [sys.executable, "-m", "risk_worker", "worker", "--burst"],
        env=whole,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    outcome["worker"] = "ok" if worker.returncode == 0 else f"{worker.returncode}: {worker.stderr}"
    ran("verify", "verify", expected="stored                     1")
    ran("dead", "dead", "list", expected="0 dead letters")
    outcome["load"] = _load(environment)
    secrets = (ODD_PASSWORD, quote(ODD_PASSWORD, safe=""), RAW_PASSWORD)
    assert not any(secret in worker.stderr + str(outcome) for secret in secrets)
    return outcome


def _load(environment: Mapping[str, str]) -> str:
    before = dict(os.environ)
    try:
        os.environ.update(environment)
        url = Settings.load(environment).require_database_url()
        found = postgres_state.fetch(url, "alice").state
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    finally:
        os.environ.clear()
        os.environ.update(before)
    return "ok" if found is not None and (found.current_equity, found.reason) == (3.0, "ü") else str(found)


def _why(done: object) -> str:
    return (
        f"{getattr(done, 'exit_code', '')}: {getattr(done, 'output', '')} {getattr(done, 'exception', '')!r}"
    )


ALL_OK = dict.fromkeys(("migrate", "worker", "verify", "dead", "load"), "ok")
