"""TLS of Redis and Postgres: all works, what is wrong is named with what to do, and nothing is lost."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from risk_devkit.embedded import EmbeddedPostgres, free_port
from risk_producer import RiskProducer, StreamUnavailable
from risk_producer.load import postgres as postgres_state
from risk_producer.settings import Settings
from risk_producer.transport.connect import CertificateRefused, redis_client
from risk_worker.cli import cli
from risk_worker.database import connection as database
from risk_worker.database import migrations
from risk_worker.database.store import PostgresStore
from risk_worker.doctor.check import Finding
from risk_worker.doctor.examination import examination
from risk_worker.doctor.of_postgres import Database
from risk_worker.doctor.of_redis import Streams
from risk_worker.drain.errors import StoreMisconfigured
from risk_worker.monitor.postgres import PostgresWatch
from risk_worker.status import of_postgres, of_redis
from tests.support.debian import PROGRAMS, DebianPostgres
from tests.support.factory import snapshot
from tests.support.forms import ALL_OK, use
from tests.support.process import ChildProcess
from tests.support.servers import QUICK_POSTGRES, Databases, name_in, server_folder
from tests.support.tls import Authority, Pair, TlsPostgres, TlsRedis, lock, shown_at
from tests.support.wait import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
PASSPHRASE = "geheim-geheim"
COMMAND = [sys.executable, "-m", "risk_worker"]


class Site:
    """Both servers, and certificates of every kind."""

    def __init__(self, folder: Path) -> None:
        ours, others = Authority(folder, "ours"), Authority(folder, "others")
        self.authority, self.strange_authority = ours.certificate, others.certificate
        self.server = ours.sign("server", "DNS:localhost")
        self.renewed = ours.sign("renewed", "DNS:localhost")
        self.by_address = ours.sign("by-address", "IP:127.0.0.1,DNS:localhost")
        self.elsewhere = ours.sign("elsewhere", "DNS:elsewhere.example")
        self.expired = ours.sign("expired", year=2020)
        self.not_yet_valid = ours.sign("not-yet-valid", year=2040)
        self.soon = ours.sign("soon", days=3)
        self.nameless = ours.sign("localhost", "")
        self.strange = others.sign("strange")
        self.client = ours.sign("client", "DNS:client")
        self.client_renewed = ours.sign("client-renewed", "DNS:client")
        self.client_expired = ours.sign("client-expired", "DNS:client", year=2020)
        self.client_strange = others.sign("client-strange", "DNS:client")
        self.client_locked = lock(self.client, PASSPHRASE)
        self.redis = TlsRedis(folder, self.server, ours.certificate)
        self.postgres = TlsPostgres(folder / "postgres", self.server, ours.certificate)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with server_folder() as folder:
        made = Site(folder)
        with made.redis, made.postgres:
            yield made


@pytest.fixture(scope="module")
def databases(site: Site) -> Iterator[Databases]:
    """Without a connection of its own, which serve() would end."""
    made = Databases(site.postgres.url)
    yield made
    made.drop_all()


@pytest.fixture(autouse=True)
def at_first(site: Site) -> None:
    site.redis.serve(site.server)
    site.redis.client.flushall()
    site.postgres.serve(site.server)


class Files:
    """The files that a client's settings name, in a folder of the test's own."""

    server = "redis"

    def __init__(self, folder: Path, site: Site) -> None:
        self._folder = folder
        self.authorities, self.certificate, self.key = (
            folder / name for name in ("ca.crt", "client.crt", "client.key")
        )
        self.trust(site.authority)
        self.use(site.client)

    def trust(self, authority: Path) -> None:
        shutil.copy(authority, self.authorities)

    def use(self, pair: Pair) -> None:
        for source, target in zip(pair, (self.certificate, self.key), strict=True):
            new = self._folder / "new"
            shutil.copy(source, new)
            new.chmod(0o600)
            if target.is_dir():
                target.rmdir()
            new.replace(target)

    @property
    def of_redis(self) -> dict[str, Any]:
        return {
            "ssl_ca_certs": self.authorities,
            "ssl_certfile": self.certificate,
            "ssl_keyfile": self.key,
        }

    @property
    def of_postgres(self) -> dict[str, Any]:
        return {
            "sslmode": "verify-full",
            "sslrootcert": self.authorities,
            "sslcert": self.certificate,
            "sslkey": self.key,
        }


@pytest.fixture
def files(tmp_path: Path, site: Site) -> Files:
    return Files(tmp_path, site)


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[str]:
    url = databases.create()
    yield name_in(url)
    databases.drop(url)


def test_every_command_works(site: Site, files: Files, empty_database: str) -> None:
    """migrate with dbmate, the producer, the worker with RQ, verify, dead, load."""
    redis_url = site.redis.url(ssl_ca_certs=files.authorities)
    options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": files.authorities}
    assert use({"POSTGRES_URL": site.postgres.address(empty_database, **options)}, redis_url) == ALL_OK


def test_every_command_works_with_certificates_of_its_own(
    site: Site, files: Files, empty_database: str, tmp_path: Path
) -> None:
    """The same; and exporter, dashboard and doctor."""
    site.redis.serve(site.server, asks_clients=True)
    redis_url = site.redis.url(**files.of_redis)
    database_url = site.postgres.address(empty_database, "mutual", **files.of_postgres)
    assert use({"POSTGRES_URL": database_url}, redis_url) == ALL_OK
    environ = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    with (
        ChildProcess(tmp_path / "exporter", environ, [*COMMAND, "exporter", "--port", "0"]) as exporter,
        ChildProcess(tmp_path / "dashboard", environ, [*COMMAND, "dashboard", "--port", "0"]) as dashboard,
    ):
        levels = {(each.link, each.check): each.level for each in examination(environ)}
        assert levels["redis", "tls"] == levels["postgres", "tls"] == "ok"
        assert "failure" not in levels.values()
        wait_until(lambda: 'risk_up{server="redis"} 1' in page_of(exporter, "metrics"), 20, "Redis")
        wait_until(lambda: 'risk_up{server="postgres"} 1' in page_of(exporter, "metrics"), 20, "Postgres")
        wait_until(lambda: '"queues"' in page_of(dashboard, "0/data/queues.json"), 20, "the dashboard")


def test_postgres_files_by_the_environment(
    site: Site, files: Files, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside DB_*, which has no place for them; dbmate gets them too."""
    environ = {
        "DB_HOST": "localhost",
        "DB_PORT": str(site.postgres.port),
        "DB_USER": "mutual",
        "DB_NAME": empty_database,
        "POSTGRES_SSLMODE": "verify-full",
        "PGSSLROOTCERT": str(files.authorities),
        "PGSSLCERT": str(files.certificate),
        "PGSSLKEY": str(files.key),
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    url = Settings.load(environ).require_database_url()
    assert "Applied" in migrations.up(url)


@dataclass(frozen=True)
class Case:
    """What is wrong, what is told, and how it is mended."""

    break_it: Callable[[Site, Files], object]
    says: str
    mend: Callable[[Site, Files], object]
    host: str = "localhost"


def _serve(name: str) -> Callable[[Site, Files], None]:
    """By the server that the test is about."""

    def serve(site: Site, files: Files) -> None:
        if files.server == "redis":
            site.redis.serve(getattr(site, name))
        else:
            site.postgres.serve(getattr(site, name))

    return serve


def _client(name: str) -> Callable[[Site, Files], None]:
    """Redis asks for a client's certificate; of Postgres the role `mutual` is asked always."""

    def use_it(site: Site, files: Files) -> None:
        site.redis.serve(site.server, asks_clients=True)
        files.use(getattr(site, name))

    return use_it


def _written(text: str) -> Callable[[Site, Files], object]:
    return lambda _, files: files.authorities.write_text(text)


def _trusted(site: Site, files: Files) -> None:
    if files.authorities.is_dir():
        files.authorities.rmdir()
    files.trust(site.authority)


def _as_a_folder(_: Site, files: Files) -> None:
    files.authorities.unlink()
    files.authorities.mkdir()


def _key_as_a_folder(_: Site, files: Files) -> None:
    files.key.unlink()
    files.key.mkdir()


def _key_of_another(site: Site, files: Files) -> None:
    shutil.copy(site.client_strange.key, files.key)


_GOOD = _client("client")
CASES = {
    "expired": Case(_serve("expired"), "certificate has expired", _serve("renewed")),
    "not yet valid": Case(_serve("not_yet_valid"), "it is not valid yet", _serve("renewed")),
    "another name": Case(_serve("elsewhere"), "another name|does not match host name", _serve("server")),
    "an address that is not in it": Case(
        lambda *_: None,
        "another name|does not match host name",
        _serve("by_address"),
        "127.0.0.1",
    ),
    "unknown authority": Case(_serve("strange"), "no authority that is known here", _serve("server")),
    "another authority is trusted": Case(
        lambda site, files: files.trust(site.strange_authority), "no authority that is known here", _trusted
    ),
    "no file of authorities": Case(
        lambda _, files: files.authorities.unlink(), "No such file|does not exist", _trusted
    ),
    "an empty file of authorities": Case(_written(""), "holds no certificate|could not read root", _trusted),
    "no PEM": Case(_written("hello\r\n"), "holds no certificate|could not read root", _trusted),
    "a folder": Case(_as_a_folder, "Is a directory|could not read root", _trusted),
    "client expired": Case(_client("client_expired"), "certificate of this client has expired", _GOOD),
    "client unknown": Case(_client("client_strange"), "does not know the authority that signed", _GOOD),
    "client with a passphrase": Case(
        _client("client_locked"), "is encrypted, and ssl_password is not given|key of this client", _GOOD
    ),
    "no key": Case(lambda _, files: files.key.unlink(), "No such file|not private key file", _GOOD),
    "the key is a folder": Case(_key_as_a_folder, "Is a directory|not a regular file", _GOOD),
    "another key": Case(_key_of_another, "not the one of the certificate|key values mismatch", _GOOD),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_redis_is_named_and_mended(name: str, site: Site, files: Files) -> None:
    """While everything runs: what was saved meanwhile arrives."""
    case = CASES[name]
    case.break_it(site, files)
    url = site.redis.url(case.host, **files.of_redis)
    with RiskProducer(url, save_timeout_s=30) as producer:
        for _ in range(3):
            assert producer.save(snapshot("a", 1.0))
        reason = wait_until(lambda: producer.health().reason or "", 20, "the reason")
        assert_says(case, reason)
        with pytest.raises(StreamUnavailable) as raised:
            producer.push(snapshot("a", 1.0), 0.1)
        assert_says(case, str(raised.value))
        database_url = site.postgres.address("postgres")
        for shown in (doctor_of_redis(url), status_of_redis(url), answer("verify", url, database_url)):
            assert_says(case, shown)
        case.mend(site, files)
        assert producer.flush(30)
        assert producer.health().backend == "postgres"
    assert site.redis.client.xlen("risk:{0}:snapshots") in (3, 4)


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_postgres_is_named_and_mended(
    name: str, site: Site, files: Files, empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    case = CASES[name]
    files.server = "postgres"
    case.break_it(site, files)
    url = site.postgres.address(empty_database, "mutual", case.host, **files.of_postgres)
    with PostgresStore(url) as store:
        with pytest.raises(StoreMisconfigured) as worker:
            store.identity()
        with pytest.raises(migrations.MigrationError) as migrating:
            migrations.up(url)
        with pytest.raises(postgres_state.PostgresUnavailable) as loading:
            postgres_state.fetch(url, "a")
        PostgresWatch(url).look()  # the exporter's
        for shown in (
            doctor_of_postgres(url),
            status_of_postgres(url),
            answer("dead list", "redis://127.0.0.1:1/0", url),
            *(str(each.value) for each in (worker, migrating, loading)),
            caplog.text,
        ):
            assert "user or password" not in shown
            assert_says(case, shown, by="doctor" if shown.startswith("doctor") else "libpq")
        case.mend(site, files)
        assert "Applied" in migrations.up(url)
        assert store.identity()


def assert_says(case: Case, text: str, by: str = "ssl") -> None:
    expected = case.says
    if by == "libpq":  # which has no more to say about the first two
        expected = expected.replace("certificate has expired", "it is not valid now, or no authority")
        expected = expected.replace("it is not valid yet", "it is not valid now, or no authority")
        expected = expected.replace("no authority that is known here", "it is not valid now, or no authority")
    assert any(each in text for each in expected.split("|")), text


def doctor_of_redis(url: str) -> str:
    [found] = Streams(url, Settings()).connection()
    assert (found.level, bool(found.todo)) == ("failure", True)
    return f"{found.what} → {found.todo}"


def doctor_of_postgres(url: str) -> str:
    [found] = Database(url).connection()
    assert (found.level, bool(found.todo)) == ("failure", True)
    return f"doctor: {found.what} → {found.todo}"


def status_of_redis(url: str) -> str:
    asked = of_redis.Streams(url, Settings())
    try:
        found = asked.ask().redis
    finally:
        asked.close()
    return found.error or str([each.refusal for each in found.servers])


def status_of_postgres(url: str) -> str:
    asked = of_postgres.Postgres(url)
    try:
        found = asked.ask().postgres
    finally:
        asked.close()
    assert found.refused
    return found.error


def answer(command: str, redis_url: str, database_url: str) -> str:
    environ = {"POSTGRES_URL": database_url, "REDIS_URL": redis_url}
    done = CliRunner().invoke(cli, command.split(), env=environ)
    assert done.exit_code == 2
    return done.output


def page_of(process: ChildProcess, path: str) -> str:
    """What a process serves there; empty where it does not."""
    found = re.search(r"http://127\.0\.0\.1:\d+", process.log)
    try:
        with urllib.request.urlopen(f"{found[0]}/{path}" if found else "", timeout=20) as answered:
            return str(answered.read(), "utf-8")
    except (OSError, ValueError):
        return ""


def test_a_worker_and_a_producer_go_on_through_all_of_it(
    site: Site, files: Files, empty_database: str, tmp_path: Path
) -> None:
    """Both run on; certificates of both servers are renewed, and those of the client; then they expire, one
    server after the other, and are mended. Each snapshot is stored once."""
    site.redis.serve(site.server, asks_clients=True)
    redis_url = site.redis.url(**files.of_redis)
    database_url = site.postgres.address(empty_database, "mutual", **files.of_postgres)
    environ = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    with (
        ChildProcess(tmp_path / "worker", environ) as worker,
        RiskProducer(redis_url, save_timeout_s=60) as producer,
    ):
        saved = 0

        def save() -> None:
            nonlocal saved
            saved += 1
            assert producer.save(snapshot("a", float(saved)))

        def all_stored() -> bool:
            return site.postgres.asked(empty_database, "SELECT count(*) FROM risk_state_history") == [saved]

        def goes_on() -> None:
            save()
            wait_until(all_stored, 30, f"{saved} snapshots in history; the worker's log:\n{worker.log}")

        goes_on()
        files.use(site.client_renewed)
        site.redis.serve(site.renewed, asks_clients=True)
        site.postgres.serve(site.renewed)
        goes_on()
        shown = "SELECT client_serial FROM pg_stat_ssl WHERE client_serial IS NOT NULL"
        serials = {int(serial) for serial in site.postgres.asked(empty_database, shown)}
        assert serials == {serial_of(site.client_renewed)}, "the worker has read the new files by itself"

        site.redis.serve(site.expired, asks_clients=True)
        save()
        wait_until(lambda: "certificate has expired" in str(producer.health().reason), 30)
        wait_until(lambda: "is not accepted: it has expired" in worker.log, 30, "the reason in the log")
        site.redis.serve(site.server, asks_clients=True)
        goes_on()

        site.postgres.serve(site.expired)
        save()
        wait_until(
            lambda: "riskstream doctor, which names the reason" in worker.log, 30, "the reason in the log"
        )
        assert "user or password" not in worker.log
        assert site.redis.client.xlen("risk:{0}:snapshots") == 1
        site.postgres.serve(site.server)
        goes_on()
        assert worker.stop() == 0
    done = CliRunner().invoke(cli, ["verify"], env=environ)
    assert done.exit_code == 0, done.output


def test_a_worker_that_starts_waits_for_redis_and_ends_without_postgres(
    site: Site, files: Files, empty_database: str, tmp_path: Path
) -> None:
    files.trust(site.strange_authority)
    site.postgres.serve(site.expired)
    options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": site.authority}
    environ = {
        "REDIS_URL": site.redis.url(ssl_ca_certs=files.authorities),
        "POSTGRES_URL": site.postgres.address(empty_database, **options),
    }
    with ChildProcess(tmp_path / "worker", environ) as worker:
        refused = f"the certificate of Redis at localhost:{site.redis.port} is not accepted"
        wait_until(lambda: refused in worker.log, 20, "the reason in the log")
        files.trust(site.authority)
        assert worker.wait(30) != 0
        assert "certificate verify failed" in worker.log
        assert "run riskstream doctor" in worker.log


def serial_of(pair: Pair) -> int:
    command = [str(PROGRAMS["openssl"]), "x509", "-noout", "-serial", "-in", str(pair.certificate)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return int(shown.strip().partition("=")[2], 16)


class TestClients:
    def test_without_a_certificate(self, site: Site, files: Files, empty_database: str) -> None:
        site.redis.serve(site.server, asks_clients=True)
        redis_url = site.redis.url(ssl_ca_certs=files.authorities)
        with RiskProducer(redis_url, save_timeout_s=30) as producer:
            assert producer.save(snapshot("a", 1.0))
            wait_until(
                lambda: "it asks for a certificate of this client" in str(producer.health().reason), 20
            )
            assert "ssl_certfile=FILE" in doctor_of_redis(redis_url)
            with redis_client(redis_url, answer_timeout_s=9, connect_timeout_s=9) as client:
                for _ in range(30):  # it may come before the first command is written, or after
                    with pytest.raises(CertificateRefused, match="it asks for a certificate"):
                        client.ping()
            site.redis.serve(site.server)  # the server does not ask any more
            assert producer.flush(30)
        database_url = site.postgres.address(
            empty_database, "mutual", sslmode="verify-full", sslrootcert=files.authorities
        )
        shown = doctor_of_postgres(database_url)
        assert "it asks for a certificate of this client" in shown
        assert "sslcert=FILE" in shown

    def test_with_a_passphrase(self, site: Site, files: Files, empty_database: str) -> None:
        """All but dbmate can use it, which says so."""
        files.use(site.client_locked)
        site.redis.serve(site.server, asks_clients=True)
        with redis_client(
            site.redis.url(**files.of_redis, ssl_password=PASSPHRASE), answer_timeout_s=9, connect_timeout_s=9
        ) as client:
            assert client.ping()
        url = site.postgres.address(empty_database, "mutual", **files.of_postgres, sslpassword=PASSPHRASE)
        database.connect(url, database.MIGRATE).close()
        with pytest.raises(
            migrations.MigrationError, match=r"dbmate.* cannot read .*, as it has a passphrase"
        ):
            migrations.up(url)
        for wrong in (site.redis.url(**files.of_redis, ssl_password="wrong"),):
            assert "ssl_password is not its passphrase" in doctor_of_redis(wrong)
        url = url.replace(PASSPHRASE, "wrong")
        assert "the key of this client cannot be used" in doctor_of_postgres(url).lower()

    def test_no_passphrase_is_asked_for_at_the_terminal(self, site: Site, files: Files) -> None:
        """Where there is one, OpenSSL would, and a trader's thread would wait for the answer."""
        code = (
            "from risk_producer import tls; "
            f"tls.context(tls.REDIS, certificate={str(files.certificate)!r}, key={str(files.key)!r})"
        )
        files.use(site.client_locked)
        done = subprocess.run(
            ["script", "-qec", shlex.join([sys.executable, "-c", code]), "/dev/null"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "is encrypted, and ssl_password is not given" in done.stdout
        assert "pass phrase" not in done.stdout

    def test_with_two_authorities_in_one_file(self, site: Site, files: Files, empty_database: str) -> None:
        """As while one takes the place of the other."""
        files.authorities.write_text(site.strange_authority.read_text() + site.authority.read_text())
        with redis_client(
            site.redis.url(ssl_ca_certs=files.authorities), answer_timeout_s=9, connect_timeout_s=9
        ) as client:
            for pair in (site.server, site.strange):
                site.redis.serve(pair)
                assert client.ping()
        site.postgres.serve(site.strange)
        options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": files.authorities}
        assert "Applied" in migrations.up(site.postgres.address(empty_database, **options))

    def test_of_a_host_whose_address_is_given(self, site: Site, files: Files, empty_database: str) -> None:
        """No resolver knows its name, which stands in the certificate; dbmate gets both too."""
        site.postgres.serve(site.elsewhere)
        options: dict[str, Any] = {
            "sslmode": "verify-full",
            "sslrootcert": files.authorities,
            "hostaddr": "127.0.0.1",
        }
        url = site.postgres.address(empty_database, host="elsewhere.example", **options)
        assert "Applied" in migrations.up(url)

    def test_of_a_server_without_alternative_names(
        self, site: Site, files: Files, empty_database: str
    ) -> None:
        """libpq and Python read the common name then; Go, of which dbmate is made, does not, and says so."""
        site.postgres.serve(site.nameless)
        site.redis.serve(site.nameless)
        options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": files.authorities}
        url = site.postgres.address(empty_database, **options)
        database.connect(url, database.MIGRATE).close()
        with pytest.raises(migrations.MigrationError, match="relies on legacy Common Name field"):
            migrations.up(url)
        with redis_client(
            site.redis.url(ssl_ca_certs=files.authorities), answer_timeout_s=9, connect_timeout_s=9
        ) as client:
            assert client.ping()

    def test_with_files_written_on_windows(self, site: Site, files: Files, empty_database: str) -> None:
        for path in (files.authorities, files.certificate, files.key):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        site.redis.serve(site.server, asks_clients=True)
        url = site.postgres.address(empty_database, "mutual", **files.of_postgres)
        with redis_client(
            site.redis.url(**files.of_redis), answer_timeout_s=9, connect_timeout_s=9
        ) as client:
            assert client.ping()
        assert "Applied" in migrations.up(url)

    def test_with_a_key_that_others_may_read(self, site: Site, files: Files, empty_database: str) -> None:
        files.key.chmod(0o644)
        url = site.postgres.address(empty_database, "mutual", **files.of_postgres)
        assert "this user alone may read (0600)" in doctor_of_postgres(url).replace("which t", "t")

    def test_trust_those_alone_that_are_named(
        self, site: Site, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the system trusts does not count then; without a name it does."""
        monkeypatch.setenv("SSL_CERT_FILE", str(site.authority))
        for options, accepted in (
            (dict[str, Any](), True),
            ({"ssl_ca_certs": site.strange_authority}, False),
        ):
            with redis_client(site.redis.url(**options), answer_timeout_s=9, connect_timeout_s=9) as client:
                if accepted:
                    assert client.ping()
                else:
                    with pytest.raises(CertificateRefused, match="no authority that is known here"):
                        client.ping()

    def test_trust_what_the_system_trusts(
        self, site: Site, empty_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """psycopg's own OpenSSL has no authorities, unless this variable names them."""
        url = site.postgres.address(empty_database, sslmode="verify-full", sslrootcert="system")
        assert "certificate verify failed" in doctor_of_postgres(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(site.authority))
        assert "Applied" in migrations.up(url)


@pytest.mark.parametrize(("scheme", "rest"), [("rediss+cluster", ""), ("rediss+sentinel", "mymaster/0")])
def test_what_is_wrong_with_nodes_and_sentinels(scheme: str, rest: str, site: Site, files: Files) -> None:
    """Their clients put their own sentences around it. Of a cluster redis-py looks localhost up by itself."""
    site.redis.serve(site.expired)
    address = f"{scheme}://localhost:{site.redis.port}/{rest}"
    url = f"{address}?ssl_ca_certs={files.authorities}&ssl_check_hostname=no"
    for shown in (doctor_of_redis(url), status_of_redis(url)):
        assert "The certificate of Redis at " in shown
        assert "certificate has expired" in shown
        assert "Give the server a new one" in shown


def test_no_version_of_tls_in_common(site: Site, files: Files) -> None:
    """A client that wants 1.3, and servers that have 1.2."""
    site.redis.client.config_set("tls-protocols", "TLSv1.2")
    with psycopg.connect(site.postgres.url, autocommit=True) as db:
        db.execute("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'")
    try:
        site.redis.serve(site.renewed)
        site.postgres.serve(site.renewed)
        url = site.redis.url(ssl_ca_certs=files.authorities)
        assert list(Streams(url, Settings()).tls())[1].what.startswith(
            f"localhost:{site.redis.port} speaks TLSv1.2"
        )
        assert "no version of TLS in common" in doctor_of_redis(f"{url}&ssl_min_version=772")
        options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": files.authorities}
        options["ssl_min_protocol_version"] = "TLSv1.3"
        assert "no version of TLS in common" in doctor_of_postgres(
            site.postgres.address("postgres", **options)
        )
    finally:
        site.redis.client.config_set("tls-protocols", "TLSv1.2 TLSv1.3")
        with psycopg.connect(site.postgres.url, autocommit=True) as db:
            db.execute("ALTER SYSTEM RESET ssl_max_protocol_version")


class TestWithoutTlsOnOneSide:
    def test_a_plain_client(self, site: Site, empty_database: str) -> None:
        url = site.redis.url().replace("rediss:", "redis:")
        assert "if it expects TLS, the URL has to start with rediss" in doctor_of_redis(url)
        url = site.postgres.address(empty_database, sslmode="disable")
        assert "From here it lets this user in with TLS only" in doctor_of_postgres(url)

    def test_a_plain_server(self, site: Site, files: Files, postgres_server: EmbeddedPostgres) -> None:
        url = site.redis.url(**files.of_redis).replace(f":{site.redis.port}/", f":{site.redis.plain_port}/")
        assert "if it does not speak TLS, the URL has to start with redis" in doctor_of_redis(url)
        url = f"{postgres_server.url}?sslmode=verify-full&sslrootcert={files.authorities}"
        assert "The server has no TLS, and sslmode asks for it" in doctor_of_postgres(url)


class TestDoctor:
    def tls(self, url: str) -> list[Finding]:
        looked = Database(url)
        try:
            return list(looked.tls())
        finally:
            looked.close()

    def test_what_is_not_verified(
        self, site: Site, files: Files, postgres_server: EmbeddedPostgres, empty_database: str
    ) -> None:
        """As if the server were far away: the host's name is not this machine's, its address is."""
        far: dict[str, Any] = {"hostaddr": "127.0.0.1"}
        trusted = {**far, "sslrootcert": files.authorities}
        site.postgres.serve(site.elsewhere)
        for port, options, expected in (
            (postgres_server.port, {**far, "sslmode": "prefer"}, "with sslmode prefer that is no error"),
            (
                site.postgres.port,
                {**far, "sslmode": "prefer"},
                "its certificate is not verified (sslmode pre",
            ),
            (
                site.postgres.port,
                {**far, "sslmode": "require"},
                "its certificate is not verified (sslmode req",
            ),
            (site.postgres.port, {**trusted, "sslmode": "verify-ca"}, "the name in its certificate is not"),
            (site.postgres.port, {**trusted, "sslmode": "verify-full"}, ""),
        ):
            url = site.postgres.address("postgres", host="elsewhere.example", **options)
            first, *others = self.tls(url.replace(f":{site.postgres.port}/", f":{port}/"))
            assert (first.level, bool(first.todo)) == (("warning", True) if expected else ("ok", False))
            assert expected in first.what
            assert [each.level for each in others] == ["ok"] * (port == site.postgres.port)

    def test_certificates_that_expire_soon(self, site: Site, files: Files) -> None:
        site.redis.serve(site.soon)
        site.postgres.serve(site.soon)
        until = datetime.now(UTC) + timedelta(days=3)
        redis_url = site.redis.url(**files.of_redis)
        streams = Streams(redis_url, Settings())
        database_url = site.postgres.address("postgres", "mutual", **files.of_postgres)
        for found in (list(streams.tls()), self.tls(database_url)):
            [near, certificate] = found
            assert near.level == "ok"
            assert (certificate.level, bool(certificate.todo)) == ("warning", True)
            assert "localhost:" in certificate.what
            assert "TLSv1.3" in certificate.what
            assert f"valid until {until:%Y-%m-%d}" in certificate.what
            assert "for 2 days" in certificate.what
        streams.client.close()


PAGE = (Path(__file__).parents[2] / "docs" / "operate" / "tls.md").read_text()
BLOCKS = re.findall(r"```(sh|conf)\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    """But for the ports. Its commands run in one shell, its lines are the servers' settings."""
    assert [kind for kind, _ in BLOCKS] == ["sh", "conf", "sh", "conf", "conf", "sh", "sh"]
    with server_folder() as folder:
        here = folder / "tls"
        here.mkdir()
        redis_port = free_port()
        server = DebianPostgres(folder / "postgres", database="risk", config=QUICK_POSTGRES)
        data = server.folder / "pgdata"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with (
            server,
            ChildProcess(
                tmp_path / "shell",
                {"PATH": path, "PGDATA": str(data)},
                ["bash", "-e"],
                stdin=subprocess.PIPE,
                cwd=here,
            ) as shell,
        ):
            blocks = [
                text.replace("6380", str(redis_port)).replace("5432", str(server.port)) for _, text in BLOCKS
            ]
            make, redis_conf, install, postgres_conf, hba, clients, renew = blocks
            done = count(1)

            def run(block: str) -> str:
                before, end = len(shell.log), f"block {next(done)} is done"
                shell.write(f"{block}\necho {end}\n".encode())
                wait_until(lambda: end in shell.log or not shell.running, 30, end)
                assert end in shell.log, shell.log
                return shell.log[before:]

            assert run(make).count(": OK") == 3
            (here / "redis.conf").write_text(redis_conf)
            with psycopg.connect(server.url, autocommit=True) as db:
                db.execute("CREATE ROLE worker_1 LOGIN PASSWORD 'PASSWORD'")
                db.execute("ALTER DATABASE risk OWNER TO worker_1")
            run(install)
            with (data / "postgresql.conf").open("a") as file:
                file.write(postgres_conf)
            (data / "pg_hba.conf").write_text(hba)
            os.kill(server.pid, signal.SIGHUP)
            with ChildProcess(
                tmp_path / "redis", {}, [PROGRAMS["redis-server"], "redis.conf"], cwd=here
            ) as redis_server:
                served: dict[str, Callable[[], str]] = {
                    "redis": lambda: shown_at(redis_port),
                    "postgres": lambda: shown_at(server.port, "-starttls", "postgres"),
                }

                def is_served(name: str) -> bool:
                    return (here / f"{name}.crt").read_text().strip() in served[name]()

                for name in served:
                    wait_until(partial(is_served, name), 20, f"TLS of {name}; {redis_server.log}")
                said = run(clients)
                assert "Applied" in said
                assert said.count("speaks TLSv1.3; its certificate is valid until") == 2
                before = {name: (here / f"{name}.crt").read_text() for name in served}
                said = run(renew)
                assert said.count("speaks TLSv1.3; its certificate is valid until") == 2
                for name in served:
                    wait_until(partial(is_served, name), 20, f"the new certificate of {name}")
                    assert (here / f"{name}.crt").read_text() != before[name]
