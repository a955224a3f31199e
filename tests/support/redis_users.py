"""A server of Redis that has the users of ops/redis/users.acl, and what each of them has done on it."""

from __future__ import annotations

import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from risk_worker.stream import permissions

FOLDER: Final = Path(__file__).parents[2] / "ops" / "redis"
FILE: Final = FOLDER / "users.acl"
NAMES: Final = tuple(re.findall(r"^user (\S+) on ", FILE.read_text(), re.M))
"""All that have a password, `admin` included."""
ROLES: Final = tuple(permissions.roles())
NOT_ASKED_FOR: Final = frozenset({"auth", "hello", "quit", "reset"})
"""Commands that each connection may use."""
TRIED: Final = ("client|setinfo", "config|get", "memory|usage")
"""What programs ask for and do without."""
CONTAINERS: Final = frozenset({"client", "config", "memory", "script"})
"""Commands whose second word is a part of their name."""


def filled(folder: Path, namespace: str = "", *, names: Sequence[str] = NAMES) -> str:
    """The file as ops/redis/make-users prints it, and with a namespace its users; `trader` has `trader's`."""
    for name in names:
        file = "redis_password" if name == "admin" else f"redis_{name.replace('-', '_')}_password"
        (folder / file).write_text(f"{name}'s")
    desk = [namespace, f"{namespace}-"] if namespace else []
    command: list[str | Path] = [FOLDER / "make-users", folder, *desk]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class Users:
    """Users of a server that has the file. Replies are bytes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.admin = self.client("admin", single_connection_client=True)

    def url(self, name: str, password: str | None = None) -> str:
        """Of the server, as one of the users; namespace-name with the namespace."""
        secret = f"{name.rpartition('desk1-')[2].rpartition('desk2-')[2]}'s" if password is None else password
        return self._url.replace("://", f"://{name}:{secret.replace(chr(39), '%27')}@")

    def client(self, name: str, **options: Any) -> Any:
        return redis.Redis.from_url(self.url(name), driver_info=None, **options)

    def may(self, name: str, *words: Any) -> bool:
        """As ACL DRYRUN answers."""
        return bool(self.dryrun(name, *words) == b"OK")

    def dryrun(self, name: str, *words: Any) -> bytes:
        answer: bytes = self.admin.execute_command("ACL", "DRYRUN", name, *words)
        return answer

    def refused(self, *, but: Sequence[str] = TRIED) -> list[tuple[str, str, str]]:
        """(user, command or key, reason) of what was refused since the last call."""
        found = [
            (each["username"], each["object"], each["reason"])
            for each in self.admin.acl_log()
            if each["object"] not in but
        ]
        self.admin.execute_command("ACL", "LOG", "RESET")
        return found

    def commands(self) -> dict[str, tuple[int, set[str]]]:
        """name, as `script|load` -> (arity, flags) of each command that the server has."""
        self.admin.set_response_callback("COMMAND", lambda reply, **_options: reply)
        found: dict[str, tuple[int, set[str]]] = {}
        for command in self.admin.execute_command("COMMAND"):
            for name, arity, flags, *_ in command[9] or [command]:
                found[name.decode()] = (arity, {_text(flag) for flag in flags})
        return found

    def close(self) -> None:
        self.admin.close()


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)


class Used:
    """What was run on a server while this was on, by scripts too, but for what `users.admin` ran."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._lines: list[list[str]] = []

    def __enter__(self) -> Self:
        self._admin = self._users.admin.client_info()["addr"]
        self._client = self._users.client("admin", socket_timeout=None)
        self._monitor = self._client.monitor().__enter__()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def _listen(self) -> None:
        for line in self._monitor.listen():
            words = line["command"].split(" ")
            if words == ["PING", "over"]:
                return
            if f"{line['client_address']}:{line['client_port']}" != self._admin:
                self._lines.append(words)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users.admin.execute_command("PING", "over")
        self._thread.join(30)
        self._monitor.__exit__(kind, error, trace)
        self._client.close()

    @property
    def on(self) -> Mapping[str, set[str]]:
        """Command, as `script|load` -> the names that it was used on, with `*` for what differs."""
        found: dict[str, set[str]] = defaultdict(set)
        for command, *words in self._lines:
            name = command.lower()
            if name in CONTAINERS:
                name = f"{name}|{words[0].lower()}"
            found[name] |= {
                re.sub(r"\d+", "*", word) for word in words if re.match(r"(\w+:)?(risk|rq):", word)
            }
        return found
