"""A producer's connection to Redis: made when it is first needed, and checked when the producer is made."""

from __future__ import annotations

import contextlib
import encodings.idna
import importlib.readers
import secrets
import socket
import ssl
from inspect import iscoroutinefunction
from typing import Any

from risk_producer.errors import ConfigurationError
from risk_producer.settings.address import redis_address
from risk_producer.transport.connect import REDIS_ERRORS
from risk_producer.transport.requests import TraderStream

_FIRST_USE = (encodings.idna, importlib.readers, secrets, socket, ssl)
"""What the first call would import: a fork in the middle of an import leaves the child a module half made."""


class Transport:
    """One TraderStream for the flusher and for load(). Thread-safe."""

    def __init__(self, url: str | None, client: Any = None, replicas: int = 0) -> None:
        """replicas: see TraderStream. Raises ConfigurationError for what cannot work. Connects to nothing."""
        self._url = url
        self._client = client
        self._replicas = replicas
        if url is not None:
            _rehearse(url)
        elif client is not None:
            _check_client(client, replicas)

    def connected(self) -> TraderStream:
        """The stream. It connects when it is first asked something."""
        stream: TraderStream | None = self.__dict__.get("_stream")
        if stream is None:
            if self._url is not None:
                made = TraderStream.connect(self._url, self._replicas)
            else:
                made = TraderStream(self._client, self._replicas)
            stream = self.__dict__.setdefault("_stream", made)
        return stream

    def close(self) -> None:
        """Close the connections, unless the client is the trader's own."""
        stream = self.__dict__.pop("_stream", None)
        if stream is not None and self._client is None:
            with contextlib.suppress(Exception):
                stream.close()

    def child(self) -> Transport:
        """After a fork, in the child: connections of its own."""
        return Transport(self._url, self._client, self._replicas)


def _rehearse(url: str) -> None:
    """All that is done before a connection is made: what is wrong with the URL shows, and is imported."""
    redis_address(url, "redis_url")
    stream = TraderStream.connect(url)
    try:
        stream.rehearse()
    except (TypeError, ValueError, *REDIS_ERRORS) as error:
        raise ConfigurationError(f"the URL of Redis cannot be used: {type(error).__name__}") from None
    finally:
        stream.close()


def _check_client(client: Any, replicas: int) -> None:
    """Refuse a client whose calls do not return answers, or that cannot wait for replicas."""
    if replicas and any(kind.__module__ == "redis.cluster" for kind in type(client).__mro__):
        raise ConfigurationError(
            f"replicas is {replicas}, and client is a {type(client).__name__}: to wait for replicas, a "
            "script and WAIT have to go over one connection, which a client of a cluster does not offer; "
            "give the URL redis+cluster:// instead, leave replicas out, or give a redis.Redis"
        )
    of_asyncio = any(kind.__module__.startswith("redis.asyncio") for kind in type(client).__mro__)
    if of_asyncio or iscoroutinefunction(getattr(client, "execute_command", None)):
        raise ConfigurationError(
            f"client expects a redis.Redis, got {type(client).__module__}.{type(client).__qualname__}, whose "
            "calls have to be awaited; give the URL instead, or a redis.Redis of your own, in asyncio too: "
            "a thread of the producer's own talks to Redis"
        )
