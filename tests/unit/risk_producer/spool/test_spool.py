"""The spool: what was accepted is there after a crash, whatever the crash tore."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from prometheus_client import CollectorRegistry

from risk_producer import ConfigurationError, RiskProducer, Settings, StreamUnavailable
from risk_producer.item import Item, State
from risk_producer.session.buffer import Buffer
from risk_producer.spool.spool import Spool
from risk_producer.transport.requests import Admission
from tests.support.factory import snapshot
from tests.support.producers import Bench, Producer
from tests.support.wait import wait_until


def no_epoch(incarnation: int, trader_id: str) -> int | None:
    return None


class Crashing:
    """A spool in a folder, with what it is asked to keep; crash() lets go of it as kill -9 does."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 20) -> None:
        self.spool = Spool(folder, fsync="never", max_bytes=max_bytes)
        self.replayed = self.spool.replay()
        self.buffer = Buffer(1000, 1, "block")
        self.buffer.incarnation = self.spool.incarnation
        self.buffer.restore(self.replayed.items)

    def accept(self, trader_id: str, pnl: float) -> Item:
        item = self.buffer.put(snapshot(trader_id, pnl))
        assert item is not None
        self.spool.append(item, no_epoch, self.buffer.items)
        return item

    def crash(self) -> None:
        self.spool.abandon()


def pnls(items: list[Item]) -> list[float]:
    return [item.snapshot.daily_pnl for item in items]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.segment"))


def test_what_was_accepted_is_there_after_a_crash(tmp_path: Path) -> None:
    first = Crashing(tmp_path)
    for number in range(10):
        first.accept("t1" if number % 2 else "t2", number)
    first.spool.claimed([(first.spool.incarnation, "t1")], [77])
    first.spool.confirm({(first.spool.incarnation, "t1"): 2}, first.buffer.items)
    first.crash()
    second = Crashing(tmp_path)
    assert second.spool.incarnation > first.spool.incarnation
    assert sorted(pnls(second.replayed.items)) == [0, 2, 4, 5, 6, 7, 8, 9]
    assert second.replayed.epochs == {(first.spool.incarnation, "t1"): 77}
    assert [item.seq for item in second.replayed.items if item.snapshot.trader_id == "t1"] == [3, 4, 5]
    second.accept("t1", 10)
    second.crash()
    third = Crashing(tmp_path)
    of_t1 = [item for item in third.replayed.items if item.snapshot.trader_id == "t1"]
    assert [(item.incarnation, item.seq, item.snapshot.daily_pnl) for item in of_t1] == [
        *((first.spool.incarnation, seq, pnl) for seq, pnl in ((3, 5), (4, 7), (5, 9))),
        (second.spool.incarnation, 1, 10),
    ]
    third.crash()


def places(size: int, ends: list[int]) -> list[int]:
    """The bytes to try: those around each end of a record and some between; all of them if so wished."""
    if os.environ.get("RISK_TEST_BYTES"):
        return list(range(size))
    around = {place + by for place in (0, 12, *ends) for by in range(-9, 10)}
    return sorted((around & set(range(size))) | set(range(0, size, 29)) | {size - 1})


def test_any_torn_end_is_tolerated(tmp_path: Path) -> None:
    first = Crashing(tmp_path / "whole")
    ends = []
    for number in range(4):
        first.accept("t1", number)
        ends.append(first.spool.size)
    first.crash()
    [whole] = segments(tmp_path / "whole")
    data = whole.read_bytes()
    for length in places(len(data) + 1, ends):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / whole.name).write_bytes(data[:length])
        torn = Crashing(folder)
        expected = sum(end <= length for end in ends)
        assert pnls(torn.replayed.items) == list(range(expected)), length
        torn.accept("t1", 99)
        torn.crash()
        again = Crashing(folder)
        assert pnls(again.replayed.items) == [*range(expected), 99]
        again.crash()


def test_a_changed_byte_costs_the_record_that_it_is_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Crashing(tmp_path / "whole")
    ends = []
    for number in range(4):
        first.accept("t1", number)
        ends.append(first.spool.size)
    first.crash()
    [whole] = segments(tmp_path / "whole")
    data = whole.read_bytes()
    for at in places(len(data), ends):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / whole.name).write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        caplog.clear()
        second = Crashing(folder)
        hit = sum(end <= at for end in ends)
        magic = at < 12
        assert pnls(second.replayed.items) == ([] if magic else [n for n in range(4) if n != hit]), at
        said = "no segment" if magic else "not whole" if hit == 3 else "is damaged"
        assert said in caplog.text, at
        second.crash()


