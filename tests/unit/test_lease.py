"""The lease of a table set on this machine: one holder, a name for those who wait, no leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import LeaseError, TablesError
from pipeline.tables.lease_file import hold_file_lease

HOLD = """
import sys, time
from pathlib import Path
from pipeline.tables.lease_file import hold_file_lease
with hold_file_lease(Path(sys.argv[1]), "run nightly é", wait_s=0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_one_who_waits_in_vain_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        hold_file_lease(tmp_path, "run one", wait_s=0),
        pytest.raises(LeaseError, match=rf"got run one, process {os.getpid()} on"),
        hold_file_lease(tmp_path, "run two", wait_s=0),
    ):
        pytest.fail("two hold it")


def test_the_one_who_waits_long_enough_gets_it(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with hold_file_lease(tmp_path, "run two", wait_s=30):
            order.append("second")

    with hold_file_lease(tmp_path, "run one", wait_s=0):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]


def test_it_ends_with_the_block_also_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold_file_lease(tmp_path, "run one", wait_s=0):
        _ = 1 / 0
    with hold_file_lease(tmp_path, "run two", wait_s=0):
        pass


def test_it_ends_with_a_holder_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(LeaseError, match=f"run nightly é, process {holder.pid}"),
            hold_file_lease(tmp_path, "run two", wait_s=0.1),
        ):
            pytest.fail("two hold it")
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    with hold_file_lease(tmp_path, "run two", wait_s=0):
        pass


def test_other_table_sets_are_not_in_the_way(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with hold_file_lease(one, "run one", wait_s=0), hold_file_lease(two, "run two", wait_s=0):
        pass


def test_a_place_that_cannot_be_made_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TablesError, match="taking the lease of"),
        hold_file_lease(tmp_path / "file" / "tables", "run one", wait_s=0),
    ):
        pytest.fail("held")
