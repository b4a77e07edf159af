"""Progress is shown where it can be, and stops nothing where it cannot."""

from __future__ import annotations

import errno
import io
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.tagging import progress
from pipeline.tagging.progress import TaskProgress

STAGE = SimpleNamespace(numTasks=4, numCompletedTasks=2)
TRACKER = SimpleNamespace(
    getJobIdsForGroup=lambda _: [1],
    getJobInfo=lambda _: SimpleNamespace(stageIds=[1]),
    getStageInfo=lambda _: STAGE,
)


class FullDisk(io.StringIO):
    """Takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def follow_a_run() -> None:
    context: Any = SimpleNamespace(
        setJobGroup=lambda *_: None,
        setLocalProperty=lambda *_: None,
        statusTracker=lambda: TRACKER,
    )
    shown = TaskProgress(SimpleNamespace(sparkContext=context), "a run")  # type: ignore[arg-type]
    shown.begin(100)
    shown.chunk(100, 4)
    shown.end()


def test_a_bar_says_how_far_staging_came(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    follow_a_run()
    assert "50/100" in stream.getvalue()


def test_a_bar_that_cannot_be_shown_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    follow_a_run()
