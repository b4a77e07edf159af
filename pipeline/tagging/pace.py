"""How fast a backfill goes: a rate of images, and the hours in which it works."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from datetime import time as time_of_day

from pipeline.config import PaceConfig
from pipeline.errors import ConfigurationError
from pipeline.tagging.stage import Pace

_WINDOW = re.compile(r"(\d{2}:\d{2})-(\d{2}:\d{2})")
_POLL_S = 30.0  # how long a closed window may go unnoticed while the rate is waited for


@dataclass(frozen=True)
class Window:
    """Hours of the day, UTC; over midnight where the end comes first. Equal: all day."""

    opens: time_of_day
    closes: time_of_day

    def is_open(self, now: datetime) -> bool:
        """Whether a moment lies in it; its end does not."""
        at = now.time()
        if self.opens < self.closes:
            return self.opens <= at < self.closes
        return at >= self.opens or at < self.closes


def parse_window(text: str) -> Window:
    """A window such as ``22:00-06:00``.

    Raises:
        ConfigurationError: It is none.
    """
    match = _WINDOW.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        return Window(*(time_of_day.fromisoformat(part) for part in match.groups()))
    except ValueError as error:
        raise ConfigurationError(
            "the window is not one",
            where="pace.window",
            expected="two times of the day, UTC, such as 22:00-06:00",
            got=text,
        ) from error


class BackfillPace(Pace):
    """Keeps a rate, and stops where the window closes.

    Args:
        config: Rate and window.
        now: The clock, UTC.
        sleep: Waits for so many seconds.
        monotonic: Seconds since some moment.
    """

    def __init__(
        self,
        config: PaceConfig,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows_per_s = config.rows_per_s
        self._window = parse_window(config.window) if config.window else None
        self._now, self._sleep, self._monotonic = now, sleep, monotonic
        self._started: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may work now."""
        return self._window is None or self._window.is_open(self._now())

    def go_on(self, staged: int) -> bool:
        """Whether another chunk may begin; waits as long as the rate asks, while it is open."""
        if staged == 0 or self._started is None:
            self._started = self._monotonic()
        while self.is_open:
            early = self._early_s(staged)
            if early <= 0:
                return True
            self._sleep(min(early, _POLL_S))
        return False

    def _early_s(self, staged: int) -> float:
        if self.rows_per_s is None or self._started is None:
            return 0.0
        return self._started + staged / self.rows_per_s - self._monotonic()
