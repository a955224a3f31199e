"""The users of ops/redis/users.acl: each may do what is listed, and every step beyond it is refused."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from risk_devkit.embedded import EmbeddedServerError, EmbeddedValkey
from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_worker.stream import permissions
from tests.conftest import MakeValkey
from tests.support.redis_users import FILE, NAMES, NOT_ASKED_FOR, ROLES, Users, filled

PAGE: Final = Path(__file__).parents[3] / "docs" / "operate" / "redis-users.md"
NAMESPACE: Final = "desk1"
OTHERS: Final = ("desk2:", "")
"""Other deployments' keys begin with it, on the same server."""
KEYS: Final = Keys(0, NAMESPACE)
KEYSPACE: Final = Keyspace(NAMESPACE)
MEMBERS: Final = [name for name, of in vars(Keys).items() if isinstance(of, property)]


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory, servers_folder: Path) -> Iterator[Users]:
    """A server with the users of two desks, and of a deployment without a namespace."""
    folder = tmp_path_factory.mktemp("passwords")
    file = folder / "users.acl"
    file.write_text("".join(filled(folder, each) for each in ("", "desk1", "desk2")))
    config = {"aclfile": str(file), "enable-debug-command": "yes", "enable-module-command": "yes"}
    with EmbeddedValkey(servers_folder / "users", appendfsync="no", config=config) as server:
        made = Users(server.url)
        yield made
        made.close()


def desk(role: str) -> str:
    return f"{NAMESPACE}-{role}"


def rules(role: str) -> tuple[permissions.Rule, ...]:
    return permissions.roles()[role]


def commands_of(role: str) -> set[str]:
    return {command for rule in rules(role) for command in rule.commands}


def words_for(name: str, arity: int) -> list[str]:
    """A command line of the right length, whatever it would do."""
    parts = name.upper().split("|")
    return [*parts, *["1"] * (abs(arity) - len(parts))]


def test_the_file_as_it_is_starts_no_server(make_valkey: MakeValkey) -> None:
    """Until a password is put in for each user."""
    with pytest.raises(EmbeddedServerError, match="password hash must be exactly 64 characters"):
        make_valkey(aclfile=str(FILE))


def test_a_folder_without_passwords_makes_no_file(tmp_path: Path) -> None:
    for words in ([], [tmp_path], [tmp_path / "nowhere"]):
        done = subprocess.run(
            [FILE.parent / "make-users", *words], check=False, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "usage: make-users FOLDER" in done.stderr


def test_a_user_without_a_password_is_left_out(tmp_path: Path) -> None:
    lines = filled(tmp_path, names=["admin", "trader"]).splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["user", "default", "off"],
        ["user", "admin", "on"],
        ["user", "trader", "on"],
    ]
    assert "PASSWORD" not in "".join(lines)
    with pytest.raises(subprocess.CalledProcessError):
        filled(tmp_path, "desk 1")


def test_users_of_several_namespaces(tmp_path: Path, users: Users) -> None:
    """Keys of streams begin with one of them, and those of RQ with all in braces."""
    filled(tmp_path)
    command: list[str | Path] = [FILE.parent / "make-users", tmp_path, "desk2,desk1,desk2", "all-"]
    lines = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.splitlines()
    assert [line.split()[1] for line in lines] == [f"all-{role}" for role in ROLES]
    for line in lines:
        users.admin.execute_command("ACL", "SETUSER", *line.split()[1:])
    for namespace in ("desk1", "desk2"):
        assert users.may("all-worker", "XTRIM", Keys(0, namespace).snapshots, "MAXLEN", 0)
        assert not users.may("all-exporter", "XTRIM", Keys(0, namespace).snapshots, "MAXLEN", 0)
        assert not users.may("all-worker", "HGETALL", f"{namespace}:rq:job:drain-0")
    assert users.may("all-worker", "HGETALL", "{desk1:desk2}:rq:job:drain-0")
    assert users.may("all-worker", "SET", "{desk1:desk2}:risk:database", "x")
    assert users.may("all-worker", "SUBSCRIBE", "{desk1:desk2}:rq:pubsub:w")
    assert not users.may("all-worker", "XREAD", "STREAMS", "risk:{0}:snapshots", 0)
    for line in lines:
        users.admin.execute_command("ACL", "DELUSER", line.split()[1])


