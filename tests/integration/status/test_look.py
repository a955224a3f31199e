"""What `riskstream status` sees on real servers, without a worker of its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.doctor.examination import examination
from risk_worker.status.look import Observer, look
from risk_worker.status.problems import problems
from tests.conftest import MakePostgres, MakeValkey
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.wait import slowness, wait_until


def names(settings: Settings) -> set[str]:
    return {each.name for each in problems(look(settings))}


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    return Settings.load({**environ, "RISK_PARTITIONS": "4"})


def test_a_system_at_work(tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The status as a command, as JSON and as a screen; and a doctor who finds nothing to cure."""
    environ["RISK_PARTITIONS"] = "4"
    with (
        ChildProcess(tmp_path / "worker", environ) as worker,
        RiskProducer(redis_url=environ["REDIS_URL"], partitions=4) as producer,
    ):
        for number in range(40):
            assert producer.save(
                snapshot(f"t{number % 8}", float(number), trading_paused=number % 8 == 3, reason="limit")
            )
        settings = Settings.load(environ)
        wait_until(lambda: (look(settings).totals or {}).get("stored") == 40, 30, "all is stored")
        wait_until(
            lambda: all(each.worker for each in look(settings).partitions or ()), 20, "a worker has all"
        )
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(cli, ["status", "--json"])
        found: dict[str, Any] = json.loads(done.stdout)
        assert (done.exit_code, found["ok"], found["problems"]) == (0, True, [])
        assert [each["worker"]["pid"] for each in found["partitions"]] == [worker.pid] * 4
        assert all(each["last_commit_s"] < 600 for each in found["partitions"])
        assert (found["traders"]["stored"], found["traders"]["in_redis"], found["traders"]["paused"]) == (
            8,
            8,
            1,
        )
        assert found["traders"]["some_paused"][0]["reason"] == "limit"
        assert found["postgres"]["pending"] == found["postgres"]["missing_grants"] == []
        assert found["redis"]["servers"][0]["refusal"] is None
        done = CliRunner().invoke(cli, ["status"])
        assert done.exit_code == 0
        assert "paused  t3" in done.stdout
        assert done.stdout.splitlines()[-1] == "✓ No problem was found."
        done = CliRunner().invoke(cli, ["doctor"])
        assert done.exit_code == 0, done.stdout
        assert "✗" not in done.stdout
        assert "a probe went through" in done.stdout


def test_without_a_worker_it_says_so(settings: Settings, client: Any) -> None:
    assert names(settings) == {"no_worker"}
    client.sadd("rq:workers:risk-drain", "rq:worker:gone", b"\xff")
    client.set("rq:worker:odd", "no hash")
    client.sadd("rq:workers:risk-drain", "rq:worker:odd")
    assert names(settings) == {"no_worker"}


def test_what_others_wrote_hinders_nothing(settings: Settings, client: Any) -> None:
    keys = Keys(2)
    for name in (keys.counters, keys.latest, keys.behind):
        client.rpush(name, "no hash")
    client.set(Keys(3).snapshots, "no stream")
    client.hset(Keys(1).counters, mapping={"stored": "many", "acknowledged_ms": "soon"})
    found = look(settings)
    assert {each.name for each in problems(found)} == {"no_worker", "stream_unreadable"}
    assert found.partitions is not None
    assert found.partitions[1].last_commit_s is None