def test_damage_to_what_is_confirmed_sends_it_again_under_the_same_identity(tmp_path: Path) -> None:
    first = Crashing(tmp_path)
    incarnation = first.spool.incarnation
    first.accept("t1", 0)
    first.spool.claimed([(incarnation, "t1")], [77])
    begin = first.spool.size
    first.spool.confirm({(incarnation, "t1"): 1}, first.buffer.items)
    first.accept("t1", 1)
    first.crash()
    [path] = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[begin + 20] ^= 0x10
    path.write_bytes(data)
    second = Crashing(tmp_path)
    assert [(item.incarnation, item.seq) for item in second.replayed.items] == [
        (incarnation, 1),
        (incarnation, 2),
    ]
    assert second.replayed.epochs == {(incarnation, "t1"): 77}
    second.crash()


def test_damage_in_a_rewritten_segment_is_made_good_by_the_old_one(tmp_path: Path) -> None:
    first = Crashing(tmp_path)
    for number in range(4):
        first.accept("t1", number)
    [old] = segments(tmp_path)
    before = old.read_bytes()
    first.spool.rewrite(first.buffer.items(), no_epoch)
    first.crash()
    [new] = segments(tmp_path)
    assert new.stat().st_mode & 0o777 == 0o600, "for its user alone, as a new one"
    data = bytearray(new.read_bytes())
    data[len(data) // 2] ^= 0x10
    new.write_bytes(data)
    old.write_bytes(before)  # it died before it could remove this one
    second = Crashing(tmp_path)
    assert pnls(second.replayed.items) == [0, 1, 2, 3]
    second.crash()


def test_rewriting_keeps_what_is_needed_and_no_more(tmp_path: Path) -> None:
    first = Crashing(tmp_path)
    for number in range(20):
        first.accept("t1", number)
    queue = first.buffer.queues[0]
    first.buffer.confirm(queue, first.buffer.items()[:15])
    before = first.spool.size
    first.spool.rewrite(first.buffer.items(), lambda incarnation, trader_id: 5)
    assert first.spool.size < before
    assert len(segments(tmp_path)) == 1
    first.accept("t1", 20)
    first.crash()
    second = Crashing(tmp_path)
    assert pnls(second.replayed.items) == [15, 16, 17, 18, 19, 20]
    assert [item.seq for item in second.replayed.items] == list(range(16, 22))
    assert second.replayed.epochs == {(first.spool.incarnation, "t1"): 5}
    second.crash()


def test_a_crash_between_rewriting_and_removing(tmp_path: Path) -> None:
    first = Crashing(tmp_path)
    for number in range(5):
        first.accept("t1", number)
    [old] = segments(tmp_path)
    data = old.read_bytes()
    queue = first.buffer.queues[0]
    first.buffer.confirm(queue, first.buffer.items()[:2])
    first.spool.rewrite(first.buffer.items(), no_epoch)
    old.write_bytes(data)
    (tmp_path / "000000000099.new").write_bytes(b"half")
    first.crash()
    second = Crashing(tmp_path)
    assert pnls(second.replayed.items) == [2, 3, 4]
    assert not list(tmp_path.glob("*.new"))
    second.crash()


def test_segments_are_removed_once_redis_has_them(tmp_path: Path) -> None:
    first = Crashing(tmp_path, max_bytes=256 * 1024)
    queue = first.buffer.queues[0]
    for number in range(1500):
        item = first.accept("t1", number)
        if number % 10 == 9:
            first.buffer.confirm(queue, first.buffer.items()[:10])
            first.spool.confirm({(item.incarnation, "t1"): item.seq}, first.buffer.items)
        assert len(segments(tmp_path)) <= 2
        assert first.spool.size == sum(path.stat().st_size for path in segments(tmp_path)) < 256 * 1024
    first.crash()
    second = Crashing(tmp_path)
    assert not second.replayed.items
    second.crash()


def test_the_record_of_a_merged_snapshot_stays_until_the_survivor_is_confirmed(tmp_path: Path) -> None:
    """What the survivor's own record says was written before it stood for others."""
    first = Crashing(tmp_path)
    first.buffer = Buffer(1000, 1, "conflate")
    first.buffer.incarnation = first.spool.incarnation
    first.spool._segment_max = 1  # a segment for each record
    for number in range(4):
        first.accept("t1", number)
    queue = first.buffer.queues[0]
    oldest = first.buffer.items()[:1]
    oldest[0].state = State.SENT
    assert first.buffer.conflate() == 2
    first.buffer.confirm(queue, oldest)
    first.spool.confirm({(first.spool.incarnation, "t1"): 1}, first.buffer.items)
    first.crash()
    second = Crashing(tmp_path)
    assert pnls(second.replayed.items) == [1, 2, 3]
    second.crash()


def test_two_producers_do_not_share_a_folder(tmp_path: Path) -> None:
    first = Crashing(tmp_path)
    with pytest.raises(ConfigurationError, match="in use by another producer"):
        Spool(tmp_path, fsync="never", max_bytes=1 << 20)
    first.crash()


def test_what_is_no_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="file is not a folder"):
        Spool(tmp_path / "file", fsync="never", max_bytes=1 << 20)
    with pytest.raises(ConfigurationError, match="cannot be used: Not a directory"):
        Spool(tmp_path / "file" / "below", fsync="never", max_bytes=1 << 20)


