"""Debian's own servers, started on free ports with folders of their own: for the tests marked `system`."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from risk_devkit import embedded
from risk_devkit.embedded import EmbeddedPostgres
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

POSTGRES = Path("/usr/lib/postgresql/15/bin")
PROGRAMS = {
    "postgresql-15": POSTGRES / "postgres",
    "redis-server": Path("/usr/bin/redis-server"),
    "pgbouncer": Path("/usr/sbin/pgbouncer"),
    "faketime": Path("/usr/bin/faketime"),
    "iproute2": Path("/usr/sbin/ip"),
    "openssl": Path("/usr/bin/openssl"),
    "prometheus": Path("/usr/bin/prometheus"),  # promtool comes with it
}


def missing() -> list[str]:
    """Debian packages that the tests need and that are not installed."""
    return [
        name
        for name, path in PROGRAMS.items()
        if not path.exists() and not (name == "iproute2" and shutil.which("ip"))
    ]


class DebianPostgres(EmbeddedPostgres):
    """EmbeddedPostgres with Debian's programs."""

    def _initial_program(self, name: str) -> Path:
        return POSTGRES / name

    def _program(self, name: str) -> Path:
        return POSTGRES / name


@contextlib.contextmanager
def pgbouncer(
    folder: Path, postgres_port: int, users: Mapping[str, str], *, mode: str, pool_size: int = 20
) -> Iterator[int]:
    """PgBouncer in front of a Postgres on 127.0.0.1. users: name -> password. Yields its port."""
    port = embedded.free_port()
    quoted = "".join(f'"{name}" "{password}"\n' for name, password in users.items())
    (folder / "users.txt").write_text(quoted)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres_port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\npool_mode = {mode}\n"
        f"default_pool_size = {pool_size}\nmax_client_conn = 200\n"
    )
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o644)
        as_user = {"user": user.pw_uid, "group": user.pw_gid}
    command = [PROGRAMS["pgbouncer"], settings]
    with ChildProcess(folder / "pgbouncer.log", {}, command, cwd="/", **as_user) as process:
        wait_until(lambda: _answers(port) or not process.running, 10, "PgBouncer")
        assert process.running, process.log
        yield port


def _answers(port: int) -> bool:
    try:
        psycopg.connect(f"postgresql://nobody@127.0.0.1:{port}/x", connect_timeout=2).close()
    except psycopg.OperationalError as error:
        return "refused" not in str(error)
    return True