@pytest.mark.parametrize("frozen", ["redis", "postgres"])
def test_a_server_that_says_nothing_leaves_the_other_half(
    make_valkey: MakeValkey,
    make_postgres: MakePostgres,
    environ: dict[str, str],
    frozen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("risk_worker.status.look.BOUND_S", 1.0)
    server: Any = make_valkey() if frozen == "redis" else make_postgres()
    url = (
        {"REDIS_URL": server.url, "RQ_REDIS_URL": server.url}
        if frozen == "redis"
        else {"POSTGRES_URL": server.url}
    )
    settings = Settings.load({**environ, **url})
    with Observer(settings) as observer:
        observer.look()
        server.pause()
        for _ in range(2):
            began = monotonic()
            found = observer.look()
            assert monotonic() - began < 2 * slowness()
            assert {each.name for each in problems(found)} >= {f"{frozen}_away"}
            assert (found.partitions is None) is (frozen == "redis")
            assert bool(found.postgres.error) is (frozen == "postgres")
        server.resume()
        wait_until(
            lambda: f"{frozen}_away" not in {e.name for e in problems(observer.look())}, 10, "it is back"
        )


@pytest.fixture
def few_rights(environ: dict[str, str], db: Any) -> Iterator[dict[str, str]]:
    """The environment of a role that may only look at some tables."""
    db.execute("DROP ROLE IF EXISTS few_rights")
    db.execute("CREATE ROLE few_rights LOGIN")
    db.execute("GRANT SELECT ON risk_state, schema_migrations, risk_deployment TO few_rights")
    yield {**environ, "POSTGRES_URL": environ["POSTGRES_URL"].replace("postgres@", "few_rights@")}
    db.execute("DROP OWNED BY few_rights")
    db.execute("DROP ROLE few_rights")


def test_a_role_that_only_reads_is_no_problem_of_the_workers(few_rights: dict[str, str]) -> None:
    found = look(Settings.load(few_rights))
    assert {each.name for each in problems(found)} == {"role_only_reads", "no_worker"}
    assert found.traders.stored == 0, "what may be read is read"
    assert found.dead_letters is None
    failing = {each.check for each in examination(few_rights) if each.level == "failure"}
    assert failing == {"privileges", "probe"}, "a worker could not work with it"


def test_rights_that_are_missing_are_named(few_rights: dict[str, str], db: Any) -> None:
    db.execute("GRANT INSERT ON risk_state, risk_dead_letter TO few_rights")
    found = look(Settings.load(few_rights))
    assert {each.name for each in problems(found)} == {"grants_missing"}
    assert 'GRANT UPDATE ON risk_state TO "few_rights"' in found.postgres.missing_grants
    todo = {each.todo for each in examination(few_rights) if each.check == "privileges"}
    assert 'GRANT UPDATE ON risk_state TO "few_rights";' in todo


def test_a_user_of_redis_with_few_commands_is_told_which(environ: dict[str, str], client: Any) -> None:
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", "~*", "+@all", "-xtrim", "-evalsha")
    try:
        url = environ["REDIS_URL"].replace("redis://", "redis://few:pw@")
        findings = examination({**environ, "REDIS_URL": url, "RQ_REDIS_URL": url})
        [found] = [each for each in findings if (each.link, each.check) == ("redis", "commands")]
        assert found.level == "failure"
        assert "+evalsha on risk:{0}:admitted and 13 more" in found.what
        assert "+xtrim on risk:{0}:snapshots" in found.what
        assert "the line of worker in ops/redis/users.acl" in found.todo
        assert "pw" not in f"{found}"
        assert client.keys("*probe*") == []
    finally:
        client.execute_command("ACL", "DELUSER", "few")


def test_a_doctor_leaves_nothing_behind(environ: dict[str, str], client: Any, db: psycopg.Connection) -> None:
    before = set(client.keys("*"))
    examination(environ)
    assert set(client.keys("*")) == before
    assert db.execute("SELECT count(*) FROM risk_dead_letter").fetchone() == (0,)


def test_a_database_that_is_not_migrated(environ: dict[str, str], empty_database_url: str) -> None:
    environ["POSTGRES_URL"] = empty_database_url
    assert names(Settings.load(environ)) == {"migrations_pending"}
    failing = {each.check for each in examination(environ) if each.level == "failure"}
    assert failing == {"migrations", "privileges", "probe", "database", "partitions"}


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_usage(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "POSTGRES_URL", "DB_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert CliRunner().invoke(cli, [command, "--unknown"]).exit_code == 2
    if command == "status":
        done = CliRunner().invoke(cli, [command])
        assert done.exit_code == 2
        assert "REDIS_URL is not set" in done.output


@pytest.fixture
def watching(environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    import os

    command = [sys.executable, "-m", "risk_worker", "status", "--watch", "--json"]
    with subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def test_watching_ends_with_its_reader(watching: subprocess.Popen[bytes]) -> None:
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert json.loads(watching.stdout.readline())["ok"] is False
    watching.stdout.close()
    assert watching.wait(30 * slowness()) == 141
    assert watching.stderr.read() == b""
