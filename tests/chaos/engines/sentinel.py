"""Three servers and three Sentinels, for the stream and RQ."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from risk_devkit.embedded import EmbeddedServer, EmbeddedServerError
from risk_devkit.groups import ValkeySentinels
from tests.chaos.engine import Begun, Engine, Role, chosen
from tests.chaos.schedule import COMMON, Fault, Kind, of_links
from tests.support.wait import wait_until

TARGET = "sentinel"
DOWN_AFTER_MS = 1_000
WHOLE_S = 8.0
"""As of a cluster; a master that comes back becomes a replica 10 s later at the latest."""


class Sentinel(Engine):
    """What a replica has confirmed is never lost: RISK_REPLICAS=1, and nothing is hit before both replicas
    have caught up again."""

    name = "sentinel"
    partitions = 4
    replicas = 1
    kinds = (
        *COMMON,
        *of_links(("worker-postgres",)),
        Kind("kill the master", (TARGET,), 0, 10, 10),
        Kind("freeze the master", (TARGET,), 2, 10, 6),
        Kind("freeze the master for a moment", (TARGET,), 0.1, 0.8, 4),
        Kind("kill a replica", (TARGET,), 0, 4, 3),
        Kind("kill a Sentinel", (TARGET,), 0, 8, 4),
    )

    def _start(self, folder: Path, stack: ExitStack) -> None:
        self.group = stack.enter_context(ValkeySentinels(folder / "sentinel", down_after_ms=DOWN_AFTER_MS))
        super()._start(folder, stack)

    @property
    def targets(self) -> set[str]:
        return {TARGET, *self.links}

    def _redis(self, role: Role) -> dict[str, str]:
        return {"REDIS_URL": self.group.url}

    def server_of(self, key: str) -> str:
        return self.group.master().url

    def _hit(self, fault: Fault) -> Begun:
        try:
            wait_until(self.group.is_whole, WHOLE_S / 4, "the servers and their Sentinels")
        except AssertionError as error:
            raise EmbeddedServerError(str(error)) from None
        server: EmbeddedServer = self.group.master()
        if fault.kind == "kill a replica":
            server = chosen(fault, [each for each in self.group.valkeys if each is not server])
        elif fault.kind == "kill a Sentinel":
            server = chosen(fault, self.group.sentinels)
        if fault.kind.startswith("kill"):
            server.kill()
            return Begun(server.start)
        server.pause()
        return Begun(server.resume)