def test_without_a_password_nothing_is_answered(users: Users) -> None:
    server = users.admin.connection_pool.connection_kwargs
    once = Retry(NoBackoff(), 0)
    place = {"host": server["host"], "port": server["port"], "driver_info": None, "retry": once}
    asked = 0
    with redis.Redis(**place, protocol=2, single_connection_client=True) as stranger:
        for name, (arity, flags) in users.commands().items():
            if "no_auth" in flags:
                continue
            with pytest.raises(redis.RedisError, match="Authentication required"):
                stranger.execute_command(*words_for(name, arity))
            asked += 1
    assert asked > 300
    for name in (*NAMES, "default"):
        for password in ("", "PASSWORD_OF_" + name, name, "*"):
            with (
                pytest.raises(redis.AuthenticationError),
                redis.Redis(**place, username=name, password=password) as guess,
            ):
                guess.ping()


@pytest.mark.parametrize("role", ROLES)
def test_a_user_may_do_what_is_listed_and_nothing_else(users: Users, role: str) -> None:
    """Every command that the server has, and every kind of key: its own, other deployments', others."""
    user, listed, known = desk(role), commands_of(role), users.commands()
    assert listed <= known.keys()
    for name in known.keys() - listed - NOT_ASKED_FOR:
        answer = users.dryrun(user, *words_for(name, known[name][0]))
        assert b"no permissions to run" in answer, (name, answer)
    for rule in rules(role):
        for _, words in permissions.examples(rule, KEYSPACE, 0):
            assert users.may(user, *words), words
            for other in OTHERS:
                elsewhere = [re.sub(rf"^{NAMESPACE}:", other, str(each)) for each in words]
                if elsewhere != [str(each) for each in words]:
                    assert not users.may(user, *elsewhere), elsewhere
    own = {KEYSPACE.drain_jobs, KEYSPACE.database, *(getattr(KEYS, member) for member in MEMBERS)}
    own |= {
        f"{KEYSPACE.rq_prefix}:{each}" for each in ("job:drain-0", "queue:risk-drain", "workers", "suspended")
    }
    for name in listed:
        shape = permissions.shape(name)
        for key in (*own, "desk1", "desk10:risk:{0}:snapshots", "x") if permissions.KEY in shape else ():
            allowed = any(
                matches(pattern, key)
                for rule in rules(role)
                if name in rule.commands
                for pattern in (rule.channels if name == "subscribe" else rule.patterns)
            )
            words = [key if word == permissions.KEY else word for word in shape]
            assert users.may(user, *name.upper().split("|"), *words) is allowed, (name, key)


@pytest.mark.parametrize("role", ROLES)
def test_a_doctor_names_each_command_that_is_missing(users: Users, role: str) -> None:
    """Nothing is run to find out."""
    [line] = re.findall(rf"^user {role} on \S+ (.*)$", permissions.text(), re.M)
    words = line.split()
    before = contents(users)
    left_out = [at for at, word in enumerate(words) if word.lstrip("(").startswith("+")]
    for at in [None, *left_out]:
        few = [word for number, word in enumerate(words) if number != at]
        if at is not None:  # a selector begins with its first command and ends with its last name
            few[at:at] = ["("] if words[at].startswith("(") else []
        users.admin.execute_command("ACL", "SETUSER", "few", "reset", "on", ">few's", *few)
        with users.client("few") as client:
            if at is not None and words[at].endswith("+multi"):
                with pytest.raises(permissions.NotAsked, match="'multi' command"):
                    permissions.lacking(client, role, NO_NAMESPACE, 0, rq=False)
                continue
            found = {
                each
                for rq in (False, True)
                for each in permissions.lacking(client, role, NO_NAMESPACE, 0, rq=rq)
            }
        wanted = (
            set() if at is None or words[at].lstrip("(") in ("+exec", "+watch") else {words[at].lstrip("(+")}
        )
        assert found == wanted
    users.admin.execute_command("ACL", "DELUSER", "few")
    assert contents(users) == before


def matches(pattern: str, key: str) -> bool:
    """As Redis compares; patterns have no sign but `*`."""
    text = ".*".join(re.escape(part) for part in f"{NAMESPACE}:{pattern}".split("*"))
    return re.fullmatch(text, key) is not None