# In a producer


def cut_off(producer: Producer) -> Any:
    """Redis is away. Returns what brings it back."""
    stream = producer.stream
    ask = stream.ask

    def fail(requests: Any, **_options: Any) -> Any:
        return [StreamUnavailable("away")] * len(requests)

    stream.ask = fail

    def back() -> None:
        stream.ask = ask

    return back


def retry_now(producer: Any) -> None:
    """The spool's time to wait is over."""
    producer.inner._engine.session.spool._retry_at = 0.0


def seqs(bench: Bench) -> list[tuple[int, float]]:
    return [(wire.seq, wire.daily_pnl) for wire in bench.stored()]


def test_a_closed_producer_leaves_the_rest_to_the_next(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = bench.producer(spool_dir=tmp_path)
    first.push(snapshot("t1", 0), 10)
    cut_off(first)
    for number in range(1, 10):
        assert first.save(snapshot("t1", number, trading_paused=number == 9))
    assert not first.close(0.1)
    assert "9 snapshots in the spool" in caplog.text
    second = bench.producer(spool_dir=tmp_path)
    back = cut_off(second)
    state = second.load("t1")
    assert state is not None and state.source == "spool" and state.snapshot.trading_paused
    assert second.save(snapshot("t1", 10))
    back()
    assert second.flush(30)
    assert seqs(bench) == [*((number + 1, number) for number in range(10)), (1, 10)]
    old, new = sorted({wire.epoch for wire in bench.stored()})
    assert [wire.epoch for wire in bench.stored()] == [old] * 10 + [new]
    assert second.health().fenced == ()
    assert second.health().spool == "on"
    assert second.close()
    assert not segments(tmp_path), "nothing is left to send"


def test_what_was_sent_and_not_answered_is_stored_once(bench: Bench, tmp_path: Path) -> None:
    first = bench.producer(spool_dir=tmp_path)
    stream = first.stream
    ask = stream.ask

    def lose(requests: Any, **options: Any) -> Any:
        replies = ask(requests, **options)
        return [StreamUnavailable("lost") if isinstance(reply, Admission) else reply for reply in replies]

    cut_off(first)
    for number in range(5):
        assert first.save(snapshot("t1", number))
    stream.ask = lose  # not before: what is sent first is all that goes out, again and again
    wait_until(lambda: len(bench.stored()) == 5)
    assert not first.close(0.1)
    second = bench.producer(spool_dir=tmp_path)
    assert second.flush(30)
    assert seqs(bench) == [(number + 1, number) for number in range(5)]


def test_conflated_in_the_spool(bench: Bench, tmp_path: Path) -> None:
    first = bench.producer(spool_dir=tmp_path, buffer_size=4, on_full="conflate")
    cut_off(first)
    for number in range(1, 30):
        assert first.save(snapshot("t1", number, reason="limit" if number == 11 else ""))
    assert not first.close(0.1)
    second = bench.producer(spool_dir=tmp_path)
    assert second.flush(30)
    stored = bench.stored()
    explained = [seq for wire in stored for seq in range(wire.seq - wire.merged, wire.seq + 1)]
    assert explained == list(range(1, 30))
    assert {wire.seq: wire.daily_pnl for wire in stored} == {wire.seq: wire.seq for wire in stored}
    assert 11 in [wire.seq for wire in stored]
    assert stored[-1].seq == 29


def test_what_an_earlier_incarnation_may_have_sent_is_not_merged(bench: Bench, tmp_path: Path) -> None:
    first = bench.producer(spool_dir=tmp_path)
    cut_off(first)
    for number in range(6):
        assert first.save(snapshot("t1", number))
    assert not first.close(0.1)
    second = bench.producer(spool_dir=tmp_path, buffer_size=8, on_full="conflate")
    back = cut_off(second)
    for number in range(6, 20):
        assert second.save(snapshot("t1", number))
    back()
    assert second.flush(30)
    old = min(wire.epoch for wire in bench.stored())
    assert [(wire.seq, wire.merged) for wire in bench.stored() if wire.epoch == old] == [
        (seq, 0) for seq in range(1, 7)
    ]
    assert second.health().conflated > 0


def test_the_bound_of_the_spool_is_a_full_buffer(bench: Bench, tmp_path: Path) -> None:
    producer = bench.producer(
        spool_dir=tmp_path, spool_max_bytes=65_536, buffer_size=10_000, save_timeout_s=0
    )
    back = cut_off(producer)
    accepted = [producer.save(snapshot("t1", number)) for number in range(400)]
    assert 100 < sum(accepted) < 300
    assert accepted == sorted(accepted, reverse=True)
    assert sum(path.stat().st_size for path in segments(tmp_path)) < 70_000
    back()
    assert producer.flush(30)
    assert len(bench.stored()) == sum(accepted)
    assert producer.save(snapshot("t1", 999)), "there is room again"


def test_conflating_goes_on_at_the_bound_of_the_spool(bench: Bench, tmp_path: Path) -> None:
    producer = bench.producer(
        spool_dir=tmp_path, spool_max_bytes=65_536, buffer_size=10_000, save_timeout_s=0, on_full="conflate"
    )
    back = cut_off(producer)
    assert all(producer.save(snapshot("t1", number)) for number in range(1000))
    assert sum(path.stat().st_size for path in segments(tmp_path)) < 70_000
    back()
    assert producer.flush(30)
    assert producer.health().accepted == 1000


@pytest.mark.parametrize("takes", ["a part", "nothing"])
def test_a_full_disk_degrades_to_memory_and_mends(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    takes: str,
) -> None:
    producer = bench.producer(spool_dir=tmp_path)
    back = cut_off(producer)
    assert producer.save(snapshot("t1", 0))
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if takes == "nothing":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("risk_producer.spool.spool.os.write", full)
        for number in range(1, 5):
            assert producer.save(snapshot("t1", number))
    spool_lines = [record for record in caplog.records if "spool" in record.getMessage()]
    assert [record.levelno for record in spool_lines] == [logging.CRITICAL], "one line"
    assert producer.health().spool != "on"
    retry_now(producer)
    wait_until(lambda: producer.save(snapshot("t2", 0)) and producer.health().spool == "on")
    assert not producer.close(0.1)
    back()
    successor = bench.producer(spool_dir=tmp_path)
    assert successor.flush(30)
    assert [pnl for _, pnl in seqs(bench)][:5] == [0, 1, 2, 3, 4]


def test_a_disk_that_became_read_only_holds_nothing_up(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The epoch cannot be written down, and what is there cannot be removed: all goes out from memory."""

    def read_only(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    open_any = Path.open

    def open_others(path: Path, *arguments: Any, **options: Any) -> Any:
        """Who talks to Redis may read a file for the first time just now."""
        return (read_only if path.is_relative_to(tmp_path) else open_any)(path, *arguments, **options)

    producer = bench.producer(spool_dir=tmp_path)
    back = cut_off(producer)
    assert producer.save(snapshot("t1", 0))
    with monkeypatch.context() as patch:
        patch.setattr("risk_producer.spool.spool.os.write", read_only)
        patch.setattr("risk_producer.spool.spool.Path.unlink", read_only)
        patch.setattr("risk_producer.spool.spool.Path.open", open_others)
        assert producer.save(snapshot("t1", 1))
        back()
        assert producer.flush(30)
        assert seqs(bench) == [(1, 0), (2, 1)]
        assert "Read-only" in producer.health().spool
        lines = [r.getMessage() for r in caplog.records if "spool" in r.getMessage()]
        assert len(lines) == 2
        assert "neither written nor removed" in lines[1]
    retry_now(producer)
    wait_until(lambda: producer.save(snapshot("t2", 0)) and producer.health().spool == "on")
    assert producer.flush(30)
    sent = len(bench.stored())
    assert producer.close()
    assert bench.producer(spool_dir=tmp_path).flush(30)
    assert len(bench.stored()) == sent, "each is stored once"


def test_a_segment_whose_beginning_is_torn_is_written_to_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("risk_producer.spool.spool._RETRY_EVERY_S", 0.0)
    write, lengths = os.write, iter([5])

    def full_for_a_moment(fd: int, data: bytes) -> int:
        return write(fd, data[: next(lengths, len(data))])

    monkeypatch.setattr("risk_producer.spool.spool.os.write", full_for_a_moment)
    first = Crashing(tmp_path)
    for number in range(3):
        first.accept("t1", number)
    first.crash()
    second = Crashing(tmp_path)
    assert pnls(second.replayed.items) == [0, 1, 2]
    second.crash()


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_no_file_descriptor_is_left_to_sync_with(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    """As a failing disk: save() raises nothing."""

    def exhausted(fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("risk_producer.spool.spool._FSYNC_EVERY_S", 0.0)
    monkeypatch.setattr("risk_producer.spool.spool._RETRY_EVERY_S", 3600.0)
    producer = bench.producer(spool_dir=tmp_path, spool_fsync=fsync)
    with monkeypatch.context() as patch:
        patch.setattr("risk_producer.spool.spool.os.dup", exhausted)
        assert producer.save(snapshot("t1", 0))
        wait_until(lambda: "Too many" in producer.health().spool)
        assert producer.save(snapshot("t1", 1))
        assert producer.flush(30)
    assert seqs(bench) == [(1, 0), (2, 1)]


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_fsync(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str) -> None:
    monkeypatch.setattr("risk_producer.spool.spool._FSYNC_EVERY_S", 0.0)
    synced: list[int] = []
    monkeypatch.setattr("risk_producer.session.session.os.fsync", synced.append)
    producer = bench.producer(spool_dir=tmp_path, spool_fsync=fsync)
    for number in range(3):
        assert producer.save(snapshot("t1", number))
        if fsync == "always":
            assert len(synced) >= number + 1
    wait_until(lambda: synced)
    assert producer.flush(30)


def test_the_settings(tmp_path: Path) -> None:
    settings = Settings.load(
        {
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "RISK_SPOOL_DIR": str(tmp_path),
            "RISK_SPOOL_FSYNC": "interval",
        }
    )
    with RiskProducer.from_settings(settings, registry=CollectorRegistry()) as producer:
        assert producer.health().spool == "on"
        with pytest.raises(ConfigurationError, match="in use"):
            RiskProducer.from_settings(settings, registry=CollectorRegistry())


def test_a_forked_child_leaves_the_spool_to_its_parent(tmp_path: Path) -> None:
    with RiskProducer(
        client=fakeredis.FakeRedis(), spool_dir=tmp_path, registry=CollectorRegistry()
    ) as producer:
        child = os.fork()
        if child == 0:
            os._exit(0 if producer.health().spool == "off" else 1)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(ConfigurationError):
            Spool(tmp_path, fsync="never", max_bytes=1 << 20)


@pytest.mark.parametrize("name", ["000000000001-copy.segment", "x.segment", "z.new", "1.segment"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_foreign_name_in_the_folder_is_named(name: str, kind: str, tmp_path: Path) -> None:
    """Also where it is a folder; once it is gone the same process can use the spool."""
    foreign = tmp_path / name
    foreign.mkdir() if kind == "folder" else foreign.write_bytes(b"RISKSPOOL")
    options: dict[str, Any] = {"client": fakeredis.FakeRedis(), "spool_dir": tmp_path}
    with pytest.raises(ConfigurationError, match=f"RISK_SPOOL_DIR .* holds {name}"):
        RiskProducer(**options, registry=CollectorRegistry())
    assert foreign.exists()
    foreign.rmdir() if kind == "folder" else foreign.unlink()
    RiskProducer(**options, registry=CollectorRegistry()).close()
