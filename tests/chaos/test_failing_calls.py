"""One call that changes files fails while a run is published: not made, or its answer is lost.

A library that lets calls fail stands before the C library of the JVM. Every commit is tried, and
some of all calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.nights import FEW_ROWS

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "fakes"
# A JVM that lives long enough to compile what is hot, where it tries more than the commits.
LONG = (*FEW_ROWS[1:], "spark.driver.extraJavaOptions=-XX:+UseSerialGC -Xmn600m")
# EVERY_CALL=1 tries them all, and takes hours.
STEP = 1 if os.environ.get("EVERY_CALL") else 31
# What a publish writes. images is the last of them, and the ledger is told before and after.
WRITTEN = {"image_embeddings": 1, "image_tags": 1, "images": 1, "tagging_runs": 2}

Told = tuple[dict[str, int], int, list[str]]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("made", marks=pytest.mark.fault("every commit of publishing fails, in turn")),
    ],
)
def test_a_publish_with_a_failing_commit_is_finished_by_the_next(
    kind: str, failing_calls: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    commits, calls, tries = try_calls(
        failing_calls, tmp_path, kind, step=1, environment={"FAILING_COMMITS": "1"}
    )
    assert calls == sum(commits.values()), "some commits were made in another way"
    assert all(commits[table] >= count for table, count in WRITTEN.items()), commits
    errors = [line for line in tries if " " in line]
    if kind == "made":
        assert len(errors) == calls, "a commit that was not made went unnoticed"
    record_property("times", calls)
    record_property("outcome", describe(errors, calls))


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
    first = 1 if kind == "made" or STEP == 1 else STEP // 2
    _, calls, tries = try_calls(failing_calls, tmp_path, kind, first=first, step=STEP)
    errors = [line for line in tries if " " in line]
    assert errors, "no call was missed"
    record_property("times", len(tries))
    record_property("outcome", f"of {calls} calls: {describe(errors, len(tries))}")


def try_calls(
    library: Path,
    folder: Path,
    kind: str,
    *,
    step: int,
    first: int = 1,
    environment: dict[str, str] | None = None,
) -> Told:
    """What ``failing_publish.py`` tells: commits of each table, calls, and a line for each try."""
    control = folder / "control"
    control.write_bytes(bytes(12))
    tables = folder / "tables"
    tables.mkdir()
    chosen = FEW_ROWS if environment else LONG
    settings = [part for setting in chosen for part in ("--conf", f"'{setting}'")]
    beside = {
        "LD_PRELOAD": str(library),
        "FAILING_UNDER": str(tables),
        "FAILING_CONTROL": str(control),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}",
        "PYSPARK_SUBMIT_ARGS": " ".join([*settings, "pyspark-shell"]),
    }
    done = subprocess.run(
        [
            *(sys.executable, str(FAKES / "failing_publish.py"), str(tables), kind),
            *(str(first), str(step)),
        ],
        cwd=folder,
        env=os.environ | beside | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    head, *tries = done.stdout.splitlines()
    told = json.loads(head)
    assert len(tries) == len(range(first, told["calls"] + 1, step))
    return told["commits"], told["calls"], tries


def describe(errors: list[str], tries: int) -> str:
    return (
        f"{len(errors)} times one line and exit code 1, {tries - len(errors)} times unnoticed;"
        " finished by the next run"
    )
