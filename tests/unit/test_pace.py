"""The rate and the hours of a backfill, on a clock of the test's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.config import PaceConfig
from pipeline.errors import ConfigurationError
from pipeline.tagging.pace import BackfillPace, parse_window


class Clock:
    """Goes on only while somebody sleeps."""

    def __init__(self, at: str) -> None:
        self.at = datetime.fromisoformat(at).replace(tzinfo=UTC)
        self.slept = 0.0

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.at += timedelta(seconds=seconds)

    def monotonic(self) -> float:
        return self.slept


def pace_of(clock: Clock, **config: object) -> BackfillPace:
    return BackfillPace(
        PaceConfig(**config), now=clock.now, sleep=clock.sleep, monotonic=clock.monotonic
    )


@pytest.mark.parametrize(
    ("window", "at", "is_open"),
    [
        ("22:00-06:00", "2026-03-01T21:59", False),
        ("22:00-06:00", "2026-03-01T22:00", True),
        ("22:00-06:00", "2026-03-02T05:59", True),
        ("22:00-06:00", "2026-03-02T06:00", False),
        ("09:30-17:00", "2026-03-02T09:30", True),
        ("09:30-17:00", "2026-03-02T17:00", False),
        ("00:00-00:00", "2026-03-02T12:00", True),
    ],
)
def test_a_window_is_open_from_its_first_minute_to_before_its_last(window, at, is_open):
    clock = Clock(at)
    assert pace_of(clock, window=window).is_open is is_open
    assert pace_of(clock, window=window).go_on(0) is is_open


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "25:00-06:00", "22:00-06:00Z", "a-b"])
def test_what_is_no_window_is_refused(text):
    with pytest.raises(ConfigurationError, match="window"):
        parse_window(text)


def test_without_limits_nobody_waits():
    clock = Clock("2026-03-01T12:00")
    assert pace_of(clock).go_on(10**9)
    assert clock.slept == 0


def test_a_rate_is_kept_from_the_first_chunk_of_a_run_on():
    clock = Clock("2026-03-01T12:00")
    pace = pace_of(clock, rows_per_s=10)
    assert pace.go_on(0)
    clock.sleep(20)  # the chunk itself: 500 images in 20 s
    assert pace.go_on(500)
    assert clock.slept == 50
    clock.sleep(100)  # a slow chunk is not waited for
    assert pace.go_on(1000)
    assert clock.slept == 150
    assert pace.go_on(0)  # the next run begins anew


def test_a_window_that_closes_ends_the_waiting():
    clock = Clock("2026-03-01T05:59")
    pace = pace_of(clock, rows_per_s=1, window="22:00-06:00")
    assert pace.go_on(0)
    assert not pace.go_on(3600)
    assert clock.slept <= 90
