"""The spool: on disk what save() accepted and Redis does not have yet, so that it survives the trader.

A folder of append-only segments, numbered from 1; segment.py has their format. An incarnation is one start of
a producer on this folder. An epoch is on disk before anything is sent under it, so what is sent again after a
crash has the same identity, and is passed over wherever it is known. When the segments grow too big, what is
still needed is rewritten into one.

Not thread-safe: its owner holds a lock. Writing goes to the page cache, which outlives the process but not
the machine; for more there is fsync.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final, Literal

from risk_producer.contract.wire import decode, encode
from risk_producer.errors import ConfigurationError, InvalidSnapshot
from risk_producer.item import Item
from risk_producer.spool.segment import (
    ACCEPTED,
    CLAIMED,
    CONFIRMED,
    MAGIC,
    OVERHEAD,
    REWRITTEN,
    Damage,
    Record,
    pack,
    scan,
)

log = logging.getLogger("riskstream.producer")

Fsync = Literal["never", "interval", "always"]
EpochOf = Callable[[int, str], int | None]
"""(incarnation, trader_id) -> epoch."""

_FSYNC_EVERY_S: Final = 1.0
_RETRY_EVERY_S: Final = 1.0


@dataclass(slots=True)
class Replay:
    """What a folder held when the producer started."""

    items: list[Item] = field(default_factory=list)
    """Snapshots that Redis may not have, the oldest first."""
    epochs: dict[tuple[int, str], int] = field(default_factory=dict)
    """(incarnation, trader_id) -> epoch, as far as claimed."""


class Spool:
    """The segments of one folder, which no other process may use meanwhile."""

    def __init__(self, folder: Path, *, fsync: Fsync, max_bytes: int) -> None:
        """Raises ConfigurationError where the folder cannot be used."""
        self.fsync = fsync
        self.log: Callable[..., None] = log.log
        """Takes log lines: level, text, arguments. The owner may hold a lock, and then defers them."""
        self.failed: str | None = None
        """Why snapshots are in memory only; None: they are on disk."""
        self.size = 0
        """Bytes of all segments."""
        self.max_bytes = max_bytes
        self._segment_max = max(64 * 1024, min(8 * 1024 * 1024, max_bytes // 4))
        self._folder = folder
        self._sizes: dict[int, int] = {}
        self._fd: int | None = None
        self._synced = monotonic()
        self._retry_at = 0.0
        self._seqs: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_fd: int | None = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigurationError(f"RISK_SPOOL_DIR {folder} is not a folder") from None
        except OSError as error:
            raise ConfigurationError(f"RISK_SPOOL_DIR {folder} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            raise ConfigurationError(
                f"RISK_SPOOL_DIR {folder} is in use by another producer; give each a folder of its own"
            ) from None
        try:
            self._check_names()
            for path in folder.glob("*.new"):
                path.unlink()
            self._replay = self._read()
        except BaseException:
            os.close(self._lock_fd)
            raise
        claimed = [incarnation for incarnation, _ in self._replay.epochs]
        accepted = [item.incarnation for item in self._replay.items]
        self.incarnation = max([*self._sizes, *claimed, *accepted, 0]) + 1
        """The number of this incarnation."""

    def replay(self) -> Replay:
        """What earlier incarnations left; the spool keeps it until it is confirmed."""
        return self._replay

    def append(self, item: Item, epoch_of: EpochOf, held: Callable[[], Sequence[Item]]) -> None:
        """Assign an accepted item its seq and write it. Where the disk fails it is in memory only.

        held: everything that is still needed, to rewrite it once the disk works again.
        """
        trader_id = item.snapshot.trader_id
        seq = self._seqs.get(trader_id, 0) + 1
        self._seqs[trader_id] = item.seq = seq
        if self.failed is not None:
            if monotonic() >= self._retry_at:
                self.rewrite(held(), epoch_of)
            return
        try:
            self._write(self._accepted(item, epoch_of))
        except OSError as error:
            self.fail(error)
        except BaseException as error:  # whatever it is, it may have come in the middle of a record
            self.fail(error)
            raise
        else:
            item.segment = item.segment or self._newest

    def claimed(self, keys: Sequence[tuple[int, str]], epochs: Sequence[int]) -> None:
        """Redis gave out epochs: write them, before their first use. keys: (incarnation, trader_id).

        Where the disk fails, what it holds is removed: under another epoch it would be stored again. Where
        not even that can be done, it is rewritten as soon as the disk works, with the epochs.
        """
        self._write_notes(
            pack(CLAIMED, incarnation, epoch, trader_id.encode())
            for (incarnation, trader_id), epoch in zip(keys, epochs, strict=True)
        )
        if self.failed is not None and not self._remove(list(self._sizes)):
            self.log(
                logging.CRITICAL,
                "The spool in %s can be neither written nor removed: should this process die before it can, "
                "remove the folder before the next start, or its snapshots are stored again",
                self._folder,
            )

    def confirm(self, done: Mapping[tuple[int, str], int], held: Callable[[], Sequence[Item]]) -> None:
        """Redis has everything up to these seq. Segments that hold nothing else are removed.

        done: (incarnation, trader_id) -> seq.
        """
        self._write_notes(
            pack(CONFIRMED, incarnation, seq, trader_id.encode())
            for (incarnation, trader_id), seq in done.items()
        )
        if len(self._sizes) > 1:
            needed = min((item.segment for item in held() if item.segment), default=self._newest)
            self._remove(number for number in list(self._sizes) if number < needed)

    def has_room(self, held: Callable[[], Sequence[Item]], epoch_of: EpochOf) -> bool:
        """Whether it is below its bound, after rewriting what is needed, if that helps."""
        if self.failed is not None:
            return True  # memory's own bound is all there is
        if self.size >= self.max_bytes:
            items = held()
            if sum(item.size for item in items) < 0.75 * self.size:
                self.rewrite(items, epoch_of)
        return self.size < self.max_bytes

    def rewrite(self, items: Sequence[Item], epoch_of: EpochOf) -> None:
        """Write what is needed into one new segment, and remove all others."""
        number = self._newest + 1
        path = self._path(number)
        try:
            body = MAGIC + b"".join(self._accepted(item, epoch_of) for item in items)
            body += pack(REWRITTEN, 0, 0, b"")
            with open(path.with_suffix(".new"), "wb", opener=_open_privately) as file:
                file.write(body)
                if self.fsync != "never":
                    file.flush()
                    os.fsync(file.fileno())
            path.with_suffix(".new").rename(path)
            self._sizes[number] = len(body)
            self.size += len(body)
            self._open(number)
            self._sync_folder()
        except OSError as error:
            self.fail(error)
            return
        for item in items:
            item.segment = number
        self._remove(other for other in list(self._sizes) if other != number)
        if self.failed is not None:
            self.failed = None
            self.log(logging.WARNING, "The spool in %s works again", self._folder)

    def duplicate_to_sync(self, *, now: bool) -> int | None:
        """A file descriptor to fsync, without the lock, and to close; None: nothing is due."""
        due = now or (self.fsync == "interval" and monotonic() - self._synced >= _FSYNC_EVERY_S)
        if self._fd is None or not due:
            return None
        self._synced = monotonic()
        return os.dup(self._fd)

    def close(self, *, empty: bool) -> None:
        """empty: Redis has all, so nothing need stay. May be repeated, where it was interrupted."""
        try:
            self._leave()
        except OSError as error:
            self.fail(error)
        if empty:
            self._remove(list(self._sizes))
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def abandon(self) -> None:
        """After a fork, in the child: the folder is the parent's."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)

    @property
    def _newest(self) -> int:
        return max(self._sizes, default=self.incarnation - 1)

    def _accepted(self, item: Item, epoch_of: EpochOf) -> bytes:
        snapshot = item.snapshot
        epoch = epoch_of(item.incarnation, snapshot.trader_id) or 0
        try:
            payload = encode(snapshot, epoch or 1, item.seq, item.merged, item.reset)
        except (TypeError, ValueError, OverflowError):  # it cannot be sent either, and the sender logs that
            return b""
        record = pack(ACCEPTED, item.incarnation, epoch, payload)
        item.size = len(record)
        return record

    def _write_notes(self, records: Iterable[bytes]) -> None:
        if self.failed is not None:
            return
        try:
            self._write(b"".join(records))
        except OSError as error:
            self.fail(error)
        except BaseException as error:  # whatever it is, it may have come in the middle of a record
            self.fail(error)
            raise

    def _write(self, data: bytes) -> None:
        if self._fd is None or self._sizes[self._newest] >= self._segment_max:
            self._begin_segment(self._newest + 1)
        self._append(data)

    def _append(self, data: bytes) -> None:
        assert self._fd is not None
        if os.write(self._fd, data) < len(data):
            raise OSError(0, "the disk took only a part of a record")
        self._sizes[self._newest] += len(data)
        self.size += len(data)

    def _begin_segment(self, number: int) -> None:
        self._open(number)
        self._sizes[number] = 0
        self._append(MAGIC)
        self._sync_folder()

    def _sync_folder(self) -> None:
        """A new file survives the machine only when its folder is on disk too."""
        if self.fsync != "never":
            fd = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _open(self, number: int) -> None:
        self._leave()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path(number), flags, 0o600)

    def _leave(self) -> None:
        """Close the segment that is written to."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                if self.fsync != "never":
                    os.fsync(fd)
            finally:
                os.close(fd)

    def fail(self, error: BaseException) -> None:
        """The disk fails: from now on snapshots are in memory only, until it works again."""
        self._retry_at = monotonic() + _RETRY_EVERY_S
        if self.failed is None:
            self.log(
                logging.CRITICAL,
                "The spool in %s fails, snapshots are in memory only: %s",
                self._folder,
                error,
            )
        self.failed = str(error) or type(error).__name__
        if self._fd is not None:  # its end may be torn: write no more to it
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                os.close(fd)

    def _remove(self, numbers: Iterable[int]) -> bool:
        """Whether all are gone. What cannot be removed is counted on, and tried again with the next."""
        gone = True
        for number in numbers:
            try:
                self._path(number).unlink(missing_ok=True)
            except OSError:
                gone = False
            else:
                self.size -= self._sizes.pop(number)
        return gone

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.segment"

    def _check_names(self) -> None:
        """A copy of a segment is none: read as one, it would stand for others in a wrong order."""
        for path in sorted([*self._folder.glob("*.segment"), *self._folder.glob("*.new")]):
            if not (re.fullmatch(r"[0-9]{12,}", path.stem) and path.is_file()):
                raise ConfigurationError(
                    f"RISK_SPOOL_DIR {self._folder} holds {path.name}, which is no part of a spool: "
                    "move it away"
                )

    def _read(self) -> Replay:
        replay = Replay()
        waiting: dict[tuple[int, str], dict[int, Item]] = {}
        """(incarnation, trader_id) -> seq -> item."""
        done: dict[tuple[int, str], int] = {}
        for path in sorted(self._folder.glob("*.segment")):
            number = int(path.stem)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"the spool's {path} cannot be read: {error.strerror}") from None
            self._sizes[number] = len(data)
            self.size += len(data)
            for record in scan(data):
                if isinstance(record, Damage):
                    _log_damage(path, record)
                elif record.kind == REWRITTEN:  # this segment stands for all before it
                    waiting = {
                        key: {seq: item for seq, item in items.items() if item.segment == number}
                        for key, items in waiting.items()
                    }
                elif record.kind == ACCEPTED:
                    self._read_snapshot(replay, waiting, number, record)
                elif record.kind == CLAIMED:
                    replay.epochs[record.incarnation, record.text.decode()] = record.number
                elif record.kind == CONFIRMED:
                    key = (record.incarnation, record.text.decode())
                    done[key] = max(record.number, done.get(key, 0))
        for key, items in waiting.items():
            replay.items += [item for item in _survivors(items) if item.seq > done.get(key, 0)]
        replay.items.sort(key=lambda item: item.incarnation)
        if replay.items:
            log.warning("The spool in %s holds %d snapshots to send", self._folder, len(replay.items))
        return replay

    def _read_snapshot(
        self,
        replay: Replay,
        waiting: dict[tuple[int, str], dict[int, Item]],
        number: int,
        record: Record,
    ) -> None:
        try:
            wire = decode(record.text)
            item = Item(wire.snapshot)
        except InvalidSnapshot as error:
            log.critical("The spool in %s holds what is no snapshot: %s", self._folder, error)
            return
        item.incarnation, item.segment = record.incarnation, number
        item.seq, item.merged = wire.seq, wire.merged
        item.size = OVERHEAD + len(record.text)
        if record.number:
            replay.epochs[item.incarnation, wire.trader_id] = record.number
        waiting.setdefault((item.incarnation, wire.trader_id), {})[item.seq] = item  # it may be rewritten


def _survivors(items: Mapping[int, Item]) -> list[Item]:
    """Without those that were merged into a later one, by seq."""
    survivors: list[Item] = []
    for seq in sorted(items, reverse=True):
        if not survivors or seq < survivors[-1].seq - survivors[-1].merged:
            survivors.append(items[seq])
    return survivors[::-1]


def _log_damage(path: Path, damage: Damage) -> None:
    if damage.kind == "foreign":
        log.critical("%s is no segment of a spool: it is left out", path)
    elif damage.kind == "torn":
        log.warning("%s ends with %d bytes of a record that is not whole", path, damage.size)
    else:
        log.critical(
            "%s is damaged: what the %d bytes from %d on held is lost; where it was the record of an epoch, "
            "what was sent under it may be stored again under another one",
            path,
            damage.size,
            damage.at,
        )


def _open_privately(path: str, flags: int) -> int:
    """As open() does, for its user alone."""
    return os.open(path, flags, 0o600)
