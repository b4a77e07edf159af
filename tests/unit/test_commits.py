"""The lock of commits on this machine: others wait, its own thread does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import TablesError
from pipeline.tables import commits
from pipeline.tables.commits import LOCK_NAME, commit_lock

HOLD = """
import sys, time
from pathlib import Path
from pipeline.tables.commits import commit_lock
with commit_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_thread_waits_and_the_same_one_does_not(tmp_path: Path) -> None:
    order = []

    def commit() -> None:
        with commit_lock(tmp_path):
            order.append("second")

    with commit_lock(tmp_path), commit_lock(tmp_path):
        waiting = threading.Thread(target=commit)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]


def test_it_ends_with_a_process_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(commits, "WARN_AFTER_S", 0.1)
    monkeypatch.setattr(commits, "GIVE_UP_AFTER_S", 0.1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TablesError, match=LOCK_NAME), commit_lock(tmp_path):
            pytest.fail("two hold it")
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    assert "another process has been committing" in caplog.text
    with commit_lock(tmp_path):
        pass


def test_a_place_that_cannot_be_made_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TablesError, match="taking the lock of commits"),
        commit_lock(tmp_path / "file" / "tables"),
    ):
        pytest.fail("held")
