"""Seconds of the steps of a run."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """Add the seconds since the last lap to ``name``."""
        now = time.monotonic()
        self.laps[name] = round(self.laps.get(name, 0.0) + now - self._since, 3)
        self._since = now
