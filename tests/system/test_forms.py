"""Every form of POSTGRES_URL and DB_* leads every command to the same database."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from risk_devkit.embedded import EmbeddedPostgres
from risk_producer.load import postgres as postgres_state
from risk_worker.cli import cli
from risk_worker.database import migrations
from tests.support.debian import POSTGRES, DebianPostgres, pgbouncer
from tests.support.forms import ALL_OK, FORMS, POOLED, RAW_PASSWORD, WITH_TLS, Site, prepare, use
from tests.support.servers import QUICK_POSTGRES, Databases, name_in, server_folder
from tests.support.tls import Authority

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

Running = tuple[EmbeddedPostgres, Site]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Debian's Postgres 15 with a certificate."""
    with server_folder() as folder, server_folder() as sockets:
        sockets.chmod(0o777)
        ours = Authority(sockets, "ours")
        cert, key = ours.sign("server")
        key.chmod(0o600)
        server = DebianPostgres(
            folder,
            config={
                **QUICK_POSTGRES,
                "listen_addresses": "127.0.0.1,::1",
                "unix_socket_directories": str(sockets),
                "ssl": True,
                "ssl_cert_file": str(cert),
                "ssl_key_file": str(key),
            },
        )
        if os.geteuid() == 0:
            shutil.chown(key, "pgserver" if _has_user("pgserver") else "postgres")
        with server:
            prepare(server)
            yield server, Site(server.port, sockets, tmp_path_factory.mktemp("files"), tls=ours.certificate)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def make_database(server: EmbeddedPostgres) -> str:
    url = Databases(server.url).create()
    with psycopg.connect(url) as db:
        db.execute("CREATE SCHEMA risk")
    return name_in(url)


@pytest.mark.parametrize("name", [*FORMS, *WITH_TLS])
def test_a_form(name: str, site: Running, redis_url: str) -> None:
    server, place = site
    form = (FORMS | WITH_TLS)[name]
    assert use(form(replace(place, database=make_database(server))), redis_url) == ALL_OK


def test_another_authority_is_refused(site: Running, redis_url: str, tmp_path: Path) -> None:
    server, place = site
    other = Authority(tmp_path, "other").certificate
    url = WITH_TLS["verify-full"](replace(place, database=make_database(server), tls=other))["POSTGRES_URL"]
    for arguments in (["verify"], ["dead", "list"]):
        done = CliRunner().invoke(cli, arguments, env={"POSTGRES_URL": url, "REDIS_URL": redis_url})
        assert done.exit_code == 2
        assert "certificate verify failed" in done.output
    with pytest.raises(postgres_state.PostgresUnavailable, match="certificate verify failed"):
        postgres_state.fetch(url, "alice")


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("name", POOLED)
def test_a_pooler(name: str, mode: str, site: Running, redis_url: str) -> None:
    server, place = site
    with (
        server_folder() as folder,
        pgbouncer(folder, place.port, {"plain": RAW_PASSWORD}, mode=mode) as port,
    ):
        environment = POOLED[name](replace(place, database=make_database(server), pooler_port=port))
        assert use(environment, redis_url) == ALL_OK


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "LATIN9"])
def test_an_encoding(encoding: str, site: Running, redis_url: str) -> None:
    server, place = site
    name = f"in_{encoding.lower()}"
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'").format(
                sql.Identifier(name), sql.Literal(encoding)
            )
        )
    assert use(FORMS["plain"](replace(place, database=name)), redis_url) == ALL_OK


def test_the_schema_is_dumped_by_the_servers_own_pg_dump(site: Running) -> None:
    """A newer one would write options that this server and others refuse."""
    server, _ = site
    url = Databases(server.url).create()
    migrations.up(url)
    assert migrations._pg_dump_folder(15, "") == [str(POSTGRES)]
    dumped = migrations.schema_of(url)
    assert "attver" not in dumped
    copy = Databases(server.url).create()
    with psycopg.connect(copy, autocommit=True) as db:
        db.execute("SELECT pg_catalog.set_config('search_path', 'public', false)")
    done = subprocess.run(
        [POSTGRES / "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", copy],
        input=dumped,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert migrations.schema_of(copy) == dumped