FORGED: Final = b'{"v":1}'
WRITERS: Final = ("worker", "operator")
ON_QUEUE: Final = ("worker", "dashboard-actions")
# What, how, and the roles that may, as it is their work.
ATTACKS: Final[tuple[tuple[str, tuple[Any, ...], tuple[str, ...]], ...]] = (
    ("read what another desk sends", ("XRANGE", "desk2:risk:{0}:snapshots", "-", "+"), ()),
    ("read another desk's states", ("HGETALL", "desk2:risk:{0}:latest"), ()),
    ("send for another desk", ("XADD", "desk2:risk:{0}:snapshots", "*", "s", FORGED), ()),
    ("set another desk's state", ("HSET", "desk2:risk:{0}:latest", "a", FORGED), ()),
    ("fence another desk's trader", ("HSET", "desk2:risk:{0}:epochs", "a", 2**52), ()),
    ("send for the deployment without a namespace", ("XADD", "risk:{0}:snapshots", "*", "s", FORGED), ()),
    ("read the jobs of another desk", ("HGETALL", "desk2:rq:job:drain-0"), ()),
    ("delete the stream", ("DEL", KEYS.snapshots), ()),
    ("delete the stream later", ("UNLINK", KEYS.snapshots), ()),
    ("let the stream expire", ("EXPIRE", KEYS.snapshots, 1), ()),
    ("rename the stream", ("RENAME", KEYS.snapshots, KEYS.probe), ("operator",)),  # a key of another type
    ("move the stream", ("MOVE", KEYS.snapshots, 1), ()),
    ("copy the stream", ("COPY", KEYS.snapshots, KEYS.probe), ()),
    ("trim the stream", ("XTRIM", KEYS.snapshots, "MAXLEN", 0), ("worker",)),
    ("take an entry off the stream", ("XDEL", KEYS.snapshots, "1-1"), ("worker",)),
    ("set the stream's last id", ("XSETID", KEYS.snapshots, "9999999999999-0"), ()),
    ("make a consumer group", ("XGROUP", "CREATE", KEYS.snapshots, "g", "0"), ()),
    ("lower an epoch that Postgres knows", ("HSET", KEYS.floors, "a", 0), WRITERS),
    ("forget the epochs", ("DEL", KEYS.epochs), ()),
    ("forget a trader's epoch", ("HDEL", KEYS.epochs, "a"), ("operator",)),
    ("make an old entry be admitted again", ("HDEL", KEYS.admitted, "1:a"), WRITERS),
    ("name another database", ("SET", KEYS.database, "x"), WRITERS),
    ("name another database where RQ is", ("SET", KEYSPACE.database, "x"), WRITERS),
    ("change the number of partitions", ("SET", KEYS.partitioning, "9:1,"), WRITERS),
    ("remove the record of repairs", ("DEL", KEYS.repairs), ()),
    ("write a job", ("HSET", f"{KEYSPACE.rq_prefix}:job:drain-0", "data", "y"), ON_QUEUE),
    ("put a job on the queue", ("LPUSH", f"{KEYSPACE.rq_prefix}:queue:risk-drain", "x"), ()),
    ("put a job at the queue's end", ("RPUSH", f"{KEYSPACE.rq_prefix}:queue:risk-drain", "x"), ON_QUEUE),
    ("suspend the workers", ("SET", f"{KEYSPACE.rq_prefix}:suspended", 1), ()),
    ("end a worker", ("PUBLISH", f"{KEYSPACE.rq_prefix}:pubsub:w", '{"command": "shutdown"}'), ()),
    ("hear what workers are told", ("SUBSCRIBE", "desk2:rq:pubsub:w"), ()),
    ("hear everything", ("PSUBSCRIBE", "*"), ()),
    ("see every command", ("MONITOR",), ()),
    ("list all keys", ("KEYS", "*"), ()),
    ("list all keys, a page at a time", ("SCAN", 0), ()),
    ("take any key", ("RANDOMKEY",), ()),
    ("see how many keys there are", ("DBSIZE",), ()),
    ("empty the server", ("FLUSHALL",), ()),
    ("empty the database", ("FLUSHDB",), ()),
    ("swap two databases", ("SWAPDB", 0, 1), ()),
    ("use another database", ("SELECT", 1), ()),
    ("read the server's settings, its password among them", ("CONFIG", "GET", "*"), ()),
    ("have the server write a file elsewhere", ("CONFIG", "SET", "dir", "/tmp"), ()),
    ("write the settings", ("CONFIG", "REWRITE"), ()),
    ("write a snapshot", ("BGSAVE",), ()),
    ("end the server", ("SHUTDOWN", "NOSAVE"), ()),
    ("hold the server up", ("DEBUG", "SLEEP", 1), ()),
    ("load a module", ("MODULE", "LOAD", "/tmp/x.so"), ()),
    ("make it a replica of mine", ("REPLICAOF", "203.0.113.7", 6379), ()),
    ("copy everything as a replica", ("PSYNC", "?", -1), ()),
    ("send a key to a server of mine", ("MIGRATE", "203.0.113.7", 6379, KEYS.latest, 0, 1), ()),
    ("write any key in its raw form", ("RESTORE", KEYS.latest, 0, "x"), ()),
    ("become another user", ("ACL", "SETUSER", "desk1-trader", "allkeys"), ()),
    ("read the users", ("ACL", "LIST"), ()),
    ("make a user", ("ACL", "SETUSER", "mine", "on", "nopass", "allkeys", "+@all"), ()),
    ("see who is connected", ("CLIENT", "LIST"), ()),
    ("disconnect others", ("CLIENT", "KILL", "TYPE", "normal"), ()),
    ("stop all writes", ("CLIENT", "PAUSE", 60_000), ()),
    ("forget all scripts", ("SCRIPT", "FLUSH"), ()),
    ("leave a function", ("FUNCTION", "LOAD", "#!lua name=mine\nredis.register_function('f', print)"), ()),
    ("run a text as a script", ("EVAL", "return 1", 0), ()),
    ("sort by keys of others", ("SORT", KEYS.superseded, "BY", "desk2:*"), ()),
    ("see slow commands", ("SLOWLOG", "GET"), ()),
)


