"""Whom the dashboard answers, and under which names: checked before anything else of a request."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from risk_producer.errors import ConfigurationError
from risk_producer.settings import declare

# rq-dashboard's own names for them.
USERNAME: Final = "RQ_DASHBOARD_USERNAME"
PASSWORD: Final = "RQ_DASHBOARD_PASSWORD"  # noqa: S105  # the name of a variable

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_NAME: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+")
_HOST: Final = re.compile(rf"({_NAME.pattern})(?::([0-9]{{0,5}}))?")
_USUAL_PORTS: Final = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what."""

    names: frozenset[str] = _LOCAL
    """Hosts under which it is served, as canonical() writes them."""
    any_address: bool = False
    """It listens on every address, and is served under each: an address cannot be made to lead elsewhere,
    as a name can."""
    login: tuple[str, str] | None = None
    """The user and password to ask for."""
    allows_actions: bool = False

    def serves(self, host: str) -> bool:
        """host: as a request names it, with or without a port."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = canonical(found[1])
        return name in self.names or (self.any_address and _address(name) is not None)

    def knows(self, user: str | None, password: str | None) -> bool:
        """Whether this is the login. It takes as long whatever is wrong."""
        if self.login is None:
            return True
        is_user = _is_equal(self.login[0], user or "")
        is_password = _is_equal(self.login[1], password or "")
        return is_user and is_password


def access(
    host: str, allowed_hosts: Sequence[str], environ: Mapping[str, str], *, allow_actions: bool = False
) -> Access:
    """host: that the dashboard listens on; allowed_hosts: other names of it. Raises ConfigurationError."""
    for each in allowed_hosts:
        if not _NAME.fullmatch(each) and _address(each) is None:
            raise ConfigurationError(
                f"--allow-host {each!r} is no host: give its name alone, like dashboard.example.com, without "
                "scheme and port"
            )
    login = _login(environ)
    if allow_actions and login is None:
        raise ConfigurationError(
            f"--allow-actions needs a login: set {USERNAME} and {PASSWORD}, which the dashboard then asks for"
        )
    listens_on = canonical(host)
    address = _address(listens_on)
    names = _LOCAL | {listens_on, *map(canonical, allowed_hosts)}
    return Access(names, address is not None and address.is_unspecified, login, allow_actions)


def canonical(host: str) -> str:
    """A host as it is compared: of all ways to write it, one."""
    name = host.strip("[]").lower().removesuffix(".")
    address = _address(name)
    if address is None:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def is_own(origin: str, host: str) -> bool:
    """Whether a request comes from a page of the host that it is for. origin, host: as a browser sends them.

    The scheme is not compared: TLS may end in a proxy before us.
    """
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    usual, here, there = _USUAL_PORTS.get(parts.scheme), _HOST.fullmatch(host), _HOST.fullmatch(parts.netloc)
    if usual is None or here is None or there is None:
        return False
    ours, theirs = ((canonical(each[1]), each[2] or usual) for each in (here, there))
    return ours == theirs


def is_loopback(host: str) -> bool:
    """Whether other machines do not reach this address."""
    address = _address(canonical(host))
    return host == "localhost" if address is None else address.is_loopback


def _login(environ: Mapping[str, str]) -> tuple[str, str] | None:
    user, password = environ.get(USERNAME, ""), declare.secret(environ, PASSWORD)
    if bool(user) != bool(password):
        missing = PASSWORD if user else USERNAME
        raise ConfigurationError(f"{missing} is not set; {USERNAME} and {PASSWORD} go together")
    if ":" in user:  # a browser sends user:password
        raise ConfigurationError(f"{USERNAME} cannot contain a colon")
    return (user, password) if user else None


def _is_equal(one: str, other: str) -> bool:
    return hmac.compare_digest(*(each.encode(errors="surrogateescape") for each in (one, other)))


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
