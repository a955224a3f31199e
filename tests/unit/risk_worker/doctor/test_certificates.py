"""Until when a certificate is valid. With real ones: tests/system/test_tls.py."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from risk_producer.tls import Encryption
from risk_worker.doctor import certificates
from risk_worker.doctor.certificates import validity

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "level", "text"),
    [
        (timedelta(days=90), "ok", "valid until 2027-02-24 12:00 UTC, for 90 days"),
        (timedelta(days=14), "ok", "for 14 days"),
        (timedelta(days=13, hours=23), "warning", "for 13 days"),
        (timedelta(hours=5), "warning", "valid until 2026-11-26 17:00 UTC, for less than a day"),
    ],
)
def test_until_when(left: timedelta, level: str, text: str) -> None:
    found = validity(Encryption("h:1", "TLSv1.3", NOW + left), NOW)
    assert (found.level, bool(found.todo)) == (level, level == "warning")
    assert found.what.startswith("h:1 speaks TLSv1.3")
    assert text in found.what


def test_of_one_that_is_not_verified_it_is_not_known() -> None:
    found = validity(Encryption("h:1", "TLSv1.2", None), NOW)
    assert found.level == "ok"
    assert "is not known" in found.what


class TestWhyThatOfAPostgresIsNotAccepted:
    """libpq does not say why, so doctor looks by itself."""

    def test_each_host_is_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def handshake(options: Any, host: str, address: str, port: int) -> None:
            asked.append((host, address, port, options["sslmode"], options["sslrootcert"]))
            if host == "h1":
                raise ConnectionRefusedError
            error = ssl.SSLCertVerificationError(1, "certificate verify failed")
            error.verify_code, error.verify_message = 10, "certificate has expired"
            raise error

        monkeypatch.setattr(certificates, "_handshake", handshake)
        url = "postgresql://h1,h2/d?hostaddr=10.0.0.1,10.0.0.2&port=1,2&sslmode=verify-full&sslrootcert=/ca"
        assert "it has expired" in certificates.why_refused(url).what
        assert asked == [
            ("h1", "10.0.0.1", 1, "verify-full", "/ca"),
            ("h2", "10.0.0.2", 2, "verify-full", "/ca"),
        ]

    @pytest.mark.parametrize(
        ("authorities", "todo"), [("system", "SSL_CERT_FILE"), ("/ca", "openssl s_client")]
    )
    def test_python_accepts_it(self, authorities: str, todo: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(certificates, "_handshake", lambda *_: None)
        monkeypatch.setenv("PGSSLROOTCERT", authorities)
        assert todo in certificates.why_refused("postgresql://h/d?sslmode=verify-full").todo