def contents(users: Users) -> dict[bytes, bytes]:
    return {key: users.admin.dump(key) for key in users.admin.keys("*")}


def fill(users: Users) -> dict[bytes, bytes]:
    """Something in each key that is attacked, in all deployments; returns the contents of all keys."""
    users.admin.flushall()
    for namespace in ("", "desk1", "desk2"):
        keys, keyspace = Keys(0, namespace), Keyspace(namespace)
        users.admin.xadd(keys.snapshots, {"s": "x"}, id="1-1")
        for name in (keys.latest, keys.epochs, keys.floors):
            users.admin.hset(name, "a", 1)
        users.admin.hset(keys.admitted, "1:a", 1)
        users.admin.set(keys.database, "db")
        users.admin.set(keyspace.database, "db")
        users.admin.set(keys.partitioning, "1:1,")
        users.admin.rpush(keys.superseded, "1 1:a")
        users.admin.xadd(keys.repairs, {"by": "x"})
        users.admin.hset(f"{keyspace.rq_prefix}:job:drain-0", "data", "x")
    return contents(users)


@pytest.fixture
def filled_keys(users: Users) -> dict[bytes, bytes]:
    return fill(users)


@pytest.mark.parametrize("role", ROLES)
def test_an_attack_is_refused(users: Users, filled_keys: dict[bytes, bytes], role: str) -> None:
    """Over a connection, and nothing has changed. `admin` may do each, so it is the user that is refused."""
    user = users.client(desk(role), single_connection_client=True)
    tried = 0
    with user:
        for what, words, roles in ATTACKS:
            assert users.may("admin", *words), what
            assert users.may(desk(role), *words) is (role in roles), (what, words)
            if role not in roles:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    user.execute_command(*words)
                tried += 1
    assert tried > 50
    assert contents(users) == filled_keys


@pytest.mark.parametrize("role", [role for role in ROLES if "script|load" in commands_of(role)])
def test_a_script_of_ones_own_may_do_no_more(
    users: Users, filled_keys: dict[bytes, bytes], role: str
) -> None:
    """Who may load a script can run any: with the rights of its user, on names that it declares or not."""
    call = "return redis.call(unpack(ARGV))"
    with users.client(desk(role)) as user:
        sha = user.script_load(call)
        for what, words, roles in ATTACKS:
            if role in roles or words[0] in ("SELECT", "MONITOR", "PSYNC", "SUBSCRIBE", "PSUBSCRIBE"):
                continue
            declared = [each for each in words if each == KEYS.snapshots]
            for keys in ([], declared):
                with pytest.raises(redis.ResponseError) as refused:
                    user.evalsha(sha, len(keys), *keys, *words)
                assert not re.search("wrong number|syntax", str(refused.value)), what
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.evalsha(sha, 1, "desk2:risk:{0}:snapshots", *words)
    assert contents(users) == filled_keys


def test_the_attacks_would_change_something(users: Users) -> None:
    """With one permission too many each write of the table goes through: a rule too wide is noticed."""
    allowed = 0
    for what, words, _ in ATTACKS:
        if words[0] in ("XADD", "HSET", "DEL", "UNLINK", "XTRIM", "XDEL", "SET", "HDEL", "RENAME", "LPUSH"):
            before = fill(users)
            users.admin.execute_command(
                "ACL", "SETUSER", "few", "reset", "on", ">few's", "~*", f"+{words[0].lower()}"
            )
            with users.client("few") as user:
                user.execute_command(*words)
            assert contents(users) != before, what
            allowed += 1
    users.admin.execute_command("ACL", "DELUSER", "few")
    assert allowed > 15
