"""What a system under chaos runs on: its servers, the ways to them, and what may happen to both."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self, TypeVar, cast

import redis

from risk_devkit.embedded import EmbeddedPostgres
from risk_producer.contract.keys import Keys
from tests.chaos.network import Link
from tests.chaos.schedule import PRODUCERS, Fault, Kind

Undo = Callable[[], object]
Role = Literal["worker", "producer", "operator"]
T = TypeVar("T")

CONFIRM_MS: Final = 2_000


def nothing() -> None:
    """Undoes what needs no undoing."""


class Begun(NamedTuple):
    """A fault that happens now."""

    undo: Undo = nothing
    partitions: frozenset[int] = frozenset()
    """Those that it concerns; empty: all."""


class Engine(ABC):
    """One Redis, several, or several hosts, and Postgres. It runs while a system does."""

    name: ClassVar[str]
    kinds: ClassVar[Sequence[Kind]]
    """All that may happen, with the faults of workers, producers and Postgres."""
    in_turn: ClassVar[bool] = False
    """One fault at a time."""
    producers: ClassVar[Sequence[str]] = PRODUCERS
    links: ClassVar[Sequence[str]] = ("worker-postgres",)
    """Ways that can be cut."""
    partitions: ClassVar[int] = 2
    replicas: ClassVar[int] = 0
    """RISK_REPLICAS of the producers. What they accepted is never lost then, whatever is killed."""

    def __init__(self, *, linked: bool = True) -> None:
        """linked: by ways that can be cut; otherwise the servers are reached directly."""
        self._linked = linked
        self._links: dict[str, Link] = {}
        self.postgres: EmbeddedPostgres

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[Self]:
        """Start everything; nothing is left afterwards."""
        with ExitStack() as stack:
            self._start(folder, stack)
            if self._linked:
                for name in self.links:
                    self._links[name] = stack.enter_context(Link(partial(self._behind, name)))
            yield self

    def _start(self, folder: Path, stack: ExitStack) -> None:
        """The servers; here Postgres alone."""
        self.postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", database="risk"))

    @property
    @abstractmethod
    def targets(self) -> set[str]:
        """What this engine hits by itself, links included."""

    def begin(self, fault: Fault) -> Begun:
        """Let it happen to one of `targets`."""
        if fault.target in self.links:
            return Begun(self._hit_link(fault))
        return self._hit(fault)

    @abstractmethod
    def _hit(self, fault: Fault) -> Begun:
        """A fault of the engine's own."""

    def environment(self, role: Role) -> dict[str, str]:
        """Where the servers are, as the settings of riskstream say it."""
        found = self._redis(role)
        if role != "producer":
            url = self.postgres.url
            if role == "worker":
                port = self.postgres.port
                url = url.replace(f":{port}/", f":{self._way('worker-postgres', port)}/")
            found["POSTGRES_URL"] = url
        elif self.replicas:
            found["RISK_REPLICAS"] = str(self.replicas)
        return found

    @abstractmethod
    def _redis(self, role: Role) -> dict[str, str]:
        """REDIS_URL, and RQ_REDIS_URL where it is another one."""

    def host_of(self, process: str) -> AbstractContextManager[object]:
        """A process of this name is started within it."""
        return contextlib.nullcontext()

    @abstractmethod
    def server_of(self, key: str) -> str:
        """The URL of the server that has a key of the stream now."""

    @contextlib.contextmanager
    def client(self, key: str = Keys(0).snapshots) -> Iterator[redis.Redis]:
        """A client of the server that has a key of the stream, directly."""
        with redis.Redis.from_url(self.server_of(key), socket_timeout=2) as client:
            yield client

    def rq(self) -> AbstractContextManager[redis.Redis]:
        """A client of the server that has RQ's keys, directly."""
        return self.client()

    def confirmed(self, client: redis.Redis) -> bool:
        """Whether what this client has just written survives its server, as a producer would know."""
        return not self.replicas or client.wait(self.replicas, CONFIRM_MS) >= self.replicas

    def _way(self, link: str, port: int) -> int:
        return self._links[link].port if link in self._links else port

    def _behind(self, link: str) -> int:
        """The port that a link leads to."""
        return self.postgres.port

    def _hit_link(self, fault: Fault) -> Undo:
        link = self._links[fault.target]
        if fault.kind in ("cut", "half-close"):
            link.cut() if fault.kind == "cut" else link.half_close()
            return nothing
        link.mode = cast(Any, fault.kind)

        def undo() -> None:
            link.mode = "pass"
            if fault.kind == "lose answers":
                link.cut()

        return undo


def chosen(fault: Fault, among: Iterable[T]) -> T:
    """The one that the fault's number says."""
    each = list(among)
    return each[fault.number % len(each)]
