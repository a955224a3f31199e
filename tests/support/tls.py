"""Certificates of an authority of one's own, and Debian's servers that speak TLS with them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, NamedTuple, Self
from urllib.parse import quote, urlencode

import psycopg
import redis

from risk_devkit.embedded import free_port
from tests.support.debian import PROGRAMS, DebianPostgres
from tests.support.process import ChildProcess
from tests.support.servers import QUICK_POSTGRES
from tests.support.wait import wait_until

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority. Its files, and those that it signs, are in a folder, under their names."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.certificate, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        _openssl(
            *("req", "-x509", *EC, "-days", "30", "-subj", f"/CN={name}"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def sign(
        self, name: str, alternatives: str = "DNS:localhost", *, days: int = 90, year: int | None = None
    ) -> Pair:
        """alternatives: what it is made out to. It is valid for so many days, or in this year."""
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        names = f"subjectAltName={alternatives}\n" if alternatives else ""
        extensions.write_text(f"{names}authorityKeyIdentifier=keyid\n")
        _openssl("req", "-new", *EC, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
        if year is not None:
            self._sign_for(year, request, extensions, pair.certificate)
            return pair
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key),
            *("-days", days, "-extfile", extensions, "-out", pair.certificate),
        )
        return pair

    def _sign_for(self, year: int, request: Path, extensions: Path, certificate: Path) -> None:
        """For a year: only this command of openssl takes both dates."""
        settings, issued = (self._folder / f"{certificate.stem}.{kind}" for kind in ("cnf", "issued"))
        issued.touch()
        settings.write_text(
            f"[ca]\ndefault_ca=ours\n[ours]\ndatabase={issued}\nrand_serial=yes\ndefault_md=sha256\n"
            f"policy=names\nnew_certs_dir={self._folder}\n[names]\ncommonName=supplied\n"
        )
        _openssl(
            *("ca", "-batch", "-notext", "-config", settings, "-cert", self.certificate),
            *("-keyfile", self._key, "-in", request, "-extfile", extensions, "-out", certificate),
            *("-startdate", f"{year}0101000000Z", "-enddate", f"{year + 1}0101000000Z"),
        )


def lock(pair: Pair, passphrase: str) -> Pair:
    """The same with a key that has a passphrase."""
    key = pair.key.with_name(f"locked-{pair.key.name}")
    _openssl("pkey", "-aes256", "-passout", f"pass:{passphrase}", "-in", pair.key, "-out", key)
    key.chmod(0o600)
    return Pair(pair.certificate, key)


def _openssl(*words: object) -> None:
    command = [str(PROGRAMS["openssl"]), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


class TlsRedis:
    """Debian's Redis, with TLS on one port; and without it on another one, for the test itself."""

    def __init__(self, folder: Path, pair: Pair, authorities: Path) -> None:
        self._folder = folder
        self._options: Mapping[str, object] = {
            "bind": "127.0.0.1",
            "tls-cert-file": pair.certificate,
            "tls-key-file": pair.key,
            "tls-ca-cert-file": authorities,
            "tls-auth-clients": "no",
            "dir": folder,
            "save": "",
        }

    def url(self, host: str = "localhost", **options: object) -> str:
        query = urlencode(options, quote_via=quote)
        return f"rediss://{host}:{self.port}/0{'?' if query else ''}{query}"

    def serve(self, pair: Pair, *, asks_clients: bool = False) -> None:
        """Take another certificate, as after a renewal, and end all connections."""
        self.client.config_set(
            "tls-cert-file",
            str(pair.certificate),
            "tls-key-file",
            str(pair.key),
            "tls-auth-clients",
            "yes" if asks_clients else "no",
        )
        self.client.client_kill_filter(_type="normal", skipme=True)

    def __enter__(self) -> Self:
        for _ in range(3):  # another process may be quicker to take a free port
            self.port, self.plain_port = free_port(), free_port()
            options = {"port": self.plain_port, "tls-port": self.port, **self._options}
            command = [str(PROGRAMS["redis-server"])]
            for name, value in options.items():
                command += [f"--{name}", str(value)]
            self._process = ChildProcess(self._folder / "redis.log", {}, command).start()
            self.client: Any = redis.Redis(port=self.plain_port)
            wait_until(lambda: not self._process.running or self._pongs(), 10, "Redis with TLS")
            if self._process.running:
                return self
        raise AssertionError(self._process.log)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._process.__exit__(kind, error, trace)

    def _pongs(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


class TlsPostgres(DebianPostgres):
    """Debian's Postgres, which takes nothing without TLS, and the user `mutual` only with a certificate."""

    def __init__(self, folder: Path, pair: Pair, authorities: Path, **config: str | bool) -> None:
        super().__init__(
            folder,
            config={
                **QUICK_POSTGRES,
                "ssl": True,
                "ssl_cert_file": str(folder / "server.crt"),
                "ssl_key_file": str(folder / "server.key"),
                "ssl_ca_file": str(authorities),
                **config,
            },
        )
        self._pair = pair

    def _prepare(self, lock: Any) -> None:
        super()._prepare(lock)
        (self._data / "pg_hba.conf").write_text(
            "hostssl all mutual all trust clientcert=verify-ca\nhostssl all all all trust\n"
        )
        self._put(self._pair)

    def start(self) -> Self:
        super().start()
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("CREATE ROLE mutual SUPERUSER LOGIN")
        return self

    def address(
        self, database: str, user: str = "postgres", host: str = "localhost", **options: object
    ) -> str:
        """Its URL with these options of libpq's."""
        query = urlencode(options, quote_via=quote)
        return f"postgresql://{user}@{host}:{self.port}/{database}{'?' if query else ''}{query}"

    def serve(self, pair: Pair) -> None:
        """Take another certificate, as after a renewal, and end all connections."""
        if pair == self._pair:
            return
        self._pair = pair
        self._put(pair)
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("SELECT pg_reload_conf()")
            text = pair.certificate.read_text().strip()
            wait_until(lambda: text in shown_at(self.port, "-starttls", "postgres"), 10, "the certificate")
            db.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )

    def asked(self, database: str, question: LiteralString) -> list[Any]:
        """The first column of an answer; empty where there is none."""
        try:
            with psycopg.connect(self.address(database, host="127.0.0.1"), autocommit=True) as db:
                return [row[0] for row in db.execute(question)]
        except psycopg.Error:
            return []

    def _put(self, pair: Pair) -> None:
        owner = self._data.stat()
        for source, name in zip(pair, ("server.crt", "server.key"), strict=True):
            target = self.folder / name
            shutil.copy(source, target)
            os.chown(target, owner.st_uid, owner.st_gid)
            target.chmod(0o600)


def shown_at(port: int, *options: str) -> str:
    """What openssl shows of a server of this machine: its certificate among it."""
    command = ["s_client", *options, "-connect", f"127.0.0.1:{port}", "-showcerts"]
    return subprocess.run(
        [PROGRAMS["openssl"], *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
