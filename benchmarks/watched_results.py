"""When results came out of the model: watches the file in which workers remember them.

Workers keep what the model made of each batch in one SQLite file for each executor, as soon as they
have it (:mod:`pipeline.models.memory`). Counting its rows from outside needs no clock and no line
of the product's. No benchmark by itself: ``startup.py`` and ``steady.py`` use it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType

# The number of the latest row, which counts them all while none is forgotten.
_COUNT = "SELECT coalesce(max(number), 0) FROM results"


class WatchedResults:
    """Counts results while the block runs.

    Args:
        local: Spark's local folder, ``spark.local.dir``.
        interval_s: Seconds between two looks.

    Attributes:
        seen: Moments (seconds since 1970) at which there were more than before, and how many.
    """

    def __init__(self, local: Path, *, interval_s: float) -> None:
        self.seen: list[tuple[float, int]] = []
        self._local, self._interval_s = local, interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="results", daemon=True)

    def __enter__(self) -> WatchedResults:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._interval_s):
            found = next(self._local.glob("*/results-*.sqlite"), None)
            if found is not None:
                with suppress(sqlite3.Error):  # not made yet, or gone with the executor
                    self._count(found)

    def _count(self, path: Path) -> None:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as results:
            while not self._done.wait(self._interval_s):
                count = results.execute(_COUNT).fetchone()[0]
                if count > (self.seen[-1][1] if self.seen else 0):
                    self.seen.append((time.time(), count))
