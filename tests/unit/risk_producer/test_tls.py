"""What is wrong with TLS, in words. With real certificates and servers: tests/system/test_tls.py."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import redis

from risk_producer import RiskProducer, tls
from risk_producer.load import postgres
from risk_producer.transport.connect import CertificateRefused, redis_client
from risk_worker.stream.server import why_refused
from tests.support.factory import snapshot
from tests.support.wait import wait_until
from tests.unit.risk_producer.transport.test_connect import server_that_says

BEGINS = r"[a-z]+ "  # a sentence that begins with it begins with a capital letter, which no option has
CODES = {
    10: ("certificate has expired", "it has expired", "give the server a new one"),
    9: ("certificate is not yet valid", "it is not valid yet", "the clocks"),
    18: ("self-signed certificate", "no authority that is known here has signed it", "ssl_ca_certs=FILE"),
    19: ("self-signed certificate in certificate chain", "no authority that is known here", "ssl_ca_certs="),
    20: ("unable to get local issuer certificate", "no authority that is known here", "ssl_ca_certs=FILE"),
    62: ("Hostname mismatch, certificate is not valid for 'h'.", "another name", "subjectAltName=DNS:h"),
    64: ("IP address mismatch, certificate is not valid for 'h'.", "another name", "subjectAltName=IP:h"),
    23: ("certificate revoked", "certificate verify failed: certificate revoked", "openssl x509"),
}


def refusal(code: int) -> ssl.SSLCertVerificationError:
    """As ssl raises it."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_code, error.verify_message = code, CODES[code][0]
    return error


@pytest.mark.parametrize("code", CODES)
def test_why_the_certificate_of_a_server_is_not_accepted(code: int) -> None:
    says, what, todo = CODES[code]
    problem = tls.of_server(refusal(code), "h", tls.REDIS)
    assert re.match(BEGINS, problem.todo)
    assert what in problem.what
    assert f"certificate verify failed: {says.rstrip('.')}" in problem.what
    assert todo in problem.todo


ALERTS = {
    "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required (_ssl.c:2580)": "it asks for",
    "SSL error: tlsv13 alert certificate required": "it asks for a certificate",
    "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:1006)": "does not know the authority",
    "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired": "client has expired",
    "SSL error: ssl/tls alert certificate expired": "client has expired",
    "[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate": "it refuses",
    "SSL error: ssl/tls alert certificate revoked": "it refuses",
    "[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure": "nothing that both sides can do",
    "[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version": "no version of TLS in common",
}


@pytest.mark.parametrize("says", ALERTS)
def test_why_a_server_does_not_accept_this_client(says: str) -> None:
    problem = tls.of_client(says, tls.REDIS)
    assert problem is not None
    assert ALERTS[says] in problem.what
    assert re.match(BEGINS, problem.todo)
    assert "{" not in problem.todo


@pytest.mark.parametrize("says", ["Connection reset by peer", "", "bad certificate", "alert in the night"])
def test_other_errors_are_no_alert(says: str) -> None:
    assert tls.of_client(says, tls.REDIS) is None


