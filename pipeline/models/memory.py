"""What a model made of images, by their bytes: whatever is delivered twice is encoded once.

One file, shared by all workers of an executor, which ends with the executor: it speaks of images
that may be erased meanwhile. It keeps the latest results, and nothing depends on it: where it
cannot be read or written, images are encoded again.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.models.predictor import Source
    from pipeline.models.scoring import FloatArray

log = logging.getLogger(__name__)

_SETTINGS = (
    "page_size = 16384",  # several results on each
    "journal_mode = WAL",
    "synchronous = OFF",
    "busy_timeout = 500",
)
_TABLE = (
    "CREATE TABLE IF NOT EXISTS results (number INTEGER PRIMARY KEY, name TEXT UNIQUE, width INT,"
    " height INT, scores BLOB, embedding BLOB, rest TEXT)"
)
_SELECT = "SELECT width, height, scores, embedding, rest FROM results WHERE name = ?"
_INSERT = (
    "INSERT OR IGNORE INTO results (name, width, height, scores, embedding, rest)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_FORGET = "DELETE FROM results WHERE number <= (SELECT max(number) FROM results) - ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A result.

    Attributes:
        width: Of the original, as displayed, in pixels.
        height: As ``width``.
        scores: [L], float32.
        embedding: [D], float32, of length 1.
        source: What the scores were made from.
        modality_weights: Task to modality to weight; None for models of one modality.
        text_cut: Whether the text was cut; None where no text is read.
    """

    width: int
    height: int
    scores: FloatArray
    embedding: FloatArray
    source: Source
    modality_weights: dict[str, dict[str, float]] | None
    text_cut: bool | None


class Memory:
    """Results of one model with one taxonomy. Safe to share between threads and processes.

    Args:
        path: The file; made where it is missing. Of one model and taxonomy.
        limit: Results that are kept; the oldest go.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._file: sqlite3.Connection | None = None
        try:
            path.touch(mode=0o600)
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for setting in _SETTINGS:
                self._file.execute(f"PRAGMA {setting}")
            self._file.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def recall(self, name: str) -> Remembered | None:
        """What is known under a name of :func:`name_of`."""
        with self._lock:
            if self._file is None:
                return None
            try:
                row = self._file.execute(_SELECT, (name,)).fetchone()
                return None if row is None else _read(row)
            except (ValueError, sqlite3.Error) as error:
                self._give_up(error)
                return None

    def remember(self, results: Iterable[tuple[str, Remembered]]) -> None:
        """Keep results under their names; those that are known already stay as they are."""
        rows = [(name, *_write(result)) for name, result in results]
        with self._lock:
            if self._file is None or not rows:
                return
            try:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.executemany(_INSERT, rows)
                self._file.execute(_FORGET, (self._limit,))
                self._file.execute("COMMIT")
            except sqlite3.Error as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    self._give_up(error)
                elif self._file.in_transaction:  # others write: these are not kept
                    self._file.execute("ROLLBACK")

    def close(self) -> None:
        """Forget the file; nothing is known afterwards, nor kept."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _give_up(self, error: Exception) -> None:
        log.warning("images delivered twice are encoded twice: %s", error)
        if self._file is not None:
            self._file.close()
            self._file = None


def name_of(content_sha256: str, text: str | None) -> str:
    """The name of a result: of an image's bytes, and of the text beside them if it is read."""
    if text is None:
        return content_sha256
    return f"{content_sha256} {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _write(result: Remembered) -> tuple[Any, ...]:
    rest = json.dumps([result.source, result.modality_weights, result.text_cut])
    arrays = (np.ascontiguousarray(one).tobytes() for one in (result.scores, result.embedding))
    return (result.width, result.height, *arrays, rest)


def _read(row: tuple[Any, ...]) -> Remembered:
    width, height, scores, embedding, rest = row
    source, weights, text_cut = json.loads(rest)
    return Remembered(
        width=width,
        height=height,
        scores=np.frombuffer(scores, np.float32),
        embedding=np.frombuffer(embedding, np.float32),
        source=source,
        modality_weights=weights,
        text_cut=text_cut,
    )
