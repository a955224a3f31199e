"""`riskstream push` against a real Redis: what arrives, what is said, and the exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result

from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import WireSnapshot, decode
from risk_worker.cli import cli
from tests.conftest import MakeValkey
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

STREAM = Keys(0).snapshots


def line(number: int, **changes: Any) -> str:
    fields = {"trader_id": f"t{number % 3}", "daily_pnl": number, "drawdown_pct": 0}
    fields |= {"current_equity": 1, "peak_equity": 1, "trace_id": str(number), "trading_paused": False}
    return json.dumps(fields | {"recorded_at": "2026-01-31T09:30:00Z"} | changes)


def written(folder: Path, lines: int, name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{line(number)}\n" for number in range(lines)))
    return path


def push(*arguments: str | Path, stdin: bytes = b"", **environ: str) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(cli, ["push", *map(str, arguments)], input=stdin, env=environ)


def pushing(log: Path, *arguments: str | Path, **environ: str) -> ChildProcess:
    """The command, in a process of its own."""
    return ChildProcess(log, environ, [sys.executable, "-m", "risk_worker", "push", *map(str, arguments)])


def arrived(client: redis.Redis) -> list[WireSnapshot]:
    entries: Any = client.xrange(STREAM)
    return [decode(fields[b"s"]) for _, fields in entries]


def test_all_lines_arrive_in_order(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    done = push(written(tmp_path, 2_500), REDIS_URL=redis_url)
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"2,500 accepted, 0 bad in [\d.]+ s \([\d,]+/s\)\n", done.stderr)
    got = arrived(redis_client)
    assert [int(snapshot.trace_id) for snapshot in got] == list(range(2_500))
    assert [s.seq for s in got if s.trader_id == "t1"] == list(range(1, 834))


def test_bad_lines_are_named_and_the_others_go_through(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    path = tmp_path / "in"
    path.write_text("\n".join([line(1), line(2, daily_pnl="x"), "{", line(4), line(5, traderid=1)]))
    done = push(path, REDIS_URL=redis_url)
    assert done.exit_code == 1
    said = done.stderr.splitlines()
    assert said[0] == "line 2: daily_pnl must be a number, got 'x'"
    assert said[1].startswith("line 3: ")
    assert said[2].startswith("line 5: unknown key 'traderid'; known are")
    assert said[3].startswith("2 accepted, 3 bad")
    assert [s.trace_id for s in arrived(redis_client)] == ["1", "4"]


def test_standard_input_and_csv(redis_url: str, redis_client: redis.Redis) -> None:
    csv = (
        b"trader_id,daily_pnl,drawdown_pct,current_equity,peak_equity,trading_paused,recorded_at\n"
        b"a,1,2,3,4,true,2026-01-31T09:30:00Z\n"
    )
    assert push(stdin=csv, REDIS_URL=redis_url).exit_code == 0
    assert push("-", "--format", "csv", stdin=csv, REDIS_URL=redis_url).exit_code == 0
    assert push("-", stdin=line(7).encode(), REDIS_URL=redis_url).exit_code == 0
    assert [(s.trader_id, s.trading_paused) for s in arrived(redis_client)] == [
        ("a", True),
        ("a", True),
        ("t1", False),
    ]


def test_what_a_record_of_the_past_does_not_say_is_not_made_up(
    redis_url: str, redis_client: redis.Redis
) -> None:
    frame = b"trader_id,daily_pnl,drawdown_pct,current_equity,peak_equity\na,1,2,3,4\n"
    done = push(stdin=frame, REDIS_URL=redis_url)
    assert done.exit_code == 2
    assert "no column trading_paused, recorded_at" in done.stderr
    assert "--recorded-at now" in done.stderr
    assert "--trading-paused false" in done.stderr
    gaps = frame.replace(b"equity\n", b"equity,trading_paused,recorded_at\n").replace(b"4\n", b"4,,\n")
    done = push(stdin=gaps, REDIS_URL=redis_url)
    assert done.exit_code == 1
    assert done.stderr.startswith("line 2: trading_paused, recorded_at must be given; ")
    assert not arrived(redis_client)
    for content in (frame, gaps, line(1, recorded_at=None, trading_paused=None).encode()):
        done = push("--recorded-at", "now", "--trading-paused", "true", stdin=content, REDIS_URL=redis_url)
        assert done.exit_code == 0, done.output
    assert [snapshot.trading_paused for snapshot in arrived(redis_client)] == [True] * 3
    for option in (["--recorded-at", "yesterday"], ["--trading-paused", "maybe"]):
        assert push(*option, stdin=frame, REDIS_URL=redis_url).exit_code == 2


def test_of_a_file_with_broken_quotes_nothing_is_sent(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    path = tmp_path / "in.csv"
    header = "trader_id,daily_pnl,drawdown_pct,current_equity,peak_equity,trading_paused,recorded_at"
    row = "a,1,2,3,4,f,2026-01-31 09:30:00+00"
    path.write_text(f'{header}\n{row}\n"{row}\n{row}\n')
    done = push(path, REDIS_URL=redis_url)
    assert done.exit_code == 2
    assert "in.csv: line 3: a quote is never closed" in done.stderr
    assert not arrived(redis_client)
    done = push(stdin=path.read_bytes() + b'"\n', REDIS_URL=redis_url)  # as a pipe, and the quote closed
    assert done.exit_code == 1
    assert [snapshot.trader_id for snapshot in arrived(redis_client)] == ["a"]


def test_refused_lines_are_reported_once(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    push(stdin=line(1, daily_pnl="inf").encode(), REDIS_URL=redis_url)
    assert not [record for record in caplog.records if "refused" in record.getMessage()]


def test_an_export_of_the_table_is_pushed_as_new_snapshots(
    redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    columns = (
        "trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity, "
        "peak_equity, trading_paused, paused_until, last_reset_time"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO risk_state_history ({columns}) VALUES ('a', '2026-01-31 09:30:00.25+00', 7, 1, '', "
            "'the \"first\"\nof two', -5, 0.1, 1, 2, true, '2026-02-01+00', '2026-01-31+00')"
        )
        with connection.cursor().copy("COPY risk_state_history TO STDOUT (FORMAT csv, HEADER)") as copy:
            exported = b"".join(bytes(block) for block in copy)
    done = push(stdin=exported, REDIS_URL=redis_url)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("Not read: stored_at, epoch, seq, merged. ")
    [got] = arrived(redis_client)
    assert (got.trader_id, got.trading_paused, got.reason) == ("a", True, 'the "first"\nof two')
    assert (got.seq, got.recorded_at.isoformat()) == (1, "2026-01-31T09:30:00.250000+00:00")


def test_the_ending_tells_the_form_unless_it_is_given(tmp_path: Path, redis_url: str) -> None:
    path = written(tmp_path, 1, "in.csv")
    assert "header" in push(path, REDIS_URL=redis_url).stderr
    assert push(path, "--format", "jsonl", REDIS_URL=redis_url).exit_code == 0


def test_dry_run_needs_no_redis(tmp_path: Path) -> None:
    done = push(written(tmp_path, 3), "--dry-run", REDIS_URL="")
    assert done.exit_code == 0, done.output
    assert re.match(r"3 good, 0 bad in .*; nothing was sent", done.stderr)
    done = push("--dry-run", stdin=b"{}\n" + line(1).encode(), REDIS_URL="")
    assert done.exit_code == 1
    assert "line 1: trader_id, daily_pnl" in done.stderr


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"REDIS_URL": ""}, "REDIS_URL is not set"),
        ({"REDIS_URL": "redis://localhost", "ENABLE_PERSISTENCE": "false"}, "nothing would be sent"),
        ({"REDIS_URL": "redis://localhost", "PERSISTENCE_BACKEND": "memory"}, "nothing would be sent"),
    ],
)
def test_settings_that_send_nothing_are_a_mistake(environ: dict[str, str], says: str) -> None:
    done = push(stdin=line(1).encode(), **environ)
    assert done.exit_code == 2
    assert says in done.stderr


def test_files_that_cannot_be_read(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for path, says in [
        (tmp_path / "missing", "missing: No such file or directory"),
        (tmp_path, "Is a directory"),
        (empty, "empty: it is empty"),
    ]:
        done = push(path, REDIS_URL=redis_url)
        assert done.exit_code == 2
        assert done.stderr.startswith("riskstream: ")
        assert says in done.stderr
        assert "Traceback" not in done.output
    assert "standard input: it is empty" in push(REDIS_URL=redis_url).stderr
    assert not redis_client.exists(STREAM)


def test_no_wait_stops_where_there_is_no_room(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    done = push(
        written(tmp_path, 10_000),
        "--no-wait",
        REDIS_URL=redis_url,
        RISK_STREAM_MAXLEN="10",
        RISK_SAVE_TIMEOUT_S="0.3",
    )
    assert done.exit_code == 1
    said = re.search(
        r"^line (\d+): no room for 0.3 s: the stream is full; is a worker running\?$", done.stderr, re.M
    )
    assert said, done.stderr
    assert f"Stopped: nothing from line {said[1]} on was sent." in done.stderr
    assert f"10 accepted, 0 bad, {int(said[1]) - 10:,} not accepted" in done.stderr
    assert [s.trace_id for s in arrived(redis_client)] == [str(number) for number in range(10)]


def test_a_full_stream_is_backpressure(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    settings = {
        "REDIS_URL": redis_url,
        "RISK_STREAM_MAXLEN": "1000",
        "RISK_SAVE_TIMEOUT_S": "0.2",
        "RISK_ON_FULL": "conflate",  # for traders; a file is not merged
    }
    with pushing(tmp_path / "log", written(tmp_path, 12_000), **settings) as process:
        wait_until(lambda: "Waiting for room" in process.log, 20, "the message")
        got: list[int] = []

        def take() -> bool:
            entries: Any = redis_client.xrange(STREAM)
            assert len(entries) <= 1000
            got.extend(int(decode(fields[b"s"]).trace_id) for _, fields in entries)
            if entries:
                redis_client.xdel(STREAM, *[entry_id for entry_id, _ in entries])
            return len(got) == 12_000

        wait_until(take, 30, "all lines")
        assert process.wait(10) == 0
        assert got == list(range(12_000))
        assert "12,000 accepted, 0 bad in" in process.log
        assert re.search(r"line \d+: going on after", process.log)


def test_without_redis_it_says_so_waits_and_can_be_interrupted(
    tmp_path: Path, make_valkey: MakeValkey
) -> None:
    server = make_valkey()
    server.kill()
    with pushing(tmp_path / "log", written(tmp_path, 20), REDIS_URL=server.url) as process:
        wait_until(
            lambda: "20 are not yet in Redis: Redis cannot be used (" in process.log, 20, "the message"
        )
        process.signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert "0 accepted, 0 bad, 20 not accepted" in process.log
        assert "Traceback" not in process.log


def test_redis_that_comes_back_gets_everything(tmp_path: Path, make_valkey: MakeValkey) -> None:
    server = make_valkey()
    server.kill()
    with pushing(tmp_path / "log", written(tmp_path, 20), REDIS_URL=server.url) as process:
        wait_until(lambda: "not yet in Redis" in process.log, 20, "the message")
        server.start()
        assert process.wait(20) == 0
        assert "20 accepted, 0 bad in" in process.log
    with redis.Redis.from_url(server.url) as client:
        assert [int(s.trace_id) for s in arrived(client)] == list(range(20))


def test_interrupted_it_delivers_what_it_has_taken(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    command = [sys.executable, "-m", "risk_worker", "push"]
    with ChildProcess(tmp_path / "log", {"REDIS_URL": redis_url}, command, stdin=subprocess.PIPE) as process:
        process.write(f"{line(1)}\n{line(2)}\n".encode())
        wait_until(lambda: redis_client.xlen(STREAM) == 2, 20, "two entries")
        process.signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert process.log.startswith("2 accepted, 0 bad in")


def test_a_terminal_sees_progress(tmp_path: Path, redis_url: str) -> None:
    import pty

    path = written(tmp_path, 50_000)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "risk_worker", "push", str(path)]
    environ = {"REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "100"}
    with ChildProcess(tmp_path / "log", environ, command, stderr=slave) as process:
        os.close(slave)
        said = b""
        while True:
            try:
                said += os.read(master, 65536)
            except OSError:
                break
        assert process.wait(20) == 0
    os.close(master)
    assert b"good, 0 bad" in said
    assert b"50,000 accepted, 0 bad in" in said
