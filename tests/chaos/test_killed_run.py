"""A job killed with -9 and started again, through spark-submit: in a session of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from submitted import nightly, submitted
from undisturbed import Undisturbed, assert_as_undisturbed

from demo.verify import read_rows, verify_run


def wait_for_chunk(tables: Path, job: subprocess.Popen[str], *, timeout_s: float) -> None:
    """Until the first chunk of model results is committed."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert job.poll() is None, "the job ended before it could be killed"
        log = tables / "tagging_results" / "_delta_log"
        if any("chunk 1" in commit.read_text() for commit in log.glob("*.json")):
            return
        time.sleep(0.05)
    pytest.fail(f"no chunk was committed within {timeout_s} s")


@pytest.mark.fault("kill -9 of the driver after its first chunk")
@pytest.mark.timeout(600)
def test_a_killed_submit_goes_on_and_ends_as_an_undisturbed_run(
    distribution: Path,
    manifest: Path,
    undisturbed: Undisturbed,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    empty, tables = tmp_path / "empty", tmp_path / "tables"
    empty.mkdir()
    asked = nightly(tables, manifest, tiny_bundle, f"--summary={tmp_path / 'summary.json'}")

    with submitted(distribution, empty, asked) as killed:
        wait_for_chunk(tables, killed, timeout_s=240)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not read_rows(tables, "images")

    with submitted(distribution, empty, asked) as resumed:
        told, _ = resumed.communicate(timeout=280)
    assert resumed.returncode == 0, (empty / "stderr.log").read_text()[-3000:]
    summary = json.loads(told.splitlines()[-1])
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    images = pq.read_table(manifest).num_rows
    assert (summary["manifest_rows"], summary["tagged"]) == (images, 20)
    assert (summary["failed"], summary["state"]) == (images - 20, "published")

    # Nothing that was staged went through the model again.
    staged = Counter(row["image_id"] for row in read_rows(tables, "tagging_results"))
    assert set(staged.values()) == {1}
    assert verify_run(tables, manifest, "night-1").broken == ()

    assert_as_undisturbed(tables, undisturbed)
