"""How many bytes a process exchanges with a server."""

from __future__ import annotations

import os
import socket
import struct
import sys

_TCP_INFO_BYTES = 192
_ACKED_AND_RECEIVED = struct.Struct("@120xQQ")
"""tcpi_bytes_acked and tcpi_bytes_received of Linux' struct tcp_info (4.1 and newer)."""


def exchanged(port: int | None) -> int:
    """Bytes of payload sent and received over this process's TCP connections to a port; 0 but on Linux."""
    if not sys.platform.startswith("linux"):
        return 0
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.getpeername()[1] != port:
                    continue
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except (OSError, IndexError, TypeError):
            continue  # no connection over TCP, or it was closed meanwhile
        total += sum(_ACKED_AND_RECEIVED.unpack_from(info))
    return total
