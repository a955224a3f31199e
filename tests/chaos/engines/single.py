"""One Redis, with links to it and to Postgres."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from risk_devkit.embedded import EmbeddedValkey
from tests.chaos.engine import Begun, Engine, Role
from tests.chaos.schedule import KINDS, LINKS, Fault


class Single(Engine):
    """appendfsync: of Redis; what it has confirmed survives a kill -9 with any."""

    name = "single"
    kinds = KINDS
    links: ClassVar = LINKS

    def __init__(self, *, appendfsync: str = "always", linked: bool = True) -> None:
        super().__init__(linked=linked)
        self._appendfsync = appendfsync

    def _start(self, folder: Path, stack: ExitStack) -> None:
        self.redis = stack.enter_context(EmbeddedValkey(folder / "valkey", appendfsync=self._appendfsync))
        super()._start(folder, stack)

    @property
    def targets(self) -> set[str]:
        return {"redis", *self.links}

    def _redis(self, role: Role) -> dict[str, str]:
        return {"REDIS_URL": f"redis://127.0.0.1:{self._way(f'{role}-redis', self.redis.port)}/0"}

    def server_of(self, key: str) -> str:
        return self.redis.url

    def _behind(self, link: str) -> int:
        return self.redis.port if link.endswith("redis") else self.postgres.port

    def _hit(self, fault: Fault) -> Begun:
        if fault.kind in ("kill -9", "restart"):
            self.redis.kill() if fault.kind == "kill -9" else self.redis.stop()
            return Begun(self.redis.start)
        if fault.kind == "freeze":
            self.redis.pause()
            return Begun(self.redis.resume)
        if fault.kind == "READONLY":
            with self.client() as client:
                client.replicaof("127.0.0.1", "1")  # where nothing listens: its data stays

            def promote() -> None:
                with self.client() as client:
                    client.replicaof("NO", "ONE")

            return Begun(promote)
        with self.client() as client:
            used: int = client.info("memory")["used_memory"]
            client.config_set("maxmemory", 1 if fault.kind == "out of memory" else used + 2**16)

        def undo() -> None:
            with self.client() as client:
                client.config_set("maxmemory", 0)

        return Begun(undo)
