"""One commit at a time on a file system: what Delta's log cannot promise there by itself.

Delta's log on ``file://`` looks whether a version is there and then renames: two processes that
commit at the same moment can both succeed, and one commit is lost. A lock of the operating system
beside the tables keeps them apart. It ends with the process that holds it, also where that is
killed. Object stores and HDFS need none: Delta's log store guarantees it there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import TablesError

LOCK_NAME = ".mumic-commits"
WARN_AFTER_S = 10.0  # commits of rows that are computed take seconds
GIVE_UP_AFTER_S = 600.0

log = logging.getLogger(__name__)


@contextmanager
def commit_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a table set's commits while the block runs.

    A thread that holds it may take it again; other threads and processes wait.

    Args:
        folder: Of the table set, on this machine; it is made where it does not exist.

    Raises:
        TablesError: The folder is not writable, or the lock did not become free.
    """
    # A singleton counts how often this thread holds it; a second lock object would wait for it.
    lock = FileLock(folder / LOCK_NAME, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock)
    except OSError as error:
        raise TablesError(
            "the storage refused",
            where=f"taking the lock of commits {folder / LOCK_NAME}",
            got=error,
            todo="check that the place is writable",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock) -> None:
    try:
        lock.acquire(timeout=WARN_AFTER_S)
    except Timeout:
        log.warning("another process has been committing for %.0f s: waiting", WARN_AFTER_S)
    else:
        return
    try:
        lock.acquire(timeout=GIVE_UP_AFTER_S)
    except Timeout as error:
        raise TablesError(
            "another process does not end its commit",
            where=lock.lock_file,
            expected=f"to wait no longer than {GIVE_UP_AFTER_S:.0f} s",
            todo="find and end the process that holds the file, and start this run again",
        ) from error
