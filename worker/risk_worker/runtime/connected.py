"""What a worker is, and what it is connected to: the first line of its log, without a secret."""

from __future__ import annotations

import os
import socket
from importlib import metadata
from typing import Any

from risk_producer.settings import Settings, mask
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_worker import installation
from risk_worker.database import extension


def sentence(settings: Settings, stream: RedisClient, rq: RedisClient) -> str:
    """stream, rq: clients of the Redis with the streams, and of RQ's. Raises nothing where one does not
    answer."""
    redis_url, rq_url = settings.require_redis_url(), settings.require_rq_redis_url()
    database_url, keyspace = settings.require_database_url(), settings.keyspace
    parts = [
        f"riskstream {installation.version()}, process {os.getpid()} on {socket.gethostname()}, "
        f"with RQ {metadata.version('rq')}",
        f"streams in {mask(redis_url)} ({redis_version(stream)})",
        *([] if rq_url == redis_url else [f"RQ's jobs in {mask(rq_url)} ({redis_version(rq)})"]),
        f"stores in {mask(database_url)} ({extension.server_version(database_url)})",
        *([f"namespace {keyspace.namespace}"] if keyspace.namespace and not keyspace.is_several else []),
        *([f"namespaces {', '.join(keyspace.namespaces)}"] if keyspace.is_several else []),
    ]
    return "; ".join(parts)


def redis_version(client: RedisClient) -> str:
    """For a person: "Valkey 9.1.2", "Redis 7.0.15"; "version unknown" where it may not be asked."""
    try:
        info: Any = client.info("server")
    except REDIS_ERRORS:
        return "version unknown"
    if "redis_version" not in info:  # of a cluster: one for each node
        info = next((each for each in info.values() if isinstance(each, dict)), {})
    for name, field in (("Valkey", "valkey_version"), ("Redis", "redis_version")):
        if version := info.get(field):
            return f"{name} {version}"
    return "version unknown"
