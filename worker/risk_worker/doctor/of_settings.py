"""The settings: which are set, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings, misspelt
from risk_worker.doctor.check import Check, Finding, Link, failure, ok, warning


def link(environ: Mapping[str, str]) -> Link:
    """What is checked without any server."""
    return Link(
        "settings",
        [
            Check("readable", lambda: readable(environ)),
            Check("spelling", lambda: spelling(environ)),
            Check("together", lambda: together(environ)),
        ],
    )


def readable(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each that is set, secrets masked, and where it comes from."""
    try:
        settings = Settings.load(environ)
        origins = Settings.origins(environ)
    except ConfigurationError as error:
        yield failure(str(error), "Correct it")
        return
    shown = settings.shown()
    for variable, origin in origins.items():
        yield ok(f"{variable}={shown[variable]} from {origin}")
    for variable, required in (
        ("REDIS_URL", settings.redis_url),
        ("POSTGRES_URL", settings.database_url),
    ):
        if required is None:
            yield warning(f"{variable} is not set", "Set it where workers run; traders need REDIS_URL alone")


def spelling(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that are nearly a setting."""
    for variable, meant in misspelt(environ).items():
        yield warning(f"{variable} is no setting", f"Do you mean {meant}?")


def together(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Settings that make no sense together."""
    for role in ("trader", "worker"):
        try:
            Settings.load(environ, role=role)
        except ConfigurationError as error:
            yield failure(f"a {role} would not start: {error}", "Correct one of the two")
