"""Each request to the dashboard: under which name, how, from where, and what the answer allows."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from flask.testing import FlaskClient

from risk_worker.runtime import dashboard
from risk_worker.runtime.dashboard.access import Access, access
from tests.support.rq import DATA, FILES, JOBS, PAGES, add_worker, fill

LOGIN = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "s3cret"}
ACTS = access("127.0.0.1", [], LOGIN, allow_actions=True)
AUTHORIZATION = {"Authorization": "Basic " + base64.b64encode(b"ops:s3cret").decode()}
OWN = {**AUTHORIZATION, "Origin": "http://localhost"}

EVERY = [*PAGES, *DATA, *FILES]

ACTIONS = [
    *("/job/failed-job/delete", "/job/failed-job/requeue", "/requeue/risk-drain"),
    *("/queue/risk-drain/queued/empty", "/queue/risk-drain/failed/empty", "/queue/risk-drain/compact"),
]


class _Client(FlaskClient):
    """Takes each answer as a whole, so that its file is closed."""

    def open(self, *args: Any, **options: Any) -> Any:
        return super().open(*args, **{"buffered": True, **options})


def opened(url: str, chosen: Access | None = None) -> Any:
    """A client of the site, in this process."""
    application = dashboard.application(url, chosen)
    application.test_client_class = _Client
    return application.test_client()


def snapshot(client: redis.Redis) -> dict[bytes, bytes | None]:
    """All that Redis holds."""
    return {key: client.dump(key) for key in client.scan_iter()}


def unchanged(before: Mapping[bytes, bytes | None], client: redis.Redis) -> bool:
    return before == snapshot(client)


def test_every_page_is_answered_with_all_that_a_browser_needs_to_know(
    redis_url: str, redis_client: redis.Redis
) -> None:
    fill(redis_client, "text")
    before, nonces = snapshot(redis_client), set()
    with opened(redis_url) as site:
        for path in EVERY:
            answer = site.get(path, follow_redirects=True)
            assert answer.status_code == 200, path
            policy = answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
            assert "script-src 'nonce-" in policy and "unsafe-inline'; script" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            assert (answer.headers["Cache-Control"] == "no-store") == (path not in FILES)
            [nonce] = re.findall(r"'nonce-([\w-]{20,})'", policy)
            nonces.add(nonce)
            if path in PAGES:
                scripts = re.findall(r"<script([^>]*)>", answer.text)
                assert scripts and all(f'nonce="{nonce}"' in each for each in scripts)
                assert all(
                    f">{each}<" not in answer.text for each in ("Delete", "Requeue", "Compact", "Empty queue")
                )
            assert site.head(path, follow_redirects=True).data == b""
    assert len(nonces) == len(EVERY)
    assert unchanged(before, redis_client)


def test_every_page_is_answered_to_a_user_of_redis_who_may_only_read(
    redis_url: str, redis_client: redis.Redis
) -> None:
    fill(redis_client, "text")
    redis_client.zadd("rq:failed:risk-drain", {"no-such-job": 9e9})
    redis_client.rpush("rq:queue:risk-drain", "no-such-job")
    redis_client.sadd("rq:workers:risk-drain", "rq:worker:no-such-worker")
    users = (Path(__file__).parents[3] / "ops" / "redis" / "users.acl").read_text()
    [rights] = re.findall(r"^user dashboard on #\S+ (.*)", users, re.M)
    client: Any = redis_client
    client.execute_command("ACL", "SETUSER", "reads", "on", ">pw", *rights.split())
    try:
        with opened(redis_url.replace("://", "://reads:pw@")) as site:
            for path in EVERY:
                answer = site.get(path, follow_redirects=True)
                assert (answer.status_code, path) == (200, path), answer.text
            [worker] = site.get("/0/data/workers.json").get_json()["workers"]
            assert worker["current_job"]["job_id"] == JOBS["started"]
    finally:
        client.execute_command("ACL", "DELUSER", "reads")


def test_another_host_is_refused_everywhere(redis_url: str) -> None:
    forwarded = {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost", "X-Host": "localhost"}
    hosts = ["evil.example", "localhost.evil.example:80", "", "a b", "10.0.0.1", "localhost, evil.example"]
    with opened(redis_url) as site:
        for path in ("/", "/0/data/queues.json", "/static/css/main.css", "/nowhere", "/favicon.ico"):
            for host in hosts:
                answer = site.get(path, headers={"Host": host, **forwarded})
                assert answer.status_code in (400, 403), (path, host)
                assert "<script" not in answer.text


def test_without_the_login_nothing_is_answered(redis_url: str) -> None:
    sent = [None, "Basic", "Basic !", "Basic b3Bz", "Basic b3BzOnM=", "Bearer s3cret", "Basic /w==", "x", ""]
    with opened(redis_url, access("127.0.0.1", [], LOGIN)) as site:
        for path in (
            "/",
            "/0/data/queues.json",
            "/static/css/main.css",
            "/nowhere",
            "/favicon.ico",
            "/1/view",
        ):
            for each in sent:
                answer = site.get(path, headers={} if each is None else {"Authorization": each})
                assert (answer.status_code, answer.text) == (401, "Log in\n"), (path, each)
                assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
            assert site.get(path, headers=AUTHORIZATION).status_code in (200, 302, 404)


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]


def test_by_default_nothing_is_changed(redis_url: str, redis_client: redis.Redis) -> None:
    fill(redis_client, "text")
    before = snapshot(redis_client)
    headers = {**OWN, "X-HTTP-Method-Override": "POST", "X-HTTP-Method": "POST"}
    with opened(redis_url, access("127.0.0.1", [], LOGIN)) as site:
        for path in ACTIONS:
            for method in METHODS:
                answer = site.open(f"{path}?_method=POST", method=method, headers=headers)
                assert answer.status_code in (403, 405), (path, method)
        for path in EVERY:
            for method in ("POST", "DELETE", "BREW"):
                assert site.open(path, method=method, headers=headers).status_code == 405, (path, method)
    assert unchanged(before, redis_client)


def test_with_actions_a_post_from_its_own_page_changes_jobs(
    redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "riskstream.dashboard")
    without_login = {key: value for key, value in OWN.items() if key != "Authorization"}
    foreign = [
        "null",
        "http://evil.example",
        "http://localhost.evil.example",
        "http://localhost:9182",
        "",
        None,
    ]
    with opened(redis_url, ACTS) as site:
        for path in ACTIONS:
            redis_client.flushdb()
            fill(redis_client, "text")
            redis_client.rpush("rq:queue:risk-drain", "no-such-job")
            before = snapshot(redis_client)
            for method in METHODS:
                if method != "POST":
                    assert site.open(path, method=method, headers=OWN).status_code == 405, (path, method)
            for origin in foreign:
                sent = {"Referer": "http://localhost/", "X-Forwarded-Host": "evil.example", **AUTHORIZATION}
                answer = site.post(path, headers=sent if origin is None else {**sent, "Origin": origin})
                assert answer.status_code == 403, (path, origin)
            assert site.post(path, headers=without_login).status_code == 401
            assert unchanged(before, redis_client)
            assert site.post(path, headers=OWN).status_code == 200
            assert not unchanged(before, redis_client)
            assert f"The dashboard lets 'ops' change jobs: POST {path!r}" in caplog.messages


def test_with_actions_a_page_offers_them(redis_url: str, redis_client: redis.Redis) -> None:
    fill(redis_client, "text")
    with opened(redis_url, ACTS) as site:
        for path in ("/", "/0/view/workers", "/0/view/jobs", PAGES[-1], f"/0/view/job/{JOBS['failed']}"):
            text = site.get(path, headers=AUTHORIZATION, follow_redirects=True).text
            assert ("Delete" in text) == ("/job" in path)


NOT_THERE = [
    *("/1/view", "/1/data/queues.json", "/99999999999999999999/view/workers", "/-1/view", "/0/view/job/none"),
    *("/0/data/job/none.json", "/0/data/job/" + quote("<script>", safe="") + ".json", "/0/view/job/%00"),
    *("/0/data/jobs/q/queued/0/asc/1.json", "/0/data/jobs/q/queued/x/asc/1.json"),
    *("/0/data/jobs/q/none/8/asc/1.json", "/0/data/jobs/q/queued/8/asc/-1.json"),
    *("/0/data/jobs/q/queued/8/none/1.json", "/0/view/jobs/q/queued/0/asc/1"),
    *("/0/data/jobs/q/queued/99999999/asc/1.json", "/0/data/jobs/q/queued/8/asc/" + "9" * 5_000 + ".json"),
    *("/static/../web.py", "/static/%2e%2e/web.py", "/static/..%2fweb.py", "/static/..\\web.py"),
    *("/static//etc/passwd", "/static/%00", "/static/", "/static/css", "/static/" + "a" * 5_000),
    *("/.", "/0/view/../../x", "/0/data/jobs/%ff/none/8/asc/1.json"),
]


def test_what_is_not_there_is_not_found(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with opened(redis_url) as site:
        for path in NOT_THERE:
            answer = site.get(path, follow_redirects=True)
            assert answer.status_code == 404, path
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert caplog.messages == []


SECRETS = [
    *(
        "redis://:{}@h:1/0",
        "redis://user:{}@h:1/0",
        "redis://h:1/0?password={}",
        "rediss://h:1?username=u&password={}",
    ),
    "redis+sentinel://u:{}@s1:1,s2:2/m/0?sentinel_password={}",
    "rediss://u:{}@h:1/0?ssl_password={}&ssl_certfile=/etc/redis/client.crt",
]


def test_no_page_shows_a_password(redis_url: str, redis_client: redis.Redis) -> None:
    fill(redis_client, "text")
    application = dashboard.application(redis_url)
    with application.test_client() as site:
        for url in SECRETS:
            for password in ("s3cr3t", "s3cr3t/@:#?&=% ä"):
                application.config["RQ_DASHBOARD_REDIS_URL"] = (url.format(*[quote(password, safe="")] * 2),)
                for path in ("/", "/0/view/workers", f"/0/view/job/{JOBS['failed']}", PAGES[-1]):
                    answer = site.get(path, follow_redirects=True)
                    assert answer.status_code == 200
                    assert "s3cr3t" not in answer.text + str(answer.headers), (url, path)
                    assert "***" in answer.text


def test_what_cannot_be_read_hides_nothing_else(
    redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    fill(redis_client, "text")
    client: Any = redis_client
    for number, fields in enumerate(
        [
            {"description": b"\xff\xfe", "origin": "risk-drain", "data": b"x"},
            {"created_at": b"yesterday", "origin": "risk-drain", "data": b"x"},
            {"created_at": b"\xff", "origin": "risk-drain", "data": b"x", "meta": b"{"},
            {"status": b"no such", "origin": "risk-drain", "data": b"x"},
            {"origin": b"\xff", "data": b"x"},
            {"origin": "risk-drain", "data": b"cos\nsystem\n(S'id'\ntR."},
        ]
    ):
        client.hset(f"rq:job:bad-{number}", mapping=fields)
        redis_client.zadd("rq:failed:risk-drain", {f"bad-{number}": 9e9})
        add_worker(redis_client, f"w{number}", {}, job_id=f"bad-{number}")
    redis_client.set("rq:job:bad-9", "text")
    redis_client.xadd("rq:results:bad-5", {"type": "2", "created_at": "1", "exc_string": "no base64 \xff"})
    client.zadd("rq:failed:risk-drain", {b"\xff": 9e9, "<b>": 9e9})
    add_worker(redis_client, "odd-pid", {"pid": "x"})
    add_worker(redis_client, "odd-birth", {"birth": "x"})
    client.rpush("rq:queue:risk-drain", b"\xfe", "a:b", "../x")
    client.zadd("rq:wip:risk-drain", {b"\xfd": 9e9, "a:b:c": 9e9})
    redis_client.sadd("rq:queues", b"\xff", b"rq:queue:\xff", b"other")
    redis_client.sadd("rq:workers:risk-drain", b"rq:worker:\xff", b"other")
    with opened(redis_url) as site:
        for path in ("/", "/0/view/workers", "/0/data/queues.json", "/0/view/jobs"):
            assert site.get(path, follow_redirects=True).status_code == 200, path
        names = [each["name"] for each in site.get("/0/data/workers.json").get_json()["workers"]]
        assert {"text", "w0", "w5"} <= set(names)
        for number in range(6):
            answer = site.get(f"/0/data/job/bad-{number}.json")
            assert answer.status_code in (200, 404, 500)
            assert "<" not in answer.text
        listed = site.get("/0/data/jobs/risk-drain/failed/50/asc/1.json")
        assert listed.status_code == 200, listed.text
        jobs = {each["id"]: each for each in listed.get_json()["jobs"]}
        assert {JOBS["failed"], "bad-0", "bad-1", "<b>"} <= jobs.keys()
        assert jobs["bad-0"]["description"] == "It cannot be read (UnicodeDecodeError)"
        assert jobs[JOBS["failed"]]["description"] == "text"
        for registry, name in (("queued", "\\xfe"), ("started", "\\xfd")):
            listed = site.get(f"/0/data/jobs/risk-drain/{registry}/50/asc/1.json").get_json()["jobs"]
            assert {name, JOBS[registry]} <= {each["id"] for each in listed}
    assert "Traceback" not in caplog.text
