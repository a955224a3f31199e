"""A disk that can be filled: a small file system of its own, which root alone can make."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_MB = 96


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """An empty file system at a folder, which is made. Yields "", or why it is a folder and no more."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0:
        yield "only root may mount a file system that can be filled"
        return
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        yield f"a file system that can be filled could not be mounted: {done.stderr.strip()}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The file system of a folder without any room."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                _write_until_full(file.fileno(), bytes(size))
        yield
    finally:
        ballast.unlink(missing_ok=True)


def _write_until_full(file: int, piece: bytes) -> None:
    try:
        while os.write(file, piece) == len(piece):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
