"""The lease of a table set on this machine: a lock of the operating system on a file beside it.

It ends with the process that holds it, also where that is killed, so it needs no clock. Knows
nothing of Spark.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import LeaseError, TablesError

LOCK_NAME = ".mumic-lease"
HOLDER_NAME = ".mumic-lease-holder"

log = logging.getLogger(__name__)


class FileLease:
    """A lock of the operating system on a file.

    Args:
        lock: Held.
    """

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self._file = os.stat(lock.lock_file)

    def check(self) -> None:
        """Go on only if the lock is held, and on the file that others see."""
        try:
            there = os.stat(self._lock.lock_file)
            is_held = self._lock.is_locked and os.path.samestat(self._file, there)
        except FileNotFoundError:
            is_held = False
        if not is_held:
            raise LeaseError(
                "the lease of the tables was lost",
                where=self._lock.lock_file,
                got="its lock file was removed or replaced",
                todo="leave the file alone, and start the run again: it goes on where it was",
            )


@contextmanager
def hold_file_lease(folder: Path, holder: str, *, wait_s: float) -> Iterator[FileLease]:
    """Hold the lease of a table set on this machine while the block runs.

    Args:
        folder: Of the table set; it is made where it does not exist.
        holder: Who asks, for those who wait: a run_id.
        wait_s: Seconds to wait for another holder.

    Raises:
        LeaseError: Another one still holds it then. Names it.
        TablesError: The storage refuses.
    """
    lock = FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder, wait_s=wait_s)
        _write_holder(folder, holder)
    except OSError as error:
        lock.release()
        raise TablesError(
            "the storage refused",
            where=f"taking the lease of {folder}",
            got=error,
            todo="check that the place is writable",
        ) from error
    try:
        yield FileLease(lock)
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path, *, wait_s: float) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("waiting up to %.0f s for %s", wait_s, read_holder(folder))
    else:
        return
    try:
        lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise LeaseError(
            "another job is publishing to the tables",
            where=folder,
            got=read_holder(folder),
            todo="start this run again when it has ended, or wait longer with --lease.wait_s",
        ) from error


def read_holder(folder: Path) -> str:
    """Who took the lease last."""
    try:
        return (folder / HOLDER_NAME).read_text(encoding="utf-8").strip() or "nobody knows whom"
    except FileNotFoundError:
        return "nobody knows whom"


def _write_holder(folder: Path, holder: str) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    told = f"{holder}, process {os.getpid()} on {socket.gethostname()}, since {since}"
    (folder / HOLDER_NAME).write_text(told + "\n", encoding="utf-8")
