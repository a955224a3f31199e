"""The sockets of a host and a port: IPv4, IPv6, or both."""

from __future__ import annotations

import errno
import socket
from typing import Final

from risk_producer.errors import ConfigurationError

BACKLOG: Final = 1024
"""Clients that the kernel holds until they are accepted; the kernel's own limit may be smaller."""
SEND_BUFFER: Final = 128 << 10
"""Bytes of an answer that the kernel takes from us for a client that does not read; it doubles them."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host: a name, 127.0.0.1, [::1] or ::1; :: is every address, of IPv4 too.

    Port 0 takes a free one, the same for all of them. Raises ConfigurationError.
    """
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not name:
        raise ConfigurationError("cannot listen: no host is named; 0.0.0.0 or :: is every address")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise ConfigurationError(f"cannot listen on {place(host, port)}: {why}") from None
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, address in addresses:
        chosen = port or (sockets[0].getsockname()[1] if sockets else 0)
        try:
            sockets.append(_bound(family, (address[0], chosen, *address[2:])))
        except OSError as error:
            problem = error
            if error.errno == errno.EADDRINUSE:
                break  # a name with two addresses, and another program answers on one of them
    # The name of this machine may have an address that it does not have itself: of IPv6, mostly.
    if problem is not None and (not sockets or problem.errno == errno.EADDRINUSE):
        for each in sockets:
            each.close()
        taken = "; --port chooses another one" if problem.errno == errno.EADDRINUSE else ""
        raise ConfigurationError(f"cannot listen on {place(host, port)}: {problem.strerror}{taken}")
    return sockets


def _bound(family: int, address: tuple[str | int, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def place(host: str, port: int) -> str:
    """host:port, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