class TestFiles:
    def test_that_are_as_they_should_be_or_not_named(self) -> None:
        assert tls.context(tls.REDIS).verify_mode is ssl.CERT_REQUIRED

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("missing", "cannot be read: No such file or directory"),
            ("folder", "cannot be read: Is a directory"),
            ("empty", "holds no certificate"),
            ("text", "holds no certificate"),
            ("broken", "holds no certificate"),
        ],
    )
    def test_of_authorities(self, name: str, why: str, files: Path) -> None:
        with pytest.raises(tls.FilesUnusable, match=f"{files / name}.*{why}"):
            tls.context(tls.REDIS, authorities=str(files / name))

    @pytest.mark.parametrize(
        ("certificate", "key", "why"),
        [
            ("missing", "key", "/missing that sslcert names cannot be read: No such file"),
            ("certificate", "missing", "/missing that sslkey names cannot be read: No such file"),
            ("folder", "key", "/folder that sslcert names cannot be read: Is a directory"),
            ("empty", "key", "/empty holds no certificate"),
            ("certificate", "text", "/text holds no private key"),
            ("certificate", None, "/certificate holds no private key"),
            (None, "key", "sslkey is given without sslcert"),
            ("certificate", "encrypted", "/encrypted is encrypted, and sslpassword is not given"),
            ("certificate", "key", "cannot be used with its key"),
        ],
    )
    def test_of_the_client(self, certificate: str | None, key: str | None, why: str, files: Path) -> None:
        with pytest.raises(tls.FilesUnusable, match=why):
            tls.context(
                tls.POSTGRES,
                certificate=None if certificate is None else str(files / certificate),
                key=None if key is None else str(files / key),
            )

    def test_that_do_not_fit(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def mismatch(*_: Any, **__: Any) -> None:
            error = ssl.SSLError(116, "[X509: KEY_VALUES_MISMATCH] key values mismatch")
            error.reason = "KEY_VALUES_MISMATCH"
            raise error

        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", mismatch)
        with pytest.raises(tls.FilesUnusable, match=r"not the one of the certificate.* place together"):
            tls.context(tls.REDIS, certificate=str(files / "certificate"), key=str(files / "key"))

    def test_a_wrong_passphrase_is_not_shown(self, files: Path) -> None:
        for passphrase in ("geheim", "geheim" * 500):
            with pytest.raises(tls.FilesUnusable, match="ssl_password is not its passphrase") as raised:
                tls.context(
                    tls.REDIS,
                    certificate=str(files / "certificate"),
                    key=str(files / "encrypted"),
                    passphrase=passphrase,
                )
            assert "geheim" not in str(raised.value)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files that look like what their names say, and are not."""
    (tmp_path / "folder").mkdir()
    for name, text in {
        "empty": "",
        "text": "hello\r\n",
        "broken": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "encrypted": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


class TestRedis:
    """What the maker's connections make of it, from the error as ssl raises it to the sentences."""

    @pytest.mark.parametrize("code", CODES)
    def test_the_servers_certificate(self, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrap(*_: Any, **__: Any) -> None:
            raise refusal(code)

        monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
        with (
            server_that_says(b"") as url,
            redis_client(url.replace("redis:", "rediss:"), answer_timeout_s=5, connect_timeout_s=5) as client,
        ):
            with pytest.raises(CertificateRefused) as raised:
                client.ping()
            [place] = [url.removeprefix("redis://").removesuffix("/0")]
            assert str(raised.value).startswith(f"the certificate of Redis at {place} is not accepted: ")
            sentence = why_refused(raised.value, place)
            assert sentence.startswith(f"The certificate of Redis at {place} is not accepted: ")
            todo = tls.of_server(refusal(code), "127.0.0.1", tls.REDIS).todo
            assert sentence.endswith(f"). {todo[0].upper()}{todo[1:]}") or code == 23

    def test_a_producer_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrap(*_: Any, **__: Any) -> None:
            raise refusal(10)

        monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
        with server_that_says(b"") as url, RiskProducer(url.replace("redis:", "rediss:")) as producer:
            assert producer.save(snapshot("a", 1.0))
            wait_until(lambda: "certificate has expired" in str(producer.health().reason))
            assert "give the server a new one" in str(producer.health().reason)
            assert producer.health().buffered == 1
            producer.close(0)

    def test_a_file_is_missing(self, files: Path) -> None:
        with server_that_says(b"") as url:
            tls_url = f"{url.replace('redis:', 'rediss:')}?ssl_ca_certs={files / 'missing'}"
            with (
                redis_client(tls_url, answer_timeout_s=5, connect_timeout_s=5) as client,
                pytest.raises(
                    redis.ConnectionError, match=r"cannot be begun: the file .*/missing that ssl_ca"
                ),
            ):
                client.ping()


LIBPQ = {
    'connection to server at "h" failed: SSL error: certificate verify failed': "not valid now, or no",
    'failed: server certificate for "a" (and 2 other names) does not match host name "b"': "another name",
    'failed: root certificate file "/x" does not exist\nEither provide the': "authorities cannot be used",
    'failed: could not read root certificate file "/x": no certificate or crl': "authorities cannot be",
    'failed: could not load private key file "/k": bad decrypt': "the key of this client",
    'failed: private key file "/k" has group or world access; file must have permissions': "0600",
    'failed: certificate does not match private key file "/k": key values mismatch': "the key of this client",
    'failed: could not read certificate file "/c": No such file or directory': "of this client cannot be",
    'failed: certificate present, but not private key file "/k"': "the key of this client",
    "failed: server does not support SSL, but SSL was required": "the server has no TLS",
    "failed: received invalid response to SSL negotiation: -": "not Postgres",
    "failed: SSL error: tlsv13 alert certificate required": "does not accept this client: it asks",
    "failed: SSL error: tlsv1 alert unknown ca": "does not accept this client: it does not know",
    "failed: FATAL:  connection requires a valid client certificate": "it asks for a certificate",
    'failed: FATAL:  no pg_hba.conf entry for host "h", user "u", database "d", no encryption': "TLS only",
    "failed: FATAL:  SSL required": "with TLS only",
    'weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")': "verify-full alone",
}


@pytest.mark.parametrize("says", LIBPQ)
def test_what_libpq_says(says: str) -> None:
    found = tls.of_libpq(f"connection failed: {says}")
    assert found is not None
    line, problem = found
    assert line == f"connection failed: {says}".splitlines()[0]
    assert LIBPQ[says] in str(problem)
    assert re.match(BEGINS, problem.todo)
    assert "{" not in str(problem)


@pytest.mark.parametrize(
    "says",
    [
        "connection failed: Connection refused",
        'FATAL:  password authentication failed for user "alert unknown"',
        "SSL SYSCALL error: EOF detected",
        "server closed the connection unexpectedly",
        'failed: FATAL:  no pg_hba.conf entry for host "h", user "u", database "d", SSL encryption\n'
        'failed: FATAL:  no pg_hba.conf entry for host "h", user "u", database "d", no encryption',
        "",
    ],
)
def test_what_is_not_about_tls(says: str) -> None:
    assert tls.of_libpq(says) is None


def test_load_says_what_to_do_about_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    psycopg = pytest.importorskip("psycopg")

    def connect(**_: Any) -> None:
        raise psycopg.OperationalError("connection failed: SSL error: certificate verify failed")

    monkeypatch.setattr(psycopg, "connect", connect)
    with pytest.raises(
        postgres.PostgresUnavailable, match=r"verify failed \(the certificate .* riskstream doctor"
    ):
        postgres.fetch("postgresql://h/d", "a")
