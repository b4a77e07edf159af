"""One call that changes files fails while a run is published: not made, or its answer is lost.

A library that lets calls fail stands before the C library of the JVM.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.nights import FEW_ROWS

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "fakes"
# A JVM that lives long enough to compile what is hot.
SETTINGS = (*FEW_ROWS[1:], "spark.driver.extraJavaOptions=-XX:+UseSerialGC -Xmn600m")
# EVERY_CALL=1 tries them all, and takes hours.
STEP = 1 if os.environ.get("EVERY_CALL") else 7


@pytest.mark.timeout(4 * 3600 if STEP == 1 else 1800)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            "made", marks=pytest.mark.fault("the n-th file system call of publishing fails")
        ),
        pytest.param(
            "lost",
            marks=pytest.mark.fault("the n-th file system call is made, its answer is lost"),
        ),
    ],
)
def test_a_publish_with_a_failing_call_is_finished_by_the_next(
    kind: str, failing_calls: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    control = tmp_path / "control"
    control.write_bytes(bytes(12))
    tables = tmp_path / "tables"
    tables.mkdir()
    settings = [part for setting in SETTINGS for part in ("--conf", f"'{setting}'")]
    environment = {
        **os.environ,
        "LD_PRELOAD": str(failing_calls),
        "FAILING_UNDER": str(tables),
        "FAILING_CONTROL": str(control),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}",
        "PYSPARK_SUBMIT_ARGS": " ".join([*settings, "pyspark-shell"]),
    }
    first = 1 if kind == "made" else 4
    command = [sys.executable, str(FAKES / "failing_publish.py"), str(tables), kind]
    done = subprocess.run(
        [*command, str(first), str(STEP)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    calls, *tries = done.stdout.splitlines()
    assert len(tries) == len(range(first, int(calls) + 1, STEP))
    errors = [error for _, _, error in (line.partition(" ") for line in tries) if error]
    assert errors, "no call was missed"
    record_property("times", len(tries))
    record_property(
        "outcome",
        f"of {calls} calls: {len(errors)} times one line and exit code 1, else unnoticed;"
        " finished by the next run",
    )
